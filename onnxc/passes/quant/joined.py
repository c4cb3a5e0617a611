"""Concats of unlike ranges: a shared scale would leave the weaker branches few levels, so they are enlarged ahead of it.

    Concat(a, b) -> MaxPool -> Conv(W)   ->   Concat(a, 2^n b) -> MaxPool -> Conv(W with b's columns / 2^n)

The factor goes into the product that makes the branch where that alone is read, else into a Mul. Powers of two: floats keep
their bits. How far is what the errors of activations and weights, estimated for independent roundings, are least for
(`channel_ranges.estimate`); where a reader keeps no scale, Concats whose branches would lose most of their bits stay in float.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Model
from ...ir.verify import verify
from ..base import Context, Report
from ..layers.layout import layout
from .channel_ranges import Seen, estimate
from .placement import single_reader
from .scaling import SAME, Class, classes, rescale, scalable

UNLIKE, LOST = 4.0, 64.0
"""Ranges of branches that differ by less are left; of those that nothing can be done for, by more, integers would keep 2 bits."""
STRENGTHS = tuple(i / 8 for i in range(9))


def balance(model: Model, ctx: Context, takes: Callable[[gs.Node], bool], bits: int, report: Report) -> set[str]:
    """Rescale branches in `model`; returns the names of the Concats that had better stay in float.

    takes: whether a node may be quantised. bits: of the weights to come.
    """
    joins = {n.name: n for n in model.nodes if model.is_standard(n, "Concat") and n.attrs.get("axis") == 1 and takes(n)}
    if not joins:
        return set()
    analysis = verify(model).analysis
    found = {c.makers[0].name: c for c in classes(model, analysis, set(joins)) if c.makers[0].name in joins}
    seen: dict[str, Seen] = {}
    names = [joins[name].outputs[0].name for name in found]
    for batch in ctx.tensors(model, names) if names else ():
        for name in names:
            seen.setdefault(name, Seen()).add(np.moveaxis(batch[name], 1, 0).reshape(batch[name].shape[1], -1))
    apart = set()
    for name, c in found.items():
        node = joins[name]
        shapes = [analysis.shape(t.name) or (None, None) for t in node.inputs]
        widths, at = [shape[1] for shape in shapes if isinstance(shape[1], int)], seen[node.outputs[0].name]
        if len(widths) < len(shapes) or not np.isfinite(at.power).all():
            continue
        parts = np.split(np.asarray(at.top), np.cumsum(widths)[:-1])
        tops = np.array([part.max() for part in parts])
        if not tops.max() or (spread := float(tops.max() / tops[tops > 0].min())) < UNLIKE:
            continue
        why = c.frozen or ("" if c.readers and len(c.makers) == 1 else "no product alone reads it")
        if why:
            if spread >= LOST:
                apart.add(name)
                report.note(f"{name} stays in float: ranges of its branches differ {spread:.3g} times, and {why}")
            continue
        factors = _factors(c, tops, widths, at, bits)
        if factors.max() > 1:
            text = ", ".join(f"{t.name} by {f:g}" for t, f in zip(node.inputs, factors, strict=True) if f > 1)
            _enlarge(model, node, c, factors, widths)
            report.note(
                f"{name}: ranges of its branches differ {spread:.3g} times: {text} enlarged, and read as much less"
            )
    if found:
        model.sort()
    return apart


def _factors(c: Class, tops: np.ndarray, widths: list[int], at: Seen, bits: int) -> np.ndarray:
    """Of each branch a power of two, 1 for the strongest."""
    name = next(iter(c.tensors))
    tried = []
    for strength in STRENGTHS:
        ratio = np.where(tops > 0, tops.max() / np.maximum(tops, np.finfo(np.float32).tiny), 1.0)
        factors = np.exp2(np.floor(strength * np.log2(ratio)))
        s = np.repeat(1 / factors, widths)
        tried.append((estimate(c, s, {name: at}, bits), strength, factors))
    return min(tried, key=lambda t: t[:2])[2]


def _enlarge(model: Model, node: gs.Node, c: Class, factors: np.ndarray, widths: list[int]) -> None:
    s = np.repeat(1 / factors, widths)
    for reader, repeat in c.readers:
        rescale(model, reader, np.repeat(s, repeat), None)
    for i, factor in enumerate(factors):
        if factor == 1:
            continue
        maker = _maker(model, node.inputs[i])
        if maker is not None:
            at = layout(maker)
            rescale(model, maker, None, np.full(at.groups * at.outputs, 1 / factor))
        else:
            t = node.inputs[i]
            scale = model.constant(f"{t.name}_factor", np.asarray(factor, np.float32))
            node.inputs[i] = model.node("Mul", [t, scale], name=f"{t.name}_enlarged", before=node).outputs[0]


def _maker(model: Model, t: gs.Variable) -> gs.Node | None:
    """The product whose outputs `t` is, but for operators that keep a scale, if nothing else reads them."""
    while isinstance(t, gs.Variable) and t.inputs and single_reader(model, t) is not None:
        maker = t.inputs[0]
        if scalable(model, maker):
            return maker
        if not model.is_standard(maker, *SAME) or len([o for o in maker.outputs if o.name]) > 1:
            return None
        t = maker.inputs[0]
    return None
