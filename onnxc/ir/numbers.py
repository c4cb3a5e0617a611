"""Reads what a tensor's values are: each operator on the way from what is stored turns one `Numbers` into another.

    int8 initialiser                      ->  8-bit integers
    Cast, Sub(zero), Mul(scale)           ->  the same, with zero point and scale, as weight-only quantisation is written
    DequantizeLinear(x, scale, zero)      ->  x, with scale and zero point by tensor, axis or block
    UnpackBits, Lookup, ProductLookup     ->  packed integers; indices into a codebook
    Binarize, Quantize, ResidualBinarize  ->  few-bit activations; QONNX's Quant, IntQuant and BipolarQuant likewise
    Reshape, Transpose, MaxPool, ...      ->  the same numbers in another order: `views`

Scales of QLinear, Integer and MatMulNBits operators stand beside their operands: `operand` and `result` read those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from ml_dtypes import finfo

from . import qonnx
from .evaluate import EVALUATORS
from .functions import code_shape, is_lookup, unpack_bits, weight_shape
from .graph import STANDARD, Tensor
from .qtype import QType, of_dtype

DEPTH = 64
"""Operators that are followed at most."""


@dataclass(frozen=True, eq=False)
class Numbers:
    """The values of a tensor.

    q: what its stored numbers stand for. stored: the tensor that holds them: an initialiser, packed where `packed`
    (`shape` is then the unpacked one), an integer tensor, or the floats that a quantiser, `rounded_by`, rounds. views:
    the nodes that move them afterwards, first to last; axis and block of `q` are those of `stored`.
    """

    q: QType
    stored: Tensor
    packed: bool = False
    shape: tuple[int, ...] | None = None
    rounded_by: gs.Node | None = None
    views: tuple[gs.Node, ...] = ()

    @property
    def constant(self) -> bool:
        """Whether `real` knows the values: they are stored in an initialiser, and their scales are too."""
        there = isinstance(self.stored, gs.Constant) and self.rounded_by is None
        return there and self.q.known and all(v.op in VIEWS for v in self.views)

    def integers(self) -> np.ndarray:
        """The stored numbers of a constant, unpacked (uint8), ahead of the views. Raises ValueError for a computed one."""
        if not isinstance(self.stored, gs.Constant) or self.rounded_by is not None:
            raise ValueError(f"{self.stored.name} is computed")
        if not self.packed or self.shape is None:
            return self.stored.values
        return unpack_bits(self.stored.values.reshape(-1, self.q.bits), prod(self.shape)).reshape(self.shape)

    def real(self) -> np.ndarray:
        """The values of a constant as the tensor has them, views applied. Raises ValueError for a computed one."""
        return self.view(self.q.real(self.integers()))

    def view(self, values: np.ndarray) -> np.ndarray:
        """`values`, of the stored shape (or that broadcast to it; of a `product` real ones), moved as the views do."""
        if self.q.form != "product":
            values = np.broadcast_to(values, self.shape or self.stored.values.shape)
        for node in self.views:
            given = [t.values if isinstance(t, gs.Constant) else None for t in node.inputs[1:]]
            values = EVALUATORS[node.op](node, [values, *given], OPSET_ANY)
        return values


OPSET_ANY = 13
"""The evaluators of views read attributes and operands alike, whatever the opset."""
VIEWS = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice")
MOVES = (*VIEWS, "MaxPool", "Pad", "Gather", "Expand")
"""Operators whose results are numbers of their first input (Pad adds its own)."""


def read(t: Tensor, types: dict[str, int] | None = None) -> Numbers | None:
    """What the values of `t` are; None for plain floats that are computed, and for whatever is not known.

    types: ONNX element types by tensor name, for integers that are computed.
    """
    chain: list[gs.Node] = []
    base: Numbers | None = None
    for _ in range(DEPTH):
        if isinstance(t, gs.Constant):
            base = None if t.values.dtype == object else Numbers(of_dtype(t.values.dtype), t, shape=t.values.shape)
            break
        if not t.inputs:
            base = _plain(t, types)
            break
        maker = t.inputs[0]
        key = _key(maker)
        if key in SOURCES:
            base = SOURCES[key](maker, t)
            break
        if (key not in STEPS and key not in MOVES) or maker.outputs[0] is not t:
            base = _plain(t, types)
            break
        chain.append(maker)
        t = maker.inputs[0] if key != "Mul" or not isinstance(maker.inputs[0], gs.Constant) else maker.inputs[1]
    for node in reversed(chain):
        if base is None:
            # what is not known says nothing of what follows, but for the type of integers
            zero = _constant(node, 2) if node.op == "DequantizeLinear" else None
            if zero is None:
                base = _plain(node.outputs[0], types)
                continue
            base = Numbers(of_dtype(zero.dtype), node.inputs[0])
        step = STEPS.get(node.op)
        base = step(base, node) if step else _moved(base, node)
    return base


def number_bits(t: Tensor, types: dict[str, int] | None = None) -> int:
    """Bits of the numbers that `t` carries: of the stored ones where it stands for such, else of its element type.

    A Lookup's are those of its packed indices, a quantiser's those that its levels need, one for each plane.
    """
    found = read(t, types)
    if found is not None:
        return found.q.bits
    kind = (types or {}).get(t.name)
    return of_dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).bits if kind and kind != onnx.TensorProto.STRING else 32


# what starts a chain


def _plain(t: Tensor, types: dict[str, int] | None) -> Numbers | None:
    kind = (types or {}).get(t.name)
    if not kind or kind == onnx.TensorProto.STRING:
        return None
    q = of_dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))
    return Numbers(q, t) if q.form == "whole" else None


def _quantize_linear(node: gs.Node, t: Tensor) -> Numbers:
    """The integers alone: a DequantizeLinear behind says what they stand for."""
    zero = _constant(node, 2)
    if zero is not None:
        return Numbers(of_dtype(zero.dtype), t)
    kind = node.attrs.get("output_dtype", 0) or onnx.TensorProto.UINT8
    return Numbers(of_dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)), t)


def _unpack(node: gs.Node, t: Tensor) -> Numbers | None:
    if not all(isinstance(i, gs.Constant) for i in node.inputs):
        return None
    packed = node.inputs[0]
    return Numbers(QType(packed.values.shape[1], False), packed, True, weight_shape(node))


def _lookup(node: gs.Node, t: Tensor) -> Numbers | None:
    if not is_lookup(node):
        return None
    codebook = node.inputs[-2]
    if node.op == "HashedLookup":
        bits = codebook.values.dtype.itemsize * 8
        return Numbers(QType(bits, form="float", known=False), codebook, False, weight_shape(node))
    packed, form = node.inputs[0], "product" if node.op == "ProductLookup" else "codebook"
    q = QType(packed.values.shape[1], False, codebook=codebook.values, form=form)
    return Numbers(q, packed, True, code_shape(node))


def _binarize(node: gs.Node, t: Tensor) -> Numbers:
    return Numbers(QType(1, form="bipolar"), node.inputs[0], rounded_by=node)


def _quantize(node: gs.Node, t: Tensor) -> Numbers | None:
    scale, low, high = (_constant(node, i) for i in (1, 2, 3))
    if low is None or high is None:
        return None
    ends = float(low.item()), float(high.item())
    bits = max(1, int(ends[1] - ends[0]).bit_length())
    q = QType(bits, ends[0] < 0, scale, limits=ends, known=scale is not None)
    return Numbers(q, node.inputs[0], rounded_by=node)


def _planes(node: gs.Node, t: Tensor) -> Numbers | None:
    scales = _constant(node, 1)
    if scales is None:
        return None
    fixed = node.op == "ResidualBinarize"
    q = QType(int(np.count_nonzero(scales)) or 1, scale=scales if fixed else None, form="planes", known=fixed)
    return Numbers(q, node.inputs[0], rounded_by=node)


def _qonnx(node: gs.Node, t: Tensor) -> Numbers | None:
    if not qonnx.is_quantiser(node) or node.op == "Trunc":
        return None
    scale = _constant(node, 1)
    if node.op == "BipolarQuant":
        q = QType(1, scale=scale, form="bipolar", known=scale is not None)
        return Numbers(q, node.inputs[0], rounded_by=node)
    signed, narrow, _ = qonnx.attributes(node)
    zero, bits = _constant(node, 2), _constant(node, 3)
    if bits is None or bits.size != 1 or not float(bits.item()).is_integer() or not 1 <= bits.item() <= 32:
        return None
    n, known = int(bits.item()), scale is not None and zero is not None
    if n == 1 and signed:
        q = QType(1, scale=scale, zero_point=zero, form="bipolar", known=known)
    else:
        q = QType(n, signed, scale, zero, limits=qonnx.levels(n, signed, narrow), known=known)
    return Numbers(q, node.inputs[0], rounded_by=node)


Source = Callable[[gs.Node, Tensor], "Numbers | None"]
SOURCES: dict[str, Source] = {
    "QuantizeLinear": _quantize_linear, "ai.onnxc.UnpackBits": _unpack, "ai.onnxc.Lookup": _lookup,
    "ai.onnxc.ProductLookup": _lookup,
    "ai.onnxc.HashedLookup": _lookup, "ai.onnxc.Binarize": _binarize, "ai.onnxc.Quantize": _quantize,
    "ai.onnxc.ResidualBinarize": _planes, "ai.onnxc.DynamicResidualBinarize": _planes,
    **{f"{d}.{op}": _qonnx for d in qonnx.DOMAINS for op in qonnx.OPERATORS},
}  # fmt: skip


# what goes on with it


def _bare(n: Numbers) -> bool:
    """Whether nothing but integers is known of `n` yet, so that a scale or zero point can still be theirs."""
    return n.q.form == "whole" and n.q.scale is None and n.rounded_by is None


def _dequantize(n: Numbers, node: gs.Node) -> Numbers | None:
    scale, zero = _constant(node, 1), _constant(node, 2)
    has_zero = len(node.inputs) > 2 and bool(node.inputs[2].name)
    if (
        n.q.zero_point is not None
        and n.q.zero_point.size == 1
        and (not has_zero or (zero is not None and not zero.any()))
    ):
        zero, has_zero = n.q.zero_point, True  # packed: it was taken off already
        n = replace(n, q=replace(n.q, zero_point=None))
    if not _bare(n) or n.q.zero_point is not None or any(v.op not in VIEWS for v in n.views):
        return None
    by_axis = scale is not None and scale.ndim > 0 and scale.size > 1
    axis = node.attrs.get("axis", 1) if by_axis else None
    if n.views and by_axis:
        return None  # its axis is one of the moved tensor
    known = scale is not None and (zero is not None or not has_zero)
    q = replace(n.q, scale=scale, zero_point=zero, axis=axis, block=node.attrs.get("block_size", 0), known=known)
    return replace(n, q=q)


def _cast(n: Numbers, node: gs.Node) -> Numbers | None:
    to = onnx.helper.tensor_dtype_to_np_dtype(node.attrs["to"])
    wide = of_dtype(to)
    if n.q.form == "codebook" and n.q.codebook is not None and wide.form == "float" and n.q.scale is None:
        return replace(n, q=replace(n.q, codebook=n.q.codebook.astype(to))) if wide.bits >= 32 else None
    if wide.form == "float":
        room = finfo(to).nmant + 1 if n.q.form == "whole" else wide.bits
        return n if n.q.bits <= room and (n.q.form == "whole" or wide.bits >= 32) else None
    holds = n.q.bits <= wide.bits if n.q.signed == wide.signed else wide.signed and n.q.bits < wide.bits
    return n if holds and _bare(n) else None


def _subtract(n: Numbers, node: gs.Node) -> Numbers | None:
    zero = _constant(node, 1)
    if zero is None or not _bare(n) or n.q.zero_point is not None or n.views or not _spreads(n, zero):
        return None
    if zero.dtype.kind == "f" and not np.array_equal(zero, np.rint(zero)):
        return None
    return replace(n, q=replace(n.q, zero_point=zero))


def _multiply(n: Numbers, node: gs.Node) -> Numbers | None:
    scale = _constant(node, 0)
    scale = _constant(node, 1) if scale is None else scale
    if n.q.form == "codebook" and n.q.codebook is not None and scale is not None and scale.size == 1 and not n.views:
        return replace(n, q=replace(n.q, codebook=n.q.codebook * scale.reshape(())))
    fits = n.q.form in ("whole", "float", "bipolar") and n.q.scale is None and n.q.axis is None and not n.views
    if scale is None or not fits or n.rounded_by is not None or scale.dtype.kind != "f" or not _spreads(n, scale):
        return None
    return replace(n, q=replace(n.q, scale=scale))


def _spreads(n: Numbers, factor: np.ndarray) -> bool:
    """Whether `factor` broadcasts to the stored numbers without making them more."""
    shape = n.shape or (n.stored.values.shape if isinstance(n.stored, gs.Constant) else None)
    if shape is None:
        return factor.size == 1
    try:
        return np.broadcast_shapes(shape, factor.shape) == tuple(shape)
    except ValueError:
        return False


STEPS: dict[str, Callable[[Numbers, gs.Node], Numbers | None]] = {
    "DequantizeLinear": _dequantize,
    "Cast": _cast,
    "Sub": _subtract,
    "Mul": _multiply,
}


def _moved(n: Numbers, node: gs.Node) -> Numbers:
    return replace(n, views=(*n.views, node))


def _key(node: gs.Node) -> str:
    return node.op if node.domain in STANDARD else f"{node.domain}.{node.op}"


def _constant(node: gs.Node, i: int) -> np.ndarray | None:
    t = node.inputs[i] if i < len(node.inputs) else None
    return t.values if isinstance(t, gs.Constant) else None


# scales that stand beside an operand


_PAIR = {0: (1, 2), 3: (4, 5)}
BESIDE: dict[str, dict[int, tuple[int, int]]] = {
    "QLinearConv": _PAIR, "QLinearMatMul": _PAIR, "com.microsoft.QLinearAdd": _PAIR, "com.microsoft.QLinearMul": _PAIR,
    "com.microsoft.QGemm": _PAIR, "ConvInteger": {0: (-1, 2), 1: (-1, 3)}, "MatMulInteger": {0: (-1, 2), 1: (-1, 3)},
    "com.microsoft.DynamicQuantizeMatMul": {1: (2, 3)}, "com.microsoft.DynamicQuantizeLSTM": {1: (8, 9), 2: (10, 11)},
    "com.microsoft.QLinearSigmoid": {0: (1, 2)}, "com.microsoft.QLinearLeakyRelu": {0: (1, 2)},
    "com.microsoft.QLinearSoftmax": {0: (1, 2)}, "com.microsoft.QLinearAveragePool": {0: (1, 2)},
    "com.microsoft.QLinearGlobalAveragePool": {0: (1, 2)},
}  # fmt: skip
"""Operator -> operand -> where its scale (-1: the product's reader knows it) and zero point stand."""
RESULTS = {
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "com.microsoft.QLinearAdd", "com.microsoft.QLinearMul"), (6, 7)),
    "com.microsoft.QGemm": (7, 8), "com.microsoft.QLinearConcat": (0, 1),
    **dict.fromkeys([k for k, v in BESIDE.items() if v == {0: (1, 2)}], (3, 4)),
}  # fmt: skip
_CHANNELS = {"QLinearConv": {3: 0}, "ConvInteger": {1: 0}}
"""Operands whose scales count along their first axis; matrices count columns, the last."""


