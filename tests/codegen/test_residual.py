"""Residual planes (HORQ): packing and products against NumPy, every number; models against ONNX Runtime."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxc.codegen.kernels import choose, quantise, residual
from onnxc.codegen.kernels.spec import PackSpec
from onnxc.codegen.target import TARGETS, resolve
from onnxc.ir.quantisers import residual_binarize

from . import bulk, cross
from .test_bits import CALM, layers, rules, signs
from .test_bits_targets import ready

SCALES = np.float32([0.75, 0.40625, 0.296875, 0.140625])  # sums of products are exact in float32


def made(chosen: list, target, seed: int) -> tuple[dict, dict, dict]:
    """Functions, arrays and results of packing and products of specs whose activations become residual planes."""
    rng = np.random.default_rng(seed)
    functions, arrays, wanted = {}, {}, {}
    for i, spec in enumerate(chosen):
        order = spec.activation.bits
        spec = replace(spec, activation=residual.encoding(order), pad_value=0)
        scales, pad = SCALES[:order], float(rng.choice([0, -1, 1, SCALES[0] / 2]))
        x = rng.integers(-99, 99, spec.x_shape).astype("f") / 64
        weights = bulk.integers(spec.weight, (spec.oc, spec.c // spec.groups, spec.kh, spec.kw), rng)
        pack = PackSpec(spec.n, spec.h, spec.w, spec.c, spec.groups, spec.pads, spec.activation, spec.x_shape, 0, order)
        packed = residual.pack_activations(spec, x, scales)
        functions[f"p{i}"] = quantise.emit(pack, f"p{i}")
        arrays[f"p{i}"] = [x, scales, np.full(pack.shape, 0x5555, np.uint64)]
        wanted[f"p{i}"] = packed
        family, plan, _ = choose(spec, target)
        functions[f"k{i}"] = family.emit(spec, plan, f"k{i}")
        table = residual.table(spec, weights, scales, pad)
        y = np.full(spec.y_shape, np.nan, np.float32)
        arrays[f"k{i}"] = [packed, family.pack(spec, plan, weights), table, scales, y]
        values = np.pad(residual_binarize(x, scales), around(spec), constant_values=pad)
        inside = replace(spec, h=values.shape[1], w=values.shape[2], pads=(0, 0, 0, 0))
        wanted[f"k{i}"] = bulk.convolve(inside, np.round(values * 64).astype(np.int64), weights) / 64
    return functions, arrays, wanted


def around(spec) -> tuple:
    top, left, bottom, right = spec.pads
    return (0, 0), (top, bottom), (left, right), (0, 0)


@CALM
@given(chosen=st.lists(bulk.specs(), min_size=3, max_size=3, unique=True), seed=st.integers(0, 99))
def test_packing_and_products_are_their_twins(tmp_path_factory, chosen, seed):
    functions, arrays, wanted = made(chosen, resolve("native"), seed)
    library = bulk.Bulk(functions, resolve("native"), tmp_path_factory.mktemp("residual"))
    for name, held in arrays.items():
        library.call(name, *held)
        assert np.array_equal(held[-1], wanted[name]), (name, chosen)


ODD = [
    bulk.make(c=70, oc=37, pads=(1, 0, 2, 1), activation=residual.encoding(2), weight=bulk.Encoding("bits", 1, "bipolar")),
    bulk.make(c=17, oc=5, groups=2, stride=(2, 1), activation=residual.encoding(3), weight=bulk.Encoding("bits", 2, "signed")),
]  # fmt: skip


@pytest.mark.parametrize("name", ["x86-64-v3", "aarch64", "armv7", "riscv64"])
def test_every_machine(tmp_path, name):
    ready(name)
    functions, arrays, wanted = made(ODD, TARGETS[name], 1)
    found = cross.run(functions, arrays, TARGETS[name], tmp_path)
    for key, value in wanted.items():
        assert np.array_equal(found[key], value), key


GRAPHS = {
    "zeros of the convolution": "q = ai.onnxc.ResidualBinarize(x, s) y = Conv<pads=[1,1,1,1]>(q, w)",
    "padding ahead": "p = Pad(x, widths) q = ai.onnxc.ResidualBinarize(p, s) y = Conv(q, w)",
    "padding behind": "q = ai.onnxc.ResidualBinarize(x, s) p = Pad(q, widths, one) y = Conv(p, w)",
    "one after another": """q = ai.onnxc.ResidualBinarize(x, s) a = Conv<pads=[1,1,1,1]>(q, w) b = Mul(a, tenth)
      c = ai.onnxc.ResidualBinarize(b, s) y = Conv<pads=[1,1,1,1]>(c, w)""",
    "a shortcut": """q = ai.onnxc.ResidualBinarize(x, s) a = Conv<pads=[1,1,1,1]>(q, w) b = Mul(a, tenth) r = Add(b, x)
      c = ai.onnxc.ResidualBinarize(r, s) d = Conv<pads=[1,1,1,1]>(c, w) y = Add(d, r)""",
}


@pytest.mark.parametrize(
    "graph, order", [*((graph, 2) for graph in GRAPHS), ("padding ahead", 1), ("padding ahead", 4)]
)
def test_models(counted, graph, order):
    numbers = {
        "s": SCALES[:order], "w": signs(32, 32, 3, 3), "one": np.float32(1), "tenth": np.float32(0.125),
        "widths": np.int64([0, 0, 1, 0, 0, 0, 2, 1]),
    }  # fmt: skip
    text = f"g (float[1,32,7,6] x) => (float[a,b,c,d] y) {{ {GRAPHS[graph]} }}"
    used = {name: value for name, value in numbers.items() if name in re.findall(r"\w+", GRAPHS[graph])}
    report, _ = counted(layers(text, ("ResidualBinarize",), **used), tolerance=1e-5)
    assert set(rules(report)) == {"bits.direct"}
    assert all("1x7x6x32 ->" in row["spec"] for row in report.kernels)  # the padding is the packing's
    assert all(f"{order}-bit residual x 1-bit bipolar" in row["spec"] for row in report.kernels)


def test_planes_that_are_not_of_what_is_left_stay_floats(counted):
    """The second plane is of x itself, as no residual is."""
    text = """g (float[1,16,7,6] x) => (float[a,b,c,d] y) { b = ai.onnxc.Binarize(x) p = Mul(b, s) t = Sub(x, u)
      c = ai.onnxc.Binarize(t) q = Mul(c, s) z = Add(p, q) y = Conv(z, w) }"""
    numbers = {"s": np.float32(0.5), "u": np.float32(0.25), "w": signs(32, 16, 3, 3)}
    report, _ = counted(layers(text, ("Binarize",), **numbers))
    assert rules(report) == ["float32.winograd.f4"]
