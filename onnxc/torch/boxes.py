"""The loss of a detector whose head is FastestDet's (see `onnxc.runtime.tasks.heads`), beside labelled boxes.

    map [n, 5 + classes, rows, columns]: objectness (0 to 1), tx, ty, tw, th, classes (a Softmax's);  labels [n, boxes, 5]

The cell that holds a box's centre answers for it, and of its neighbours the nearer one along each axis (as in YOLOv5). Loss: 1 - CIoU
of those boxes (Zheng 2020), cross entropy of their classes, and binary cross entropy of objectness, whose goal is the box's IoU.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

STRIDE = 16
"""Pixels of a cell, as the task has it."""
SMALL = 1e-6
BOX, OBJECT, CLASS = 2.0, 4.0, 1.0


def detected(y: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of one batch; labels: class, x0, y0, x1, y1 in pixels, rows with a negative class are empty."""
    image, row, column, box, kind = _answering(labels, y.shape[2], y.shape[3])
    objectness = y[:, 0].clamp(SMALL, 1 - SMALL)
    goal = torch.zeros_like(objectness)
    total = torch.zeros(())
    if len(image):
        cells = y[image, :, row, column]
        guess = _boxes(cells, row, column, y.shape[2], y.shape[3])
        iou, complete = _overlap(guess, box)
        # of several boxes in a cell the one that it fits best tells how sure it should be
        flat = (image * y.shape[2] + row) * y.shape[3] + column
        found = torch.zeros(goal.numel()).scatter_reduce(0, flat, iou.detach().clamp(0, 1), "amax")
        goal = found.view_as(goal)
        total = BOX * (1 - complete).mean() + CLASS * F.nll_loss(cells[:, 5:].clamp_min(SMALL).log(), kind)
    return total + OBJECT * F.binary_cross_entropy(objectness, goal)


def _answering(labels: torch.Tensor, rows: int, columns: int) -> tuple[torch.Tensor, ...]:
    """(image, row, column, box, class) of each pair of a cell and a box that it answers for."""
    image, slot = torch.nonzero(labels[..., 0] >= 0, as_tuple=True)
    kind, box = labels[image, slot, 0].long(), labels[image, slot, 1:].float()
    x, y = (box[:, 0] + box[:, 2]) / 2 / STRIDE, (box[:, 1] + box[:, 3]) / 2 / STRIDE
    column, row = x.floor().long(), y.floor().long()
    beside, above = torch.where(x - column < 0.5, -1, 1), torch.where(y - row < 0.5, -1, 1)
    zero = torch.zeros_like(beside)
    row = torch.cat([row + zero, row + zero, row + above])
    column = torch.cat([column + zero, column + beside, column + zero])
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    return image.repeat(3)[inside], row[inside], column[inside], box.repeat(3, 1)[inside], kind.repeat(3)[inside]


def _boxes(cells: torch.Tensor, row: torch.Tensor, column: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """x0, y0, x1, y1 in pixels [cells, 4]."""
    x, y = (cells[:, 1].tanh() + column) * STRIDE, (cells[:, 2].tanh() + row) * STRIDE
    width, height = cells[:, 3].sigmoid() * STRIDE * columns, cells[:, 4].sigmoid() * STRIDE * rows
    return torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)


def _overlap(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(IoU, CIoU) of pairs of boxes: less the distance of centres, and of aspect ratios."""
    inner = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp_min(0).prod(1)
    (wa, ha), (wb, hb) = ((c[:, 2:] - c[:, :2]).clamp_min(SMALL).unbind(1) for c in (a, b))
    iou = inner / (wa * ha + wb * hb - inner + SMALL)
    hull = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    apart = (a[:, :2] + a[:, 2:] - b[:, :2] - b[:, 2:]).square().sum(1) / 4
    v = (4 / math.pi**2) * (torch.atan(wb / hb) - torch.atan(wa / ha)).square()
    with torch.no_grad():
        alpha = v / (1 - iou + v + SMALL)
    return iou, iou - apart / (hull.square().sum(1) + SMALL) - alpha * v
