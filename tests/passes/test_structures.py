"""Passes on random networks with symbols, states, bodies and functions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxc
from onnxc.runtime.reference import Session
from tests.structures import PLACES, feeds, structure, structures

PASSES = [
    "prune(ratio=0.4)",
    "quant",
    "quant.cluster(bits=3)",
    "lowrank.auto(rank=2)",
    "prune.magnitude",
    "quant.float16",
]


def outputs(proto, n: int, t: int) -> dict[str, np.ndarray]:
    return Session(proto, optimise=False).run(feeds(proto, n, t))


def check(proto) -> bool:
    """Whether `clean,fuse` changed anything; it must not change what comes out, whatever the extents."""
    done = onnxc.run_passes(proto, "clean,fuse")
    for n, t in ((1, 3), (2, 1), (3, 5)):
        before, after = (outputs(m, n, t) for m in (proto, done.model.to_proto()))
        for name, a in before.items():
            np.testing.assert_allclose(after[name], a, rtol=2e-5, atol=2e-5 * np.abs(a).max())
    return any(row.edits for row in done.report.rows)


@pytest.mark.parametrize("place", PLACES)
def test_each_place(place):
    assert check(structure(3, [place, "plain"]))
    for passes in PASSES:
        done = onnxc.run_passes(structure(3, [place, "plain"]), passes)
        assert done.report.rows[-1].edits or "float16" in passes, passes
        assert all(np.isfinite(a).all() for a in outputs(done.model.to_proto(), 2, 3).values())


@pytest.mark.slow
@settings(max_examples=45, deadline=None)
@given(structures(), st.sampled_from(PASSES))
def test_any_of_them(proto, passes):
    check(proto)
    done = onnxc.run_passes(proto, passes)
    assert all(np.isfinite(a).all() for a in outputs(done.model.to_proto(), 2, 3).values())
