"""Affine nodes into the linear operators before and after them.

After:   a*(W x + bias) + b  =  (a W) x + (a bias + b)               a and b run over output channels
Before:  W (a x + b) + bias  =  (W a) x + (bias + sum W b)           a and b run over input channels

The second sum over input channels and taps is the same at every place only where no tap falls on padding: a padded zero
is not a*0 + b. So b must be 0, or the convolution unpadded; or b passes through the padding unharmed in the form
a*(x + b/a): the factor goes into W, and x + b/a, which padding follows as before, stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.evaluate import core
from ..editor import Editor, alike, size
from ..layers.layout import PRODUCTS, Layout, layout
from .affine import AFFINE, Affine, affine_of, aligned, busy, is_float, per_channel, store

GAIN = 16.0
CANCELS = 256.0
"""W (x - m) = W x - W m cancels: with |m| by so much above the spread of x, 8 of the 24 bits of float32 are lost. The
spread is a batch normalisation's scale, else taken for 1; 8-bit pictures stay below."""


@dataclass
class Weights:
    """The weights of a linear node, how they are stored, and the channel axis and rank of its output."""

    values: np.ndarray
    layout: Layout
    axis: int
    rank: int

    @property
    def outputs(self) -> int:
        return self.layout.groups * self.layout.outputs

    @property
    def inputs(self) -> int:
        return self.layout.groups * self.layout.channels

    def scaled(self, vector: np.ndarray, *, inward: bool) -> np.ndarray | None:
        """W times a vector over its output (or input) channels, in the type of W; None where it overflows."""
        return product(self.values, vector if vector.ndim == 0 else self.layout.factor(vector, inward=inward))


def product(w: np.ndarray, factor: np.ndarray) -> np.ndarray | None:
    """w * factor rounded once to the type of w, computed once for each repeated element; None where it overflows."""
    shape = w.shape
    small = core(w)
    if small.shape != shape:
        wide = np.broadcast_shapes(small.shape, factor.shape)
        out = product(small if small.shape == wide else np.ascontiguousarray(np.broadcast_to(small, wide)), factor)
        return None if out is None else np.broadcast_to(out, shape)
    out = np.empty(shape, w.dtype)
    with np.errstate(over="ignore"):
        np.multiply(w, factor, out=out, casting="same_kind", dtype=np.float64)
    # a float16 weight may leave its range; float32 and float64 ones do so only by a factor that is itself absurd
    if (w.dtype == np.float16 or np.abs(factor).max(initial=0) > 1e6) and not np.all(np.isfinite(out)):
        return None
    return out


def weights_of(e: Editor, node: gs.Node) -> Weights | None:
    """The constant weights of a linear node, or None."""
    t = node.inputs[1] if len(node.inputs) > 1 else None
    if not isinstance(t, gs.Constant) or not is_float(t.values):
        return None
    conv = node.op in ("Conv", "ConvTranspose")
    if t.values.ndim < 3 if conv else t.values.ndim != 2:
        return None
    at, rank = layout(node), e.rank(node.outputs[0]) if node.op == "MatMul" else len(t.values.shape)
    return None if rank is None else Weights(t.values, at, 1 if conv else rank - 1, rank)


def bias_of(node: gs.Node, w: Weights) -> np.ndarray | None:
    """The bias as a float64 vector over output channels (beta of Gemm counted in); None where it is computed."""
    t = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    if t is None:
        return np.zeros(w.outputs)
    if not isinstance(t, gs.Constant) or not is_float(t.values):
        return None
    if node.op != "Gemm":
        return t.values.astype(np.float64)
    vector = per_channel(t.values, w.rank, w.axis, w.outputs)
    if vector is None:
        return None
    return np.broadcast_to(vector.astype(np.float64) * node.attrs.get("beta", 1.0), (w.outputs,))


def _vectors(now: Affine, w: Weights, channels: int) -> tuple | None:
    """a and b over channels (None: absent); None where one of them varies otherwise."""
    got = []
    for v in (now.a, now.b):
        vector = None if v is None else per_channel(v, w.rank, w.axis, channels)
        if v is not None and vector is None:
            return None
        got.append(vector)
    return tuple(got)


