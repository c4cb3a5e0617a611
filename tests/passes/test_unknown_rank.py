"""Layers behind a tensor of unknown rank: every pass leaves them alone with a reason, none stumbles over them."""

from __future__ import annotations

import numpy as np
import pytest

import onnxc
from tests import golden

from .quant_helpers import model_of

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,8,32] x) => (y) {
  q = Relu(v)  p = Conv <pads = [1, 1]> (x, w3)  r = Relu(p)  v = Conv <pads = [1, 1]> (r, w4)
  s = Shape <start = 0, end = 1> (x)  c = Equal(s, many)
  z = If (c) <then_branch = t () => (a) { a = Squeeze(q, zero) }, else_branch = e () => (b) { b = Identity(q) }>
  u = Conv <pads = [1, 1]> (z, w1)  o = Relu(u)  y = Conv <pads = [1, 1]> (o, w2)
}"""
PASSES = [
    "clean,fuse", "prune(ratio=0.3)", "lowrank.auto(macs=0.9)", "lowrank.svd(energy=0.5)", "lowrank.spatial(energy=0.5)",
    "quant", "quant.cluster", "quant.equalise", "quant.smooth", "prune.magnitude", "prune.obs", "prune.kernel_shape",
    "prune.blocks", "prune.nm",
]  # fmt: skip


@pytest.fixture(scope="module")
def branched():
    shapes = {"w1": (16, 8, 3), "w2": (16, 16, 3), "w3": (16, 8, 3), "w4": (8, 16, 3)}
    weights = {n: golden.weights(list(s)).astype(np.float32) for n, s in shapes.items()}
    return model_of(TEXT, **weights, many=np.array([77]), zero=np.array([0]))


@pytest.mark.parametrize("passes", PASSES)
def test_a_layer_of_unknown_rank_is_left_alone(passes, branched):
    data = {"x": np.random.default_rng(0).normal(size=(4, 8, 32)).astype(np.float32)}
    done = onnxc.run_passes(branched, passes, data=data)
    assert len(done.model.outputs) == 1
    last = done.report.rows[-1]
    assert last.edits or last.refusals or last.notes
