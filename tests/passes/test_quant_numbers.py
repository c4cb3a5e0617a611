"""Ranges from streams of batches, and the arithmetic from ranges to stored integers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxc.ir.qtype import QType
from onnxc.passes.quant import rounding
from onnxc.passes.quant.affine import (
    BIAS_LIMIT,
    affine,
    dequantise,
    quantise,
    quantise_bias,
    room_for_bias,
    weight_scales,
)
from onnxc.passes.quant.entropy import entropy
from onnxc.passes.quant.ranges import HALF, Statistics, minmax, mse, percentile

RNG = np.random.default_rng(0)
LONG_TAILED = RNG.standard_t(3, 20000).astype(np.float32)
ONE_SIDED = np.maximum(LONG_TAILED, 0)
OUTLIER = np.append(RNG.normal(size=200000), 40).astype(np.float32)


def seen(*batches: np.ndarray) -> Statistics:
    s = Statistics(histogram=True)
    for batch in batches:
        s.add(batch)
    return s


@given(st.lists(st.integers(1, 19999), max_size=6), st.permutations(range(3)))
def test_a_histogram_does_not_depend_on_how_the_data_are_cut(cuts, order):
    whole = seen(LONG_TAILED)
    parts = np.split(LONG_TAILED, sorted(set(cuts)))
    parts = [parts[i] for i in order if i < len(parts)] + parts[3:]
    split = seen(*parts)
    assert np.array_equal(whole.counts, split.counts)
    assert (whole.radius, whole.low, whole.high, whole.zeros) == (split.radius, split.low, split.high, split.zeros)


def test_a_histogram_counts_each_value_in_its_bin():
    values = np.array([-4, -3.999, -1e-9, 0, 0, 1e-9, 2, 3.999, 4], np.float32)
    s = seen(values)
    assert s.radius == 4 and s.zeros == 2
    assert s.counts[0] == 2 and s.counts[HALF - 1] == 1 and s.counts[HALF] == 1 and s.counts[-1] == 2
    assert s.counts.sum() + s.zeros == values.size
    assert s.counts[HALF + HALF // 2] == 1  # 2 starts its bin


def test_what_is_not_finite_is_left_out_and_counted():
    s = seen(np.array([1, np.inf, np.nan, -2], np.float32), np.array([-np.inf], np.float32))
    assert (s.low, s.high, s.odd) == (-2.0, 1.0, 3)


def test_zeros_and_nothing_have_an_empty_range():
    for s in (seen(), seen(np.zeros(5, np.float32)), seen(np.zeros((0, 3), np.float32))):
        for calibrate in (minmax, percentile, mse):
            assert calibrate(s) == (0.0, 0.0)


@pytest.mark.parametrize("share", [99.0, 99.9])
@pytest.mark.parametrize("values", [LONG_TAILED, ONE_SIDED], ids=["two sides", "one side"])
def test_percentile_cuts_as_much_as_it_may_and_no_more(values, share):
    s = seen(*np.split(values, 4))
    low, high = percentile(s, share=share)
    bound, tail = max(-low, high), 1 - share / 100
    assert np.mean(np.abs(values) > bound) <= tail
    assert np.mean(np.abs(values) >= bound - 1.01 * s.width) > tail  # a bin further in would cut too many
    assert low == max(-bound, float(values.min(initial=0))) and high == bound


def test_percentile_leaves_the_shorter_side_whole():
    values = np.concatenate([LONG_TAILED, np.float32([-2, 3])])
    long = np.where(values < 0, values * 10, values)
    assert percentile(seen(long), share=99.0)[1] == float(long.max())


@pytest.mark.parametrize("calibrate", [percentile, entropy, mse])
def test_what_no_reader_tells_apart_is_no_tail(calibrate):
    values = np.random.default_rng(0).normal(size=20000).astype(np.float32) * 4
    values[:3] = 30  # a tail on the side that counts, for the calibrators to judge
    limited = calibrate(seen(values).within(-3.0, np.inf))
    moved = calibrate(seen(np.maximum(values, -3)))
    assert limited[0] == pytest.approx(moved[0], abs=0.1) and limited[1] == pytest.approx(moved[1], rel=0.05)
    assert limited[1] > calibrate(seen(values).within(-3.0, 0.0))[1] == 0.0


def rounding_error(values: np.ndarray, low: float, high: float) -> float:
    step = (high - low) / 255
    stored = np.clip(np.rint(values / step) - np.rint(low / step), 0, 255)
    return float(np.mean((values - (stored + np.rint(low / step)) * step) ** 2))


@pytest.mark.parametrize("values", [LONG_TAILED, ONE_SIDED, -ONE_SIDED], ids=["two sides", "positive", "negative"])
def test_mse_errs_as_little_as_the_best_of_many_ranges(values):
    chosen = rounding_error(values, *mse(seen(*np.split(values, 5))))
    grid = np.linspace(0.5, 1, 20)
    least = min(rounding_error(values, values.min() * a, values.max() * b) for a in grid for b in grid)
    assert chosen <= 1.01 * least


def test_mse_gives_up_an_outlier_that_costs_all_others_their_accuracy():
    low, high = mse(seen(OUTLIER))
    assert high < 36
    assert rounding_error(OUTLIER, low, high) < 0.9 * rounding_error(OUTLIER, OUTLIER.min(), OUTLIER.max())


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.booleans())
def test_zero_is_exact_and_the_range_is_covered(a, b, symmetric):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    q = affine(low, high, symmetric=symmetric)
    zero, scale = int(q.zero_point), float(q.scale)
    assert q.low <= zero <= q.high and q.scale.dtype == np.float32
    assert q.zero_point.dtype == (np.int8 if symmetric else np.uint8)
    slack = 1.001 * scale + 1e-30  # zero is rounded to a stored number, which shifts the ends by half a step
    assert (q.high - zero) * scale >= high - slack and (q.low - zero) * scale <= low + slack
    if symmetric:
        assert zero == 0
    elif low == 0:
        assert (
            zero == 0 and np.float32(255) * q.scale <= max(np.float32(high), np.float32(255 * 2.0**-60))
        ) or high == 0


@given(st.integers(2, 8), st.sampled_from([None, 0, 1, 2]), st.integers(0, 2**31))
def test_weights_err_by_half_a_step_and_stay_symmetric(bits, axis, seed):
    w = np.random.default_rng(seed).normal(size=(3, 4, 5)).astype(np.float32)
    scales = weight_scales(w, axis, bits)
    q = QType(bits, True, scales, np.zeros(scales.shape, np.int8), axis)
    stored = quantise(w, q)
    top = (1 << (bits - 1)) - 1
    assert stored.dtype == np.int8 and np.abs(stored).max() == top
    step = scales if axis is None else scales.reshape([-1 if d == axis else 1 for d in range(3)])
    assert (np.abs(dequantise(stored, q) - w) <= step * 0.5001).all()


def test_a_bias_of_dead_weights_fits_int32():
    w = np.zeros((3, 4), np.float32)
    w[0] = 1.0
    bias = np.array([0.5, 3.0, -1e3], np.float32)
    x_scale = np.array(0.01, np.float32)
    scales = room_for_bias(weight_scales(w, 0), bias, x_scale)
    assert scales[0] == np.float32(1 / 127)  # where it fits nothing changes
    stored = quantise_bias(bias, x_scale * scales)
    assert np.abs(stored.astype(np.int64)).max() <= BIAS_LIMIT
    assert stored * (x_scale * scales).astype(np.float64) == pytest.approx(bias, rel=1e-4)


def test_entropy_ignores_an_outlier_and_never_clips_more_than_its_tail():
    values = np.abs(OUTLIER)
    low, high = entropy(seen(values, *[values[:-1]] * 5))  # one in more than a million
    assert low == 0 and high < 39 and np.sum(high < values) == 1
    assert entropy(seen(OUTLIER))[1] == 40
    assert entropy(seen()) == entropy(seen(np.zeros(3, np.float32))) == (0.0, 0.0)


def test_rounding_for_outputs_errs_less_than_rounding_of_weights_and_descent_less_still():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(400, 12)) @ rng.normal(size=(12, 12))
    h = rounding.damped((x.T @ x / 400)[None], rounding.DAMP)
    w = rng.normal(size=(1, 6, 12))
    scale = np.abs(w).max(2, keepdims=True) / 3
    plain = rounding.nearest(w, scale, 3)
    better = rounding.gptq(w, h, scale, 3)
    best = rounding.descend(better, w, h, scale, 3)
    errors = [rounding.error(v * scale, w, h) for v in (plain, better, best)]
    assert errors[1].sum() < 0.8 * errors[0].sum()
    assert (errors[2] <= errors[1] + 1e-12).all() and errors[2].sum() < errors[1].sum()
    assert all(np.abs(v).max() <= 3 for v in (plain, better, best))


def test_adaround_rounds_up_or_down_nearer_to_the_best_of_all_ways():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(300, 8)) @ rng.normal(size=(8, 8))
    h = rounding.damped((x.T @ x / 300)[None], rounding.DAMP)
    w = rng.normal(size=(1, 12, 8))
    scale = np.abs(w).max(2, keepdims=True) / 7
    ways = (np.arange(256)[:, None] >> np.arange(8)) & 1
    floor = np.floor(w / scale)
    best = np.min([rounding.error(np.clip(floor + way, -7, 7) * scale, w, h) for way in ways], axis=0)
    found, plain = (
        rounding.error(v * scale, w, h) for v in (rounding.adaround(w, w, h, scale, 7), rounding.nearest(w, scale, 7))
    )
    assert (found <= plain).all() and (found >= best - 1e-12).all()
    assert found.sum() - best.sum() < 0.5 * (plain.sum() - best.sum())


@pytest.mark.parametrize("columns", [40, 300])
def test_gptq_hands_errors_on_beyond_its_block(columns):
    """Columns are rounded in blocks of 128: what a block leaves must reach the ones behind it."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2000, columns)) @ rng.normal(size=(columns, columns)) * np.linspace(1, 0.1, columns)
    h = rounding.damped((x.T @ x / 2000)[None], rounding.DAMP)
    w = rng.normal(size=(1, 4, columns))
    scale = np.abs(w).max(2, keepdims=True) / 3
    plain, ours = (
        rounding.error(q * scale, w, h).sum() for q in (rounding.nearest(w, scale, 3), rounding.gptq(w, h, scale, 3))
    )
    assert ours < 0.6 * plain
