"""quant.smooth: outliers of what matrix products read move into their weights (SmoothQuant, Xiao 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Model, Tensor
from ..base import Claim, Context, Pass, Report, register
from ..options import Range
from .placement import single_reader

Site = tuple[gs.Node, int, int]
"""A constant that takes scales in: its node, which input, and the axis of the channels."""


@dataclass
class Smoothing:
    """A tensor [..., k] to be scaled: the products that read it, and the constants ahead of it that divide it."""

    tensor: gs.Variable
    readers: list[gs.Node]
    sites: list[Site]

    def tops(self) -> np.ndarray:
        """The largest weight that meets each channel, [k]."""
        return np.max([np.abs(n.inputs[1].values).max(1 - _rows(n)) for n in self.readers], axis=0)


@register("quant.smooth")
class Smooth(Pass):
    """Divide the channels of an activation by s and multiply the rows of the weights that read it by s.

    Before -> after, X [..., k], W [k, n], s > 0 [k]:

    1. LayerNormalization(gamma, beta) -> X -> MatMul(W)   ->   LayerNormalization(gamma / s, beta / s) -> MatMul(s W)
    2. Mul(gamma) -> Add(beta) -> MatMul, Gemm             ->   the same by the constants
    3. MatMul(V) -> Add(b) -> MatMul(W)                    ->   MatMul(V / s), Add(b / s), MatMul(s W)

    with s_j = max|X_j|^alpha / max|W_j|^(1 - alpha) (eq. 4 of Xiao 2023), rounded to a power of two: all numbers keep their
    digits, and the outputs their bits. A tensor is left alone that others than products with a stored weight read, or
    that no constant can scale.

    alpha: how much of the spread goes into the weights, 0 to 1.
    """

    alpha: Annotated[float, Range(0, 1)] = 0.5

    claim = Claim.EXACT
    requires = ("clean",)
    needs_data = True

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        found = _found(model, report)
        names = [one.tensor.name for one in found]
        top = {name: np.zeros(len(one.tops())) for name, one in zip(names, found, strict=True)}
        for batch in ctx.tensors(model, names) if names else ():
            for name in names:
                x = np.abs(batch[name]).reshape(-1, batch[name].shape[-1]).max(0, initial=0.0)
                top[name] = np.maximum(top[name], np.where(np.isfinite(x), x, 0.0))
        for one in found:
            exponent = self._exponents(top[one.tensor.name], one.tops())
            if not exponent.any():
                report.refuse(one.tensor.name, "its channels are alike already")
                continue
            for node, i, axis in one.sites:
                _scale(model, node, i, axis, -exponent)
            for node in one.readers:
                _scale(model, node, 1, _rows(node), exponent)
            readers = ", ".join(n.name for n in one.readers)
            spread = 2.0 ** float(np.ptp(exponent))
            report.edit(one.tensor.name, f"{len(exponent)} channels smoothed by up to {spread:g}, read by {readers}")
        return report

    def _exponents(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """log2 of s, whole numbers; 0 for channels of zeros."""
        live = (x > 0) & (w > 0)
        x, w = np.where(live, x, 1.0), np.where(live, w, 1.0)
        exponent = np.rint(self.alpha * np.log2(x) - (1 - self.alpha) * np.log2(w))
        middle = np.median(exponent[live]) if live.any() else 0.0
        # a factor common to all channels changes nothing: keep the numbers where they are
        return np.where(live, exponent - np.rint(middle), 0).astype(np.int64)


def _found(model: Model, report: Report) -> list[Smoothing]:
    found: list[Smoothing] = []
    for node in model.nodes:
        if not _reads(model, node) or any(node is n for one in found for n in one.readers):
            continue
        t = node.inputs[0]
        if model.is_output(t) or not all(_reads(model, n) and n.inputs[1] is not t for n in t.outputs):
            report.refuse(t.name, "not only products with a stored weight read it")
            continue
        sites = _sites(model, t, node.inputs[1].values.shape[_rows(node)])
        if sites is None:
            report.refuse(t.name, "no constant ahead of it scales its channels")
            continue
        found.append(Smoothing(t, list(t.outputs), sites))
    return found


def _reads(model: Model, node: gs.Node) -> bool:
    """A product of an activation with a stored float matrix."""
    if not model.is_standard(node, "MatMul", "Gemm") or node.attrs.get("transA", 0):
        return False
    x, w = node.inputs[:2]
    return (
        isinstance(x, gs.Variable) and isinstance(w, gs.Constant) and w.values.ndim == 2 and w.values.dtype.kind == "f"
    )


def _rows(node: gs.Node) -> int:
    """The axis of the weight that the product sums over."""
    return 1 if node.op == "Gemm" and node.attrs.get("transB", 0) else 0


def _sites(model: Model, t: Tensor, k: int) -> list[Site] | None:
    """The constants that scale the last axis of `t`, or None."""
    maker = t.inputs[0] if isinstance(t, gs.Variable) and t.inputs else None
    if maker is None or not model.is_standard(maker):
        return None
    if maker.op in ("Add", "Mul"):
        i = next((i for i, c in enumerate(maker.inputs) if _by_channel(c, k)), None)
        if i is None:
            return None
        other = maker.inputs[1 - i]
        ahead = [] if maker.op == "Mul" else _sites(model, other, k) if single_reader(model, other) else None
        return None if ahead is None else [(maker, i, -1), *ahead]
    if maker.op == "LayerNormalization":
        plain = maker.attrs.get("axis", -1) == -1 and len([o for o in maker.outputs if o.name]) == 1
        places = [i for i in (1, 2) if i < len(maker.inputs) and maker.inputs[i].name]
        return (
            [(maker, i, -1) for i in places] if plain and all(_by_channel(maker.inputs[i], k) for i in places) else None
        )
    if _reads(model, maker):
        bias = len(maker.inputs) > 2 and bool(maker.inputs[2].name)
        if bias and not _by_channel(maker.inputs[2], k):
            return None
        return [(maker, 1, 1 - _rows(maker)), *([(maker, 2, -1)] if bias else [])]
    return None


def _by_channel(c: Tensor, k: int) -> bool:
    """A stored float constant that is one number, or one for each of the k channels of the last axis."""
    if not isinstance(c, gs.Constant) or c.values.dtype.kind != "f":
        return False
    return c.values.size == 1 or c.values.shape[-1] == c.values.size == k


def _scale(model: Model, node: gs.Node, i: int, axis: int, exponent: np.ndarray) -> None:
    """Multiply a constant by 2^exponent along `axis`."""
    values = node.inputs[i].values
    if values.size == 1:
        shape = (*values.shape[:-1], len(exponent))
        scaled = np.ldexp(np.broadcast_to(values, shape), exponent)
    else:
        scaled = np.ldexp(
            values, np.expand_dims(exponent, tuple(d for d in range(values.ndim) if d != axis % values.ndim))
        )
    model.set_weight(node, i, scaled.astype(values.dtype))
