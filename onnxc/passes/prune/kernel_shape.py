"""prune.kernel_shape: smaller kernels, one pattern per layer, where whole rows or columns of a kernel matter least.

    Conv 3x3, pads 1 1 1 1      ->      Conv 2x3, pads 0 1 1 1          (the first row goes)
    Conv 3x3, pads 1 1 1 1      ->      Conv 2x3, dilations 2 1         (the middle row goes)

The result equals the unpruned model with zeros in those rows and columns. What stays of an axis is a progression
a, a + s, ..., a + (n-1)s of kernel positions. With dilation d, pads (b, e) and kernel k that axis becomes

    kernel n, dilation s·d, begin b - a·d, end e - (k-1 - a - (n-1)s)·d

so that tap j still reads x[stride·t - b + (a + j·s)·d]. A begin below 0 would need a Slice and is no candidate. An end
below 0 is raised to 0 where the stride leaves so much slack that there is no more output for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Annotated, Literal

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis
from ...ir.axes import Extent
from ...ir.cost import node_macs
from ...ir.errors import BadOption
from ...ir.model import Model, read_only
from ...ir.ops.window import explicit_pads
from ..base import Claim, Context, Pass, Report, register
from ..layers.stored import Layer, layers
from ..options import Range
from .refit import adapted

Steps = tuple[range, ...]
"""Which positions of a kernel stay, along each spatial axis."""


@register("prune.kernel_shape")
class PruneKernelShape(Pass):
    """Cut convolution kernels to the rows and columns that hold most of their energy (sum of squares).

    ratio: share of multiplications removed. scope: of each layer ("layer"), or of all convolutions with kernels
    above 1x1 together ("global"). shapes: the kernels that may come out, such as 3x2 or 1x3; none given: any. dilated:
    whether rows may go from the middle, which leaves a dilated kernel. skip: patterns of layer names to leave alone.
    update: whether what stays is adapted on calibration data, to keep the layer's outputs.
    """

    claim = Claim.LOSSY
    requires = ("clean",)

    ratio: Annotated[float, Range(0, below=1)] = 1 / 3
    scope: Literal["layer", "global"] = "layer"
    shapes: list[str] = field(default_factory=list)
    dilated: bool = True
    skip: list[str] = field(default_factory=list)
    update: bool = False

    def __post_init__(self) -> None:
        for shape in self.shapes:
            if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
                raise BadOption(
                    "option shapes does not fit", pass_name=self.name, expected="3x2, 1x3, ...", found=shape
                )
        self.needs_data = self.update

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        chosen = self.plan(model, ctx.verified.analysis, report)
        if self.update:
            views = adapted(model, ctx, [(kernel.layer, kernel.dropped(steps)) for kernel, steps in chosen], report)
            for (kernel, _), view in zip(chosen, views, strict=True):
                kernel.layer.store(view)
        for kernel, steps in chosen:
            kernel.cut(steps, report)
        return report

    def plan(self, model: Model, analysis: Analysis, report: Report) -> list[tuple[Kernel, Steps]]:
        """Which convolutions are cut, and what stays of each kernel. Changes nothing; refusals go to `report`."""
        kernels = []
        for layer in layers(model, analysis, self.skip, report):
            if layer.nodes[0].op == "ConvTranspose":
                report.refuse(layer.name, "only kernels of Conv are cut")
            elif layer.nodes[0].op == "Conv" and layer.layout.positions > 1:
                kernel = Kernel.read(layer, analysis, self.shapes, self.dilated)
                if isinstance(kernel, str):
                    report.refuse(layer.name, kernel)
                else:
                    kernels.append(kernel)
        return self._by_layer(kernels, report) if self.scope == "layer" else self._together(kernels, report)

    def _by_layer(self, kernels: list[Kernel], report: Report) -> list[tuple[Kernel, Steps]]:
        chosen = []
        for kernel in kernels:
            small = [s for s in kernel.energy if area(s) <= (1 - self.ratio) * kernel.area + 1e-6]
            if small and self.ratio:
                chosen.append((kernel, max(small, key=lambda s: (kernel.energy[s], -area(s)))))
            elif self.ratio:
                report.refuse(kernel.layer.name, f"no allowed kernel is smaller than {kernel.text} by {self.ratio:.1%}")
        return chosen

    def _together(self, kernels: list[Kernel], report: Report) -> list[tuple[Kernel, Steps]]:
        """Go down the convex hulls of energy lost over MACs saved, the cheapest step first, until enough is saved."""
        offers = []
        for k, kernel in enumerate(kernels):
            offers += [(slope, k, saved, steps) for slope, saved, steps in kernel.hull()]
        goal = self.ratio * sum(kernel.macs for kernel in kernels)
        saved: dict[int, tuple[float, Steps]] = {}
        for _, k, saving, steps in sorted(offers, key=lambda offer: offer[:3]):
            if sum(s for s, _ in saved.values()) >= goal - 1e-6:
                break
            saved[k] = saving, steps
        reached = sum(s for s, _ in saved.values())
        if reached < goal - 1e-6:
            report.note(f"no more than {reached / sum(k.macs for k in kernels):.1%} could be removed")
        return [(kernels[k], steps) for k, (_, steps) in sorted(saved.items())]


def area(steps: Steps) -> int:
    """How many positions a kernel of these steps has."""
    return prod(map(len, steps))


@dataclass
class Kernel:
    """One kernel with the ways in which it can be cut.

    pads: for each reader, (begin, end) of each spatial axis by the positions that stay there. energy: share of the
    weights' sum of squares that stays, by positions; only smaller kernels.
    """

    layer: Layer
    size: tuple[int, ...]
    pads: list[tuple[Mapping[range, tuple[int, int]], ...]]
    energy: dict[Steps, float]
    macs: int

    @property
    def area(self) -> int:
        return prod(self.size)

    @property
    def text(self) -> str:
        return "x".join(map(str, self.size))

    @classmethod
    def read(cls, layer: Layer, analysis: Analysis, shapes: list[str], dilated: bool) -> Kernel | str:
        """The kernel of `layer`, or why it cannot be cut."""
        size = layer.tensor.values.shape[2:]
        pads = []
        for node in layer.nodes:
            one = _reader(node, analysis, size)
            if isinstance(one, str):
                return one
            pads.append(one)
        choices = [[s for s in _progressions(k) if all(s in p[d] for p in pads)] for d, k in enumerate(size)]
        power = np.square(layer.tensor.values, dtype=np.float64).sum((0, 1))
        power /= power.sum() or 1.0
        energy = {
            steps: float(power[np.ix_(*steps)].sum())
            for steps in product(*choices)
            if area(steps) < prod(size)
            and (not shapes or "x".join(str(len(s)) for s in steps) in shapes)
            and (dilated or all(s.step == 1 for s in steps))
        }
        if not energy:
            text = "x".join(map(str, size))
            return f"no allowed kernel fits: cutting {text} would need its input cropped, or the options rule it out"
        return cls(layer, size, pads, energy, sum(node_macs(analysis, node) for node in layer.nodes))

    def hull(self) -> list[tuple[float, float, Steps]]:
        """(energy lost per MAC saved, MACs saved in all, positions) along the convex hull, whole kernel first."""
        best: dict[int, tuple[float, Steps]] = {}
        for steps, energy in self.energy.items():
            if area(steps) not in best or energy > best[area(steps)][0]:
                best[area(steps)] = energy, steps
        at, kept, found = self.area, 1.0, []
        while smaller := [a for a in best if a < at]:
            slopes = {a: (kept - best[a][0]) / (at - a) for a in smaller}
            at = min(smaller, key=lambda a: (slopes[a], a))
            kept = best[at][0]
            found.append((slopes[at] * self.area / max(self.macs, 1), self.macs * (1 - at / self.area), best[at][1]))
        return found

    def cut(self, steps: Steps, report: Report) -> None:
        """Keep these positions: a smaller weight, and pads and dilations to match, in every reader."""
        values = self.layer.tensor.values
        small = values[(slice(None), slice(None), *(slice(s.start, s.stop, s.step) for s in steps))]
        self.layer.tensor.values = read_only(np.ascontiguousarray(small))
        rank = len(steps)
        for node, pads in zip(self.layer.nodes, self.pads, strict=True):
            ends = [pads[d][s] for d, s in enumerate(steps)]
            dilations = node.attrs.get("dilations") or [1] * rank
            node.attrs["dilations"] = [d * s.step if len(s) > 1 else 1 for d, s in zip(dilations, steps, strict=True)]
            node.attrs["pads"] = [b for b, _ in ends] + [e for _, e in ends]
            node.attrs["kernel_shape"] = [len(s) for s in steps]
            node.attrs.pop("auto_pad", None)
            shape = "x".join(str(len(s)) for s in steps)
            report.edit(node.name, f"{self.text} -> {shape}, which holds {self.energy[steps]:.1%} of its energy")

    def dropped(self, steps: Steps) -> np.ndarray:
        """The positions that go, as a mask [positions] on the last axis of the common view."""
        gone = np.ones(self.size, bool)
        gone[np.ix_(*steps)] = False
        return gone.ravel()


def _progressions(k: int) -> list[range]:
    """Every progression of positions below `k`; a single position has step 1."""
    found = [range(a, a + 1) for a in range(k)]
    for n in range(2, k + 1):
        for step in range(1, (k - 1) // (n - 1) + 1):
            found += [range(a, a + (n - 1) * step + 1, step) for a in range(k - (n - 1) * step)]
    return found


def _reader(node: gs.Node, analysis: Analysis, size: tuple[int, ...]):
    """For each spatial axis of one Conv, the pads by the positions that may stay; or why there are none."""
    rank = len(size)
    shape, out = analysis.shape(node.inputs[0].name), analysis.shape(node.outputs[0].name)
    if shape is None or out is None:
        return "its input has an unknown rank"
    strides, dilations = (node.attrs.get(a) or [1] * rank for a in ("strides", "dilations"))
    pads = explicit_pads(node, shape[2:], size, strides, dilations)
    if pads is None:
        return "auto_pad with an unknown extent"
    found = []
    for d, k in enumerate(size):
        b, e = pads[d], pads[d + rank]
        allowed = {}
        for s in _progressions(k):
            ends = _ends(s, k, b, e, dilations[d], strides[d], shape[2 + d], out[2 + d])
            if ends is not None:
                allowed[s] = ends
        found.append(allowed)
    return tuple(found)


def _ends(
    s: range, k: int, b: int, e: int, dilation: int, stride: int, x: Extent, out: Extent
) -> tuple[int, int] | None:
    """The pads that give the same outputs from the positions `s` of `k` alone, or None."""
    b, e = b - s.start * dilation, e - (k - 1 - s[-1]) * dilation
    if b < 0:
        return None
    if e < 0:
        reach = dilation * (s[-1] - s.start) + 1
        if not isinstance(x, int) or not isinstance(out, int) or (x + b - reach) // stride + 1 != out:
            return None
        e = 0
    return b, e
