"""Which values inputs may hold, read backward from the graph.

    Gather(table [1000, 64], ids)            ids: 0 to 999
    OneHot(labels, depth 10)                 labels: 0 to 9
    Div(a, n)                                n: at least 1 (an integer division by 0 ends the process)
    If(Equal(rate, 16000)), rate a scalar    rate: 16000
    LSTM(x [T, N, I], ..., lengths)          lengths: 1 to T

What a reader demands of a tensor is demanded of what it was made of by operators that keep values, and, shifted, through
sums with constants; through bodies of If, Loop and Scan too. Names tell the rest: masks are ones, lengths are full, sampling
rates are 16 kHz. All of it is for random inputs alone: what a user gives is fed as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import onnx

Bound = int | str


class Values(NamedTuple):
    """What random values of an input are drawn from.

    low, below: integers from low up to, not including, below (a number, or the symbol whose extent it is; 0: nothing known).
    choices: if any, these alone. array: if any, these very values. why: the reader that demands it. boxes: rows of two corners,
    the lower one first.
    """

    low: int = 0
    below: Bound = 0
    choices: tuple[float | str, ...] = ()
    why: str = ""
    array: np.ndarray | None = None
    boxes: bool = False

    def meet(self, other: Values) -> Values:
        """Both demands; numbers go before symbols."""
        bounds = [b for b in (self.below, other.below) if b]
        below = min((b for b in bounds if isinstance(b, int)), default=bounds[0] if bounds else 0)
        made = Values(max(self.low, other.low), below, self.choices or other.choices, self.why or other.why)
        return made._replace(boxes=self.boxes or other.boxes)


KEEP = {
    "Identity",
    "Cast",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Expand",
    "Tile",
    "Slice",
    "Split",
    "Pad",
}
"""Operators whose values are those of their first input."""
TEXTS = ("keys_strings", "cats_strings", "pool_strings", "vocabulary_strings", "string_vocabulary")
"""Attributes of classical operators that list the texts they know."""
RECURRENT = ("LSTM", "GRU", "RNN")
PICKS = ("Gather", "GatherElements", "ScatterElements", "Scatter")
"""Operators whose second input picks from an axis of the first."""
MASK, LENGTH, RATE = (
    re.compile(r"(.*[_.:/])?\w*masks?([_.:/]?\d*)?", re.IGNORECASE),
    re.compile(r"(.*[_.:/])?\w*(len|lens|lengths?)([_.:/]?\d*)?", re.IGNORECASE),
    re.compile(r"(sr|\w*sampl(e|ing)_?rate|rate)", re.IGNORECASE),
)
FULL = "full"
"""The bound of a length: the extent of the first open axis that does not count samples, at draw time."""


def named(name: str) -> bool:
    """Whether a name alone says what values an input holds."""
    return any(form.fullmatch(name) for form in (MASK, LENGTH, RATE))


def input_values(graph: onnx.GraphProto, shapes: dict[str, list[int | str | None]]) -> dict[str, Values]:
    """What each input of `graph` may hold, where anything is known. shapes: those of tensors that are known."""
    import onnx

    constants: dict[str, onnx.TensorProto] = _constants(graph)
    found: dict[str, Values] = {}
    _walk(graph, shapes, constants, found)
    for value in graph.input:
        name, plain = value.name, found.get(value.name, Values())
        tensor = value.type.tensor_type
        kind = tensor.elem_type
        integer = kind in (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
        scalar = len(tensor.shape.dim) == 0 or all(d.dim_value == 1 for d in tensor.shape.dim)
        if plain.choices and not scalar and plain.why.startswith("Equal"):
            plain = plain._replace(choices=())
        if MASK.fullmatch(name) and not plain.choices:
            plain = Values(choices=(1,), why="a mask")
        elif integer and LENGTH.fullmatch(name) and not plain.below:
            plain = Values(1, FULL, why="a length")
        elif integer and scalar and RATE.fullmatch(name) and not plain.choices:
            plain = Values(choices=(16000,), why="a sampling rate")
        if plain != Values():
            found[name] = plain
    return found | dict(_targets(graph, shapes, {value.name for value in graph.input} - set(constants)))


def _targets(graph: onnx.GraphProto, shapes, inputs: set[str]) -> Iterator[tuple[str, Values]]:
    """Inputs that are targets of a Reshape: the shape that its result is declared with, -1 for what is open there."""
    for node in graph.node:
        if node.op_type != "Reshape" or len(node.input) < 2 or node.input[1] not in inputs:
            continue
        wanted, length = shapes.get(node.output[0]) or [], shapes.get(node.input[1]) or [None]
        target = [n if isinstance(n, int) else -1 for n in wanted]
        if target.count(-1) > 1 or not target:
            target = [-1] + [1] * (length[0] - 1) if isinstance(length[0], int) and length[0] else []
        why = f"Reshape {node.name}".strip()
        if target:
            yield node.input[1], Values(array=np.array(target, np.int64), why=why)
        elif isinstance(length[0], str) or length[0] is None:  # of one number it is all that is there
            yield node.input[1], Values(choices=(-1,), why=why)


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Initialisers and what Constant nodes hold."""
    nodes = (n for n in graph.node if n.op_type == "Constant" and n.attribute and n.attribute[0].name == "value")
    return {t.name: t for t in graph.initializer} | {n.output[0]: n.attribute[0].t for n in nodes}


