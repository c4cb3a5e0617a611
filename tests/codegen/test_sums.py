"""Products of coded weights: every kind of layer by look-ups beside ONNX Runtime, and which form is taken."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import parser

from onnxc.codegen.kernels import float32, sums
from onnxc.codegen.kernels.spec import Encoding
from onnxc.codegen.target import TARGETS
from onnxc.ir import functions
from onnxc.ir.files import load

from . import bulk

LAYERS = {
    # weights, books, length, attributes, input
    "plain": ((20, 8, 3, 3), 2, 4, "pads=[1,1,1,1]", (1, 8, 9, 19)),
    "stride": ((9, 6, 3, 2), 1, 3, "pads=[1,0,1,2], strides=[2,2]", (2, 6, 11, 13)),
    "dilation": ((17, 4, 3, 3), 2, 2, "dilations=[2,3], strides=[1,2]", (1, 4, 9, 17)),
    "groups": ((12, 4, 3, 3), 2, 2, "pads=[1,1,1,1], group=3", (1, 12, 7, 40)),
    "pointwise": ((33, 8, 1, 1), 2, 4, "group=1", (1, 8, 5, 7)),
    "one_row": ((16, 4, 1, 3), 1, 4, "pads=[0,1,0,1]", (1, 4, 1, 5)),
}


def model(name: str):
    shape, books, length, attributes, x = LAYERS[name]
    rng = np.random.default_rng(3)
    dims, c = ",".join(map(str, x)), shape[0]
    made = load(
        parser.parse_model(
            f"""<ir_version: 8, opset_import: ["" : 17]> g (float[{dims}] x) => (float[a,b,c,d] y)
        <float[{c}] b = {{{", ".join(["0.5"] * c)}}}> {{ t = Conv<{attributes}>(x, w, b) y = Relu(t) }}""".replace(
                "(x, w, b)", "(x, x, b)"
            )
        )
    )
    codes = rng.integers(0, 5, (shape[0], shape[1] // length, *shape[2:]))
    book = rng.normal(size=(books, 5, length)).astype(np.float32)
    conv = next(n for n in made.nodes if n.op == "Conv")
    conv.inputs[1] = functions.product_lookup(made, "w", codes, book, 3, shape)
    return made.to_proto()


@pytest.fixture
def summed(monkeypatch):
    """Coded weights are summed by look-ups even where that is slower, and however few they are."""
    monkeypatch.setattr("onnxc.codegen.lower.lowering.slower", lambda *given: [])
    monkeypatch.setattr("onnxc.codegen.prepare.stored.LEAST", 1)


@pytest.mark.parametrize("name", LAYERS)
def test_sums_of_looked_up_products(same_as_ort, summed, name):
    report, _ = same_as_ort(model(name))
    assert report.kernels[0]["kernel"] == "float32.sums" and "bias+relu" in report.kernels[0]["spec"]


@pytest.mark.parametrize("rows", [1, 37])
@pytest.mark.parametrize("op", ["Gemm<transB=1>", "MatMul"])
def test_matrices(same_as_ort, summed, rows, op):
    rng = np.random.default_rng(4)
    turn = "" if op.startswith("Gemm") else "w = Transpose<perm=[1,0]>(v)"
    made = load(
        parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]> g (float[{rows},12] x) => (float[a,b] y)
        {{ v = Identity(x) {turn} y = {op}(x, {"w" if turn else "v"}) }}""")
    )
    w = functions.product_lookup(
        made, "q", rng.integers(0, 4, (21, 3)), rng.normal(size=(3, 4, 4)).astype("f"), 2, (21, 12)
    )
    identity = next(n for n in made.nodes if n.op == "Identity")
    made.replace_uses(identity.outputs[0], w)
    made.remove(identity)
    report, _ = same_as_ort(made.to_proto())
    assert report.kernels[0]["kernel"] == "float32.sums"


def test_the_form_that_is_predicted_to_be_faster_is_taken():
    """Many outputs share a table; few do not pay for it."""
    wide = bulk.make(1, 28, 28, 64, 256, (3, 3), pads=(1, 1, 1, 1))
    wide = replace(wide, activation=Encoding(), weight=Encoding(), epilogue=())
    for spec, pays in ((wide, True), (replace(wide, oc=8, y_shape=(1, 28, 28, 8)), False)):
        coded = replace(spec, weight=Encoding("codes", 6, length=8, centroids=64, books=8))
        times = []
        for family, one in ((sums, coded), (float32, spec)):
            plan = family.schedule(one, TARGETS["znver4"])
            times.append(family.FAMILY.cost(one, plan, TARGETS["znver4"]))
        assert (times[0] < times[1]) == pays
