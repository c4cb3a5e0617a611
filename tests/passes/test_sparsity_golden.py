"""Golden cases of the sparsity passes: the name of a case begins with the name of its pass."""

import numpy as np
import pytest

from onnxc.ir.verify import verify
from onnxc.passes.registry import make
from onnxc.runtime.reference import Session
from tests import golden

PASSES = {
    "magnitude": {},
    "nm": {},
    "block": {"rows": 2, "columns": 4},
    "kernel_shape": {},
    "width": {},
    "resolution": {"rho": 0.5},
}
CASES = golden.cases("sparsity")


@pytest.mark.parametrize("name", CASES)
def test_golden(name, update_golden):
    method = next(p for p in sorted(PASSES, key=len, reverse=True) if name.startswith(p))
    p = make(f"prune.{method}", PASSES[method])
    before, after, report = golden.check("sparsity", name, p, update=update_golden)
    verify(after, like=before)
    for y in Session(after.to_proto(), optimise=False).run(golden.feeds(before)).values():
        assert np.isfinite(y).all()
    assert bool(report.edits) != ("_do_not_" in name)


@pytest.mark.parametrize("method", PASSES)
def test_every_pass_has_a_case_that_changes_nothing(method):
    assert any(c.startswith(f"{method}_do_not_") for c in CASES)
    assert any(c.startswith(method) and "_do_not_" not in c for c in CASES)
