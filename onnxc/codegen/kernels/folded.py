"""Sums of fewer output channels than a register has lanes, at full width: lanes hold neighbouring input channels side by side.

    acc[o F + f] += x[k F + f] w[o][k F + f]        y[o] = sum over f of acc[o F + f]

F inputs are one load that is broadcast, as one input is else, and F neighbouring lanes are added up once behind all products. So 8
output channels on 16 lanes take half the steps (F = 2), and what is no multiple of 16 channels needs no block that overlaps another.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxc.codegen.kernels.result import wide
from onnxc.codegen.kernels.spec import KernelSpec
from onnxc.codegen.target import Target

FOLDS = (1, 2, 4)
LEAST = 8  # lanes of a register from which on that pays: narrower ones multiply by a lane of another


def folds(spec: KernelSpec, target: Target) -> tuple[int, ...]:
    """What the input channels of a group can be folded by."""
    most = target.lanes if spec.weight_constant and target.lanes >= LEAST else 1
    return tuple(f for f in FOLDS if f <= most and spec.c // spec.groups % f == 0)


def interleaved(blocks: np.ndarray, fold: int) -> np.ndarray:
    """Weights (..., c, block) -> (..., c / fold, block fold), the folded inputs of an output side by side."""
    if fold == 1:
        return blocks
    *outer, c, block = blocks.shape
    split = blocks.reshape(*outer, c // fold, fold, block)
    return np.ascontiguousarray(np.moveaxis(split, -2, -1)).reshape(*outer, c // fold, block * fold)


def spread(x: Any, index: list, fold: int, lanes: int) -> Any:
    """The `fold` elements of x from `index` on, in `lanes` turns."""
    from tvm import tirx

    if fold == 1:
        return wide(x[index], lanes)
    *outer, last = index
    part = x[[*outer, tirx.Ramp(last, 1, fold)]]
    return tirx.Shuffle([part] * lanes, [tirx.const(i, "int32") for i in range(lanes * fold)])


def added_up(value: Any, fold: int, lanes: int) -> Any:
    """The sums of `fold` neighbouring lanes."""
    from tvm import tirx

    while fold > 1:
        fold //= 2
        count = lanes * fold
        even, odd = (
            tirx.Shuffle([value], [tirx.const(2 * i + part, "int32") for i in range(count)]) for part in (0, 1)
        )
        value = even + odd
    return value