def set_bias(e: Editor, node: gs.Node, bias: np.ndarray) -> None:
    """Give a linear node a bias vector; beta of Gemm becomes 1."""
    if len(node.inputs) > 2 and isinstance(node.inputs[2], gs.Constant):
        e.model.set_weight(node, 2, bias)
    else:
        e.set_inputs(node, [*node.inputs[:2], e.constant(f"{node.name}_bias", bias)])
    node.attrs.pop("beta", None)


def fold_shared(e: Editor, node: gs.Node) -> bool:
    """Fold one of several BatchNormalizations that read one linear node; the others read its result (see `_rebase`)."""
    return node.op == "BatchNormalization" and fold_after(e, node, shared=True)


def fold_after(e: Editor, node: gs.Node, *, shared: bool = False) -> bool:
    """Fold an affine node into the linear node that makes its input."""
    if node.op not in AFFINE:
        return False
    now = affine_of(e, node)
    if now is None:
        return False
    maker = e.producer(now.x, *PRODUCTS)
    if maker is None:
        return _through_add(e, node, now)
    w = weights_of(e, maker)
    if w is None:
        return e.refuse(node, f"the weights of {maker.name} are no constant")
    got = _vectors(now, w, w.outputs)
    if got is None:
        return e.refuse(node, "its constant is not per channel")
    a, b = got
    if not e.alone(now.x) and not (shared and _rebase(e, node, now, a, b)):
        return e.refuse(node, busy(e, now.x, maker))
    if maker.op == "MatMul":
        return _after_matmul(e, node, maker, w, a, b)
    bias = bias_of(maker, w)
    if bias is None:
        return e.refuse(node, f"the bias of {maker.name} is no constant vector")
    had = len(maker.inputs) > 2 and bool(maker.inputs[2].name)
    new_bias = (
        store((bias if a is None else bias * a) + (0 if b is None else b), w.values.dtype)
        if had or b is not None
        else None
    )
    new = w.values if a is None else w.scaled(a, inward=False)
    if new is None or (new_bias is None and (had or b is not None)):
        return e.refuse(node, f"folded into {maker.name} a weight overflows")
    name, op = node.name, node.op
    if not e.bypass(node, now.x):
        return False
    if a is not None:
        e.model.set_weight(maker, 1, new)
    if new_bias is not None:
        set_bias(e, maker, new_bias)
    e.edited(name, f"{op} folded into {maker.name}")
    return True


def _rebase(e: Editor, node: gs.Node, now: Affine, a, b) -> bool:
    """Let the other readers of c read y = a*c + b, the output of `node`, which can then be folded: one node fewer.

    They must all be BatchNormalizations, a'*c + b' = (a'/a)*y + (b' - b*a'/a): done where no rounding is magnified,
    that is where a'/a and the shift that cancels stay within GAIN of what stood there before.
    """
    others = [n for n in now.x.outputs if n is not node]
    if node.op != "BatchNormalization" or e.is_output(now.x) or e.is_output(node.outputs[0]) or not np.all(a):
        return False
    plans = []
    for other in others:
        theirs = affine_of(e, other) if other.op == "BatchNormalization" else None
        if theirs is None or theirs.a is None or theirs.b is None:
            return False
        scale, _, mean, _ = (t.values for t in other.inputs[1:5])
        c, d = theirs.a.reshape(-1), theirs.b.reshape(-1)
        ratio = c / a
        limit = GAIN * max(np.abs(c).max(), np.abs(d).max())
        if np.abs(ratio).max() > GAIN or np.abs(ratio * b).max() > limit:
            return False
        new, bias = store(scale / a, scale.dtype), store(d - ratio * b + ratio * mean, scale.dtype)
        if new is None or bias is None:
            return False
        plans.append((other, new, bias))
    for other, scale, bias in plans:
        e.set_input(other, 0, node.outputs[0])
        e.model.set_weight(other, 1, scale)
        e.model.set_weight(other, 2, bias)
        e.edited(other, f"reads {node.name} instead of what both read")
    return True


