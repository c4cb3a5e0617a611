"""A small detector's task: COCO images as its inputs, its boxes, and AP50.

FastestDet (dog-qiuqiu/FastestDet, BSD-3-Clause): input [n, 3, 352, 352], BGR / 255; output [n, 85, 22, 22]: objectness, four
box values and 80 classes for each cell. Images and labels are read from a folder or a bare git directory of
lightly-ai/coco128_yolo: 128 images of train2017, which choose, and 128 of val2017, which are reported.
"""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

SIDE = 352
CLASSES = 80
Boxes = np.ndarray  # [n, 6]: image, class, x1, y1, x2, y2, and for predictions a seventh, the score


def _reader(root: Path) -> tuple[Callable[[str], list[str]], Callable[[str], bytes]]:
    """(names under a folder, bytes of a file) of a folder, or of a git directory's HEAD."""
    if (root / "object_detection").is_dir():
        return (
            lambda under: sorted(str(p.relative_to(root)) for p in (root / under).iterdir()),
            lambda name: (root / name).read_bytes(),
        )

    def git(*args: str) -> bytes:
        return subprocess.run(["git", "-C", str(root), *args], check=True, capture_output=True).stdout

    return (
        lambda under: git("ls-tree", "-r", "--name-only", "HEAD", under).decode().split("\n")[:-1],
        lambda name: git("show", f"HEAD:{name}"),
    )


def images(root: Path, split: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Inputs float32 [n, 3, 352, 352] and the boxes of each image [k, 5]: class, x1, y1, x2, y2 as shares of the sides."""
    from PIL import Image

    names, read = _reader(root)
    pictures, truth = [], []
    labelled = set(names(f"object_detection/labels/{split}"))
    for name in names(f"images/{split}"):
        picture = Image.open(io.BytesIO(read(name))).convert("RGB").resize((SIDE, SIDE), Image.BICUBIC)
        pictures.append(np.asarray(picture)[:, :, ::-1].transpose(2, 0, 1).astype(np.float32) / 255)
        label = f"object_detection/labels/{split}/{Path(name).stem}.txt"
        text = read(label).decode() if label in labelled else ""  # a picture of nothing has none
        rows = np.array([line.split() for line in text.splitlines()], np.float64).reshape(-1, 5)
        half = rows[:, 3:] / 2
        truth.append(np.concatenate([rows[:, :1], rows[:, 1:3] - half, rows[:, 1:3] + half], 1))
    return np.stack(pictures), truth


def decode(out: np.ndarray, least: float = 0.01) -> Iterator[np.ndarray]:
    """For each image [k, 6]: class, x1, y1, x2, y2, score, after non-maximum suppression within each class (IoU 0.5).

    A cell's score is objectness^0.6 · class^0.4, as FastestDet's own code has it.
    """
    h, w = out.shape[2:]
    columns, rows = np.meshgrid(np.arange(w), np.arange(h))
    for y in out.astype(np.float64):
        score = np.clip(y[0], 0, 1) ** 0.6 * np.clip(y[5:].max(0), 0, 1) ** 0.4
        keep = score > least
        x, v = (np.tanh(y[1]) + columns) / w, (np.tanh(y[2]) + rows) / h
        bw, bh = 1 / (1 + np.exp(-y[3])), 1 / (1 + np.exp(-y[4]))
        found = np.stack([y[5:].argmax(0), x - bw / 2, v - bh / 2, x + bw / 2, v + bh / 2, score], -1)[keep]
        yield suppress(found[np.argsort(-found[:, 5], kind="stable")])


def suppress(found: np.ndarray, most: float = 0.5) -> np.ndarray:
    stays = np.ones(len(found), bool)
    for i in range(len(found)):
        if stays[i]:
            later = np.flatnonzero(stays[i + 1 :] & (found[i + 1 :, 0] == found[i, 0])) + i + 1
            stays[later[overlap(found[i, 1:5], found[later, 1:5]) > most]] = False
    return found[stays]


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of box a [4] with boxes b [k, 4]."""
    low, high = np.maximum(a[:2], b[:, :2]), np.minimum(a[2:], b[:, 2:])
    inter = np.prod(np.clip(high - low, 0, None), 1)
    area = np.prod(a[2:] - a[:2]) + np.prod(b[:, 2:] - b[:, :2], 1) - inter
    return inter / np.maximum(area, 1e-12)


def ap50(outputs: np.ndarray, truth: list[np.ndarray]) -> float:
    """Mean over the classes that occur of average precision at IoU 0.5, at COCO's 101 recalls."""
    found = list(decode(outputs))
    values = []
    for c in range(CLASSES):
        wanted = [t[t[:, 0] == c, 1:] for t in truth]
        total = sum(map(len, wanted))
        if not total:
            continue
        rows = [(f[5], k, f[1:5]) for k, boxes in enumerate(found) for f in boxes if f[0] == c]
        rows.sort(key=lambda r: -r[0])
        taken = [np.zeros(len(t), bool) for t in wanted]
        hits = np.zeros(len(rows))
        for j, (_, k, box) in enumerate(rows):
            if len(wanted[k]):
                iou = np.where(taken[k], 0, overlap(box, wanted[k]))
                best = int(iou.argmax())
                if iou[best] >= 0.5:
                    taken[k][best] = hits[j] = 1
        if not len(rows):
            values.append(0.0)
            continue
        true = np.cumsum(hits)
        recall, precision = true / total, true / np.arange(1, len(rows) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
        values.append(float(np.where(at < len(rows), precision[np.minimum(at, len(rows) - 1)], 0).mean()))
    return float(np.mean(values))