def operand(node: gs.Node, i: int, types: dict[str, int] | None = None) -> Numbers | None:
    """What the values of input `i` of `node` are, by what produces it and by the scales that stand beside it."""
    key = _key(node)
    if key == "com.microsoft.QLinearConcat" and i >= 2 and (i - 2) % 3 == 0:
        places = i + 1, i + 2
    elif key in BESIDE and i in BESIDE[key]:
        places = BESIDE[key][i]
    else:
        return _block_weight(node) if key == "com.microsoft.MatMulNBits" and i == 1 else read(node.inputs[i], types)
    bare = read(node.inputs[i], types) or Numbers(QType(8, False, known=False), node.inputs[i])
    return replace(bare, q=_beside(bare.q, node, *places, _CHANNELS.get(key, {}).get(i, -1)))


def result(node: gs.Node, types: dict[str, int] | None = None) -> Numbers | None:
    """What the values of the first output of `node` are, by the scales among its inputs."""
    out, places = node.outputs[0], RESULTS.get(_key(node))
    if places is None:
        return read(out, types)
    zero = _constant(node, places[1])
    bare = of_dtype(zero.dtype) if zero is not None else (_plain(out, types) or Numbers(QType(8, False), out)).q
    return Numbers(_beside(bare, node, *places, -1), out)


