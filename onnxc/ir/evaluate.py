"""Evaluates standard operators on constants, in NumPy; what the table lacks goes to ONNX's reference evaluator.

Results are those of ONNX Runtime to the rounding of the last bit: sums and products of float32 are formed in float64.
Fills and views stay stride-0 arrays or views, so that a large constant costs nothing before it is written.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .values import attribute_array

Arrays = list["np.ndarray | None"]


class CannotFold(Exception):
    """This node is not evaluated ahead of time; the message says why."""


EVALUATORS: dict[str, Callable[[gs.Node, Arrays, int], np.ndarray]] = {}
"""Standard operator -> f(node, inputs, opset) -> the first output. It may raise CannotFold."""


def evaluator(*ops: str):
    """Enter a function into the table for these operators."""

    def enter(f):
        for op in ops:
            EVALUATORS[op] = f
        return f

    return enter


def evaluate(node: gs.Node, inputs: Arrays, opset: int) -> list[np.ndarray]:
    """The outputs of `node` on constant inputs (None for omitted ones). Raises CannotFold with a reason."""
    f = EVALUATORS.get(node.op)
    try:
        with np.errstate(all="ignore"):
            if f is not None and len(node.outputs) == 1:
                return [np.asarray(f(node, inputs, opset))]
            return _reference(node, inputs, opset)
    except (ValueError, TypeError, IndexError, KeyError, ZeroDivisionError, OverflowError, AttributeError) as e:
        raise CannotFold(f"it does not evaluate: {str(e).splitlines()[0] if str(e) else type(e).__name__}") from None
    except MemoryError:
        raise CannotFold("its result does not fit into memory") from None


def _reference(node: gs.Node, inputs: Arrays, opset: int) -> list[np.ndarray]:
    from onnx.reference import ReferenceEvaluator

    from .values import attribute_proto

    names = [f"i{k}" if v is not None else "" for k, v in enumerate(inputs)]
    outs = [f"o{k}" if t.name else "" for k, t in enumerate(node.outputs)]
    proto = onnx.NodeProto(op_type=node.op, input=names, output=outs)
    proto.attribute.extend(attribute_proto(k, v) for k, v in node.attrs.items())
    try:
        session = ReferenceEvaluator(proto, opsets={"": opset})
        got = session.run(None, {n: v for n, v in zip(names, inputs, strict=True) if n})
    except (RuntimeError, NotImplementedError) as e:
        raise CannotFold(f"the reference evaluator refuses it: {str(e).splitlines()[0]}") from None
    if not all(isinstance(v, np.ndarray | np.generic) for v in got):
        raise CannotFold("its result is no tensor")
    return [np.asarray(v) for v in got]


# how a function meets a stride-0 array


def core(values: np.ndarray) -> np.ndarray:
    """`values` with every repeated (stride-0) axis cut to extent 1."""
    if values.size and 0 in values.strides:
        return values[
            tuple(
                slice(0, 1) if s == 0 and n > 1 else slice(None)
                for s, n in zip(values.strides, values.shape, strict=True)
            )
        ]
    return values


def repeated(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`values` broadcast to `shape` without a copy."""
    return values if values.shape == shape else np.broadcast_to(values, shape)


def mapped(f, *arrays: np.ndarray) -> np.ndarray:
    """An elementwise `f` with broadcasting, computed once for each repeated element."""
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    return repeated(np.asarray(f(*map(core, arrays))), shape)


def wide(values: np.ndarray) -> np.ndarray:
    """float16 and float32 as float64; other types as they are."""
    return values.astype(np.float64) if values.dtype.kind == "f" and values.dtype.itemsize < 8 else values


# elementwise


def _unary(f, *, floats: bool = False):
    def run(node, xs, opset):
        x = xs[0]
        if floats and x.dtype.kind != "f":
            raise CannotFold(f"{node.op} of {x.dtype.name}")
        return mapped(lambda v: np.asarray(f(wide(v))).astype(x.dtype), x)

    return run


def _sigmoid(v: np.ndarray) -> np.ndarray:
    return np.where(v >= 0, 1 / (1 + np.exp(-np.abs(v))), np.exp(-np.abs(v)) / (1 + np.exp(-np.abs(v))))


for _op, _f in {
    "Sqrt": np.sqrt, "Exp": np.exp, "Log": np.log, "Floor": np.floor, "Ceil": np.ceil, "Round": np.round, "Sin": np.sin,
    "Cos": np.cos, "Tanh": np.tanh, "Reciprocal": lambda v: 1 / v, "Sigmoid": _sigmoid,
}.items():  # fmt: skip
    EVALUATORS[_op] = _unary(_f, floats=True)
