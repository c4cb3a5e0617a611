"""Weight layouts that kernels read. NumPy only."""

from __future__ import annotations

import numpy as np


def conv_blocks(weights: np.ndarray, groups: int, block: int) -> np.ndarray:
    """Weights (oc, c/groups, kh, kw) -> (groups, blocks, kh, kw, c/groups, block), contiguous.

    A block is `block` neighbouring output channels of one group. When `block` does not divide oc/groups the last
    block starts earlier and repeats channels of the one before, as the kernel's last tile does.
    """
    oc, c, kh, kw = weights.shape
    channels = oc // groups
    starts = np.minimum(np.arange(-(-channels // block)) * block, channels - block)
    rows = starts[:, None] + np.arange(block)
    split = weights.reshape(groups, channels, c, kh, kw)
    if channels % block == 0:
        blocks = split.reshape(groups, channels // block, block, c, kh, kw)
    else:
        blocks = split[:, rows]
    return np.ascontiguousarray(blocks.transpose(0, 1, 4, 5, 3, 2))


def depthwise(weights: np.ndarray) -> np.ndarray:
    """Weights (c, 1, kh, kw) -> (kh, kw, c), contiguous."""
    return np.ascontiguousarray(weights[:, 0].transpose(1, 2, 0))