def _after_matmul(e: Editor, node: gs.Node, maker: gs.Node, w: Weights, a, b) -> bool:
    """MatMul takes a factor; a shift stays behind as Add."""
    if a is None:
        return False
    new = w.scaled(a, inward=False)
    shift = None if b is None else store(aligned(np.broadcast_to(b, (w.outputs,)), w.rank, w.axis), w.values.dtype)
    if new is None or (b is not None and shift is None):
        return e.refuse(node, f"folded into {maker.name} a weight overflows")
    name = node.name
    if shift is not None:
        e.rewrite(node, "Add", [maker.outputs[0], e.constant(f"{node.name}_shift", shift)])
    elif not e.bypass(node, maker.outputs[0]):
        return False
    e.model.set_weight(maker, 1, new)
    e.edited(name, f"its factor is folded into {maker.name}")
    return True


def _through_add(e: Editor, node: gs.Node, now: Affine) -> bool:
    """(x W + d)*a + b -> x (W a) + (d*a + b), where an Add stands between MatMul and the factor."""
    if now.a is None:
        return False
    add = e.producer(now.x, "Add", "Sub")
    before = affine_of(e, add) if add is not None and e.alone(now.x) else None
    if before is None or before.a is not None or not e.alone(before.x):
        return False
    maker = e.producer(before.x, "MatMul")
    w = weights_of(e, maker) if maker is not None else None
    if maker is None or w is None:
        return False
    got, under = _vectors(now, w, w.outputs), _vectors(before, w, w.outputs)
    if got is None or under is None:
        return e.refuse(node, "its constant is not per channel")
    a, b = got
    new = w.scaled(a, inward=False)
    shift = store(np.broadcast_to(under[1] * a + (0 if b is None else b), (w.outputs,)), w.values.dtype)
    if new is None or shift is None:
        return e.refuse(node, f"folded into {maker.name} a weight overflows")
    e.rewrite(node, "Add", [maker.outputs[0], e.constant(f"{node.name}_shift", shift)])
    e.model.set_weight(maker, 1, new)
    e.edited(node, f"its factor is folded into {maker.name}")
    return True


def unpadded(node: gs.Node) -> bool:
    """Whether no tap of a convolution falls on padding. SAME pads nothing for kernel 1: (ceil(n/s)-1)*s + 1 <= n."""
    auto = node.attrs.get("auto_pad", "NOTSET")
    if auto == "VALID":
        return True
    kernel = node.inputs[1].values.shape[2:]
    return all(k == 1 for k in kernel) if auto != "NOTSET" else not any(node.attrs.get("pads", ()))


def fold_before(e: Editor, node: gs.Node) -> bool:
    """Fold an affine node into the linear node that reads it."""
    if node.op not in PRODUCTS or not node.inputs:
        return False
    x = node.inputs[0]
    maker = e.producer(x, *AFFINE)
    now = affine_of(e, maker) if maker is not None else None
    if maker is None or now is None:
        return False
    w = weights_of(e, node)
    if w is None or (node.op == "Gemm" and node.attrs.get("transA", 0)):
        return False
    if not e.alone(x):
        why = "is a graph output" if e.is_output(x) else "has other readers"
        return e.refuse(maker, f"it is not folded into {node.name}, because its output {why}")
    rank = e.rank(x)
    if rank is None:
        return False
    got = _vectors(now, replace(w, axis=rank - 1 if node.op == "MatMul" else 1, rank=rank), w.inputs)
    if got is None:
        return e.refuse(maker, f"it is not folded into {node.name}, because its constant is not per channel")
    a, b = got
    if b is not None and np.any(b):
        if node.op in ("Conv", "Gemm") and (node.op == "Gemm" or unpadded(node)):
            spread = np.abs(maker.inputs[1].values).max() if maker.op == "BatchNormalization" else 1.0
            if np.abs(b).max() > CANCELS * spread:
                return e.refuse(
                    maker, f"it is not folded into {node.name}: a shift of {np.abs(b).max():g} would cost digits"
                )
            return _before(e, node, maker, now, w, a, b)
        if node.op in ("MatMul", "Gemm") or a is not None:
            return e.refuse(maker, f"it is not folded into {node.name}: its shift is not the same at every place")
        return _factor_below(e, node, maker, now, w)
    return _before(e, node, maker, now, w, a, None)