for _op, _f in {
    "Neg": np.negative,
    "Abs": np.abs,
    "Sign": np.sign,
    "Relu": lambda v: np.maximum(v, 0),
    "Not": np.logical_not,
}.items():
    EVALUATORS[_op] = _unary(_f)


def _binary(f):
    def run(node, xs, opset):
        a, b = xs
        if a.dtype != b.dtype:
            raise CannotFold("its operands have different types")
        return mapped(lambda u, v: np.asarray(f(u, v)).astype(a.dtype), a, b)

    return run


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f":
        return a / b
    if not np.all(b):
        raise CannotFold("an integer division by zero")
    q = np.abs(a) // np.abs(b)  # ONNX truncates toward zero
    return np.where((a < 0) != (b < 0), -q, q) if a.dtype.kind == "i" else q


for _op, _f in {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": _divide}.items():
    EVALUATORS[_op] = _binary(_f)


def _fold(f):
    def run(node, xs, opset):
        out = xs[0]
        for x in xs[1:]:
            out = mapped(f, out, x)
        return out

    return run


for _op, _f in {
    "Sum": np.add,
    "Max": np.maximum,
    "Min": np.minimum,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
}.items():
    EVALUATORS[_op] = _fold(_f)
_COMPARE = {
    "Equal": np.equal, "Greater": np.greater, "GreaterOrEqual": np.greater_equal, "Less": np.less,
    "LessOrEqual": np.less_equal,
}  # fmt: skip
for _op, _f in _COMPARE.items():
    EVALUATORS[_op] = _fold(_f)


@evaluator("Pow")
def _pow(node, xs, opset):
    a, b = xs
    if a.dtype.kind != "f" and (b.dtype.kind == "f" or np.any(b < 0)):
        raise CannotFold("an integer to the power of a fraction")
    return mapped(lambda u, v: np.power(wide(u), wide(v)).astype(a.dtype), a, b)


@evaluator("Mod")
def _mod(node, xs, opset):
    a, b = xs
    if a.dtype.kind != "f" and not np.all(b):
        raise CannotFold("an integer division by zero")
    return mapped(np.fmod if node.attrs.get("fmod", 0) else np.mod, a, b).astype(a.dtype)


@evaluator("Where")
def _where(node, xs, opset):
    return mapped(np.where, *xs)


@evaluator("Clip")
def _clip(node, xs, opset):
    x, lo, hi = (*xs, None, None)[:3]
    lo, hi = node.attrs.get("min", lo), node.attrs.get("max", hi)
    x = x if lo is None else mapped(lambda v: np.maximum(v, np.asarray(lo, x.dtype).reshape(())), x)
    return x if hi is None else mapped(lambda v: np.minimum(v, np.asarray(hi, x.dtype).reshape(())), x)


@evaluator("Cast")
def _cast(node, xs, opset):
    x, to = xs[0], node.attrs["to"]
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(to))
    except KeyError:
        raise CannotFold("an unknown element type") from None
    if "c" in (x.dtype.kind, dtype.kind) or x.dtype.kind in "OUS" or dtype.kind in "OUS":
        raise CannotFold(f"a cast from {x.dtype.name} to {dtype.name}")
    if x.dtype.kind not in "fiub":  # bfloat16, float8 and narrower: float32 has all of their numbers
        x = mapped(lambda v: v.astype(np.float32), x)
    if dtype.kind not in "fiub":
        from onnx.reference.ops.op_cast import cast_to

        own = bool(node.attrs.get("saturate", 1)), node.attrs.get("round_mode", "up")
        return mapped(lambda v: cast_to(v, to, *own), x)
    if x.dtype.kind == "f" and dtype.kind in "iu":
        c = core(x)
        limits = np.iinfo(dtype)
        if not np.all(np.isfinite(c)) or np.any(c <= float(limits.min) - 1) or np.any(c >= float(limits.max) + 1):
            raise CannotFold("a cast of numbers that the type does not hold")
    return mapped(lambda v: v.astype(dtype), x)


@evaluator("Identity", "Dropout")
def _identity(node, xs, opset):
    if len(xs) > 2 and xs[2] is not None and np.any(xs[2]):
        raise CannotFold("it is in training mode")
    return xs[0]


# shapes and views


def operand_ints(node: gs.Node, xs: Arrays, name: str, i: int) -> list[int] | None:
    """Integers given as attribute `name` (older opsets) or as input `i`."""
    if name in node.attrs:
        got = node.attrs[name]
        return [got] if isinstance(got, int) else list(got)
    given = xs[i] if i < len(xs) else None
    return None if given is None else [int(v) for v in np.ravel(given)]


