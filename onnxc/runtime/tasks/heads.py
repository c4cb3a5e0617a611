"""Heads of common detectors, recognised by the forms of their outputs, to boxes: see `detection`.

- FastestDet: one map [samples, 5 + classes, rows, columns]: objectness, tx, ty, tw, th, class scores of each cell, 16 pixels wide;
  x = (tanh tx + column) / columns, w = sigmoid tw, score = objectness^0.6 · class^0.4 (dog-qiuqiu/FastestDet, `handle_preds`).
- YOLOv8 and its kin: [samples, 4 + classes, cells], boxes cx, cy, w, h in pixels; cells of 8, 16 and 32 pixels.
- YOLOX: [samples, cells, 5 + classes] in steps of each cell (Ge 2021, `decode_outputs`); objectness times class.
- YOLOv5: [samples, 3 · cells, 5 + classes], boxes cx, cy, w, h in pixels; objectness times class.
- With suppression inside: [samples, boxes, 6] as x0, y0, x1, y1, score, class (YOLO); or, as SSD has them, boxes [samples, boxes, 4]
  as y0, x0, y1, x1, with scores and classes [samples, boxes].

YOLO's cells are counted for square images: 21 (side / 32)² of them.
"""

from __future__ import annotations

from math import isqrt

import numpy as np

from onnxc.runtime.tasks.metric import Outputs

LEAST, OVERLAP, MOST, LOOKED_AT = 0.001, 0.6, 100, 1000
"""Score that counts at all; intersection by union from which on a box is another one's double; boxes a sample, and before doubles go."""
STRIDE = 16


def detections(outputs: Outputs, labels: np.ndarray | None) -> list[np.ndarray] | None:
    """One array [boxes, 6] for each sample: class, score, x0, y0, x1, y1; None where no head is recognised."""
    floating = [y for y in outputs.values() if y.dtype.kind == "f"]
    ready = _with_suppression(outputs)
    if ready is not None:
        return ready
    for y in floating:
        raw = _fastest(y) if y.ndim == 4 else _cells(y) if y.ndim == 3 else None
        if raw is not None and (labels is None or len(y) == len(labels)):
            return [suppressed(boxes, scores) for boxes, scores in zip(*raw, strict=True)]
    return None


def _with_suppression(outputs: Outputs) -> list[np.ndarray] | None:
    for y in outputs.values():
        if y.ndim == 3 and y.shape[2] == 6 and y.shape[1] <= 1000 and y.dtype.kind == "f":
            return [np.concatenate([one[:, 5:], one[:, 4:5], one[:, :4]], 1)[one[:, 4] >= LEAST] for one in y]
    boxes = next((y for y in outputs.values() if y.ndim == 3 and y.shape[2] == 4 and y.dtype.kind == "f"), None)
    pair = [y for y in outputs.values() if boxes is not None and y.shape == boxes.shape[:2]]
    if boxes is None or len(pair) != 2:
        return None
    named = {name.lower(): y for name, y in outputs.items() if y.shape == boxes.shape[:2]}
    scores = next((y for name, y in named.items() if "score" in name), None)
    if scores is None:  # classes are whole numbers
        scores = next((y for y in pair if y.dtype.kind == "f" and not np.array_equal(y, np.round(y))), pair[0])
    kinds = next(y for y in pair if y is not scores)
    found = []
    for box, score, kind in zip(boxes, scores, kinds, strict=True):
        rows = np.stack([kind.astype(np.float64), score, box[:, 1], box[:, 0], box[:, 3], box[:, 2]], 1)
        found.append(rows[score >= LEAST][:MOST])
    return found


def _fastest(y: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(boxes [samples, cells, 4], scores [samples, cells, classes])."""
    if y.shape[1] < 6:
        return None
    n, _, rows, columns = y.shape
    flat = y.reshape(n, y.shape[1], -1).swapaxes(1, 2).astype(np.float64)
    row, column = np.divmod(np.arange(rows * columns), columns)
    x = (np.tanh(flat[..., 1]) + column) * STRIDE
    top = (np.tanh(flat[..., 2]) + row) * STRIDE
    width, height = (_sigmoid(flat[..., k]) * STRIDE * count for k, count in ((3, columns), (4, rows)))
    scores = np.clip(flat[..., :1], 0, None) ** 0.6 * np.clip(flat[..., 5:], 0, None) ** 0.4
    return _corners(x, top, width, height), scores


def _cells(y: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The same of YOLO's three forms."""
    if _side(y.shape[2]) and y.shape[1] > 4:
        flat = y.swapaxes(1, 2).astype(np.float64)
        return _corners(*(flat[..., k] for k in range(4))), flat[..., 4:]
    if y.shape[2] < 6:
        return None
    flat = y.astype(np.float64)
    scores = flat[..., 4:5] * flat[..., 5:]
    if _side(y.shape[1]):
        column, row, stride = _grid(_side(y.shape[1]))
        x, top = (flat[..., 0] + column) * stride, (flat[..., 1] + row) * stride
        return _corners(x, top, np.exp(flat[..., 2]) * stride, np.exp(flat[..., 3]) * stride), scores
    if y.shape[1] % 3 == 0 and _side(y.shape[1] // 3):
        return _corners(*(flat[..., k] for k in range(4))), scores
    return None


def _side(cells: int) -> int:
    """The side of the image that has so many cells, in pixels; 0 where there is none."""
    root = isqrt(cells // 21)
    return 32 * root if cells == 21 * root * root else 0


def _grid(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Column, row and width in pixels of all cells."""
    parts = []
    for stride in (8, 16, 32):
        row, column = np.divmod(np.arange((side // stride) ** 2), side // stride)
        parts.append((column, row, np.full(row.shape, stride)))
    columns, rows, widths = (np.concatenate(p) for p in zip(*parts, strict=True))
    return columns, rows, widths


def _corners(x: np.ndarray, y: np.ndarray, width: np.ndarray, height: np.ndarray) -> np.ndarray:
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], -1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -60, 60)))


def suppressed(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """[boxes, 6] by falling score, from boxes [cells, 4] and scores [cells, classes]: each cell's best class, without what
    another of its class covers."""
    kinds, best = scores.argmax(1), scores.max(1)
    order = np.argsort(-best, kind="stable")[:LOOKED_AT]
    order = order[best[order] >= LEAST]
    boxes, kinds, best = boxes[order], kinds[order], best[order]
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    left, kept = np.ones(len(boxes), bool), []
    for i in range(len(boxes)):
        if not left[i]:
            continue
        kept.append(i)
        if len(kept) == MOST:
            break
        common = np.prod(
            np.clip(
                np.minimum(boxes[i, 2:], boxes[i + 1 :, 2:]) - np.maximum(boxes[i, :2], boxes[i + 1 :, :2]), 0, None
            ),
            1,
        )
        union = np.maximum(areas[i] + areas[i + 1 :] - common, 1e-12)
        left[i + 1 :] &= (common / union < OVERLAP) | (kinds[i + 1 :] != kinds[i])
    return np.concatenate([kinds[kept, None], best[kept, None], boxes[kept]], 1)