def _beside(q: QType, node: gs.Node, scale_at: int, zero_at: int, axis: int) -> QType:
    scale, zero = _constant(node, scale_at) if scale_at >= 0 else None, _constant(node, zero_at)
    given = zero_at < len(node.inputs) and bool(node.inputs[zero_at].name)
    many = any(v is not None and v.size > 1 for v in (scale, zero))
    known = (scale is not None or scale_at < 0) and (zero is not None or not given)
    return replace(q, scale=scale, zero_point=zero, axis=axis if many else None, known=known)


def _block_weight(node: gs.Node) -> Numbers | None:
    """MatMulNBits: uint8 [N, blocks, bytes], scales [N·blocks], zero points packed likewise (default: the middle).

    The result is [N, K], K filled up to whole blocks.
    """
    bits, block = node.attrs.get("bits", 4), node.attrs["block_size"]
    shape, scale = (node.attrs["N"], node.attrs["K"]), _constant(node, 2)
    if scale is None or not isinstance(node.inputs[1], gs.Constant):
        return None
    blocks = -(-shape[1] // block)
    stored = _constant(node, 3)
    if stored is None:
        zero = np.full((shape[0], blocks), 1 << (bits - 1), np.uint8)
    elif stored.dtype == np.uint8:
        zero = _fields(stored.reshape(shape[0], -1), bits)[:, :blocks]
    else:
        zero = stored.reshape(shape[0], blocks)
    q = QType(bits, False, scale.reshape(shape[0], blocks), zero, 1, block=block)
    return Numbers(q, node.inputs[1], True, (shape[0], blocks * block))


def _fields(packed: np.ndarray, bits: int) -> np.ndarray:
    """Numbers of 2, 4 or 8 bits that stand in bytes, lowest first, along the last axis."""
    each = 8 // bits
    parts = [packed >> (bits * k) & ((1 << bits) - 1) for k in range(each)]
    return np.stack(parts, -1).reshape(*packed.shape[:-1], -1)
