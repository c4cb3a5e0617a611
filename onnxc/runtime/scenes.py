"""Scenes: several garments on a canvas, with boxes and masks, made from the bundled pictures by a seed.

A data set small enough to be made anew wherever it is needed: for detectors and segmentation networks, which no single garment can
judge. Garments of the two parts come from different pictures, so that nothing of `test` was seen in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxc.ir.errors import BadOption

SIDE = 96
"""Pixels of a canvas along each side."""
MOST = 5
"""Garments on a canvas, at most; at least two are tried."""
SCALES = (0.9, 1.7)
APART = 0.1
"""Share of the smaller of two boxes that they may have in common."""
MEAN, DEVIATION = 0.286, 0.353
"""Of a garment's pixels, in which the bundled pictures are normalised."""
VISIBLE = 0.12
"""Brightness from which on a pixel belongs to its garment."""
_DATA = Path(__file__).resolve().parent.parent / "data"


@dataclass(frozen=True)
class Scenes:
    """image: float32 [n, 1, 96, 96], normalised as the garments are; boxes: float32 [n, 5, 5]: class, x0, y0, x1, y1 in pixels,
    rows of -1 are empty; mask: uint8 [n, 96, 96]: 0 the ground, class + 1 a garment."""

    image: np.ndarray
    boxes: np.ndarray
    mask: np.ndarray


def scenes(count: int, seed: int = 0, part: str = "train") -> Scenes:
    """`count` scenes of `part` (train or test); the same for the same seed. Raises BadOption."""
    if count < 1 or part not in ("train", "test"):
        raise BadOption("no such scenes", expected="at least one, of train or test", found=f"{count} of {part}")
    pictures, kinds = _garments(part)
    rng = np.random.default_rng([seed, part == "test"])
    image = np.zeros((count, 1, SIDE, SIDE), np.float32)
    boxes = np.full((count, MOST, 5), -1, np.float32)
    mask = np.zeros((count, SIDE, SIDE), np.uint8)
    for k in range(count):
        canvas = _ground(rng)
        placed: list[tuple[int, int, int, int]] = []
        for _ in range(int(rng.integers(2, MOST + 1))):
            which = int(rng.integers(len(pictures)))
            garment = _scaled(pictures[which], float(rng.uniform(*SCALES)))
            if rng.random() < 0.5:
                garment = garment[:, ::-1]
            seen = garment > VISIBLE
            garment, seen = _trimmed(garment, seen)
            place = _place(rng, garment.shape, placed)
            if place is None:
                continue
            top, left, bottom, right = place
            canvas[top:bottom, left:right] = np.where(seen, garment, canvas[top:bottom, left:right])
            mask[k, top:bottom, left:right][seen] = kinds[which] + 1
            boxes[k, len(placed)] = (kinds[which], left, top, right, bottom)
            placed.append(place)
        image[k, 0] = (canvas - MEAN) / DEVIATION
    return Scenes(image, boxes, mask)


def _garments(part: str) -> tuple[np.ndarray, np.ndarray]:
    """(pictures [n, 28, 28] of 0 to 1, classes [n])."""
    with np.load(_DATA / "fashion_test.npz") as test, np.load(_DATA / "fashion_calib.npz") as more:
        images, labels = test["image"], test["labels"]
        cut = len(images) * 6 // 10
        if part == "test":
            images, labels = images[cut:], labels[cut:]
        else:
            images = np.concatenate([images[:cut], more["image"]])
            labels = np.concatenate([labels[:cut], more["labels"]])
    return np.clip(images[:, 0].astype(np.float32) * DEVIATION + MEAN, 0, 1), labels.astype(np.int64)


def _ground(rng: np.random.Generator) -> np.ndarray:
    """A dark ground [96, 96]: a gradient and noise."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    slope = rng.uniform(-0.15, 0.15, 2)
    level = rng.uniform(0.05, 0.3)
    return np.clip(level + slope[0] * x + slope[1] * y + rng.normal(0, 0.04, (SIDE, SIDE)), 0, 1).astype(np.float32)


def _scaled(picture: np.ndarray, scale: float) -> np.ndarray:
    """Linear interpolation at the centres of pixels."""
    size = max(round(len(picture) * scale), 4)
    at = np.clip((np.arange(size) + 0.5) * len(picture) / size - 0.5, 0, len(picture) - 1)
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, len(picture) - 1), (at - low).astype(np.float32)
    rows = picture[low] * (1 - share)[:, None] + picture[high] * share[:, None]
    return rows[:, low] * (1 - share) + rows[:, high] * share


def _trimmed(garment: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without rows and columns at the edges in which nothing is seen."""
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    where = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return garment[where], seen[where]


def _place(
    rng: np.random.Generator, shape: tuple[int, ...], placed: list[tuple[int, int, int, int]]
) -> tuple[int, int, int, int] | None:
    """(top, left, bottom, right) where hardly anything of what stands there is covered; None after twenty tries."""
    height, width = shape
    for _ in range(20):
        top, left = int(rng.integers(SIDE - height + 1)), int(rng.integers(SIDE - width + 1))
        found = (top, left, top + height, left + width)
        if all(_common(found, other) <= APART for other in placed):
            return found
    return None


def _common(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """What two boxes have in common, as a share of the smaller."""
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    least = min((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
    return max(height, 0) * max(width, 0) / least
