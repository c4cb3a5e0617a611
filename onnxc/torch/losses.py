"""Losses: of labels, and of a teacher's outputs and maps of attention."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from onnxc.ir.errors import BadOption

from .boxes import detected
from .network import Network

Tensors = Mapping[str, torch.Tensor]
SMALL = 1e-12
IGNORED = 255
"""The class of pixels that do not count, as the task has it."""


class Classes:
    """The logarithms of a network's classes, from the first floating output [n, classes] at least two wide.

    `probabilities`: the output is a Softmax's; else it holds logits, or their logarithms, which Softmax leaves alike.
    """

    def __init__(self, net: Network):
        self.makers = {name: step.op for step in net.steps for name in step.outputs}

    def of(self, outputs: Tensors) -> dict[str, torch.Tensor]:
        """Logits (up to a constant) by output name, of those that hold classes."""
        found = {}
        for name, y in outputs.items():
            if y.is_floating_point() and y.ndim == 2 and y.shape[1] > 1 and self.makers.get(name) in CLASS_MAKERS:
                found[name] = (y + SMALL).log() if self.makers[name] == "Softmax" else y
        return found


class Tally:
    """How many of `all` samples are given the `right` class: that of labels [n], or else the teacher's."""

    right = all = 0

    def count(self, logits: Tensors, labels: torch.Tensor | None, goals: Tensors) -> None:
        for name, y in logits.items():
            wanted = labels if labels is not None else goals[name].argmax(1) if name in goals else None
            if wanted is None or wanted.shape != y.shape[:1]:
                continue
            self.right += int((y.argmax(1) == wanted).sum())
            self.all += len(y)
            return


CLASS_MAKERS = ("Softmax", "LogSoftmax", "Gemm", "MatMul", "Add", "Flatten", "Reshape", "Squeeze", "Identity", "Conv",
                "DequantizeLinear", "Mul")  # fmt: skip


def labelled(outputs: Tensors, logits: Tensors, labels: torch.Tensor, smooth: float) -> torch.Tensor:
    """The loss that the form of labels asks for: cross entropy of the first output that holds classes (labels [n]), or of each pixel's
    (labels [n, h, w], 255 and negative ones do not count); the loss of boxes (labels [n, boxes, 5]) where a head is FastestDet's."""
    if labels.ndim == 3 and not labels.is_floating_point():
        pixels = next(
            (y for y in outputs.values() if y.is_floating_point() and y.ndim == 4 and y.shape[1] > 1
             and (len(y), *y.shape[2:]) == tuple(labels.shape)), None
        )  # fmt: skip
        if pixels is not None:
            wanted = torch.where((labels < 0) | (labels == IGNORED), -1, labels.long())
            _named(wanted, pixels.shape[1])
            return F.cross_entropy(pixels, wanted, ignore_index=-1, label_smoothing=smooth)
    if labels.ndim == 3 and labels.shape[2] == 5:
        head = next((y for y in outputs.values() if y.is_floating_point() and y.ndim == 4 and y.shape[1] > 5), None)
        if head is not None:
            _named(labels[..., 0], head.shape[1] - 5)
            return detected(head, labels)
    if not logits or labels.ndim != 1:
        raise BadOption(
            "no output fits the labels",
            expected="labels [samples] and classes, [samples, h, w] and scores of each pixel, or boxes [samples, boxes, 5] and "
            "FastestDet's head",
            found=f"labels {list(labels.shape)}",
            remedy="distil instead: train.distill needs no labels",
        )
    y = next(iter(logits.values()))
    if labels.is_floating_point() and bool((labels != labels.round()).any()):
        raise BadOption(
            "a label names no class", expected="whole numbers", found=float(labels[labels != labels.round()][0])
        )
    if int(labels.min()) < 0:
        raise BadOption("a label names no class", expected=f"0 to {y.shape[1] - 1}", found=int(labels.min()))
    _named(labels, y.shape[1])
    return F.cross_entropy(y, labels.long(), label_smoothing=smooth)


def _named(labels: torch.Tensor, classes: int) -> None:
    if int(labels.max()) >= classes:
        raise BadOption("a label names no class", expected=f"0 to {classes - 1}", found=int(labels.max()))


def taught(outputs: Tensors, logits: Tensors, goals: Tensors, goal_logits: Tensors, temperature: float):
    """The distance from a teacher's outputs: T^2 KL of classes (Hinton 2015), else squares relative to the variance."""
    total = torch.zeros(())
    for name, y in outputs.items():
        goal = goals[name]
        if not y.is_floating_point() or (not y.requires_grad and torch.is_grad_enabled()):
            continue
        if name in logits and name in goal_logits and y.shape == goal.shape:
            soft = F.log_softmax(goal_logits[name] / temperature, 1)
            mine = F.log_softmax(logits[name] / temperature, 1)
            total = total + temperature**2 * F.kl_div(mine, soft, reduction="batchmean", log_target=True)
        else:
            total = total + (y - goal).square().mean() / (goal.var() + SMALL)
    return total


def attention(mine: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """Squared distance of the two maps of attention, each of length 1 (Zagoruyko 2017, eq. 2)."""

    def flat(t):
        return F.normalize(t.square().mean(1).flatten(1), dim=1)

    return (flat(mine) - flat(goal)).square().sum(1).mean()


def alike(student: Network, teacher: Network, mine: Tensors, theirs: Tensors) -> list[str]:
    """Names whose tensors [n, c, *positions] both networks have, with the same extents but for c; one of each extent.

    Of several tensors of one extent the last is taken: it has seen all layers before.
    """
    found: dict[tuple, str] = {}
    for step in student.steps:
        for name in step.outputs:
            a, b = mine.get(name), theirs.get(name)
            if a is None or b is None or a.ndim < 3 or a.ndim != b.ndim or not a.is_floating_point():
                continue
            if a.shape[2:] == b.shape[2:] and a.shape[2:].numel() > 1:
                found[tuple(a.shape[2:])] = name
    return list(found.values())
