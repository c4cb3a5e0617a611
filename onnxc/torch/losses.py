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
    """How many of `all` samples are given the `right` class: that of labels, or else the teacher's."""

    right = all = 0

    def count(self, logits: Tensors, labels: torch.Tensor | None, goals: Tensors) -> None:
        for name, y in logits.items():
            wanted = named(labels, y) if labels is not None else goals[name].argmax(1) if name in goals else None
            if wanted is None or wanted.shape != y.shape[:1]:
                continue
            self.right += int((y.argmax(1) == wanted).sum())
            self.all += len(y)
            return


CLASS_MAKERS = ("Softmax", "LogSoftmax", "Gemm", "MatMul", "Add", "Flatten", "Reshape", "Squeeze", "Identity", "Conv",
                "DequantizeLinear", "Mul")  # fmt: skip


def labelled(outputs: Tensors, classes: Classes, labels: torch.Tensor, smooth: float) -> torch.Tensor:
    """The loss that the form of labels asks for: cross entropy of the first output that holds classes (labels [n], [n, 1], or shares of
    each class), or of each pixel's (labels [n, h, w], 255 and negative ones do not count) or step's (labels [n, steps]); the loss of
    boxes (labels [n, boxes, 5]) where a head is FastestDet's; CTC where there are more steps than symbols; squares where labels are
    floats of an output's shape, binary cross entropy where that is a Sigmoid's."""
    floats = {name: y for name, y in outputs.items() if y.is_floating_point()}
    logits = classes.of(outputs)
    found = None
    if labels.ndim == 3:
        found = _pixels(floats, labels, smooth)
        found = _boxes(floats, labels) if found is None else found
    if found is None and logits:
        found = _classes(next(iter(logits.values())), labels, smooth)
    if found is None and labels.ndim == 2 and not labels.is_floating_point():
        found = _steps(floats, classes.makers, labels, smooth)
    if found is None:
        found = _numbers(floats, classes.makers, labels)
    if found is None:
        raise BadOption(
            "no output fits the labels",
            expected="labels [samples] and classes, [samples, h, w] and scores of each pixel, [samples, symbols] and scores of each "
            "step, boxes [samples, boxes, 5] and FastestDet's head, or floats of an output's shape",
            found=f"labels {str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}",
            remedy="distil instead: train.distill needs no labels",
        )
    return found


def named(labels: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The class of each sample [n], where labels are classes, or shares of each class as `y` [n, classes] has them."""
    if labels.shape == y.shape:
        return labels.argmax(1)
    return labels.reshape(-1) if labels.numel() == len(labels) else labels


def _pixels(floats: Tensors, labels: torch.Tensor, smooth: float) -> torch.Tensor | None:
    if labels.is_floating_point():
        return None
    fits = (
        y for y in floats.values()
        if y.ndim == 4 and y.shape[1] > 1 and (len(y), *y.shape[2:]) == tuple(labels.shape)
    )  # fmt: skip
    pixels = next(fits, None)
    if pixels is None:
        return None
    wanted = torch.where((labels < 0) | (labels == IGNORED), -1, labels.long())
    _named(wanted, pixels.shape[1])
    return F.cross_entropy(pixels, wanted, ignore_index=-1, label_smoothing=smooth)


def _boxes(floats: Tensors, labels: torch.Tensor) -> torch.Tensor | None:
    head = next((y for y in floats.values() if y.ndim == 4 and y.shape[1] > 5), None)
    if head is None or labels.shape[2] != 5:
        return None
    _named(labels[..., 0], head.shape[1] - 5)
    return detected(head, labels)


def _classes(y: torch.Tensor, labels: torch.Tensor, smooth: float) -> torch.Tensor | None:
    if labels.shape == y.shape and bool((labels >= 0).all()) and bool(((labels.sum(1) - 1).abs() < 1e-3).all()):
        return F.cross_entropy(y, labels.to(y.dtype), label_smoothing=smooth)
    if labels.numel() != len(labels):
        return None
    labels = labels.reshape(-1)
    if labels.is_floating_point() and bool((labels != labels.round()).any()):
        raise BadOption(
            "a label names no class", expected="whole numbers", found=float(labels[labels != labels.round()][0])
        )
    if int(labels.min()) < 0:
        raise BadOption("a label names no class", expected=f"0 to {y.shape[1] - 1}", found=int(labels.min()))
    _named(labels, y.shape[1])
    return F.cross_entropy(y, labels.long(), label_smoothing=smooth)


def _steps(floats: Tensors, makers: Mapping[str, str], labels: torch.Tensor, smooth: float) -> torch.Tensor | None:
    """Scores [n, steps, classes] of one class a step, or, where symbols are fewer, read by CTC (Graves 2006) with blank 0; negative
    labels do not count, or fill a row."""
    fits = ((n, y) for n, y in floats.items() if y.ndim == 3 and y.shape[2] > 1 and len(y) == len(labels))
    name, y = next(fits, ("", None))
    if y is None or labels.shape[1] > y.shape[1]:
        return None
    _named(labels, y.shape[2])
    scores = (y + SMALL).log() if makers.get(name) == "Softmax" else F.log_softmax(y, 2)
    wanted = labels.long()
    if labels.shape[1] == y.shape[1]:
        wanted = torch.where(wanted < 0, -1, wanted)
        return F.cross_entropy(scores.transpose(1, 2), wanted, ignore_index=-1, label_smoothing=smooth)
    lengths, steps = (wanted >= 0).sum(1), torch.full((len(y),), y.shape[1])
    return F.ctc_loss(scores.transpose(0, 1), wanted.clamp(min=0), steps, lengths, zero_infinity=True)


def _numbers(floats: Tensors, makers: Mapping[str, str], labels: torch.Tensor) -> torch.Tensor | None:
    def plain(t: torch.Tensor) -> tuple[int, ...]:
        return (len(t), *(n for n in t.shape[1:] if n != 1))

    name, y = next(((n, y) for n, y in floats.items() if y.ndim and plain(y) == plain(labels)), ("", None))
    if y is None:
        return None
    wanted = labels.reshape(y.shape).to(y.dtype)
    if makers.get(name) == "Sigmoid" and bool(((wanted >= 0) & (wanted <= 1)).all()):
        return F.binary_cross_entropy(y, wanted)
    return (y - wanted).square().mean() if labels.is_floating_point() else None


def _named(labels: torch.Tensor, count: int) -> None:
    if int(labels.max()) >= count:
        raise BadOption("a label names no class", expected=f"0 to {count - 1}", found=int(labels.max()))


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
