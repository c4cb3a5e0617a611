"""Scenes: what stands in masks stands in boxes, parts hold different garments, a seed means the same everywhere."""

import numpy as np
import pytest

from onnxc.ir.errors import BadOption
from onnxc.runtime.scenes import APART, SIDE, scenes


def test_boxes_hold_what_masks_show():
    made = scenes(40, 3)
    assert made.image.shape == (40, 1, SIDE, SIDE) and made.image.dtype == np.float32
    for boxes, mask in zip(made.boxes, made.mask):
        there = boxes[boxes[:, 0] >= 0]
        assert len(there) >= 1 and set(np.unique(mask)) <= {0, *(there[:, 0] + 1)}
        covered = np.zeros_like(mask, bool)
        for kind, x0, y0, x1, y1 in there.astype(int):
            inside = mask[y0:y1, x0:x1]
            assert (inside == kind + 1).mean() > 0.3 - APART  # most of a garment is seen
            assert (inside == kind + 1).any(0)[[0, -1]].any() and (inside == kind + 1).any(1)[[0, -1]].any()
            covered[y0:y1, x0:x1] = True
        assert not mask[~covered].any()
    assert np.mean((made.boxes[..., 0] >= 0).sum(1)) > 2.5


def test_a_seed_means_the_same_and_parts_do_not_share_garments():
    one, again, other, test = (
        scenes(6, seed, part) for seed, part in ((1, "train"), (1, "train"), (2, "train"), (1, "test"))
    )
    assert all(np.array_equal(getattr(one, n), getattr(again, n)) for n in ("image", "boxes", "mask"))
    assert not np.array_equal(one.image, other.image) and not np.array_equal(one.boxes, test.boxes)
    with pytest.raises(BadOption, match="no such scenes, expected at least one, of train or test, found 3 of both"):
        scenes(3, 0, "both")
