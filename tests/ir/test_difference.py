"""The figures that claims rest on, against their definitions and at their edges."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxc.ir.difference import Difference
from onnxc.ir.errors import VerificationError

PAIRS = st.tuples(st.integers(1, 6), st.integers(2, 5)).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.float32, shape, elements=st.floats(-100, 100, width=32)) for _ in range(2)])
)


@given(pair=PAIRS, cut=st.integers(0, 6))
def test_batches_add_up_to_the_definition(pair, cut):
    a, b = pair
    difference = Difference().add(a[:cut], b[:cut]).add(a[cut:], b[cut:])
    wide_a, gap = a.astype(float), np.abs(a.astype(float) - b.astype(float))
    assert difference.max_abs == gap.max()
    if gap.max() > 1e-30 and np.abs(wide_a).max() > 1e-30:
        assert difference.max_rel == pytest.approx(gap.max() / np.abs(wide_a).max())
        noise = (gap**2).sum()
        assert difference.snr_db == pytest.approx(10 * math.log10((wide_a**2).sum() / noise))
    assert difference.top1 == np.mean(a.argmax(1) == b.argmax(1))
    assert difference.count == a.size
    json.dumps(difference.to_dict(), allow_nan=False)


def test_no_difference():
    same = Difference().add(np.float32([[1, 2]]), np.float32([[1, 2]]))
    assert (same.max_abs, same.max_rel, same.snr_db, same.top1) == (0, 0, math.inf, 1)
    assert same.to_dict() == {"max_abs": 0, "max_rel": 0, "snr_db": None, "top1": 1, "exact": True}


@pytest.mark.parametrize(
    "a, b, exact",
    [
        ([np.nan, 1], [np.nan, 1], True),
        ([np.nan, 1], [0, 1], False),
        ([0, 1], [np.nan, 1], False),
        ([np.inf, 1], [np.inf, 1], True),
        ([np.inf, 1], [-np.inf, 1], False),
        ([np.inf, 1], [1e30, 1], False),
        ([-np.inf, 1], [np.nan, 1], False),
    ],
)
def test_nan_and_infinity_never_pass_for_agreement(a, b, exact):
    difference = Difference().add(np.float32(a), np.float32(b))
    assert difference.max_abs == (0 if exact else math.inf)
    assert difference.max_rel == difference.max_abs
    assert difference.snr_db == (math.inf if exact else -math.inf)
    assert difference.to_dict()["exact"] is exact


def test_a_silent_reference_has_no_relative_measure():
    difference = Difference().add(np.zeros(3), np.float64([0, 0, 1e-9]))
    assert difference.max_rel == math.inf and difference.snr_db == -math.inf


@pytest.mark.parametrize(
    "a, b",
    [
        (np.ones((2, 3)), np.ones((3, 2))),
        (np.ones((2, 1)), np.ones(2)),
        (np.ones(2), np.ones(2, int)),
        (np.ones(2, bool), np.ones(2)),
        (np.array(["a"], object), np.array(["a"], object)),
    ],
)
def test_outputs_of_another_form_are_refused(a, b):
    with pytest.raises(VerificationError, match=r"out: (outputs|the outputs)"):
        Difference().add(a, b, "out")


def test_precision_may_change_but_small_integers_do_not_wrap():
    assert Difference().add(np.float32([1]), np.float16([1])).max_abs == 0
    assert Difference().add(np.uint8([0]), np.uint8([255])).max_abs == 255
    assert Difference().add(np.bool_([True]), np.bool_([False])).max_abs == 1
    assert Difference().add(np.complex64([1j]), np.complex64([0])).max_abs == 1


def test_top1_counts_only_rows_of_scores():
    for shape in [(3,), (3, 1), ()]:
        assert Difference().add(np.ones(shape), np.ones(shape)).top1 is None
    assert Difference().add(np.ones((2, 3), int), np.ones((2, 3), int)).top1 is None
    assert Difference().add(np.ones((1, 2, 1, 2)), np.ones((1, 2, 1, 2))).top1 is None  # a map is no classifier's
    scores = np.float32([[0, 1], [1, 0]])
    assert Difference().add(scores, np.zeros_like(scores)).top1 == 0.5
