"""quant.int8 of networks of float16: as near to them as that of the same network in float32, stored no longer."""

import numpy as np
import pytest

from onnxc.ir.difference import decibels
from onnxc.ir.text import dump
from onnxc.passes.base import apply
from onnxc.passes.registry import make

from .quant_helpers import feeds_of, model_of, quantised, run

RNG = np.random.default_rng(5)
WEIGHTS = {
    "w": RNG.normal(size=(8, 4, 3, 3)) / 6,
    "b": RNG.normal(size=8),
    "v": RNG.normal(size=(8, 1, 3, 3)) / 3,
    "k": RNG.uniform(0.5, 2, (1, 8, 1, 1)),
    "fc": RNG.normal(size=(8, 5)),
}
BODY = """
    a = Conv <pads = [1,1,1,1]> (x, w, b) r = Relu(a) d = Conv <group = 8> (r, v) e = Exp(d) m = Mul(e, k)
    g = GlobalAveragePool(m) f = Flatten(g) y = MatMul(f, fc)"""


def network(kind: str, body: str = BODY, outputs: str = "{0}[N,5] y, {0}[N,8,P,Q] r"):
    dtype = np.float16 if kind == "float16" else np.float32
    used = {k: w.astype(np.float16).astype(dtype) for k, w in WEIGHTS.items() if f"{k})" in body or f"{k}," in body}
    text = f'<ir_version: 9, opset_import: ["" : 17]> g ({kind}[N,4,8,8] x) => ({outputs.format(kind)}) {{ {body} }}'
    return model_of(text, **used)


def test_as_near_as_in_float32_and_stored_no_longer():
    noises = []
    for kind in ("float16", "float"):
        model = network(kind)
        found, report = quantised(model)
        assert {n.op for n in found.nodes} >= {"QuantizeLinear", "Exp"} and not report.refusals
        feeds = feeds_of(model)
        real, got = run(model, feeds), run(found, feeds)
        assert {name: a.dtype for name, a in real.items()} == {name: a.dtype for name, a in got.items()}
        y, z = real["y"].astype(np.float64), got["y"].astype(np.float64)
        noises.append(decibels(np.square(z - y).mean() / y.var()))
        if kind == "float16":
            assert any("float16 becomes float32" in note for note in report.notes)
            left = [t for t in found.constants().values() if t.values.dtype == np.float32 and not t.inputs]
            assert not [t.name for t in left if t.values.size > 1 and not t.name.endswith("_scale")]
            assert found.constants()["k_half"].values.dtype == np.float16
    assert noises[0] > noises[1] - 1 and noises[0] > 25


@pytest.mark.parametrize(
    "body, outputs",
    [
        ("y = Exp(x)", "{0}[N,4,8,8] y"),
        (
            "s = Shape(x) c = ConstantOfShape <value = float16[1] {1}> (s) z = Add(x, c) y = Conv(z, w)",
            "{0}[N,8,6,6] y",
        ),
    ],
)
def test_what_cannot_be_widened_stays(body, outputs):
    model = network("float16", body, outputs)
    before = dump(model)
    found, report = apply(make("quant.int8"), model)
    assert dump(found) == before and not report.edits
