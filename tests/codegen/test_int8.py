"""Products on 8-bit integers: bit-exact against NumPy on every machine, and against ONNX Runtime but for ties.

The claim: int32 sums are exact, and sum * (sx sw / sy), in float32, rounds half to even. ONNX Runtime's integer kernels do
the same, so a single layer agrees in every integer; sums of two tensors are rounded in another order, and may differ by
one step where the exact value lies between two integers, within a few units of the last place of float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxc.codegen import CompileReport, compile_model
from onnxc.runtime.emulate import open_library

from .conftest import run_ort
from .test_targets import ready


@dataclass(frozen=True)
class Layer:
    """A convolution of x (n, c, h, w) with weights (oc, c/groups, kh, kw), all in 8-bit integers."""

    x: tuple[int, int, int, int]
    oc: int
    kernel: tuple[int, int] = (3, 3)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    signed: bool = False
    per_channel: bool = True
    relu: bool = False
    least: int = -127
    ends: bool = False
    seed: int = 0

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights, bias, scales and zero points; scales of no round numbers, so that ties are as rare as in life."""
        rng = np.random.default_rng(self.seed)
        kind = np.int8 if self.signed else np.uint8
        w = rng.integers(self.least, 128, (self.oc, self.x[1] // self.groups, *self.kernel)).astype(np.int8)
        w = np.where(w < 0, self.least, 127).astype(np.int8) if self.ends else w
        depth = w[0].size
        count = self.oc if self.per_channel else 1
        scales = rng.uniform(0.5, 1.5, count).astype("f") * np.float32(0.0117)
        xs = np.float32(0.0173)
        return {
            "w": w, "ws": scales if self.per_channel else scales[0].reshape(()),
            "b": rng.integers(-3000, 3000, self.oc).astype(np.int32),
            "bs": (xs * scales) if self.per_channel else (xs * scales[0]).reshape(()),
            "xs": xs.reshape(()), "xz": np.array(rng.integers(-9, 9) if self.signed else rng.integers(100, 150), kind),
            "ys": np.float32(0.0173 * 0.0117 * 45 * np.sqrt(depth)).reshape(()),
            "yz": np.array(rng.integers(-20, 20) if self.signed else rng.integers(90, 160), kind),
        }  # fmt: skip

    def integers(self, a: dict[str, np.ndarray], qx: np.ndarray) -> np.ndarray:
        """The quantised output for a quantised input, by the definition."""
        top, left, bottom, right = self.pads
        x = np.pad(qx.astype(np.int64) - int(a["xz"]), ((0, 0), (0, 0), (top, bottom), (left, right)))
        size = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations)]
        windows = np.lib.stride_tricks.sliding_window_view(x, size, axis=(2, 3))
        windows = windows[:, :, :: self.strides[0], :: self.strides[1], :: self.dilations[0], :: self.dilations[1]]
        n, c, oh, ow = windows.shape[:4]
        parts = windows.reshape(n, self.groups, c // self.groups, oh, ow, *self.kernel)
        w = a["w"].astype(np.int64).reshape(self.groups, -1, *a["w"].shape[1:])
        total = np.einsum("ngchwij,gocij->ngohw", parts, w).reshape(n, self.oc, oh, ow) + a["b"][:, None, None]
        factor = (a["xs"] * np.broadcast_to(a["ws"], (self.oc,)) / a["ys"]).astype("f")
        limits, z = np.iinfo(a["yz"].dtype), int(a["yz"])
        steps = np.rint(total.astype("f") * factor[:, None, None])
        return np.clip(steps, 0 if self.relu else limits.min - z, limits.max - z).astype(int) + z


def qdq(layers: dict[str, Layer]) -> tuple[onnx.ModelProto, dict[str, dict[str, np.ndarray]]]:
    """A model with an input and an 8-bit output for each layer, and the arrays of each."""
    nodes, inputs, outputs, stored, made = [], [], [], [], {}
    for name, layer in layers.items():
        arrays = made[name] = layer.arrays()
        stored += [numpy_helper.from_array(np.asarray(a), f"{name}_{key}") for key, a in arrays.items()]

        def add(op: str, operands: str, out: str, attrs: dict | None = None, name: str = name) -> None:
            used = [f"{name}_{part}" for part in operands.split()]
            nodes.append(helper.make_node(op, used, [f"{name}_{out}"], **(attrs or {})))

        axis = {"axis": 0} if layer.per_channel else {}
        add("QuantizeLinear", "x xs xz", "xq")
        add("DequantizeLinear", "xq xs xz", "xf")
        add("DequantizeLinear", "w ws", "wf", axis)
        add("DequantizeLinear", "b bs", "bf", axis)
        attrs = {key: list(getattr(layer, key)) for key in ("pads", "strides", "dilations")}
        add("Conv", "xf wf bf", "c", attrs | {"group": layer.groups})
        if layer.relu:
            add("Relu", "c", "r")
        add("QuantizeLinear", ("r" if layer.relu else "c") + " ys yz", "q")
        kind = helper.np_dtype_to_tensor_dtype(arrays["yz"].dtype)
        inputs.append(helper.make_tensor_value_info(f"{name}_x", TensorProto.FLOAT, layer.x))
        outputs.append(helper.make_tensor_value_info(f"{name}_q", kind, list("abcd")))
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), made


