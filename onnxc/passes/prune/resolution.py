"""prune.resolution: MobileNet's resolution multiplier (Howard et al. 2017): the network sees a smaller image.

    image [n, 3, 224, 224], Conv, ..., Reshape to [n, 64, 784]      (rho 0.5)
    image [n, 3, 224, 224], Resize to 112x112, Conv, ..., Reshape to [n, 64, 196]

No weight changes, so that a network without fully connected layers over positions runs as it is. Everything that states
a spatial extent is derived anew, node by node in graph order: targets of Reshape and Expand, bounds of Slice, sizes of
Resize and Split, and poolings that cover their whole input. Whatever cannot follow is refused, and nothing changes.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis, analyse
from ...ir.axes import Aligned, Atom, Axis, Extent, Prod, Sum, atoms, extent, find, normal, number, numbers
from ...ir.errors import OnnxcError
from ...ir.masks import Count, Minus
from ...ir.model import Model
from ...ir.table import Axes
from ..base import Claim, Context, Pass, Report, register
from ..options import Range

WINDOWS = ("Conv", "MaxPool", "AveragePool", "LpPool", "ConvTranspose")
POOLS = ("MaxPool", "AveragePool", "LpPool")
MIN_OPSET = 11
"""Resize takes sizes from here on."""


class Stuck(Exception):
    """Something that cannot follow a smaller image: the node, and why."""

    def __init__(self, node: str, reason: str):
        super().__init__(reason)
        self.node, self.reason = node, reason


@register("prune.resolution")
class PruneResolution(Pass):
    """Let the network work on its input images scaled down.

    rho: the new side over the old one, above 0 and at most 1. round_to: new sides are a multiple of this. inputs:
    whether the model keeps its inputs and begins with a linear Resize (keep), or takes smaller images (change). Models
    are refused where an output's extents follow the image, or a weight has an entry for each position.
    """

    claim = Claim.LOSSY
    requires = ("clean",)

    rho: Annotated[float, Range(above=0, high=1)] = 0.75
    round_to: Annotated[int, Range(1)] = 1
    inputs: Literal["keep", "change"] = "keep"

    def __post_init__(self) -> None:
        self.changes_inputs = self.inputs == "change"

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        old = ctx.verified.analysis
        if model.opset < MIN_OPSET and self.inputs == "keep":
            report.refuse(model.inputs[0].name, f"Resize to a size needs opset {MIN_OPSET}, this is {model.opset}")
            return report
        images = image_axes(model, old, report)
        trial = model.copy()
        done = Report()
        for t in trial.inputs:
            if t.name in images:
                self._shrink(trial, t, images[t.name], done)
        if not done.edits:
            return report
        follow = Follow(old, done)
        try:
            analyse(trial, follow)
        except Stuck as stuck:
            report.refuse(stuck.node, stuck.reason)
            return report
        except OnnxcError as e:
            report.refuse(e.node or "", f"it does not follow a smaller image: {e.what}")
            return report
        report.edits += done.edits
        model.adopt(trial)
        return report

    def side(self, size: int) -> int:
        """The new extent of a side of `size`."""
        return min(size, max(1, int(self.rho * size / self.round_to + 0.5)) * self.round_to)

    def _shrink(self, trial: Model, t: gs.Variable, spatial: list[int], report: Report) -> None:
        """Make the input `t` smaller, or put a Resize behind it; `spatial` are its image axes."""
        sizes = [self.side(n) if d in spatial else n for d, n in enumerate(t.shape)]
        if sizes == list(t.shape):
            return
        text = " to ".join("x".join(str(shape[d]) for d in spatial) for shape in (t.shape, sizes))
        if self.inputs == "change":
            t.shape = sizes
            report.edit(t.name, f"from {text}")
            return
        # scales, not sizes: they leave a symbolic batch alone
        scales = [factor(t.shape[d], sizes[d]) if d in spatial else np.float32(1) for d in range(len(sizes))]
        attrs: dict = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        if trial.opset >= 18:
            attrs["antialias"] = 1
        given = [
            trial.variable(f"{t.name}_whole"),
            gs.Variable.empty(),
            trial.constant(f"{t.name}_scales", np.array(scales)),
        ]
        node = trial.node("Resize", given, name=f"{t.name}_resize", attrs=attrs, before=trial.nodes[0])
        trial.replace_uses(t, node.outputs[0])
        node.inputs[0] = t
        report.edit(node.name, f"{t.name} is scaled from {text}")


def factor(old: int, new: int) -> np.float32:
    """The least scale not below new/old that Resize turns into `new`; it rounds old * scale down."""
    scale = np.float32(new / old)
    while np.float32(old) * scale < new or int(old * float(scale)) < new:
        scale = np.nextafter(scale, np.float32(np.inf))
    return scale


def image_axes(model: Model, analysis: Analysis, report: Report) -> dict[str, list[int]]:
    """Which axes of which inputs are sides of an image: the ones that windows slide along."""
    slid: set[Atom] = set()
    for node in model.nodes:
        if model.is_standard(node, *WINDOWS):
            slid.update(x for a in (analysis.of(node, 0) or ())[2:] for x in atoms(a))
    found: dict[str, list[int]] = {}
    for t in model.inputs:
        axes = analysis.axes.get(t.name) or ()
        sides = [d for d, a in enumerate(axes) if any(x in slid for x in atoms(a))]
        unknown = [d for d in sides if not isinstance(t.shape[d], int)]
        if unknown:
            report.refuse(t.name, f"its side {t.shape[unknown[0]] or '?'} is free already: feed smaller images")
        elif sides:
            found[t.name] = sides
    if not found and not report.refusals:
        report.refuse(model.inputs[0].name if model.inputs else "", "no window slides along an axis of an input")
    return found


class Follow:
    """Called for each node in order, before it is analysed, while the axes behind it are known: makes it follow.

    old: the analysis of the model as it was, whose atoms say what is tied to what. sizes: the new extents of its atoms.
    """

    def __init__(self, old: Analysis, report: Report):
        self.old = old
        self.report = report
        self.sizes: dict[Atom, int] = {}

    def __call__(self, now: Analysis, node: gs.Node) -> None:
        facts = self.old.facts.get(node.name)
        if facts is None:
            return  # the Resize at the head
        before = facts.node
        for i, t in enumerate(node.inputs):
            if isinstance(t, gs.Variable) and t.name:
                self._learn(node, self.old.of(before, i), now.axes.get(t.name))
        if not self.sizes:
            return
        for i, t in enumerate(node.inputs):
            if isinstance(t, gs.Constant):
                if i in facts.operands:
                    self._operand(now.model, node, i, t, facts.operands[i])
                else:
                    self._weight(node, t, self.old.uses[node.name, i])
        for name, template in facts.attrs.items():
            new = self._render(template)
            if new != _plain(node.attrs.get(name)):
                node.attrs[name] = new
                self.report.edit(node.name, f"{name} {new}")
        axes = self.old.of(before, 0) if node.op in POOLS else None
        if axes is not None:
            self._pool(node, axes)

    def _learn(self, node: gs.Node, was: Axes | None, now: Axes | None) -> None:
        if was is None or now is None:
            return
        for d, (a, b) in enumerate(zip(was, now, strict=True)):
            a, m, n = normal(a), extent(a), extent(b)
            if not isinstance(n, int) or (m == n and self._extent(a) == n):
                continue
            if isinstance(a, Atom) and a not in self.sizes:
                self.sizes[a] = n
            elif self._extent(a) != n:
                raise Stuck(
                    node.name, f"axis {d} of its input is made of parts that do not scale alike: {m} would be {n}"
                )

    def _extent(self, a: Axis) -> Extent:
        a = find(a)
        if isinstance(a, Atom):
            return self.sizes.get(a, a.size)
        if isinstance(a, Aligned):
            return self._extent(a.parts[0])
        sizes = numbers([self._extent(p) for p in a.parts])
        if sizes is None:
            return None
        return prod(sizes) if isinstance(a, Prod) else sum(sizes)

    def _changes(self, a: Axis) -> bool:
        return any(self.sizes.get(x, x.size) != x.size for x in atoms(a))

    def _render(self, template):
        if isinstance(template, (list, tuple)):
            return [self._render(v) for v in template]
        if isinstance(template, Minus):
            return -number(self._extent(template.axis))
        if isinstance(template, Count):
            return len(template.parts)
        return self._extent(template) if isinstance(template, (Atom, Prod, Sum)) else int(template)

    def _operand(self, model: Model, node: gs.Node, i: int, t: gs.Constant, template: list) -> None:
        if node.op == "Resize":
            new = [self._resized(node, d, v) for d, v in enumerate(template)]
        else:
            new = self._render(template)
        values = np.asarray(new, t.values.dtype).reshape(t.values.shape)
        if not np.array_equal(values, t.values):
            model.set_weight(node, i, values)
            self.report.edit(node.name, f"{t.values.ravel().tolist()} becomes {values.ravel().tolist()}")

    def _resized(self, node: gs.Node, k: int, v) -> int:
        """A size that a Resize states: what it is tied to, else in proportion to its input."""
        if not isinstance(v, (int, np.integer)):
            return self._render(v)
        at = node.attrs.get("axes")
        d = k if at is None else at[k]
        facts = self.old.facts[node.name].node
        source, out = (self._axes(t.name)[d] for t in (facts.inputs[0], facts.outputs[0]))
        if self._changes(out) or not self._changes(source):
            return number(self._extent(out))
        return max(1, int(v * number(self._extent(source)) / number(extent(source)) + 0.5))

    def _axes(self, name: str) -> Axes:
        axes = self.old.axes[name]
        assert axes is not None  # of a Resize that was read
        return axes

    def _weight(self, node: gs.Node, t: gs.Constant, axes: Axes) -> None:
        bad = [a for a in axes if self._changes(a)]
        if bad:
            raise Stuck(
                node.name,
                f"its weight {t.name} has an entry for each position: {extent(bad[0])} would be {self._extent(bad[0])}",
            )

    def _pool(self, node: gs.Node, axes: Axes) -> None:
        """A window that covers a whole axis still does."""
        kernel = list(node.attrs.get("kernel_shape") or ())
        pads = node.attrs.get("pads") or [0] * (2 * len(kernel))
        rank = len(kernel)
        new = [
            self._extent(a) if k == extent(a) and not pads[d] and not pads[d + rank] else k
            for d, (k, a) in enumerate(zip(kernel, axes[2:], strict=True))
        ]
        if new != kernel:
            node.attrs["kernel_shape"] = new
            self.report.edit(node.name, f"kernel_shape {new}")


def _plain(value):
    return list(value) if isinstance(value, (list, tuple)) else value
