"""Tiles, packed layouts and targets, without TVM."""

from __future__ import annotations

import numpy as np
import pytest

from onnxc.codegen import kernels, pack
from onnxc.codegen.kernels.spec import BINARY, INT8, Encoding, KernelSpec, Refusal, Schedule
from onnxc.codegen.kernels.tile import ACCUMULATOR_BYTES, choose_tile
from onnxc.codegen.target import TARGETS, resolve


def spec(**changes) -> KernelSpec:
    """A 3x3 convolution of 16 channels on 28 x 28, changed."""
    base = {
        "n": 1, "h": 28, "w": 28, "c": 16, "oc": 16, "kh": 3, "kw": 3, "stride": (1, 1), "pads": (1, 1, 1, 1),
        "dilation": (1, 1), "groups": 1, "x_shape": (1, 28, 28, 16), "y_shape": (1, 28, 28, 16),
    }  # fmt: skip
    return KernelSpec(**(base | changes))


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
@pytest.mark.parametrize("channels", [1, 2, 3, 7, 10, 16, 24, 48, 100, 1000])
def test_tiles_fit(target, channels):
    for pixels in (1, 2, 3, 7, 13, 14, 28, 55, 784):
        tile = choose_tile("rule", pixels, channels, 144, target)
        assert 1 <= tile.pixels <= pixels and tile.block <= channels and tile.lanes <= target.lanes
        assert tile.pixels * tile.vectors + tile.vectors < target.registers
        assert tile.pixels * tile.block * 4 <= ACCUMULATOR_BYTES


def test_the_tile_that_won():
    tile = choose_tile("rule", 28, 64, 576, TARGETS["znver4"])
    assert (tile.pixels, tile.vectors, tile.lanes) == (7, 2, 16)


def test_the_family_that_is_predicted_to_be_fastest_wins():
    family, plan, refusals = kernels.choose(spec(), TARGETS["x86-64-v3"])
    assert isinstance(plan, Schedule) and family.name == plan.family == "float32.winograd"
    assert kernels.choose(spec(stride=(2, 2)), TARGETS["x86-64-v3"])[1].rule == "float32.direct"
    assert len(refusals) == len(kernels.FAMILIES) - 1
    for target in TARGETS.values():
        family, plan, refusals = kernels.choose(spec(groups=16), target)
        assert plan.rule == "float32.depthwise"
        assert "predicted to take" in {r.rule: r.reason for r in refusals}["float32.direct"]


@pytest.mark.parametrize(
    "changes, reason", [({"dtype": "float16"}, "float32 only"), ({"weight": INT8}, "int8"), ({"n": 0}, "zero")]
)
def test_refusals_have_a_reason(changes, reason):
    family, plan, refusals = kernels.choose(spec(**changes), TARGETS["x86-64-v3"])
    assert family is None and plan is None
    assert all(isinstance(r, Refusal) and r.reason for r in refusals)
    assert any(reason in r.reason for r in refusals)


@pytest.mark.parametrize("oc, groups, block", [(32, 1, 16), (23, 1, 16), (10, 1, 8), (30, 3, 8), (1, 1, 1)])
def test_packed_blocks_hold_every_channel(oc, groups, block):
    weights = np.arange(oc * 5 * 3 * 2, dtype="f").reshape(oc, 5, 3, 2)
    packed = pack.conv_blocks(weights, groups, block)
    channels = oc // groups
    blocks = -(-channels // block)
    assert packed.shape == (groups, blocks, 3, 2, 5, block) and packed.flags.c_contiguous
    for channel in range(oc):
        group, inside = divmod(channel, channels)
        start = min(inside // block * block, channels - block)
        found = packed[group, inside // block, :, :, :, inside - start]
        assert np.array_equal(found, weights[channel].transpose(1, 2, 0))


def test_packed_depthwise():
    weights = np.arange(4 * 3 * 2, dtype="f").reshape(4, 1, 3, 2)
    packed = pack.depthwise(weights)
    assert packed.shape == (3, 2, 4) and packed.flags.c_contiguous
    assert np.array_equal(packed[2, 1], weights[:, 0, 2, 1])


def test_extents_of_the_output():
    assert (spec().oh, spec().ow) == (28, 28)
    strided = spec(stride=(2, 3), dilation=(2, 1), pads=(0, 1, 2, 0))
    assert (strided.oh, strided.ow) == (13, 9)
    assert spec().macs == 28 * 28 * 16 * 16 * 9
    assert not spec().pointwise and spec(kh=1, kw=1, pads=(0, 0, 0, 0)).pointwise


@pytest.mark.parametrize(
    "encoding, ends",
    [(BINARY, (-1, 1)), (Encoding("bits", 2, "bipolar"), (-3, 3)), (Encoding("bits", 3, "signed"), (-4, 3)),
     (Encoding("bits", 8, "unsigned"), (0, 255))],
)  # fmt: skip
def test_range_of_an_encoding(encoding, ends):
    assert (encoding.low, encoding.high) == ends


def test_native_is_a_row_of_the_table():
    native = resolve("native")
    assert native.name == "native"
    assert any(native.tvm == row.tvm for row in TARGETS.values())
