"""prune.channels on golden cases: what is cut, and what must not be."""

from __future__ import annotations

import pytest

from onnxc.passes.registry import make
from tests import golden


@pytest.mark.parametrize("name", golden.cases("prune"))
def test_golden(name, update_golden):
    before, after, report = golden.check("prune", name, make("prune", {"ratio": 0.5}), update=update_golden)
    if name.startswith("do_not"):
        assert not report.edits and report.refusals
    else:
        assert report.edits and len(after.nodes) == len(before.nodes)
