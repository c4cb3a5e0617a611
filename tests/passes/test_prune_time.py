"""Channels by predicted time: what counts say is what the cut model's products take, and a budget in time is met."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxc.codegen.predict import predict
from onnxc.ir.analysis import analyse
from onnxc.ir.errors import BadOption
from onnxc.ir.masks import apply_masks
from onnxc.ir.model import Model
from onnxc.passes.prune.budget import Costing
from onnxc.passes.prune.coupling import groups
from onnxc.passes.prune.select import balance, masks
from onnxc.pipeline import Pipeline, load

MACHINE = "znver4"
TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,20,20] x) => (float[1,10] y) {
    a = Conv<pads=[1,1,1,1]>(x, wa) b = Conv<pads=[1,1,1,1], strides=[2,2]>(a, wb) c = Conv<pads=[1,1,1,1], group=64>(b, wc)
    d = Conv(c, wd) e = Add(b, d) f = Conv<pads=[1,1,1,1], group=2>(e, wf) h = ConvTranspose<strides=[2,2]>(f, wh)
    i = GlobalAveragePool(h) j = Flatten(i) k = MatMul(j, wk) l = Relu(k) y = Gemm<transB=1>(l, wy) }"""
SHAPES = {
    "wa": (32, 3, 3, 3), "wb": (64, 32, 3, 3), "wc": (64, 1, 3, 3), "wd": (64, 64, 1, 1), "wf": (48, 32, 3, 3), "wh": (48, 24, 2, 2),
    "wk": (24, 64), "wy": (10, 64),
}  # fmt: skip


def network() -> Model:
    """Convolutions of all sorts, one transposed, and two matrix products."""
    proto, rng = onnx.parser.parse_model(TEXT), np.random.default_rng(0)
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(rng.normal(size=s).astype("f"), n) for n, s in SHAPES.items()
    )
    return load(proto).copy()


def seconds(model: Model) -> float:
    """Predicted time, in cycles; of a transposed convolution by its MACs alone, rounded."""
    return Costing(model, analyse(model), "time", set(), predict(MACHINE)).whole


def test_what_counts_say_is_what_the_cut_model_takes():
    model = network()
    analysis = analyse(model)
    found = groups(model, analysis, "window")
    cost = Costing(model, analysis, "time", {g.atom for g in found}, predict(MACHINE))
    assert cost.whole == pytest.approx(seconds(model))
    counts = balance({g.atom: max(1, 3 * g.size // 4) for g in found}, analysis.balanced)
    kept = masks(found, {g.atom: np.arange(float(g.size)) for g in found}, counts)
    assert cost.change({}, found[0].atom, counts[found[0].atom]) == pytest.approx(
        cost({found[0].atom: counts[found[0].atom]}) - cost.whole
    )
    apply_masks(model, analysis, kept)
    assert cost(counts) == pytest.approx(seconds(model), rel=1e-3) and cost(counts) < 0.9 * cost.whole


@pytest.mark.parametrize("share", [0.75, 0.5])
def test_a_budget_in_time_is_met(share):
    model = network()
    result = Pipeline(f"prune(time={share}, target={MACHINE})", check="shapes").transform(model)
    left = seconds(result.model) / seconds(model)
    assert 0.8 * share < left <= share
    assert f"{left:.2f} of what it was" in result.report.rows[-1].notes[-1]
    widths = {t.values.shape[0] for t in result.model.constants().values() if t.values.ndim == 4}
    assert all(w % 8 == 0 for w in widths)


@pytest.mark.parametrize("options, message", [
    ("time=1.5", "option time"), ("target=znver4", "time= beside"), ("time=0.5, macs=0.5", "only one budget"),
    ("time=0.01, target=znver4", "cannot be met"),
])  # fmt: skip
def test_options_that_do_not_fit(options, message):
    with pytest.raises(BadOption, match=message):
        Pipeline(f"prune({options})", check="shapes").transform(network())