def _walk(graph: onnx.GraphProto, shapes, constants, found: dict[str, Values]) -> None:
    for node in reversed(graph.node):
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                if body.node:
                    inner = constants | {t.name: t for t in body.initializer}
                    _walk(body, shapes, inner, found)
        for name, values in _demands(node, shapes, constants, found):
            if name and name not in constants:
                found[name] = found[name].meet(values) if name in found else values


def _demands(node: onnx.NodeProto, shapes, constants, found: dict[str, Values]) -> Iterator[tuple[str, Values]]:
    op, why = node.op_type, f"{node.op_type} {node.name}".strip()
    if op in PICKS and len(node.input) > 1:
        extents, axis = shapes.get(node.input[0]) or [], _int(node, "axis", 0)
        if -len(extents) <= axis < len(extents) and extents[axis]:
            yield node.input[1], Values(0, extents[axis], why=why)
        if op != "Gather" or node.output[0] in found:  # what is picked are values of the first input
            yield node.input[0], found.get(node.output[0], Values())
    elif op == "RotaryEmbedding" and len(node.input) > 3:
        ids, table = (1, 2) if node.domain == "com.microsoft" else (3, 1)
        extents = shapes.get(node.input[table]) or [None]
        if extents[0]:
            yield node.input[ids], Values(0, extents[0], why=why)
    elif op in ("GatherND", "ScatterND") and len(node.input) > 1:
        extents, index = shapes.get(node.input[0]) or [], shapes.get(node.input[1]) or []
        most = index[-1] if index and isinstance(index[-1], int) else len(extents)
        numbers = [e for e in extents[:most] if isinstance(e, int) and e > 0]
        if numbers:
            yield node.input[1], Values(0, min(numbers), why=why)
    elif op == "OneHot":
        depth = _number(constants.get(node.input[1]))
        if depth:
            yield node.input[0], Values(0, int(depth), why=why)
        yield node.input[1], Values(2, 16, why=why)
    elif op in ("Div", "Mod") and len(node.input) > 1:
        yield node.input[1], Values(1, why=why)
    elif op in RECURRENT and len(node.input) > 4:
        steps = (shapes.get(node.input[0]) or [0])[0]
        yield node.input[4], Values(1, steps + 1 if isinstance(steps, int) and steps else FULL, why=why)
    elif op == "Equal" and len(node.input) == 2:
        for here, other in (node.input, node.input[::-1]):
            number = _number(constants.get(other))
            if number is not None:
                yield here, Values(choices=(number,), why=why)
    elif op == "RoiAlign" and len(node.input) > 2:
        images = (shapes.get(node.input[0]) or [None])[0]
        yield node.input[2], Values(0, images or 1, why=why)
        yield node.input[1], Values(why=why, boxes=True)
    elif op in ("Resize", "Upsample"):
        for name in node.input[1:3]:
            yield name, Values(choices=(1,), why=why)
        yield from _sizes(node, shapes, why)
    elif op in ("Expand", "Tile", "ConstantOfShape", "TopK", "Range"):
        for name in node.input[1:2] if op != "ConstantOfShape" else node.input[:1]:
            yield name, Values(1, 3, why=why)
    elif node.domain == "ai.onnx.ml":
        texts = next((a.strings for a in node.attribute if a.name in TEXTS), ())
        yield node.input[0], Values(choices=tuple(t.decode("utf-8", "replace") for t in texts), why=why)
    if op in KEEP:
        for out in node.output:
            if out in found:
                yield node.input[0], found[out]
    elif op in ("Concat", "Where", "Min", "Max") and node.output[0] in found:
        for name in node.input[1 if op == "Where" else 0 :]:
            yield name, found[node.output[0]]
    elif op in ("Add", "Sub") and node.output[0] in found:
        wanted = found[node.output[0]]
        for here, other in (node.input, node.input[::-1]):
            number = _number(constants.get(other))
            if number is None or number != int(number) or wanted.choices or (op == "Sub" and here != node.input[0]):
                continue
            shift = int(number) if op == "Add" else -int(number)
            below = max(1, wanted.below - shift) if isinstance(wanted.below, int) and wanted.below else wanted.below
            yield here, wanted._replace(low=max(0, wanted.low - shift), below=below)
    elif op == "If" and node.input:
        for attribute in node.attribute:
            for inner, out in zip(attribute.g.output, node.output):
                if out in found:
                    yield inner.name, found[out]


