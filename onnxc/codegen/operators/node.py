"""A node as a row of the table sees it: attributes that are counted when read, operands, and ways to compute."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxc.codegen.tvm_api import tvm_modules

HELD = {
    **dict.fromkeys(("float16", "bfloat16"), "float32"),
    **dict.fromkeys(
        ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"), "float32"
    ),
    **dict.fromkeys(("float4_e2m1fn",), "float32"),
    **dict.fromkeys(("int4", "int2"), "int8"),
    **dict.fromkeys(("uint4", "uint2"), "uint8"),
}
"""Types that tensors between nodes do not have: their values are held in a wider one, which has all of them."""


class Refused(Exception):
    """A row does not take its node; the message says why, `remedy` what to do about it."""

    def __init__(self, why: str, remedy: str | None = None):
        super().__init__(why)
        self.why, self.remedy = why, remedy


def held(dtype: str) -> str:
    """The type in which values of a tensor of `dtype` are computed and kept."""
    return HELD.get(dtype, dtype)


def shape_of(expr) -> tuple[int, ...]:
    """Static shape of a tensor expression."""
    return tuple(int(extent) for extent in expr.ty.shape.values)


def dtype_of(expr) -> str:
    """Element type of a tensor expression."""
    return str(expr.ty.dtype)


def is_float(expr) -> bool:
    """Whether an expression holds floats."""
    return dtype_of(expr).startswith("float")


class Node:
    """`args`: an expression for each input, None where one is left out; `results`: (shape, dtype) of each output, or None
    where the model does not say; `arrays`: the values of constant tensors by name; `flags`: int32 scalars that a library
    answers with its status of indices out of range when they are other than 0.
    """

    def __init__(
        self,
        proto: onnx.NodeProto,
        opset: int,
        args: Sequence,
        results: Sequence[tuple[tuple[int, ...], str] | None],
        arrays: dict[str, np.ndarray],
        builder,
        flags: list,
        add_weight: Callable,
    ):
        self.op, self.domain, self.name, self.opset = proto.op_type, proto.domain, proto.name, opset
        self.inputs, self.outputs = list(proto.input), list(proto.output)
        self.args, self.results = list(args), list(results)
        self.made_of: Mapping[str, Any] = {}  # `prepare.walk.Integers` of constants that have been dequantised
        self.kinds: list[str] = []  # the model's types of the inputs, "" for one that is left out
        self._attributes = {a.name: a for a in proto.attribute}
        self._read: set[str] = set()
        self._arrays, self.builder, self.flags, self._add_weight = arrays, builder, flags, add_weight

    # attributes

    def attribute(self, name: str, default=None):
        """The value of an attribute, which now counts as read; text as str."""
        self._read.add(name)
        if name not in self._attributes:
            return default
        value = helper.get_attribute_value(self._attributes[name])
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        return [v.decode("utf-8", "replace") for v in value] if _is_texts(value) else value

    def choice(self, name: str, default: str, *known: str) -> str:
        """A text attribute that has to be one of `known` (the default among them)."""
        value = self.attribute(name, default)
        if value not in (default, *known):
            raise Refused(f"attribute {name} = {value} is not known, only {', '.join((default, *known))}")
        return value

    def only(self, name: str, value) -> None:
        """An attribute that may have one value alone, its default."""
        found = self.attribute(name, value)
        if found != value:
            raise Refused(f"attribute {name} = {_short(found)} is not known, only {value}")

    def unread(self) -> list[tuple[str, str]]:
        """Attributes that no one has read, with their values."""
        left = [name for name in self._attributes if name not in self._read]
        return [(name, _short(helper.get_attribute_value(self._attributes[name]))) for name in left]

    # operands

    def given(self, i: int) -> bool:
        """Whether input `i` is there."""
        return i < len(self.args) and self.args[i] is not None

    def known(self, i: int) -> np.ndarray | None:
        """The values of input `i` where it is constant; None where it is computed or left out."""
        return self._arrays.get(self.inputs[i]) if i < len(self.inputs) and self.inputs[i] else None

    def integers(self, i: int) -> Any:
        """The `Integers` that the values of input `i` are made of, or None."""
        return self.made_of.get(self.inputs[i]) if i < len(self.inputs) else None

    def numbers(self, i: int, what: str) -> np.ndarray:
        """The values of input `i`, which has to be there and to be constant. `what` names it."""
        found = self.array(i, what)
        if found is None:
            raise Refused(f"its {what} are left out", "give them: ONNX Runtime refuses the model too")
        return found

    def array(self, i: int, what: str) -> np.ndarray | None:
        """The values of input `i`, which has to be constant; None where it is left out. `what` names it."""
        if not self.given(i):
            return None
        found = self.known(i)
        if found is None:
            raise Refused(
                f"its {what} ({self.inputs[i]}) are computed at run time",
                "give --shape for all inputs, or make that input a constant",
            )
        return found

    def number(self, i: int, what: str, default=None):
        """The value of a constant input of one element; the default where it is left out."""
        found = self.array(i, what)
        if found is None:
            return default
        if found.size != 1:
            raise Refused(f"its {what} ({self.inputs[i]}) has {found.size} values in the place of one")
        return found.reshape(-1)[0].item()

    def axes_of(self, i: int, name: str, default, since: int) -> list[int] | None:
        """Whole numbers that are an attribute before opset `since` and input `i` from then on."""
        if self.opset < since:
            return self.attribute(name, default)
        found = self.array(i, name)
        return default if found is None else [int(v) for v in found.reshape(-1)]

    # computing

    def emit(self, expr):
        """`expr` bound to a variable, so that its type and shape are known."""
        relax = tvm_modules().relax
        return expr if isinstance(expr, relax.Var) else self.builder.emit(expr)

    def do(self, name: str, *args, **options):
        """The Relax operator `name` (dotted below relax.op) on expressions."""
        op = functools.reduce(getattr, name.split("."), tvm_modules().relax.op)
        return self.builder.emit(op(*args, **options))

    def const(self, value, dtype: str):
        """A constant of `dtype`: a number or an array."""
        return tvm_modules().relax.const(np.asarray(value).astype(dtype), dtype)

    def weight(self, array: np.ndarray, integers=None):
        """An array as an operand; `integers` are what its values are made of, where they are scaled 8-bit integers."""
        array = np.ascontiguousarray(array) if array.ndim else array
        return self._add_weight(array, self.name, integers) if array.ndim else self.const(array, array.dtype.name)

    def like(self, value, x):
        """A number of the type of `x`."""
        return self.const(value, dtype_of(x))

    def te(self, compute: Callable, *args, name: str | None = None):
        """`compute` on TE tensors, one for each expression; a number stays a number. Several results are a tuple."""
        made = self.builder.emit(self.builder.call_te(compute, *args, primfunc_name_hint=name or self.op.lower()))
        relax = tvm_modules().relax
        if isinstance(made.ty, relax.TupleType):
            return tuple(self.builder.emit(relax.TupleGetItem(made, i)) for i in range(len(made.ty.fields)))
        return made

    def cast(self, x, dtype: str):
        """`x` as `dtype` by plain conversion."""
        return x if dtype_of(x) == dtype else self.do("astype", x, dtype)

    def reshape(self, x, shape: Sequence[int]):
        """`x` in another shape of as many elements."""
        return x if shape_of(x) == tuple(shape) else self.do("reshape", x, [int(extent) for extent in shape])

    def broadcast(self, x, shape: Sequence[int]):
        """`x` repeated to `shape`."""
        return x if shape_of(x) == tuple(shape) else self.do("broadcast_to", x, [int(extent) for extent in shape])

    def axis(self, name: str, default: int | None, rank: int) -> int:
        """An attribute that names an axis of a tensor of `rank`, counted from the front."""
        value = self.attribute(name, default)
        return within(int(value), rank, name)


def within(axis: int, rank: int, name: str = "axis") -> int:
    """`axis` counted from the front. Raises Refused where there is no such axis."""
    if not -rank <= axis < max(rank, 1):
        raise Refused(f"{name} = {axis} is none of {rank} axes")
    return axis % rank if rank else 0


def _is_texts(value) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], bytes)


def _short(value) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."
