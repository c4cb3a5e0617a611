"""A readable dump of a model: a node a line, shapes, weight digests. Golden tests compare it."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .analysis import analyse
from .axes import show
from .model import CAPTURED, Model
from .table import Analysis, Axes


def dump(model: Model, analysis: Analysis | None = None) -> str:
    """The model as text, one node a line: outputs = Operator(inputs) {attributes}. Same model, same text."""
    analysis = analysis or analyse(model)
    lines = [f"opset {', '.join(f'{d or chr(39) * 2} {v}' for d, v in sorted(model.opsets.items()))}"]
    lines += [f"input  {t.name} {describe(analysis.axes.get(t.name))}" for t in model.inputs]
    for node in model.nodes:
        outs = ", ".join(f"{t.name} {describe(analysis.axes.get(t.name))}" for t in node.outputs if t.name)
        ins = ", ".join(_operand(t) for t in node.inputs)
        attrs = ", ".join(f"{k}={_attribute(v)}" for k, v in sorted(node.attrs.items()) if k != CAPTURED)
        op = node.op if not node.domain else f"{node.domain}.{node.op}"
        lines.append(f"{outs} = {op}({ins})" + (f" {{{attrs}}}" if attrs else ""))
    lines += [f"output {t.name}" for t in model.outputs]
    return "\n".join(lines) + "\n"


def _operand(t) -> str:
    if not t.name:
        return "_"
    if not isinstance(t, gs.Constant):
        return t.name
    v = t.values
    if v.size <= 4 and v.dtype != object:
        body = np.array2string(v.ravel(), precision=6, separator=",", max_line_width=10**6).replace(" ", "")
        return f"{v.dtype.name}{list(v.shape)}{body}"
    return f"{v.dtype.name}{list(v.shape)}#{digest(v)}"


def digest(values: np.ndarray) -> str:
    """Eight hex digits that name the contents of an array."""
    raw = repr(values.tolist()).encode() if values.dtype == object else np.ascontiguousarray(values).tobytes()
    return hashlib.sha256(raw).hexdigest()[:8]


def _attribute(value) -> str:
    if isinstance(value, float):
        return f"{value:.7g}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name}{list(value.shape)}#{digest(value)}"
    if isinstance(value, onnx.AttributeProto):
        return f"<{onnx.AttributeProto.AttributeType.Name(value.type).lower()}>"
    return str(value).replace(" ", "")


def describe(axes: Axes | None) -> str:
    """`[N, 3·8, 16+16, ?]`"""
    return "?" if axes is None else "[" + ", ".join(map(show, axes)) + "]"