def _before(e: Editor, node: gs.Node, maker: gs.Node, now: Affine, w: Weights, a, b) -> bool:
    new = w.values if a is None else w.scaled(a, inward=True)
    bias = None
    if b is not None:
        old = bias_of(node, w)
        if old is None:
            return e.refuse(maker, f"the bias of {node.name} is no constant vector")
        bias = store(old + _summed(node, w, b), w.values.dtype)
    if new is None or (b is not None and bias is None):
        return e.refuse(maker, f"folded into {node.name} a weight overflows")
    e.set_input(node, 0, now.x)
    name = maker.name
    e.kill(maker)
    if a is not None:
        e.model.set_weight(node, 1, new)
    if bias is not None:
        set_bias(e, node, bias)
    e.edited(name, f"folded into {node.name}")
    return True


def _summed(node: gs.Node, w: Weights, b: np.ndarray) -> np.ndarray:
    """Sum over input channels and taps of W*b, for each output channel (alpha of Gemm counted in)."""
    b = np.broadcast_to(b, (w.inputs,)).reshape(w.layout.groups, -1)
    taps = w.layout.view(w.values.astype(np.float64)).sum(3)
    alpha = node.attrs.get("alpha", 1.0) if node.op == "Gemm" else 1.0
    return alpha * np.einsum("goc,gc->go", taps, b).reshape(-1)


def _factor_below(e: Editor, node: gs.Node, maker: gs.Node, now: Affine, w: Weights) -> bool:
    """conv(pad(a*x + b)) = (W a) conv(pad(x + b/a)): a factor under a shift goes into a padded convolution."""
    reason = f"it is not folded into {node.name}: padding is not shifted with it"
    under = e.producer(now.x, "Mul", "Div") if node.op == "Conv" else None
    scale = affine_of(e, under) if under is not None and e.alone(now.x) else None
    if under is None or scale is None or scale.a is None or now.b is None:
        return e.refuse(maker, reason)
    got = _vectors(scale, w, w.inputs)
    # a factor near zero would blow the shift up
    if got is None or np.any(np.abs(scale.a) < 1e-3):
        return e.refuse(maker, reason)
    shift, new = store(now.b / scale.a, w.values.dtype), w.scaled(got[0], inward=True)
    if shift is None or new is None:
        return e.refuse(maker, reason)
    e.rewrite(maker, "Add", [scale.x, e.constant(f"{maker.name}_shift", shift)])
    e.model.set_weight(node, 1, new)
    name = under.name
    e.kill(under)
    e.edited(name, f"its factor passes the shift {maker.name} and is folded into {node.name}")
    return True


def to_gemm(e: Editor, node: gs.Node) -> bool:
    """Add(MatMul(x, w), c) -> Gemm(x, w, c) for matrices, where the constant c broadcasts to the product's shape.

    Sub of a constant alike.
    """
    if node.op != "Add" and not (node.op == "Sub" and isinstance(node.inputs[1], gs.Constant)):
        return False
    for i in (0, 1) if node.op == "Add" else (0,):
        maker = e.producer(node.inputs[i], "MatMul")
        dtype = e.dtype(node.inputs[i])
        if maker is None or dtype is None or dtype.name not in ("float16", "float32", "float64"):
            continue
        if any(e.rank(t) != 2 for t in maker.inputs) or e.rank(node.outputs[0]) != 2:
            continue
        if not e.alone(node.inputs[i]):
            why = "is a graph output" if e.is_output(node.inputs[i]) else "has other readers"
            e.refuse(node, f"{maker.name} before it {why}")
            continue
        c = node.inputs[1 - i]
        if not isinstance(c, gs.Constant):  # quantisers take no product whose bias is computed
            e.refuse(node, "its other operand is computed, and so no bias of a product")
            continue
        rows = e.axes(c)
        if (
            rows is None
            or len(rows) > 2
            or not e.same_shape(node.inputs[i], node.outputs[0])
            or not _fits(e, rows, node)
        ):
            e.refuse(node, "its other operand does not surely broadcast to a product of matrices")
            continue
        if node.op == "Sub":
            c = e.constant(f"{node.name}_bias", -c.values)
        e.edited(node, f"{maker.name} and {node.op} become Gemm")
        e.rewrite(node, "Gemm", [*maker.inputs, c])
        return True
    return False


def _fits(e: Editor, axes, node: gs.Node) -> bool:
    out = e.axes(node.outputs[0])
    return out is not None and all(size(a) == 1 or alike(a, o) for a, o in zip(axes, out[2 - len(axes) :], strict=True))
