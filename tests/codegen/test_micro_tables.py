"""How sums become 8 bits where floats are at hand: integers that equal floats for every sum, and floats for channels that have none."""

from __future__ import annotations

import numpy as np

from onnxc.codegen.micro import layers
from onnxc.codegen.micro.fixed import FLOATS, SHIFT, scales

from .test_int8 import FEW, Layer, check
from .test_targets import ready


def made(table: np.ndarray, channel: int, sums: np.ndarray) -> np.ndarray:
    """What onnxc_requantise makes of sums by an integer M."""
    steps = (sums * int(table[3 + 2 * channel]) >> 32) + int(table[0])
    return np.clip(steps >> SHIFT, -128, 127)


def test_integers_equal_floats_for_every_sum():
    rng = np.random.default_rng(2)
    for zero in (-128, 3, 100):
        factor = np.exp(rng.uniform(np.log(2e-4), np.log(0.04), 40)).astype("f")
        bias, reach = rng.integers(-9000, 9000, 40), rng.integers(9000, 90000, 40)
        reach[:2] = 0  # always the bias
        table = scales(bias, factor, reach, zero, FLOATS)
        whole = np.flatnonzero(table[3::2] >= 0)
        assert len(whole) >= 25 and (factor[table[3::2] < 0] == -table[3::2][table[3::2] < 0].view("f")).all()
        for channel in whole:
            sums = np.arange(-reach[channel], reach[channel] + 1) if reach[channel] else bias[channel : channel + 1]
            wanted = np.clip(np.rint(sums.astype("f") * factor[channel]) + zero, -128, 127)
            assert np.array_equal(made(table, channel, sums), wanted), channel


def test_floats_stay_where_no_integer_gives_their_halves():
    """Powers of two make halves, which floats round up and down by turns; of two channels that are made together one is enough."""
    factor = np.float32([2**-7, 0.00713871, 2**-6, 2**-9, 0.00431713, 0.00617329])
    table = scales(np.zeros(6, int), factor, np.full(6, 40000), 0, FLOATS, 2)
    assert (table[3::2] < 0).tolist() == [True] * 4 + [False] * 2


POINTS = {"kernel": (1, 1), "pads": (0, 0, 0, 0)}
FOUR = {
    "shortcut": Layer((1, 16, 7, 9), 61, strides=(2, 2), **POINTS),  # 20 pixels
    "few": Layer((1, 10, 5, 3), 7, strides=(2, 2), signed=True, **POINTS),  # four and two, words with a rest
    "three": Layer((1, 8, 1, 3), 9, relu=True, signed=True, **POINTS),
    "padded": Layer((1, 4, 3, 3), 6, kernel=(1, 1), pads=(1, 0, 0, 1), signed=True),
    "below": Layer((1, 4, 2, 2), 5, kernel=(1, 1), pads=(0, 0, 1, 1)),
    "windows": Layer((1, 5, 6, 5), 12, signed=True),
    "channels": Layer((1, 31, 5, 6), 31, groups=31),
}


def test_four_pixels_at_once(tmp_path, monkeypatch):
    """Odd channels, sizes, strides and counts of pixels, with channels of both arithmetics; nothing is left to TVM."""
    ready("cortex-m33")
    tables = []
    monkeypatch.setattr(layers, "scales", lambda *given: tables.append(scales(*given)) or tables[-1])
    report = check(FEW | FOUR, tmp_path, "cortex-m33")
    assert report.fallbacks == () and {row["kernel"].split(".")[0] for row in report.kernels} == {"micro"}
    factors = np.concatenate([table[3::2] for table in tables])
    assert (factors < 0).sum() >= 5 and (factors > 0).sum() >= 50