def check(layers: dict[str, Layer], folder, target: str, kernel: str = "", threads: int = 1) -> CompileReport:
    """Compiled outputs equal the definition's in every integer; the kernels are int8 ones, of that name if given."""
    model, made = qdq(layers)
    report = compile_model(model, folder, name="net", target=target, threads=threads)
    assert all(row["kernel"].startswith(("int8.", "micro.")) for row in report.kernels), report.kernels
    if kernel:  # on microcontrollers of the layers that C code does not take
        assert f"int8.direct.{kernel}" in {row["kernel"] for row in report.kernels}
    rng = np.random.default_rng(9)
    feeds, wanted = {}, {}
    for name, layer in layers.items():
        a = made[name]
        limits = np.iinfo(a["xz"].dtype)
        qx = rng.integers(limits.min, limits.max + 1, layer.x).astype(a["xz"].dtype)
        qx = np.where(qx < limits.max // 2, limits.min, limits.max).astype(qx.dtype) if layer.ends else qx
        feeds[f"{name}_x"] = (qx.astype("f") - a["xz"].astype("f")) * a["xs"]
        wanted[f"{name}_q"] = layer.integers(a, qx)
    found = open_library(folder).run(feeds)
    for name, value in wanted.items():
        assert value.std() > 5 or value.size < 100, name  # neither saturated nor all the same
        assert np.array_equal(found[name].astype(int), value), layers[name[:-2]]
    return report


LAYERS = {
    "plain": Layer((1, 16, 9, 9), 32),
    "relu": Layer((1, 16, 9, 9), 32, relu=True, signed=True),
    "channels": Layer((1, 5, 8, 11), 23, per_channel=False),
    "signed": Layer((1, 12, 6, 7), 16, signed=True),
    "ends": Layer((1, 32, 5, 6), 8, ends=True, signed=True),  # 2 x 128 x 127 in sums of 16 bits
    "least_ends": Layer((1, 16, 5, 6), 8, ends=True, least=-128),
    "least": Layer((1, 8, 6, 7), 8, least=-128),
    "first": Layer((1, 3, 11, 11), 16, kernel=(5, 5), pads=(2, 2, 2, 2), strides=(2, 2)),
    "pads": Layer((1, 4, 7, 9), 9, kernel=(3, 2), pads=(0, 2, 1, 3)),
    "dilated": Layer((1, 6, 15, 13), 17, pads=(2, 2, 2, 2), dilations=(2, 2), signed=True),
    "grouped": Layer((1, 12, 7, 7), 30, groups=3),
    "depthwise": Layer((1, 24, 9, 9), 24, groups=24),
    "depthwise_odd": Layer(
        (2, 19, 9, 10), 19, kernel=(5, 5), pads=(2, 2, 2, 2), strides=(2, 2), groups=19, signed=True
    ),
    "multiplier": Layer((1, 6, 7, 7), 12, groups=6, pads=(0, 0, 0, 0)),
    "pointwise": Layer((2, 20, 5, 7), 40, kernel=(1, 1), pads=(0, 0, 0, 0)),
    "pointwise_tail": Layer((1, 7, 5, 7), 3, kernel=(1, 1), pads=(0, 0, 0, 0), signed=True),
    "one": Layer((1, 33, 6, 6), 1, pads=(0, 0, 0, 0)),
}
KERNELS = {
    "x86-64-v3": "pmaddwd", "x86-64-v4": "pmaddwd", "znver4": "vpdpbusd",
    "aarch64": "smlal", "cortex-a76": "sdot", "armv7": "vmlal", "riscv64": "plain", "riscv64-v": "plain",
    "wasm32": "dot", "cortex-m7": "smlad",
}  # fmt: skip


@pytest.mark.parametrize("target", KERNELS)
def test_every_integer_on_every_machine(target, tmp_path):
    ready(target)
    check(LAYERS, tmp_path, target, KERNELS[target])


def test_every_integer_on_two_threads(tmp_path):
    large = {
        "direct": Layer((1, 20, 24, 23), 36), "depthwise": Layer((1, 70, 40, 39), 70, groups=70, signed=True),
        "pointwise": Layer((1, 60, 20, 19), 40, kernel=(1, 1), pads=(0, 0, 0, 0)),
    }  # fmt: skip
    check(large, tmp_path, "native", threads=2)


@st.composite
def layers(draw) -> Layer:
    """Small convolutions of every kind."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 5]))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilations = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pads = draw(st.tuples(*[st.integers(0, 2)] * 4))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
    h, w = (draw(st.integers(max(r, 4), r + 9)) for r in reach)
    c = groups * draw(st.integers(1, 9))
    oc = c if draw(st.booleans()) else groups * draw(st.integers(1, 20))
    groups = c if oc == c and draw(st.booleans()) else groups
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    flags = {key: draw(st.booleans()) for key in ("signed", "per_channel", "relu")}
    return Layer((1, c, h, w), oc, kernel, pads, strides, dilations, groups, seed=draw(st.integers(0, 99)), **flags)


@pytest.mark.parametrize("target", ["native", pytest.param("x86-64-v3", marks=pytest.mark.slow)])
@settings(max_examples=3, deadline=None, derandomize=True)
@given(st.lists(layers(), min_size=8, max_size=8))
def test_every_integer_of_any_shape(tmp_path_factory, target, made):
    if target != "native":
        ready(target)
    model_layers = {f"l{i}": layer for i, layer in enumerate(made)}
    check(model_layers, tmp_path_factory.mktemp("net"), target)


def test_single_layers_equal_onnx_runtime(tmp_path):
    model, _ = qdq({name: layer for name, layer in LAYERS.items() if layer.least > -128})
    compile_model(model, tmp_path, name="net")
    rng = np.random.default_rng(3)
    feeds = {i.name: rng.normal(0, 1.2, LAYERS[i.name[:-2]].x).astype("f") for i in model.graph.input}
    found, wanted = open_library(tmp_path).run(feeds), run_ort(model, feeds)
    apart = {name: np.abs(found[name].astype(int) - wanted[name].astype(int)) for name in wanted}
    assert max(a.max() for a in apart.values()) <= 1
    assert sum(np.count_nonzero(a) for a in apart.values()) <= 1e-3 * sum(a.size for a in apart.values())


def test_layers_of_other_dilation_share_a_weight(tmp_path):
    """What is packed depends on the dilation: channels of three taps in a row lie side by side, or do not."""
    model, _ = qdq({"l": Layer((1, 3, 9, 9), 8)})
    graph = model.graph
    ends = [i for i, node in enumerate(graph.node) if node.op_type in ("Conv", "QuantizeLinear")][1:]
    for i in ends:  # a second convolution of the same operands, and its quantiser
        other = onnx.NodeProto()
        other.CopyFrom(graph.node[i])
        if other.op_type == "Conv":
            del other.attribute[:]
            other.attribute.extend(
                helper.make_attribute(k, v) for k, v in {"pads": [2] * 4, "dilations": [2, 2]}.items()
            )
        else:
            other.input[0] = "d_c"
        other.output[0] = "d" + other.output[0][1:]
        graph.node.append(other)
    graph.output.append(helper.make_tensor_value_info("d_q", TensorProto.UINT8, list("abcd")))
    report = compile_model(model, tmp_path, name="net")
    assert [row["kernel"].startswith("int8.direct") for row in report.kernels] == [True, True]
    feeds = {"l_x": np.random.default_rng(3).normal(0, 1.2, (1, 3, 9, 9)).astype("f")}
    found, wanted = open_library(tmp_path).run(feeds), run_ort(model, feeds)
    assert all(np.array_equal(found[name], wanted[name]) for name in ("l_q", "d_q"))


FEW = {
    "relu": Layer((1, 8, 5, 5), 6, signed=True, relu=True),
    "first": Layer((1, 3, 7, 7), 5),
    "depthwise": Layer((1, 8, 6, 6), 8, groups=8, signed=True),
    "strided": Layer((1, 6, 7, 7), 6, groups=6, strides=(2, 2)),
    "pointwise": Layer((1, 12, 3, 3), 10, kernel=(1, 1), pads=(0, 0, 0, 0)),
    "long": Layer((1, 3, 3, 17), 3, groups=3, signed=True, relu=True),
    "taps": Layer((1, 3, 6, 3), 3, kernel=(4, 2), pads=(2, 1, 2, 1), dilations=(1, 2), groups=3),
}


HELIUM = {
    "channels": Layer((1, 18, 5, 5), 18, groups=18, signed=True),
    "column": Layer((1, 3, 4, 1), 3, groups=3, pads=(2, 1, 0, 1)),
    "below": Layer((1, 2, 4, 9), 2, groups=2, pads=(0, 0, 1, 1), strides=(2, 2)),
    "wide": Layer((1, 55, 2, 2), 7, kernel=(1, 1), pads=(0, 0, 0, 0), relu=True),
    "tall": Layer((1, 2, 9, 4), 5, kernel=(5, 4), pads=(2, 1, 2, 2), strides=(2, 1), signed=True),
}
"""Other windows that vectors hold, and depthwise layers whose rows, columns or channels are no multiple of what is made at once."""


@pytest.mark.parametrize("target", ["cortex-m0", "cortex-m3", "cortex-m55", "rv32imc"])
def test_microcontrollers(target, tmp_path):
    """With floats or without, with DSP instructions or without: the board of each runs the layers, and nothing is left to TVM."""
    ready(target)
    report = check(FEW | (HELIUM if target == "cortex-m55" else {}), tmp_path, target)
    assert report.fallbacks == () and {row["kernel"].split(".")[0] for row in report.kernels} == {"micro"}


@pytest.mark.parametrize("groups, kernel, stride, pads", [(2, 3, 2, 1), (8, 3, 2, 1)])
def test_transposed_convolutions_run_on_integers(same_as_ort, groups, kernel, stride, pads):
    rng = np.random.default_rng(groups)
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[1,8,7,9] x) => (float[a,b,c,d] y) {{
      q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) v = DequantizeLinear<axis=1>(w, t)
      u = DequantizeLinear<axis=0>(b, f)
      y = ConvTranspose<group={groups}, strides=[{stride},{stride}], pads=[{pads},{pads},{pads},{pads}]>(d, v, u) }}"""
    made, each = onnx.parser.parse_model(text), 8 // groups
    scale = (rng.uniform(0.5, 1, each) / 99).astype("f")
    arrays = {
        "s": np.float32(0.02), "z": np.uint8(101), "t": scale, "f": np.tile(scale, groups) * np.float32(0.02),
        "w": rng.integers(-127, 128, (8, each, kernel, kernel)).astype(np.int8),
        "b": rng.integers(-9999, 9999, 8).astype(np.int32),
    }  # fmt: skip
    made.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    report, _ = same_as_ort(made, 2e-6)
    assert {k["kernel"].split(".")[0] for k in report.kernels} == {"int8"}
