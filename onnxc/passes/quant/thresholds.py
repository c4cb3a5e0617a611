"""BatchNorm and binarisation behind a product of integers: one whole-numbered threshold for each channel.

    q -> Conv(w = s n) -> BatchNormalization, Mul, Add ... [-> MaxPool] -> Binarize
    q -> Conv(w = +-n, bias = -+t)                                       -> Binarize [-> MaxPool]

A product of inputs a m (m whole, a the input's scale) and weights s n (n whole, s > 0 of each output) is a s p, p whole.
What follows it is v = A p + B for each output, and v >= 0 holds

    A > 0:   where p >= -B / A,  so where  p - t >= 0,  t = ceil(-B / A)
    A < 0:   where p <= -B / A,  so where -p + t >= 0,  t = floor(-B / A): the signs of the weights turn
    A = 0:   everywhere or nowhere, as B is

(where a sum can fall on -B / A itself float arithmetic decides by its rounding, and the chain is left as it is), so that
the new weights are n or -n and the bias is -t or t. |p| is at most P = sum |n| max |m|, which bounds t. With a = 1
all of this is exact in float32 below 2^24; else the bias lies half a unit off, a (1/2 - t) or a (1/2 + t), out of reach of
rounding. Binarize is monotone, so MaxPool(Binarize(v)) = Binarize(MaxPool(v)): bits are pooled instead of numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ...ir import functions
from ...ir.model import Model
from ...ir.verify import Verified
from ..base import Report
from ..editor import Editor
from ..fuse.affine import AFFINE, affine_of, per_channel
from ..layers.linear import has_input
from .few_bits import integers, stored_weight

EXACT = 1 << 23
TIE = 1e-5
"""How near to a whole number, relative to it, a threshold leaves a sum there to the rounding of floats."""
MOVES = ("Pad", "MaxPool", "Identity", "Flatten", "Reshape", "Squeeze", "Transpose")
"""What may stand between a quantiser and a product: it keeps whole numbers whole."""


@dataclass
class Chain:
    """A product whose result ends in Binarize. factor, shift: v = factor * product + shift, float64 [outputs]; pools:
    MaxPool nodes, product first; links: all the nodes in between."""

    product: gs.Node
    end: gs.Node
    factor: np.ndarray
    shift: np.ndarray
    pools: list[gs.Node]
    links: list[gs.Node]


def input_levels(node: gs.Node) -> tuple[float, float] | None:
    """(scale, largest whole number) of the values that input 0 of `node` can have, or None: they are no such levels."""
    t, padded = node.inputs[0], 0.0
    for _ in range(16):
        maker = t.inputs[0] if isinstance(t, gs.Variable) and t.inputs else None
        if maker is None:
            return None
        if functions.calls(maker, "Binarize"):
            return 1.0, max(1.0, abs(padded))
        if functions.calls(maker, "Quantize"):
            scale, low, high = (t.values if isinstance(t, gs.Constant) else None for t in maker.inputs[1:4])
            if scale is None or low is None or high is None or scale.size != 1 or padded:
                return None
            return float(scale.item()), float(max(abs(low.item()), abs(high.item())))
        if maker.domain or maker.op not in MOVES:
            return None
        if maker.op == "Pad":
            value = maker.inputs[2].values if has_input(maker, 2) and isinstance(maker.inputs[2], gs.Constant) else None
            if has_input(maker, 2) and value is None:
                return None
            padded = float(value.item()) if value is not None else maker.attrs.get("value", 0.0)
            if not float(padded).is_integer() or maker.attrs.get("mode", "constant") != "constant":
                return None
        t = maker.inputs[0]
    return None


def chain(e: Editor, end: gs.Node) -> Chain | str | None:
    """What leads from a product to `end`, a Binarize; a text says why it cannot be fused, None that there is no product."""
    t, links, pools, affine = end.inputs[0], [], [], []
    while True:
        maker = t.inputs[0] if isinstance(t, gs.Variable) and t.inputs else None
        if maker is None or not e.model.is_standard(maker, *AFFINE, "MaxPool", "Conv", "Gemm", "MatMul"):
            return None
        if not e.alone(t):
            return f"{maker.op} {maker.name} ahead of it has other readers" if maker.op in AFFINE else None
        if maker.op in ("Conv", "Gemm", "MatMul"):
            break
        links.append(maker)
        if maker.op == "MaxPool":
            if len([o for o in maker.outputs if o.name]) > 1 or maker.attrs.get("storage_order", 0):
                return "its MaxPool gives indices too"
            pools.append(maker)
            t = maker.inputs[0]
            continue
        found = affine_of(e, maker)
        if found is None:
            return None
        affine.append(found)
        t = found.x
    w = stored_weight(maker.inputs[1]) if len(maker.inputs) > 1 else None
    if w is None or w.ndim < 2:
        return None
    outputs = _outputs(maker, w)
    factor, shift = np.ones(outputs), np.zeros(outputs)
    rank = e.rank(maker.outputs[0])
    if rank is None:
        return None
    for one in affine[::-1]:
        parts = [per_channel(v, rank, _channel_axis(maker, rank), outputs) for v in (one.a, one.b)]
        if any(p is None and v is not None for p, v in zip(parts, (one.a, one.b), strict=True)):
            return "a factor ahead of it is not per channel"
        factor, shift = factor * (1 if parts[0] is None else parts[0]), shift * (1 if parts[0] is None else parts[0])
        shift = shift + (0 if parts[1] is None else parts[1])
    return Chain(maker, end, factor, shift, pools[::-1], links)


def _outputs(node: gs.Node, w: np.ndarray) -> int:
    return w.shape[0 if node.op == "Conv" or node.attrs.get("transB", 0) else -1]


def _channel_axis(node: gs.Node, rank: int) -> int:
    return 1 if node.op == "Conv" else rank - 1


def fuse(model: Model, verified: Verified, report: Report) -> int:
    """Turn every such chain of `model` into a threshold; returns how many were."""
    e = Editor(model, verified, report)
    done = 0
    for end in [n for n in model.nodes if functions.calls(n, "Binarize")]:
        found = chain(e, end)
        if isinstance(found, str):
            report.refuse(end.name, f"no threshold by channel: {found}")
        elif found is not None:
            done += _fuse(model, found, report)
    return done


def _fuse(model: Model, found: Chain, report: Report) -> bool:
    node, end = found.product, found.end
    levels = input_levels(node)
    if levels is None:
        return False
    if node.op == "Gemm" and (node.attrs.get("alpha", 1.0) != 1 or node.attrs.get("transA", 0)):
        report.refuse(end.name, f"no threshold by channel: {node.name} has factors of its own")
        return False
    w = stored_weight(node.inputs[1])
    turned = node.op != "Conv" and not node.attrs.get("transB", 0)
    if w is None or (turned and w.ndim != 2):
        return False
    rows = (w.T if turned else w).reshape(_outputs(node, w), -1)
    parts = integers(rows)
    if parts is None:
        return False
    scale, whole = parts[0][:, 0], parts[1]
    bias = _bias(node, len(rows))
    if bias is None:
        report.refuse(end.name, f"no threshold by channel: the bias of {node.name} is computed")
        return False
    most = np.abs(whole).sum(1) * levels[1]
    if most.max(initial=0) >= EXACT:
        report.refuse(end.name, "no threshold by channel: its sums are not exact in float32")
        return False
    factor, shift = found.factor * scale * levels[0], found.factor * bias + found.shift
    if (found.links or not _exact(scale * levels[0])) and _undecided(factor, shift, most):
        report.refuse(
            end.name, "no threshold by channel: a sum may fall on its threshold, where float rounding decides"
        )
        return False
    sign, offset = thresholds(factor, shift, most)
    new = (whole * sign[:, None]).astype(np.float32)
    new_bias = offset if levels[0] == 1 else levels[0] * (offset + 0.5)
    if not found.links and np.array_equal(new, rows) and np.allclose(new_bias, bias, rtol=1e-6, atol=1e-6):
        return False
    _rewrite(model, found, (new.T if turned else new).reshape(w.shape), new_bias.astype(np.float32))
    flips = int((sign < 0).sum())
    report.edit(end.name, f"{len(found.links)} nodes between {node.name} and it become whole thresholds of "
                f"{len(rows)} channels" + (f", {flips} of them turned" if flips else ""))  # fmt: skip
    return True


def thresholds(factor: np.ndarray, shift: np.ndarray, most: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sign, offset), float64 [outputs]: factor p + shift >= 0 exactly where sign p + offset >= 0, for whole |p| <= most."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        root = -shift / factor
    t = np.where(factor > 0, np.ceil(root), np.floor(root))
    t = np.where(factor == 0, np.where(shift >= 0, -most - 1, most + 1), t)
    t = np.clip(t, -most - 1, most + 1)
    sign = np.where(factor < 0, -1.0, 1.0)
    return sign, -sign * t + 0.0


def _undecided(factor: np.ndarray, shift: np.ndarray, most: np.ndarray) -> bool:
    """Whether factor p + shift comes to zero, but for rounding, for some whole |p| <= most."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        root = np.where(factor == 0, np.inf, -shift / factor)
    near = np.abs(root) <= most + 0.5
    gap = np.abs(root - np.rint(np.where(near, root, 0.0)))
    return bool((near & (gap <= TIE * np.maximum(np.abs(root), 1))).any())


