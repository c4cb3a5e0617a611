"""An ONNX graph as plain steps: operators with their attributes as plain values and tensors by name; torch's types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch

from onnxc.ir.errors import Unsupported

_TYPES = {
    "FLOAT": torch.float32, "DOUBLE": torch.float64, "FLOAT16": torch.float16, "BFLOAT16": torch.bfloat16,
    "INT8": torch.int8, "INT16": torch.int16, "INT32": torch.int32, "INT64": torch.int64, "UINT8": torch.uint8,
    "UINT16": torch.int32, "UINT32": torch.int64, "UINT64": torch.int64, "BOOL": torch.bool, "INT4": torch.int8,
    "UINT4": torch.uint8, "INT2": torch.int8, "UINT2": torch.uint8,
}  # fmt: skip
"""Element types by torch's; short and large unsigned integers stand in a wider type of torch's."""


@dataclass(frozen=True)
class Step:
    """One node: inputs and outputs are tensor names, empty where left out."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: dict
    opset: int
    proto: onnx.NodeProto

    def __str__(self) -> str:
        return self.name or f"{self.op} -> {self.outputs[0] if self.outputs else ''}"


def torch_type(kind: int) -> torch.dtype | None:
    """The torch type of an ONNX element type, or None."""
    return _TYPES.get(onnx.TensorProto.DataType.Name(kind))


def onnx_type(dtype: torch.dtype) -> int:
    """The ONNX element type that a torch type stands for first."""
    return onnx.TensorProto.DataType.Value(next(name for name, t in _TYPES.items() if t == dtype))


def tensor(values: np.ndarray, name: str = "") -> torch.Tensor:
    """An array as a torch tensor, on the device in use, that shares nothing with it. Raises Unsupported for strings and the like."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(values.dtype) if values.dtype.kind not in "OUS" else 0
    dtype = torch_type(kind) if kind else None
    if dtype is None:
        raise Unsupported("training does not know this element type", tensor=name or None, found=values.dtype)
    home = torch.get_default_device()
    if dtype == torch.bfloat16:
        return torch.from_numpy(values.astype(np.float32)).to(home, dtype)
    # a copy in plain order of what NumPy names by a type that torch has
    plain = {torch.float32: "f4", torch.float64: "f8", torch.float16: "f2", torch.bool: "?"}.get(dtype)
    plain = plain or str(dtype).removeprefix("torch.")
    return torch.from_numpy(np.array(values).astype(plain, order="C")).to(home)


def steps(nodes: Iterable[onnx.NodeProto], opsets: Mapping[str, int], given: Mapping[str, object] | None = None):
    """The nodes of a graph or of a function's body; `given`: what the caller sets for attributes by reference."""
    found = []
    for node in nodes:
        attrs = {a.name: plain(a) for a in node.attribute if not a.ref_attr_name}
        referred = {a.name: a.ref_attr_name for a in node.attribute if a.ref_attr_name}
        if referred:
            filled = {n: given[r] for n, r in referred.items() if given and r in given}
            attrs.update(filled)
            node = _filled(node, filled)
        domain = "" if node.domain == "ai.onnx" else node.domain
        opset = opsets.get(domain, opsets.get("ai.onnx", 1) if domain == "" else 1)
        found.append(Step(node.op_type, domain, node.name, tuple(node.input), tuple(node.output), attrs, opset, node))
    return found


def _filled(node: onnx.NodeProto, values: Mapping[str, object]) -> onnx.NodeProto:
    """The node with these attributes in place of those by reference."""
    own = [a for a in node.attribute if not a.ref_attr_name]
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.attribute[:]
    copy.attribute.extend(own)
    for name, value in values.items():
        given = onnx.numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        copy.attribute.append(onnx.helper.make_attribute(name, given))
    return copy


def plain(a: onnx.AttributeProto) -> object:
    """The value of an attribute: a number, a text, an array, a graph, or a list of such."""
    value = onnx.helper.get_attribute_value(a)
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (onnx.GraphProto, int, float, str)):
        return value
    return [v.decode(errors="replace") if isinstance(v, bytes) else v for v in value]
