"""Tensors of a model that changes in graph order: the same as made from the start, from fewer nodes, in bounded memory."""

import numpy as np
import pytest
from onnx import numpy_helper, parser

from onnxc.ir.files import load
from onnxc.ir.verify import verify
from onnxc.passes.base import Context
from onnxc.passes.layers import capture
from onnxc.passes.layers.capture import ActivationCache, Probe, Stream
from onnxc.runtime.data import open_data
from onnxc.runtime.reference import Runner
from onnxc.runtime.specs import input_specs

BLOCKS = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4,6,6] x) => (float[N,4,6,6] y)
  { a = Conv <pads=[1,1,1,1]> (x, w0)  ra = Relu(a)  b = Conv <pads=[1,1,1,1]> (ra, w1)  s = Add(b, ra)
    rs = Relu(s)  c = Conv <pads=[1,1,1,1]> (rs, w2)  rc = Relu(c)  d = Conv <pads=[1,1,1,1]> (rc, w3)  y = Add(d, rs) }"""
STEPS = [["x"], ["ra"], ["rs"], ["rc", "rs"]]


class Counting(Runner):
    """Counts the nodes that are run."""

    nodes = 0

    def prepare(self, model, outputs=None):
        run, nodes = super().prepare(model, outputs), len(model.proto.graph.node)

        def counted(feeds):
            self.nodes += nodes
            return run(feeds)

        return counted


@pytest.fixture
def scene():
    proto = parser.parse_model(BLOCKS)
    rng = np.random.default_rng(0)
    for k in range(4):
        proto.graph.initializer.append(
            numpy_helper.from_array(rng.normal(size=(4, 4, 3, 3)).astype(np.float32), f"w{k}")
        )
    model = load(proto)
    data = open_data(None, input_specs(proto), seed=1, samples=11)
    return model, Context(verify(model), runner=Counting(), data=data)


def walked(model, ctx, size=4):
    """What each step sees, one weight changed after each."""
    stream = Stream(ctx, ctx.verified.analysis, ["x"], 11)
    stream.size = size
    cache, seen = ActivationCache(ctx, stream), []
    convs = [n for n in model.nodes if n.op == "Conv"]
    for k, names in enumerate(STEPS):
        seen.append(list(cache.look(model, names, [n for later in STEPS[k + 1 :] for n in later])))
        model.set_weight(convs[k], 1, convs[k].inputs[1].values * np.float32(-1.5))
    return seen, cache


def afresh(model, ctx, size=4):
    stream = Stream(ctx, ctx.verified.analysis, ["x"], 11)
    stream.size = size
    seen, convs = [], [n for n in model.nodes if n.op == "Conv"]
    for k, names in enumerate(STEPS):
        probe = Probe(ctx, model, names)
        seen.append([probe(feeds) for feeds in stream])
        model.set_weight(convs[k], 1, convs[k].inputs[1].values * np.float32(-1.5))
    return seen


@pytest.mark.parametrize("held", [11 * 144 * 4, 11 * 144 * 4 - 1])
def test_it_sees_what_a_run_from_the_start_sees(scene, monkeypatch, held):
    monkeypatch.setattr(capture, "HELD_BYTES", held)
    model, ctx = scene
    wanted = afresh(model.copy(), ctx)
    all_nodes, ctx.runner.nodes = ctx.runner.nodes, 0
    found, cache = walked(model, ctx)
    assert [len(step) for step in found] == [3] * 4
    for step, plain in zip(found, wanted, strict=True):
        for got, want in zip(step, plain, strict=True):
            assert got.keys() == want.keys()
            for name, array in got.items():
                np.testing.assert_allclose(array, want[name], rtol=1e-5, atol=1e-5)
    assert sum(kept.nbytes for kept in cache.kept.values()) <= held
    # ra: 2 nodes; rs: 3 more; rc: 2 more; three batches each
    if held == 11 * 144 * 4:  # room for one tensor
        assert ctx.runner.nodes == 3 * 7
    else:
        assert 3 * 7 < ctx.runner.nodes <= all_nodes


def test_what_no_later_step_needs_is_dropped(scene):
    model, ctx = scene
    _, cache = walked(model, ctx)
    assert not cache.kept


@pytest.mark.parametrize("budget, ahead, size", [(2**20, 64, 11), (2 * 4 * 144, 64, 2), (1, 64, 1), (2**20, 3, 3)])
def test_batches_fit_the_tensors_that_are_looked_at_and_what_runs_beside_them(scene, monkeypatch, budget, ahead, size):
    """A sample of `ra` holds 144 floats."""
    monkeypatch.setattr(capture, "BATCH_BYTES", budget)
    model, ctx = scene
    ctx.room = ahead
    whole = np.concatenate([got["ra"] for got in ctx.tensors(model, ["ra"])])
    assert len(whole) == 11
    assert max(len(got["ra"]) for got in ctx.tensors(model, ["ra"])) == size
    assert len(next(iter(Stream(ctx, ctx.verified.analysis, ["ra"], 5)))["x"]) == min(size, 5)
    assert capture.room(budget) == 1 and capture.room(0) <= capture.MAX_BATCH


STEPWISE = """<ir_version: 8, opset_import: ["" : 17]> g (float[AXES,4] x) => (float[AXES,4] y)
  { a = MatMul(x, w0)  r = Relu(a)  b = MatMul(r, w1)  y = Relu(b) }"""


@pytest.mark.parametrize(
    "axes, shapes, wanted",
    [
        (
            "T,N",
            [(6, 3)] * 3 + [(6, 1)],
            [(6, 4), (6, 4), (6, 2)],
        ),  # samples on the second axis, fewer in the last batch
        ("N,T", [(3, 6), (3, 6), (3, 2), (9, 5)], [(4, 6), (2, 6), (3, 2), (4, 5)]),
    ],
)
def test_samples_may_stand_on_any_axis_and_have_any_extent(axes, shapes, wanted):
    proto, rng = parser.parse_model(STEPWISE.replace("AXES", axes)), np.random.default_rng(0)
    for k in range(2):
        proto.graph.initializer.append(numpy_helper.from_array(rng.normal(size=(4, 4)).astype(np.float32), f"w{k}"))
    model = load(proto)
    chunks = [{"x": rng.normal(size=(*shape, 4)).astype(np.float32)} for shape in shapes]
    data = open_data(lambda: iter(chunks), input_specs(proto))
    ctx = Context(verify(model), runner=Runner(), data=data)
    stream = Stream(ctx, ctx.verified.analysis, ["x"], 10)
    stream.size = 4
    cache = ActivationCache(ctx, stream)
    seen = [list(cache.look(model, [name], ["r", "y"])) for name in ("r", "y")]
    assert [got["r"].shape[:2] for got in seen[0]] == wanted
    for name, step in zip("ry", seen, strict=True):
        for got, feeds in zip(step, stream, strict=True):
            np.testing.assert_allclose(
                got[name], Probe(ctx, model, [name])(feeds)[name], rtol=1e-5, atol=1e-6, strict=True
            )
