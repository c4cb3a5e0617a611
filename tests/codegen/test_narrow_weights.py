"""Weights of 2 to 16 bits with float activations: whole numbers against NumPy exactly, models against ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxc.codegen import compile_model
from onnxc.codegen.kernels import narrow
from onnxc.codegen.kernels.spec import FLOAT32, Encoding, Schedule
from onnxc.codegen.match.held import held
from onnxc.codegen.prepare.matrices import Blocks, Halves, Kernel
from onnxc.codegen.prepare.static import make_static
from onnxc.codegen.program import lower_program
from onnxc.codegen.target import TARGETS, resolve
from onnxc.runtime import library as libraries
from onnxc.runtime.reference import Session

from . import bulk, cross
from .test_targets import ready


def matrix(kind: str, outputs: int, inputs: int, rng) -> Kernel:
    """Narrow weights whose products with small integers are exact: powers of two as scales."""
    if kind in ("float16", "bfloat16"):
        values = rng.integers(-99, 99, (outputs, inputs)).astype(kind if kind == "float16" else ml_dtypes.bfloat16)
        return Kernel(Halves(values))
    bits, block, zeros = {"2": (2, 16, False), "4": (4, 8, False), "4z": (4, 16, True), "8": (8, 4, False),
                          "8z": (8, inputs, True)}[kind]  # fmt: skip
    levels = rng.integers(0, 1 << bits, (outputs, inputs), np.uint8)
    shape = (outputs, inputs // block)
    scale = np.exp2(rng.integers(-3, 3, shape)).astype("f")
    zero = rng.integers(0, 1 << bits, shape, np.uint8) if zeros else None
    return Kernel(Blocks(levels, scale, zero, 1, block, bits))


def product(rows: int, outputs: int, inputs: int, encoding: Encoding, **more):
    """The spec of a product of matrices."""
    spec = bulk.make(1, 1, rows, inputs, outputs, (1, 1), pads=(0, 0, 0, 0), activation=FLOAT32, weight=encoding)
    return replace(spec, **more)


KINDS = ("2", "4", "4z", "8", "8z", "bfloat16", "float16")
SIZES = ((1, 37, 48), (3, 70, 32), (5, 16, 64), (29, 53, 32))


def made(target, sizes=SIZES) -> tuple[dict, dict, dict]:
    """Functions, arrays and results of all kinds that a target takes."""
    rng = np.random.default_rng(0)
    functions, arrays, wanted = {}, {}, {}
    for kind in KINDS:
        for rows, outputs, inputs in sizes:
            weights = matrix(kind, outputs, inputs, rng)
            found = held(weights, None)
            assert found is not None
            spec = product(rows, outputs, inputs, found[0], epilogue=(("mul",), ("relu",)))
            plan = narrow.schedule(spec, target)
            if not isinstance(plan, Schedule):
                assert kind == "float16" or outputs < target.lanes or rows > 24, plan
                continue
            name = f"k{kind}_{rows}"
            x, scale = (
                rng.integers(-50, 50, (rows, inputs)).astype("f"),
                np.exp2(rng.integers(-2, 2, outputs)).astype("f"),
            )
            functions[name] = narrow.emit(spec, plan, name)
            arrays[name] = [x, narrow.pack(spec, plan, weights), scale, np.full(spec.y_shape, np.nan, "f")]
            real = np.asarray(weights)[:, :, 0, 0].astype(np.float64)
            wanted[name] = np.maximum(x @ real.T * scale, 0).reshape(spec.y_shape)
    return functions, arrays, wanted


def test_every_kind_and_odd_extents(tmp_path):
    functions, arrays, wanted = made(resolve("native"))
    assert len(functions) >= 22
    library = bulk.Bulk(functions, resolve("native"), tmp_path)
    for name, parts in arrays.items():
        library.call(name, *parts)
        assert np.array_equal(parts[-1], wanted[name]), name


@pytest.mark.parametrize("name", ["x86-64-v3", "aarch64"])
def test_every_machine(tmp_path, name):
    ready(name)
    functions, arrays, wanted = made(TARGETS[name], SIZES[:1] + SIZES[3:])
    assert len(functions) >= 10
    found = cross.run(functions, arrays, TARGETS[name], tmp_path)
    for key, value in wanted.items():
        assert np.array_equal(found[key], value), key


def test_levels_are_read_as_numpy_reads_them():
    rng = np.random.default_rng(1)
    for kind in KINDS[:5]:
        whole = matrix(kind, 24, 32, rng).matrix
        zero = np.float32(1 << whole.bits - 1) if whole.zero is None else np.repeat(whole.zero, whole.block, 1)
        real = (whole.levels - zero.astype("f")) * np.repeat(whole.scale, whole.block, 1)
        assert np.array_equal(whole, real) and np.array_equal(whole[3:9], real[3:9])
        assert np.array_equal(whole.turned(), real.T) and np.array_equal(whole.transpose((1, 0))[5:7], real.T[5:7])
        assert whole.reshape(24, 32) is whole and np.array_equal(whole.reshape(32, 24), real.reshape(32, 24))


@pytest.mark.parametrize(
    "changes, target, reason",
    [
        ({"pads": (0, 0, 1, 0)}, "znver4", "products of matrices"),
        ({"oc": 5}, "znver4", "needs 16 outputs, found 5"),
        ({"c": 36}, "znver4", "whole blocks of a multiple of 8 inputs"),
        ({"weight": Encoding("float16", 16)}, "armv7", "widens float16"),
        ({"weight": Encoding("float16", 16), "w": 64}, "znver4", "fewer than 24 rows"),
        ({"weight": FLOAT32}, "znver4", "not float32"),
        ({}, "cortex-m7", "needs vectors"),
        ({}, "riscv64", "needs vectors"),
    ],
)
def test_what_is_not_taken(changes, target, reason):
    spec = product(1, 64, 64, Encoding("blocks", 4, "", 32))
    assert reason in narrow.schedule(replace(spec, **changes), TARGETS[target]).reason


def model(kind: str, inputs=512, outputs=1024, **attributes) -> onnx.ModelProto:
    """x (3, inputs) times weights held as `kind`, plus a vector."""
    rng = np.random.default_rng(0)
    bias = (rng.normal(size=outputs) / 9).astype("f")
    opsets, stored, nodes, floats = [helper.make_opsetid("", 21)], {"b": bias}, [], "f"
    scales = (rng.uniform(0.5, 1.5, (inputs // 32, outputs)) / 100).astype("f")
    if kind == "MatMulNBits":
        opsets.append(helper.make_opsetid("com.microsoft", 1))
        stored["w"] = rng.integers(0, 256, (outputs, inputs // 32, 16), np.uint8)
        stored |= {"s": scales.ravel(), "z": rng.integers(0, 256, outputs * inputs // 64, np.uint8)}
        settings = {"K": inputs, "N": outputs, "bits": 4, "block_size": 32}
        nodes.append(helper.make_node("MatMulNBits", ["x", "w", "s", "z"], ["m"], domain="com.microsoft", **settings))
    elif kind == "bfloat16":
        stored["w"] = (rng.normal(size=(inputs, outputs)) / 20).astype(ml_dtypes.bfloat16)
        nodes.append(helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT))
    elif kind == "turned":
        stored |= {"w": rng.integers(-127, 128, (outputs, inputs)).astype(np.int8), "s": scales[0]}
        nodes.append(helper.make_node("DequantizeLinear", ["w", "s"], ["t"], axis=0))
        nodes.append(helper.make_node("Transpose", ["t"], ["f"], perm=[1, 0]))
    else:
        stored |= {"w": rng.integers(-8, 8, (inputs, outputs)).astype(ml_dtypes.int4), "s": scales}
        nodes.append(helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=0, block_size=32))
    if kind != "MatMulNBits":
        nodes.append(helper.make_node("MatMul", ["x", floats], ["m"]))
    nodes.append(helper.make_node("Add", ["m", "b"], ["y"]))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (3, e)) for n, e in (("x", inputs), ("y", outputs))]
    initialisers = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initialisers)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def compiled(made: onnx.ModelProto, folder) -> list[dict]:
    """The kernels of a library that computes what ONNX Runtime does without its optimiser, which would round x to 8 bits."""
    report = compile_model(made, folder / "out", name="net", check="shapes")
    x = np.random.default_rng(2).normal(size=made.graph.input[0].type.tensor_type.shape.dim[1].dim_value * 3)
    feeds = {"x": x.reshape(3, -1).astype("f")}
    found, wanted = libraries.Library(folder / "out").run(feeds)["y"], Session(made, optimise=False).run(feeds)["y"]
    assert np.abs(found - wanted).max() <= 2e-6 * np.abs(wanted).max()
    return report.kernels


@pytest.mark.parametrize("kind, bits", [("MatMulNBits", 4), ("DequantizeLinear", 4), ("bfloat16", 16), ("turned", 8)])
def test_weights_stay_as_they_lie(tmp_path, kind, bits):
    made = model(kind, outputs=1024, inputs=1024)
    compiled(made, tmp_path)  # which kernel this machine takes, its vectors decide
    (kernel,) = lower_program(make_static(made), resolve("x86-64-v4"), 1, "net").kernels
    assert kernel["kernel"] == "float32.narrow.registers"
    assert kernel["flash"] < 1.05 * 1024 * 1024 * (bits / 8 + 2 * 4 / 32)


def test_small_products_run_on_floats_and_say_why(tmp_path):
    (kernel,) = compiled(model("DequantizeLinear", outputs=128, inputs=64), tmp_path)
    assert kernel["kernel"] == "float32.direct"
    assert any(r["rule"].startswith("float32.narrow") and "predicted" in r["reason"] for r in kernel["refused"])
