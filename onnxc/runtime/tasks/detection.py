"""Object detection: COCO's mean average precision, computed by a library.

Predictions are one array for each sample, [boxes, 6]: class, score, x0, y0, x1, y1. Labels are [boxes, 5] for each sample,
without the score, as an array [samples, boxes, 5] in which rows with a negative class are empty, or as objects. Both are in the
same unit: the pixels of the network's input, or whatever its head gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from onnxc.ir.errors import BadData, BadOption
from onnxc.runtime.tasks.metric import Metric

CONFIDENT = 0.3
"""Score from which on a reference's detection stands for a label."""


class MeanAveragePrecision(Metric):
    """COCO's average precision, mean over classes and over intersections by union of 0.50 to 0.95 (`at` 0: AP), or at one of
    them (`at` 0.5: AP50); at most 100 boxes a sample. Needs the extra `detection` (faster-coco-eval)."""

    share: ClassVar[bool] = True

    def __init__(self, at: float = 0) -> None:
        self._at = at
        self._found: list[np.ndarray] = []
        self._true: list[np.ndarray] = []

    def add(self, predicted: Sequence[np.ndarray], labels: np.ndarray) -> None:
        for guess, label in zip(predicted, labels, strict=True):
            self._found.append(np.asarray(guess, np.float64).reshape(-1, 6))
            self._true.append(boxes(label))

    def value(self) -> float:
        return coco(self._found, self._true)[0 if not self._at else 1] if self._true else float("nan")


def boxes(label: Any) -> np.ndarray:
    """The boxes of one sample, [boxes, 5], without empty rows. Raises BadData."""
    found = np.asarray(label, np.float64)
    if found.size == 0:
        return np.zeros((0, 5))
    if found.ndim != 2 or found.shape[1] != 5:
        raise BadData(
            "labels of detection do not fit", expected="[boxes, 5]: class, x0, y0, x1, y1", found=list(found.shape)
        )
    return found[found[:, 0] >= 0]


def coco(found: Sequence[np.ndarray], true: Sequence[np.ndarray]) -> tuple[float, float]:
    """(AP, AP50) of predictions [boxes, 6] beside labels [boxes, 5], an array for each sample of both; nan without labels."""
    if not sum(map(len, true)):
        return float("nan"), float("nan")
    if not sum(map(len, found)):
        return 0.0, 0.0
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        remedy = "pip install 'onnxc[detection]'"
        raise BadOption("the task detection needs the package faster-coco-eval", remedy=remedy) from None
    classes = sorted({int(c) for part in (*found, *true) for c in part[:, 0]})
    images = [{"id": i + 1} for i in range(len(true))]
    truth = [_annotation(i, row[0], row[1:]) for i, part in enumerate(true) for row in part]
    for number, annotation in enumerate(truth, 1):
        annotation["id"] = number
    guesses = [
        _annotation(i, row[0], row[2:]) | {"score": float(row[1])} for i, part in enumerate(found) for row in part
    ]
    named = {"images": images, "annotations": truth, "categories": [{"id": c + 1, "name": str(c)} for c in classes]}
    whole = COCO(named)
    judge = COCOeval_faster(whole, whole.loadRes(guesses), "bbox", print_function=lambda *_: None)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return float(judge.stats[0]), float(judge.stats[1])


def _annotation(image: int, kind: float, box: np.ndarray) -> dict:
    """COCO's form of a box, which begins to count at 1."""
    x, y, width, height = float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])
    return {
        "image_id": image + 1,
        "category_id": int(kind) + 1,
        "bbox": [x, y, width, height],
        "area": width * height,
        "iscrowd": 0,
    }


def confident(predicted: Sequence[np.ndarray]) -> np.ndarray:
    """What a reference's detections stand for as labels: those with a score of at least 0.3."""
    made = np.empty(len(predicted), object)
    for i, part in enumerate(predicted):
        made[i] = np.delete(part[part[:, 1] >= CONFIDENT], 1, axis=1)
    return made
