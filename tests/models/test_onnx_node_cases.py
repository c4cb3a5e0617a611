"""ONNX's own examples of every operator go through the passes: each comes out right, or one clear line says why not."""

from __future__ import annotations

import warnings
from collections import Counter
from functools import cache

import pytest

import onnxc
from onnxc.ir.errors import BadModel, OnnxcError, Unsupported

SHARES = 3  # each run takes every ninth case; together they see a third of some 1,900


@cache
def cases() -> list:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [case for case in collect_testcases(None) if case.model is not None]


def runs(model) -> bool:
    """Whether ONNX Runtime has the operator at all."""
    from onnxc.runtime.reference import Session

    try:
        Session(model)
    except Unsupported:
        return True
    except OnnxcError:
        return False
    return True


SHAPED = ("test_reshape_", "test_expand_")
"""Whose shape is an input: a drawn one contradicts the declared output, which passes go by."""


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_every_operator_passes_or_is_refused_in_a_line(share):
    ended: Counter = Counter()
    for case in cases()[3 * share :: 3 * SHARES]:
        try:
            onnxc.run_passes(case.model, "fuse, prune(ratio=0.5)", check="data" if runs(case.model) else "shapes")
            ended["done"] += 1
        except Unsupported as error:  # sequences, strings, element types that NumPy does not have
            assert error.remedy == "use --check shapes", (case.name, error)
            ended["unsupported"] += 1
        except OnnxcError as error:
            # random data do not suit every example: its axes, indices and shapes are inputs
            as_given = error.exit_status == BadModel.exit_status
            assert as_given or case.name.startswith(SHAPED), (case.name, str(error))
            ended["as given"] += 1
    assert ended["done"] > 4 * (ended["unsupported"] + ended["as given"]), ended
