"""What ONNX stores, as NumPy arrays and Python values, and back: tensors, attributes, interface entries.

Arrays are read-only; tensors of 4 and 2 bits are unpacked (ml_dtypes); data that stand in another file are none of this: see
`external`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper

from .errors import BadModel
from .graph import read_only

LARGEST = 2**31 - 2**20
"""Bytes beyond which a protobuf message cannot be written, and no sparse tensor is written out."""
MOST_AXES = 32
"""Axes that an array may have in every NumPy."""

_A = onnx.AttributeProto
_DTYPES = {int(k): onnx.helper.tensor_dtype_to_np_dtype(k) for k in onnx.helper.get_all_tensor_dtypes()}
PACKED = {onnx.TensorProto.UINT4: 2, onnx.TensorProto.INT4: 2, onnx.TensorProto.FLOAT4E2M1: 2} | {
    getattr(onnx.TensorProto, n): 4 for n in ("UINT2", "INT2") if hasattr(onnx.TensorProto, n)
}
"""Types of which a byte holds several: how many."""


def copied(proto):
    """A copy of a protobuf message."""
    new = type(proto)()
    new.CopyFrom(proto)
    return new


# tensors


def stored_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes that the elements of a tensor take. Raises BadModel for a type or extents that cannot be."""
    kind = tensor.data_type
    if any(d < 0 for d in tensor.dims) or kind not in _DTYPES or len(tensor.dims) > MOST_AXES:
        raise BadModel(
            "this tensor has a negative extent, an unknown type or too many axes", tensor=tensor.name,
            found=f"type {kind}, {list(tensor.dims)[:MOST_AXES]}",
        )  # fmt: skip
    count = math.prod(tensor.dims)
    return -(-count // PACKED[kind]) if kind in PACKED else count * _DTYPES[kind].itemsize


def to_array(
    tensor: onnx.TensorProto, elsewhere: Callable[[onnx.TensorProto, int], memoryview] | None = None
) -> np.ndarray:
    """The contents of a TensorProto as a read-only array (4-bit and 2-bit types unpacked, as ml_dtypes).

    `elsewhere(tensor, nbytes)` gives the bytes of one whose data stand in another file. Raises BadModel where sizes disagree.
    """
    dims, kind, nbytes = tuple(tensor.dims), tensor.data_type, stored_bytes(tensor)
    if kind == onnx.TensorProto.STRING:
        strings = np.empty(len(tensor.string_data), object)
        strings[:] = list(tensor.string_data)  # bytes: ONNX does not say how they are encoded
        if strings.size != math.prod(dims):
            raise BadModel(
                "this tensor's data has a wrong size", tensor=tensor.name, expected=math.prod(dims), found=strings.size
            )
        return read_only(strings.reshape(dims))
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        if elsewhere is None:
            raise BadModel(
                "this tensor's data stands in another file", tensor=tensor.name, remedy="load the model by its path"
            )
        raw: bytes | memoryview = elsewhere(tensor, nbytes)
    elif tensor.HasField("raw_data"):
        raw = tensor.raw_data
    else:
        return read_only(_checked(numpy_helper.to_array(tensor), dims, tensor.name))
    if len(raw) != nbytes:
        raise BadModel(
            "this tensor's data has a wrong size",
            tensor=tensor.name,
            expected=f"{nbytes} bytes",
            found=f"{len(raw)} bytes",
        )
    if kind in PACKED:
        plain = onnx.TensorProto(dims=dims, data_type=kind, raw_data=bytes(raw))
        return read_only(numpy_helper.to_array(plain))
    little = _DTYPES[kind].newbyteorder("<") if _DTYPES[kind].byteorder in "=<>" else _DTYPES[kind]
    return read_only(np.frombuffer(raw, dtype=little).reshape(dims))


def _checked(values: np.ndarray, dims: tuple[int, ...], name: str) -> np.ndarray:
    if values.shape != dims:
        raise BadModel(
            "this tensor's data has a wrong size", tensor=name, expected=list(dims), found=list(values.shape)
        )
    return values


def densify(sparse: onnx.SparseTensorProto) -> np.ndarray:
    """The contents of a SparseTensorProto, zeros written out. Raises BadModel where its parts do not fit, or from 2 GiB on."""
    values, dims = to_array(sparse.values), tuple(sparse.dims)
    indices = to_array(sparse.indices)
    name = sparse.values.name
    if any(d < 0 for d in dims) or math.prod(dims) * values.itemsize > LARGEST:
        raise BadModel(
            "this sparse tensor has a negative extent, or is too large when written out", tensor=name, found=list(dims)
        )
    if indices.ndim == 2:
        indices = np.ravel_multi_index(tuple(indices.T), dims)
    if indices.shape != values.shape or (indices.size and (indices.min() < 0 or indices.max() >= math.prod(dims))):
        raise BadModel("the indices of this sparse tensor do not fit", tensor=name)
    dense = np.zeros(math.prod(dims), values.dtype)
    dense[indices] = values
    return read_only(dense.reshape(dims))


def tensor_type(dtype: np.dtype) -> int:
    """The ONNX element type of a NumPy (or ml_dtypes) dtype."""
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def to_tensor(name: str, values: np.ndarray) -> onnx.TensorProto:
    """A TensorProto with the contents of `values`."""
    tensor = onnx.TensorProto()
    fill(tensor, name, values)
    return tensor


def fill(tensor: onnx.TensorProto, name: str, values: np.ndarray) -> None:
    """Write `values` into an empty TensorProto: filled where it stands, a large one is copied once less."""
    kind = onnx.TensorProto.STRING if values.dtype == object else tensor_type(values.dtype)
    if kind == onnx.TensorProto.STRING or kind in PACKED:
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name))
        return
    tensor.name, tensor.data_type = name, kind
    tensor.dims.extend(values.shape)
    if values.size > 1 and not any(values.strides):  # one element, repeated
        tensor.raw_data = little_endian(values[(slice(0, 1),) * values.ndim]).tobytes() * values.size
    else:
        tensor.raw_data = little_endian(values).tobytes()