@evaluator("Reshape")
def _reshape(node, xs, opset):
    x, target = xs[0], [int(v) for v in xs[1]]
    if not node.attrs.get("allowzero", 0):
        target = [x.shape[k] if v == 0 else v for k, v in enumerate(target)]
    return x.reshape(target)


@evaluator("Flatten")
def _flatten(node, xs, opset):
    k = node.attrs.get("axis", 1)
    k = k + xs[0].ndim if k < 0 else k
    return xs[0].reshape(
        int(np.prod(xs[0].shape[:k], dtype=np.int64)),
        -1 if xs[0].size else int(np.prod(xs[0].shape[k:], dtype=np.int64)),
    )


@evaluator("Squeeze")
def _squeeze(node, xs, opset):
    axes = operand_ints(node, xs, "axes", 1)
    return np.squeeze(xs[0], None if axes is None else tuple(axes))


@evaluator("Unsqueeze")
def _unsqueeze(node, xs, opset):
    return np.expand_dims(xs[0], tuple(operand_ints(node, xs, "axes", 1)))


@evaluator("Transpose")
def _transpose(node, xs, opset):
    return np.transpose(xs[0], node.attrs.get("perm") or None)


@evaluator("Shape")
def _shape(node, xs, opset):
    return np.array(xs[0].shape[slice(node.attrs.get("start", 0), node.attrs.get("end", xs[0].ndim))], np.int64)


@evaluator("Size")
def _size(node, xs, opset):
    return np.array(xs[0].size, np.int64)


@evaluator("ConstantOfShape")
def _constant_of_shape(node, xs, opset):
    fill = attribute_array(node.attrs.get("value"))
    fill = np.zeros((), np.float32) if fill is None else fill.reshape(())
    return np.broadcast_to(fill, tuple(int(v) for v in xs[0]))


@evaluator("Expand")
def _expand(node, xs, opset):
    return np.broadcast_to(xs[0], np.broadcast_shapes(xs[0].shape, tuple(int(v) for v in xs[1])))


@evaluator("Tile")
def _tile(node, xs, opset):
    return np.tile(xs[0], tuple(int(v) for v in xs[1]))


@evaluator("Range")
def _range(node, xs, opset):
    start, limit, delta = (v.reshape(()) for v in xs)
    count = max(0, int(np.ceil((float(limit) - float(start)) / float(delta))))
    if count > 1 << 24:
        raise CannotFold("a long range")
    return (start + np.arange(count, dtype=np.int64) * delta).astype(start.dtype)


@evaluator("Concat")
def _concat(node, xs, opset):
    return np.concatenate(xs, node.attrs["axis"])


@evaluator("Slice")
def _slice(node, xs, opset):
    starts, ends = (operand_ints(node, xs, n, i) for n, i in (("starts", 1), ("ends", 2)))
    axes = operand_ints(node, xs, "axes", 3) or range(len(starts))
    steps = operand_ints(node, xs, "steps", 4) or [1] * len(starts)
    at = [slice(None)] * xs[0].ndim
    for k, a, b, step in zip(axes, starts, ends, steps, strict=True):
        lo, hi, by = slice(a, b, step).indices(xs[0].shape[k])
        at[k] = slice(lo, None if hi < 0 else hi, by)
    return xs[0][tuple(at)]


@evaluator("Gather")
def _gather(node, xs, opset):
    return np.take(xs[0], xs[1], node.attrs.get("axis", 0))


# sums


@evaluator("MatMul")
def _matmul(node, xs, opset):
    return np.matmul(wide(xs[0]), wide(xs[1])).astype(xs[0].dtype)


def _reduction(f, *, integers: bool):
    def run(node, xs, opset):
        x = xs[0]
        if x.dtype.kind != "f" and not integers:
            raise CannotFold(f"{node.op} of {x.dtype.name}")
        axes = operand_ints(node, xs, "axes", 1)
        if not axes and node.attrs.get("noop_with_empty_axes", 0):
            return x
        keep = bool(node.attrs.get("keepdims", 1))
        return np.asarray(f(wide(x), axis=tuple(axes) if axes else None, keepdims=keep)).astype(x.dtype)

    return run


for _op, _f, _ints in (
    ("ReduceSum", np.sum, True), ("ReduceProd", np.prod, True), ("ReduceMax", np.max, True),
    ("ReduceMin", np.min, True), ("ReduceMean", np.mean, False),
):  # fmt: skip
    EVALUATORS[_op] = _reduction(_f, integers=_ints)
