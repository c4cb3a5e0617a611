"""Ranks by predicted time: what is slower is not taken, budgets in time, and stages predicted as the layers that they become."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from onnxc.codegen.predict import predict, spec_of
from onnxc.ir.analysis import analyse
from onnxc.ir.errors import BadOption
from onnxc.ir.model import Model
from onnxc.ir.product import Product, matrix, product_of
from onnxc.passes.lowrank.forms import FORMS
from onnxc.passes.lowrank.rank import Budget, Choice, spend
from onnxc.passes.lowrank.target import target
from onnxc.passes.lowrank.timing import Timing
from onnxc.pipeline import Pipeline, load

MACHINE = "znver4"  # the same everywhere


def chain(size: int = 14) -> Model:
    """3 x 3 layers with stride 1 and 2, one in groups, 1 x 1, and a matrix product, whose weights are nearly of low rank."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        o, rest = shape[0], int(np.prod(shape[1:]))
        low = rng.normal(size=(o, 4)) @ rng.normal(size=(4, rest)) / np.sqrt(4 * rest)
        return (low + 0.02 * rng.normal(size=(o, rest)) / np.sqrt(rest)).reshape(shape).astype("f")

    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[1,32,{size},{size}] x) => (float[1,40] y) {{
        a = Conv<pads=[1,1,1,1]>(x, wa) b = Relu(a) c = Conv<pads=[1,1,1,1], strides=[2,2]>(b, wb)
        d = Relu(c) e = Conv<pads=[1,1,1,1], group=2>(d, wc) f = Conv(e, wd) h = GlobalAveragePool(f)
        i = Flatten(h) y = Gemm<transB=1>(i, we) }}"""
    proto = onnx.parser.parse_model(text)
    shapes = {"wa": (32, 32, 3, 3), "wb": (64, 32, 3, 3), "wc": (64, 32, 3, 3), "wd": (64, 64, 1, 1), "we": (40, 64)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(weight(*s), n) for n, s in shapes.items())
    return load(proto).copy()


def factored(passes: str, model: Model | None = None):
    return Pipeline(passes, check="shapes").transform(model or chain())


def test_stages_are_predicted_as_the_layers_that_they_become():
    """The time of each form is that of the nodes that take the layer's place."""
    model, seen = chain(), set()
    timing = Timing(analyse(model), predict(MACHINE))
    for name, form in FORMS.items():
        for node in (
            n for n in model.nodes if n.op == "Conv" and (name == "channel" or n.inputs[1].values.shape[2] > 1)
        ):
            at = target(timing.analysis, [node])
            rank = tuple(min(2, r) for r in form.full(at.w.shape))
            made = factored(
                f"lowrank.{name}(rank=2, skip={[n.name for n in model.nodes if n is not node]})", chain()
            ).model
            analysis = analyse(made)
            there = {n.name for n in model.nodes} - {node.name}
            stages = [product_of(analysis, n) for n in made.nodes if n.name not in there]
            wanted = sum(predict(MACHINE)(p) for p in stages if p is not None)
            assert timing.factored(at, form, rank) == pytest.approx(wanted), (name, node.name)
            seen.add(name)
    assert seen == set(FORMS)


def test_what_is_predicted_to_be_slower_stays_whole():
    """Winograd's kernel takes half the time of the sum, which four stages with 0.7 of its MACs do not."""
    plain = factored("lowrank.cp(rank=96)")
    timed = factored(f"lowrank.cp(rank=96, by=time, target={MACHINE})")
    first = plain.model.nodes[0].name.removesuffix("_1")
    assert any(e.node == first for e in plain.report.rows[-1].edits)
    row = timed.report.rows[-1]
    assert not any(e.node == first for e in row.edits)
    assert any(r.node == first and "faster" in r.reason for r in row.refusals)


@pytest.mark.parametrize("budget", ["time=0.7", "macs=0.6, by=time"])
def test_a_budget_by_time(budget):
    model = chain()
    result = factored(f"lowrank.auto({budget}, target={MACHINE})", model)
    row = result.report.rows[-1]
    whole, left = (Timing(analyse(m), predict(MACHINE)).model(m) for m in (model, result.model))
    assert f"{left / whole:.2f} of what it was" in row.notes[-1]
    assert row.before is not None and row.after is not None
    if budget.startswith("time"):
        assert 0.5 < left / whole <= 0.7
    else:
        assert row.after.macs <= 0.6 * row.before.macs and left < 0.9 * whole


def test_errors_are_weighed_by_the_time_that_is_saved():
    form = FORMS["channel"]
    slow = [Choice(form, (1,), 50, 50, 0.1, time=90.0)]
    fast = [Choice(form, (1,), 50, 50, 0.2, time=30.0)]
    picked = [spend([slow, fast], Budget("macs", 160, [100.0] * 2, by, [100.0] * 2)) for by in ("macs", "time")]
    assert picked == [[slow[0], None], [None, fast[0]]]


@pytest.mark.parametrize("options, message", [
    ("macs=0.5, time=0.5", "macs or time, not both"), ("time=1.5", "option time"), ("target=znver4", "by=time or time="),
    ("time=0.5, target=zx81", "zx81"), ("time=0.01, target=znver4", "at least 0"),
])  # fmt: skip
def test_options_that_do_not_fit(options, message):
    with pytest.raises(BadOption, match=message):
        factored(f"lowrank.auto({options})")


@pytest.mark.parametrize("product", [
    Product(1, (14, 14), 32, 64, (3, 3), (2, 2)), Product(2, (5, 9), 8, 8, (1, 3), (1, 1), (1, 4)), matrix(197, 192, 576),
    Product(1, (1, 1), 4, 4, (5, 5)), Product(1, (7, 7), 48, 48, (3, 1), groups=48),
])  # fmt: skip
def test_a_kernel_has_the_extents_of_its_product(product):
    spec = spec_of(product)
    assert ((spec.oh, spec.ow), spec.c, spec.oc, spec.groups) == (product.out, product.c, product.oc, product.groups)
    assert spec.h >= 1 and spec.w >= 1
    assert 0 < predict(MACHINE)(product) < predict(MACHINE)(replace(product, images=2 * product.images))