def little_endian(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder("<")) if values.dtype.byteorder == ">" else values


# attributes


def attribute(a: onnx.AttributeProto):
    """int, float, str and non-empty lists of them as Python values; everything else stays an AttributeProto."""
    if a.ref_attr_name:
        return copied(a)
    if a.type == _A.INT:
        return a.i
    if a.type == _A.FLOAT:
        return a.f
    if a.type == _A.INTS and a.ints:
        return list(a.ints)
    if a.type == _A.FLOATS and a.floats:
        return list(a.floats)
    if a.type == _A.STRING:
        try:
            return a.s.decode()
        except UnicodeDecodeError:
            return copied(a)
    return copied(a)


def attribute_array(value) -> np.ndarray | None:
    """The contents of a TENSOR attribute as it stands in `node.attrs`, or None where there is none."""
    if value is None or isinstance(value, np.ndarray):
        return value
    return to_array(value.t if isinstance(value, _A) else value)


def attribute_proto(key: str, value) -> onnx.AttributeProto:
    """An AttributeProto from a value of `node.attrs`: Python numbers, strings, lists of them, arrays, protos."""
    if isinstance(value, _A):
        return value if value.name == key else _renamed_attribute(value, key)
    if isinstance(value, (bool, int, np.integer)):
        return _A(name=key, type=_A.INT, i=int(value))
    if isinstance(value, (float, np.floating)):
        return _A(name=key, type=_A.FLOAT, f=float(value))
    if isinstance(value, str):
        return _A(name=key, type=_A.STRING, s=value.encode())
    if isinstance(value, np.ndarray):
        return _A(name=key, type=_A.TENSOR, t=to_tensor("", value))
    if isinstance(value, (list, tuple)):
        if all(
            isinstance(v, (int, np.integer)) for v in value
        ):  # an empty list is a list of ints: no standard FLOATS is empty
            return _A(name=key, type=_A.INTS, ints=[int(v) for v in value])
        if all(isinstance(v, (int, float, np.floating)) for v in value):
            return _A(name=key, type=_A.FLOATS, floats=[float(v) for v in value])
    return onnx.helper.make_attribute(key, value)


def _renamed_attribute(value: onnx.AttributeProto, key: str) -> onnx.AttributeProto:
    value = copied(value)
    value.name = key
    return value


# interfaces


def variable(info: onnx.ValueInfoProto) -> gs.Variable:
    """The interface tensor; a dimension below zero is unknown. Other types than tensors stay a ValueInfoProto."""
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        return gs.Variable(info.name, dtype=copied(info), shape=None, type=kind or "tensor_type")
    tensor = info.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = [
            d.dim_param or (d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None)
            for d in tensor.shape.dim
        ]
    return gs.Variable(info.name, dtype=tensor.elem_type, shape=shape)


def value_info(t: gs.Variable | gs.Constant) -> onnx.ValueInfoProto:
    """The interface entry of a graph input or output. Raises BadModel where ONNX cannot write its shape."""
    if isinstance(t, gs.Constant):
        return onnx.helper.make_tensor_value_info(t.name, tensor_type(t.values.dtype), t.values.shape)
    if isinstance(t.dtype, onnx.ValueInfoProto):
        info = copied(t.dtype)
        info.name = t.name
        return info
    if not t.dtype:
        return onnx.ValueInfoProto(name=t.name)
    large = next((d for d in t.shape or () if isinstance(d, int) and d >= 1 << 63), None)
    if large is not None:
        raise BadModel("an extent is larger than ONNX can write", tensor=t.name, expected="below 2^63", found=large)
    kind = t.dtype if isinstance(t.dtype, int) else tensor_type(t.dtype)
    return onnx.helper.make_tensor_value_info(t.name, kind, t.shape)
