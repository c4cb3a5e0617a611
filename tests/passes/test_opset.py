"""Models of old opsets are raised where a pass needs a newer one: the converter's own slips, foreign domains, bodies."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxc
from onnxc.ir.errors import Unsupported
from onnxc.ir.files import load
from onnxc.passes.opset import raise_opset
from tests import golden

from .quant_helpers import feeds_of, run

W = {"w": golden.weights([4, 3, 3, 3]).astype(np.float32), "scales": np.float32([1, 1, 2, 2])}
BRANCH = "y = If (c) <then_branch = t () => (float[1,4,9,9] a) {{ a = Relu(h) }}, else_branch = e () => (float[1,4,9,9] b) {{ {0} }}>"
OLD = {
    "a linear Upsample": (9, 'h = Conv<pads = [1,1,1,1]>(x, w) y = Upsample<mode = "linear">(h, scales)', 2.0),
    "a linear Resize": (10, 'h = Conv<pads = [1,1,1,1]>(x, w) y = Resize<mode = "linear">(h, scales)', 2.0),
    "a nearest Resize to less": (10, 'h = Conv<pads = [1,1,1,1]>(x, w) y = Resize<mode = "nearest">(h, scales)', 0.6),
    "a foreign domain": (9, "s = ai.onnx.ml.Scaler<offset = [0.5], scale = [2.0]>(x) y = Conv(x, w)", 1.0),
    "a body": (9, "h = Conv<pads = [1,1,1,1]>(x, w) " + BRANCH.format("b = Neg(h)"), 1.0),
}


def old(version: int, nodes: str, factor: float = 1.0) -> onnx.ModelProto:
    text = f"""<ir_version: 4, opset_import: ["" : {version}, "ai.onnx.ml" : 1]>
        g (float[1,3,9,9] x{", bool c" if "If (c)" in nodes else ""}) => (float[A,B,C,D] y) {{ {nodes} }}"""
    proto = onnx.parser.parse_model(text)
    weights = W | {"scales": np.float32([1, 1, factor, factor])}
    read = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(weights[n], n) for n in sorted(weights) if n in read)
    return proto


@pytest.mark.parametrize("kind", OLD)
def test_raised_models_compute_the_same(kind):
    model = load(old(*OLD[kind]))
    made, feeds = model.copy(), feeds_of(model)
    assert raise_opset(made, 13)
    for name, a in run(model, feeds).items():
        np.testing.assert_allclose(run(made, feeds)[name], a, rtol=1e-5, atol=1e-5)


def test_a_pass_raises_them_by_itself():
    done = onnxc.run_passes(old(*OLD["a linear Upsample"]), "quant")
    assert done.model.opset == 13 and done.report.rows[-1].error["snr_db"] > 20


def test_a_body_whose_operators_are_written_otherwise_is_refused():
    model = load(
        old(
            11,
            "h = Conv<pads = [1,1,1,1]>(x, w) "
            + BRANCH.format("q = Squeeze<axes = [0]>(h) b = Unsqueeze<axes = [0]>(q)"),
        )
    )
    with pytest.raises(Unsupported, match="has a body with a Squeeze, which has changed"):
        raise_opset(model, 13)