def _sizes(node: onnx.NodeProto, shapes, why: str) -> Iterator[tuple[str, Values]]:
    """The extents that a Resize is asked for: twice what it is given, but for samples and channels."""
    given = shapes.get(node.input[0]) or []
    if len(node.input) > 3 and given and all(isinstance(e, int) for e in given[1:]):
        images = given[0] if isinstance(given[0], int) else 1
        yield (
            node.input[3],
            Values(array=np.array([images, *given[1:2], *(2 * e for e in given[2:])], np.int64), why=why),
        )


def _int(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def _number(tensor: onnx.TensorProto | None) -> float | None:
    """The one number that a constant holds."""
    import onnx

    if (
        tensor is None
        or tensor.data_location == onnx.TensorProto.EXTERNAL
        or tensor.data_type == onnx.TensorProto.STRING
    ):
        return None
    if np.prod(tensor.dims, dtype=np.int64) != 1:
        return None
    value = onnx.numpy_helper.to_array(tensor).reshape(-1)[0]
    return float(value) if np.isfinite(float(value)) else None


def known_shapes(proto: onnx.ModelProto) -> dict[str, list[int | str | None]]:
    """Shapes of tensors by name, as declared, as stored, and as ONNX's inference has them (of a copy without weights)."""
    import onnx

    from onnxc.ir.inference import infer

    skeleton = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
    graph = skeleton.graph
    graph.name = "skeleton"
    graph.node.extend(proto.graph.node)
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    graph.value_info.extend(proto.graph.value_info)
    inputs = {v.name for v in graph.input}
    for tensor in proto.graph.initializer:
        if tensor.name in inputs:
            continue
        if np.prod(tensor.dims, dtype=np.int64) <= 64 and tensor.data_location != onnx.TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    skeleton.functions.extend(proto.functions)
    with suppress(onnx.shape_inference.InferenceError, RuntimeError, ValueError, IndexError):
        graph = infer(skeleton).graph
    shapes = {v.name: _extents(v) for v in (*graph.value_info, *graph.output, *graph.input)}
    return shapes | {t.name: list(t.dims) for t in proto.graph.initializer}


def _extents(value: onnx.ValueInfoProto) -> list[int | str | None]:
    return [d.dim_param or d.dim_value or None for d in value.type.tensor_type.shape.dim]


def places(proto: onnx.ModelProto) -> list[int]:
    """Extents that stand in the graph's own shapes (targets of Reshape, of Expand): what an axis that is called open may
    have to be."""
    import onnx

    constants = _constants(proto.graph)
    found: dict[int, None] = {}
    for node in proto.graph.node:
        if node.op_type in ("Reshape", "Expand", "Slice", "Add", "Mul", "Concat") and len(node.input) > 1:
            for name in node.input if node.op_type == "Concat" else node.input[1:2]:
                tensor = constants.get(name)
                if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
                    continue
                if node.op_type in ("Add", "Mul"):
                    found |= dict.fromkeys(d for d in tensor.dims if d > 1)
                elif tensor.data_type == onnx.TensorProto.INT64 and len(tensor.dims) <= 1:
                    numbers = onnx.numpy_helper.to_array(tensor).reshape(-1)[:8]
                    found |= dict.fromkeys(int(n) for n in numbers if 1 < n <= 4096)
    return list(found)[:16]
