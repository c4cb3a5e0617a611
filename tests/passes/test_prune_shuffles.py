"""ShuffleNet's channel shuffles: what they hand on becomes parts that can be cut, and computes the same."""

from __future__ import annotations

import numpy as np
import pytest

from onnxc.ir.analysis import analyse
from onnxc.measure.inspect import inspect
from onnxc.passes.base import apply
from onnxc.passes.layers.shuffles import resolve_shuffles
from onnxc.passes.prune.coupling import frozen_layers, groups
from onnxc.passes.registry import make
from onnxc.runtime.reference import Session
from tests.passes.prune_models import network


def unit(batch: str = "1", first: str = "4, 2, 16", perm: str = "1, 0, 2", second: str = "2, -1, 4, 4, 4"):
    """A ShuffleNet v2 unit: two branches, interleaved, handed on to a convolution and to the next Concat."""
    return network(
        f"""g (float[{batch}, 3, 4, 4] x) => (float[{batch}, 3, 4, 4] y)
            <int64 zero = {{0}}, int64 one = {{1}}, int64[3] first = {{{first}}}, int64[5] second = {{{second}}}> {{
            [a] a = Conv(x, wa, ba)
            [ra] p = Relu(a)
            [b] b = Conv(x, wb)
            [rb] q = Relu(b)
            [joined] pq = Concat<axis=1>(p, q)
            [cut] u = Reshape(pq, first)
            [turned] v = Transpose<perm=[{perm}]>(u)
            [whole] w = Reshape(v, second)
            [even] e = Gather<axis=0>(w, zero)
            [odd] o = Gather<axis=0>(w, one)
            [deep] d = Conv<group=4, pads=[1,1,1,1]>(o, wd, bd)
            [wide] c = Conv(d, wc)
            [again] ec = Concat<axis=1>(e, c)
            [head] y = Conv(ec, wh)
        }}""",
        wa=(4, 3, 1, 1), ba=(4,), wb=(4, 3, 1, 1), wd=(4, 1, 3, 3), bd=(4,), wc=(5, 4, 1, 1), wh=(3, 9, 1, 1),
    )  # fmt: skip


def outputs(model, seed: int = 0):
    feeds = {"x": np.random.default_rng(seed).normal(size=(1, 3, 4, 4)).astype(np.float32)}
    return Session(model.to_proto(), optimise=False).run(feeds)["y"]


def test_parts_of_a_shuffle_are_groups_of_their_own():
    model = unit()
    assert [n for n, _ in frozen_layers(model, analyse(model))] == ["a", "b", "deep", "head"]
    before = outputs(model)
    assert resolve_shuffles(model) > 0
    np.testing.assert_allclose(outputs(model), before, rtol=1e-5, atol=1e-6)
    assert not [n for n in model.nodes if n.op in ("Reshape", "Transpose", "Gather")]
    analysis = analyse(model)
    assert [n for n, _ in frozen_layers(model, analysis)] == ["head"]
    assert [(g.name, g.size) for g in groups(model, analysis)][:5] == [
        ("a", 2), ("a", 2), ("b", 2), ("b", 2), ("wide", 5)
    ]  # fmt: skip
    assert resolve_shuffles(model) == 0


def test_inspect_shows_what_pruning_sees():
    found = inspect(unit().to_proto())
    assert [node for node, _ in found.frozen] == ["head"]
    assert {g.name for g in found.groups} == {"a", "b", "wide"}


def test_prune_cuts_behind_a_shuffle():
    small, report = apply(make("prune", {"ratio": 0.5, "criterion": "l1"}), unit())
    assert small.constants()["wa"].values.shape[0] == 2
    assert outputs(small).shape == (1, 3, 4, 4)
    assert any("shuffles" in note for note in report.notes)


@pytest.mark.parametrize(
    "form",
    [
        {"perm": "0, 1, 2", "second": "2, -1, 4, 4, 4"},  # no channel is handed on by itself: halves, not every second
        {"first": "8, 4, 4", "perm": "0, 2, 1", "second": "2, -1, 4, 4, 4"},  # positions are turned
    ],
)
def test_do_not_resolve_what_moves_positions(form):
    model = unit(**form)
    before = outputs(model)
    resolve_shuffles(model)
    np.testing.assert_allclose(outputs(model), before, rtol=1e-5, atol=1e-6)


def test_do_not_resolve_where_a_sum_ties_the_order():
    model = network(
        """g (float[N, 4, 4, 4] x) => (float[N, 4, 4, 4] y)
            <int64[5] cut = {0, 2, 2, 4, 4}, int64[4] whole = {0, 4, 4, 4}> {
            [a] a = Conv(x, wa)
            [one] u = Reshape(a, cut)
            [turned] v = Transpose<perm=[0,2,1,3,4]>(u)
            [back] w = Reshape(v, whole)
            [sum] y = Add(w, x)
        }""",
        wa=(4, 4, 1, 1),
    )
    assert resolve_shuffles(model) == 0
    assert any(n.op == "Transpose" for n in model.nodes)
