"""Every row of the operator table against strict ONNX inference, a real run, and the zeroed twin of what it lets prune."""

import pytest

import onnxc.ir.ops  # noqa: F401  the rows enter themselves
from onnxc.ir.functions import NAMES
from onnxc.ir.table import ROWS
from tests.ops.cases import CASES
from tests.ops.harness import check_pruning, check_shapes

# A Constant node is only left where it makes a graph output: tests/ir/test_files.py. Calls of functions stand with the
# functions themselves: tests/ir/test_functions.py.
ELSEWHERE = {"Constant", *(f"ai.onnxc.{name}" for name in NAMES)}


def test_every_row_has_cases():
    assert set(ROWS) - {case.op for case in CASES} == ELSEWHERE


@pytest.mark.parametrize("case", CASES, ids=str)
def test_shapes(case):
    check_shapes(case, symbolic=False)


@pytest.mark.parametrize("case", [c for c in CASES if c.symbolic and c.data()], ids=str)
def test_symbolic_shapes(case):
    check_shapes(case, symbolic=True)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_pruning_equals_the_zeroed_twin(case):
    check_pruning(case)