def _exact(scale: np.ndarray) -> bool:
    """Whether whole multiples of each scale add up without rounding: powers of two."""
    return bool((np.frexp(scale)[0] == 0.5).all())


def _bias(node: gs.Node, outputs: int) -> np.ndarray | None:
    """The stored bias as float64 [outputs], zeros where there is none; None where it is no constant."""
    if node.op == "MatMul" or not has_input(node, 2):
        return np.zeros(outputs)
    if not isinstance(node.inputs[2], gs.Constant) or node.inputs[2].values.size not in (1, outputs):
        return None
    return np.broadcast_to(node.inputs[2].values.astype(np.float64).ravel() * node.attrs.get("beta", 1.0), (outputs,))


def _rewrite(model: Model, found: Chain, w: np.ndarray, bias: np.ndarray) -> None:
    """The product with its new weight and bias, Binarize at once behind it, the pools behind that."""
    node, end = found.product, found.end
    node.inputs[1] = model.constant(f"{node.name}_whole", w)
    home = model.constant(f"{node.name}_threshold", bias)
    result = node.outputs[0]
    if node.op == "MatMul":
        result = model.node("Add", [result, home], before=end).outputs[0]
    elif len(node.inputs) > 2:
        node.inputs[2] = home
    else:
        node.inputs.append(home)
    if node.op == "Gemm":
        node.attrs.pop("beta", None)
    end.inputs[0] = result
    last = end.outputs[0]
    at = next(i for i, n in enumerate(model.nodes) if n is end)
    following = model.nodes[at + 1] if at + 1 < len(model.nodes) else None
    if found.pools:
        inner = model.variable(f"{end.name}_bits")
        end.outputs[0] = inner
        for pool in found.pools[:-1]:
            inner = model.node("MaxPool", [inner], attrs=pool.attrs, before=following).outputs[0]
        model.node("MaxPool", [inner], [last], attrs=found.pools[-1].attrs, before=following)
    model.drop_dead()
