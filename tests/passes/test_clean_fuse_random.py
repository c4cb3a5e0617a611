"""clean and fuse on random chains: claims, verification, idempotence; most of the chains must really change."""

from __future__ import annotations

import numpy as np
import pytest

from onnxc.ir.files import load
from onnxc.ir.model import Model
from onnxc.passes.base import apply
from onnxc.passes.clean import Clean
from onnxc.passes.fuse import Fuse
from onnxc.runtime.reference import Session
from tests.apart import differences
from tests.passes.rewrite_graphs import BATCH, Chain

CHUNK = 50


def error(before: Model, after: Model, feeds) -> float:
    a, b = (Session(m.to_proto(), optimise=False).run(feeds) for m in (before, after))
    return max(d.max_rel for d in differences(a, b).values())


@pytest.mark.parametrize("chunk", [pytest.param(k, marks=[pytest.mark.slow] if k >= 2 else []) for k in range(12)])
def test_claims_hold_and_a_second_run_changes_nothing(chunk):
    changed = {"clean": 0, "fuse": 0}
    for seed in range(CHUNK * chunk, CHUNK * (chunk + 1)):
        model = load(Chain(seed).model(4 + seed % 16))
        feeds = {"x": np.random.default_rng(seed).standard_normal((BATCH, 4, 6, 6)).astype(np.float32)}
        cleaned, first = apply(Clean(), model)
        fused, second = apply(Fuse(), cleaned)
        changed["clean"] += bool(first.edits)
        changed["fuse"] += bool(second.edits)
        assert error(model, cleaned, feeds) <= Clean.claim.rtol, seed
        assert error(model, fused, feeds) <= Fuse.claim.rtol, seed
        for p, m in ((Clean(), cleaned), (Fuse(), fused)):
            assert not apply(p, m)[1].edits, seed
    assert changed["clean"] >= CHUNK // 2 and changed["fuse"] >= CHUNK // 5, changed
