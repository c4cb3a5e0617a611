"""Some of ONNX's operator cases, others in each version: none is worse than benchmarks/results/conformance.json says."""

import json
import sys

import pytest

from onnxc import __version__
from tests.conftest import ROOT

SHARE = 0.035  # 63 cases, half a second each


def benchmark():
    """benchmarks/conformance.py as a module."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import conformance
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return conformance


@pytest.mark.slow
def test_no_case_is_worse_than_recorded():
    recorded = json.loads((ROOT / "benchmarks/results/conformance.json").read_text())
    known = {row["case"]: row["verdict"] for row in recorded["not_right"]}
    conformance = benchmark()
    drawn = conformance.draw(SHARE, seed=int.from_bytes(__version__.encode(), "big"))
    rows = list(conformance.run(drawn, processes=2))
    assert len(rows) == len(drawn) >= 60
    allowed = {"right": {"right"}, "refused": {"right", "refused"}}
    worse = [
        row
        for row in rows
        if row["verdict"] not in allowed.get(known.get(row["case"], "right"), set(conformance.VERDICTS))
    ]
    assert not worse
