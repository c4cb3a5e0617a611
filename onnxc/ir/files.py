"""Reading and writing models: path, bytes, ModelProto or gs.Graph -> Model -> ModelProto or file.

Reading checks structure first, so that a truncated, cyclic or malicious file gives one BadModel. Writing goes to a
temporary file and is renamed; beyond 2 GiB the weights stand in `<file>.data` beside the model.
"""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from . import qonnx
from .errors import BadModel
from .graph import CAPTURED, read_only, stable_topological_order
from .model import Model

ARCHIVE = b"\x89ONNXZ"
"""How a file begins that `onnxc pack` wrote."""
MIN_OPSET = 7
MAX_PLAIN_IR = 10
"""ONNX Runtime and most tools read this IR version; a newer one is written only where the opset demands it."""
PROTO_LIMIT = 2**31 - 2**20
"""Bytes beyond which a protobuf message cannot be written; the weights then go beside the model."""
SKELETON_BYTES = 2048
"""Initialisers larger than this are left out of a skeleton: none of them can be a shape operand."""

_A = onnx.AttributeProto
_DTYPES = {int(k): onnx.helper.tensor_dtype_to_np_dtype(k) for k in onnx.helper.get_all_tensor_dtypes()}
_PACKED = {onnx.TensorProto.UINT4: 2, onnx.TensorProto.INT4: 2, onnx.TensorProto.FLOAT4E2M1: 2} | {
    getattr(onnx.TensorProto, n): 4 for n in ("UINT2", "INT2") if hasattr(onnx.TensorProto, n)
}


def load(source: str | os.PathLike | bytes | onnx.ModelProto | gs.Graph | Model) -> Model:
    """Read a model. Raises BadModel (one line) for whatever is not a sound ONNX model of opset 7 or newer."""
    if isinstance(source, Model):
        return source.copy()
    if isinstance(source, gs.Graph):
        source = gs.export_onnx(source, do_type_check=False)
    folder: Path | None = None
    where = "the model"
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        where, folder = str(path), path.parent
        try:
            source = path.read_bytes()
        except ValueError:
            raise BadModel("a path cannot hold a null character", found=repr(where)) from None
        except IsADirectoryError:
            raise BadModel(f"{where} is a folder", remedy="name the .onnx file in it") from None
        except OSError as e:
            raise BadModel(f"cannot read {where}: {(e.strerror or str(e)).lower()}") from None
    if isinstance(source, (bytes, bytearray, memoryview)):
        source = _parse(bytes(source), where)
    if not isinstance(source, onnx.ModelProto):
        raise BadModel(f"a {type(source).__name__} is not a model", expected="path, bytes, ModelProto or gs.Graph")
    try:
        return _from_proto(source, folder)
    except OSError as e:
        raise BadModel(f"cannot read the external data of {where}: {(e.strerror or str(e)).lower()}") from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as e:
        # a damaged file can trip numpy or protobuf in ways that the checks above them do not foresee
        raise BadModel(f"{where} is damaged: {e}", remedy="export it again") from e


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    if not data:
        raise BadModel(f"{where} is empty")
    if data.startswith(ARCHIVE):
        raise BadModel(f"{where} is an archive", remedy="onnxc unpack gives the model in it")
    try:
        proto = onnx.ModelProto.FromString(data)
    except DecodeError:
        raise BadModel(f"{where} is not an ONNX model, or is truncated") from None
    if not proto.HasField("graph"):
        raise BadModel(f"{where} is not an ONNX model", expected="a graph", found="none")
    return proto


# ModelProto -> Model


def _from_proto(proto: onnx.ModelProto, folder: Path | None) -> Model:
    _check_text(proto)
    opsets = _opsets(proto)
    graph = proto.graph
    if not graph.output:
        raise BadModel(
            "the graph has no outputs", remedy="export it again, or declare the tensors that you need as outputs"
        )
    tensors: dict[str, gs.Variable | gs.Constant] = {}
    for init in graph.initializer:
        if not init.name or init.name in tensors:
            raise BadModel("an initialiser has no name or stands twice", tensor=init.name or "''")
        tensors[init.name] = gs.Constant(init.name, to_array(init, folder))
    for sparse in graph.sparse_initializer:
        if not sparse.values.name or sparse.values.name in tensors:
            raise BadModel("a sparse initialiser has no name or stands twice", tensor=sparse.values.name or "''")
        tensors[sparse.values.name] = gs.Constant(sparse.values.name, _densify(sparse))
    inputs = []
    for info in graph.input:
        if isinstance(tensors.get(info.name), gs.Constant):
            continue  # IR 3 lists initialisers as inputs too
        if not info.name or info.name in tensors:
            raise BadModel("a graph input has no name or stands twice", tensor=info.name or "''")
        tensors[info.name] = _variable(info)
        inputs.append(tensors[info.name])
    nodes = _nodes(graph, tensors, folder)
    outputs = []
    for info in graph.output:
        t = tensors.get(info.name)
        if t is None:
            raise BadModel("no node makes this graph output", tensor=info.name or "''")
        if any(t is o for o in outputs):
            raise BadModel("this graph output stands twice", tensor=info.name)
        if isinstance(t, gs.Variable) and all(t is not i for i in inputs):
            like = _variable(info)
            t.dtype, t.shape, t.type = like.dtype, like.shape, like.type
        outputs.append(t)
    name = graph.name or "graph"
    made = gs.Graph(
        stable_topological_order(nodes), inputs, outputs, name=name, doc_string=graph.doc_string, opset=opsets[""]
    )
    functions = [_copy(f) for f in proto.functions]
    if any(f.overload for f in functions):
        raise BadModel("overloaded functions are not supported", found=next(f.name for f in functions if f.overload))
    wanted = {
        t.name
        for n in nodes
        if n.domain not in ("", "ai.onnx", None) or n.attrs.get(CAPTURED) is not None
        for t in n.outputs
    }
    model = Model(
        made,
        opsets=opsets,
        ir_version=proto.ir_version,
        functions=functions,
        metadata={p.key: p.value for p in proto.metadata_props},
        producer=(proto.producer_name, proto.producer_version, proto.domain, proto.model_version, proto.doc_string),
        declared={v.name: _copy(v) for v in graph.value_info if v.name in wanted},
        reserved=_inner_names(graph),
    )
    _name_nodes(model)
    qonnx.attach(model)
    return model


def _check_text(proto: onnx.ModelProto) -> None:
    """Names must be text: protobuf gives what is not UTF-8 as bytes."""
    strings = [
        proto.producer_name,
        proto.producer_version,
        proto.domain,
        proto.doc_string,
        proto.graph.name,
        proto.graph.doc_string,
    ]
    strings += [s for p in proto.metadata_props for s in (p.key, p.value)] + [o.domain for o in proto.opset_import]
    strings += [s for f in proto.functions for s in (f.name, f.domain, *f.input, *f.output, *f.attribute)]
    nodes = [n for f in proto.functions for n in f.node]
    graphs = [proto.graph]
    while graphs or nodes:
        if graphs:
            g = graphs.pop()
            infos = (*g.input, *g.output, *g.value_info)
            strings += [t.name for t in (*g.initializer, *infos)] + [t.values.name for t in g.sparse_initializer]
            strings += [d.dim_param for v in infos for d in v.type.tensor_type.shape.dim]
            nodes += g.node
            continue
        n = nodes.pop()
        strings += [
            n.name,
            n.op_type,
            n.domain,
            *n.input,
            *n.output,
            *(a.name for a in n.attribute),
            *(a.ref_attr_name for a in n.attribute),
        ]
        graphs += _bodies(n)
    bad = next((s for s in strings if not isinstance(s, str)), None)
    if bad is not None:
        raise BadModel("a name is not text", found=repr(bad), remedy="the file is damaged: export it again")


def _opsets(proto: onnx.ModelProto) -> dict[str, int]:
    opsets: dict[str, int] = {}
    for o in proto.opset_import:
        domain = "" if o.domain == "ai.onnx" else o.domain
        opsets[domain] = max(o.version, opsets.get(domain, 0))
    newest = onnx.defs.onnx_opset_version()
    if "" not in opsets:
        if any(n.domain in ("", "ai.onnx") for n in proto.graph.node):
            raise BadModel("the model imports no standard opset", remedy="export it again")
        opsets[""] = min(17, newest)
    if not MIN_OPSET <= opsets[""] <= newest:
        raise BadModel(
            "the opset is not supported",
            expected=f"{MIN_OPSET} to {newest}",
            found=opsets[""],
            remedy="convert it with onnx.version_converter",
        )
    return opsets


def _nodes(graph: onnx.GraphProto, tensors: dict, folder: Path | None) -> list[gs.Node]:
    made: set[str] = set(tensors)
    for proto in graph.node:
        for name in proto.output:
            if name and name in made:
                raise BadModel("two nodes make this tensor", node=proto.name or proto.op_type, tensor=name)
            if name:
                made.add(name)
    outputs = {o.name for o in graph.output}
    nodes: list[gs.Node] = []
    for proto in graph.node:
        if not proto.op_type:
            raise BadModel("a node has no operator", node=proto.name or "''")
        if proto.op_type == "Constant" and proto.domain in ("", "ai.onnx") and len(proto.output) == 1:
            name = proto.output[0]
            values = _constant_node(proto, folder)
            if values is not None and name not in outputs:
                known = tensors.get(name)
                if known is not None:  # a reader stood ahead of it
                    known.to_constant(values)
                else:
                    tensors[name] = gs.Constant(name, values)
                continue
        captured = _captured(proto)
        given = list(proto.input)
        while given and not given[-1]:
            given.pop()
        ins = [_use(name, proto, tensors, made) for name in (*given, *captured)]
        outs = [tensors.setdefault(name, gs.Variable(name)) if name else gs.Variable.empty() for name in proto.output]
        attrs = {a.name: _attribute(a) for a in proto.attribute}
        if captured:
            attrs[CAPTURED] = captured
        elif any(a.type in (_A.GRAPH, _A.GRAPHS) for a in proto.attribute):
            attrs[CAPTURED] = ()
        nodes.append(gs.Node(proto.op_type, proto.name, attrs, ins, outs, domain=proto.domain or None))
    return nodes


def _use(name: str, proto: onnx.NodeProto, tensors: dict, made: set[str]):
    if not name:
        return gs.Variable.empty()
    if name not in made:
        raise BadModel("this input is made by no node", node=proto.name or proto.op_type, tensor=name)
    return tensors.setdefault(name, gs.Variable(name))


def _variable(info: onnx.ValueInfoProto) -> gs.Variable:
    """The interface tensor; a dimension below zero is unknown. Other types than tensors stay a ValueInfoProto."""
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        return gs.Variable(info.name, dtype=_copy(info), shape=None, type=kind or "tensor_type")
    tensor = info.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = [
            d.dim_param or (d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None)
            for d in tensor.shape.dim
        ]
    return gs.Variable(info.name, dtype=tensor.elem_type, shape=shape)


def _attribute(a: onnx.AttributeProto):
    """int, float, str and non-empty lists of them as Python values; everything else stays an AttributeProto."""
    if a.ref_attr_name:
        return _copy(a)
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
            return _copy(a)
    return _copy(a)


def attribute_array(value) -> np.ndarray | None:
    """The contents of a TENSOR attribute as it stands in `node.attrs`, or None where there is none."""
    if value is None or isinstance(value, np.ndarray):
        return value
    return to_array(value.t if isinstance(value, _A) else value, None)


def _constant_node(proto: onnx.NodeProto, folder: Path | None) -> np.ndarray | None:
    if len(proto.attribute) != 1:
        return None
    a = proto.attribute[0]
    if a.name == "value" and a.type == _A.TENSOR:
        return to_array(a.t, folder)
    if a.name == "sparse_value" and a.type == _A.SPARSE_TENSOR:
        return _densify(a.sparse_tensor)
    if a.name in ("value_int", "value_ints"):
        return read_only(np.array(a.i if a.name == "value_int" else list(a.ints), np.int64))
    if a.name in ("value_float", "value_floats"):
        return read_only(np.array(a.f if a.name == "value_float" else list(a.floats), np.float32))
    return None


def _captured(proto: onnx.NodeProto) -> tuple[str, ...]:
    """The outer tensors that the node's bodies read, in order of first use."""
    found: dict[str, None] = {}

    def walk(graph: onnx.GraphProto, outer: set[str]) -> None:
        local = outer | {t.name for t in (*graph.initializer, *graph.input)}
        local |= {name for n in graph.node for name in n.output}
        for n in graph.node:
            found.update((name, None) for name in n.input if name and name not in local)
            for inner in _bodies(n):
                walk(inner, local)
        found.update((o.name, None) for o in graph.output if o.name not in local)

    for body in _bodies(proto):
        walk(body, set())
    return tuple(found)


def _bodies(proto: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [
        g for a in proto.attribute for g in ([a.g] if a.type == _A.GRAPH else a.graphs if a.type == _A.GRAPHS else ())
    ]


def _inner_names(graph: onnx.GraphProto) -> set[str]:
    names: set[str] = set()
    stack = [b for n in graph.node for b in _bodies(n)]
    while stack:
        body = stack.pop()
        names.update(t.name for t in (*body.initializer, *body.input, *body.output))
        for n in body.node:
            names.update((n.name, *n.input, *n.output))
            stack += _bodies(n)
    return names


def _name_nodes(model: Model) -> None:
    """Give every node a name of its own: missing ones after their operator, repeated ones with a number behind."""
    taken = set(model.tensors()) | model.reserved
    seen: set[str] = set()
    for node in model.nodes:
        stem = node.name or next((t.name for t in node.outputs if t.name), node.op)
        name, i = stem, 0
        while name in seen or (not node.name and name in taken and name != stem):
            i += 1
            name = f"{stem}_{i}"
        node.name = name
        seen.add(name)


# tensors


def to_array(tensor: onnx.TensorProto, folder: Path | None) -> np.ndarray:
    """The contents of a TensorProto as a read-only array (4-bit and 2-bit types unpacked, as ml_dtypes).

    External data is mapped, not read. Raises BadModel where sizes disagree or the data stand outside `folder`.
    """
    dims = tuple(tensor.dims)
    kind = tensor.data_type
    if any(d < 0 for d in dims) or kind not in _DTYPES:
        raise BadModel("this tensor has a negative extent or an unknown type", tensor=tensor.name)
    count = math.prod(dims)
    if kind == onnx.TensorProto.STRING:
        strings = np.empty(len(tensor.string_data), object)
        strings[:] = list(tensor.string_data)  # bytes: ONNX does not say how they are encoded
        if strings.size != count:
            raise BadModel(
                "this tensor's data has a wrong size", tensor=tensor.name, expected=count, found=strings.size
            )
        return read_only(strings.reshape(dims))
    packed = _PACKED.get(kind)
    nbytes = -(-count // packed) if packed else count * _DTYPES[kind].itemsize
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raw = _external(tensor, folder, nbytes)
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
    if packed:
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


def _external(tensor: onnx.TensorProto, folder: Path | None, nbytes: int):
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise BadModel(
            "this tensor's data stands in another file", tensor=tensor.name, remedy="load the model by its path"
        )
    try:
        root = folder.resolve()
        path = (root / location).resolve()
    except RuntimeError:
        raise BadModel("external data is a link to itself", tensor=tensor.name, found=location) from None
    if not location or os.path.isabs(location) or not path.is_relative_to(root):
        raise BadModel(
            "external data outside the model's folder is refused", tensor=tensor.name, found=location or "''"
        )
    if not path.is_file():
        raise BadModel("external data is missing", tensor=tensor.name, expected=location)
    offset, length = int(entries.get("offset", 0)), int(entries.get("length", nbytes))
    if offset < 0 or length != nbytes or offset + length > path.stat().st_size:
        raise BadModel(
            "external data has a wrong size",
            tensor=tensor.name,
            expected=f"{nbytes} bytes",
            found=f"{length} at {offset} of {location}",
        )
    return np.memmap(path, np.uint8, "r", offset, (length,)) if length else b""


def _densify(sparse: onnx.SparseTensorProto) -> np.ndarray:
    values, dims = to_array(sparse.values, None), tuple(sparse.dims)
    indices = to_array(sparse.indices, None)
    name = sparse.values.name
    if any(d < 0 for d in dims) or math.prod(dims) * values.itemsize > PROTO_LIMIT:
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
    _fill(tensor, name, values)
    return tensor


def _fill(tensor: onnx.TensorProto, name: str, values: np.ndarray) -> None:
    """Write `values` into an empty TensorProto: filled where it stands, a large one is copied once less."""
    kind = onnx.TensorProto.STRING if values.dtype == object else tensor_type(values.dtype)
    if kind == onnx.TensorProto.STRING or kind in _PACKED:
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name))
        return
    tensor.name, tensor.data_type = name, kind
    tensor.dims.extend(values.shape)
    if values.size > 1 and not any(values.strides):  # one element, repeated
        tensor.raw_data = _little(values[(slice(0, 1),) * values.ndim]).tobytes() * values.size
    else:
        tensor.raw_data = _little(values).tobytes()


def _little(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder("<")) if values.dtype.byteorder == ">" else values


# Model -> ModelProto, file


def to_proto(model: Model, *, weights: bool = True) -> onnx.ModelProto:
    """The model as a ModelProto; with weights=False those over 2 KiB become inputs (for checker and inference)."""
    proto = _frame(model)
    for t in model.constants().values():
        if weights or t.values.nbytes <= SKELETON_BYTES:
            _fill(proto.graph.initializer.add(), t.name, t.values)
        else:
            kind = onnx.TensorProto.STRING if t.values.dtype == object else tensor_type(t.values.dtype)
            proto.graph.input.append(onnx.helper.make_tensor_value_info(t.name, kind, t.values.shape))
    return proto


def _frame(model: Model) -> onnx.ModelProto:
    """Everything but the initialisers."""
    name, version, domain, number, doc = model.producer
    used = {n.domain or "" for n in model.nodes} | {d for d, _ in model.functions} | {"", *model.opsets}
    opsets = {d: model.opsets.get(d, 1) for d in sorted(used) if d != "ai.onnx"}
    proto = onnx.ModelProto(
        ir_version=ir_version(model),
        producer_name=name,
        producer_version=version,
        domain=domain,
        model_version=number,
        doc_string=doc,
        opset_import=[onnx.helper.make_opsetid(d, v) for d, v in opsets.items()],
        functions=list(model.functions.values()),
        metadata_props=[onnx.StringStringEntryProto(key=k, value=v) for k, v in model.metadata.items()],
    )
    graph = proto.graph
    graph.name, graph.doc_string = model.graph.name, model.graph.doc_string or ""
    graph.input.extend(value_info(t) for t in model.inputs)
    graph.output.extend(value_info(t) for t in model.outputs)
    graph.node.extend(map(_node_proto, model.nodes))
    live = {t.name for n in model.nodes for t in n.outputs} - {t.name for t in model.outputs}
    graph.value_info.extend(v for k, v in model.declared.items() if k in live)
    return proto


def ir_version(model: Model) -> int:
    """The model's own IR version, raised to what its content demands and lowered to what runtimes read."""
    known = {d: v for d, v in model.opsets.items() if d in ("", "ai.onnx.ml", "ai.onnx.training")}
    need = onnx.helper.find_min_ir_version_for(
        [onnx.helper.make_opsetid(d, v) for d, v in known.items()], ignore_unknown=True
    )
    need = max(4, need, 8 if model.functions else 0)
    for t in model.constants().values():
        kind = t.values.dtype.name
        need = max(need, 10 if kind in ("int4", "uint4") else 9 if kind.startswith("float8") else need)
    return max(need, min(model.ir_version, MAX_PLAIN_IR))


def value_info(t: gs.Variable | gs.Constant) -> onnx.ValueInfoProto:
    """The interface entry of a graph input or output."""
    if isinstance(t, gs.Constant):
        return onnx.helper.make_tensor_value_info(t.name, tensor_type(t.values.dtype), t.values.shape)
    if isinstance(t.dtype, onnx.ValueInfoProto):
        info = _copy(t.dtype)
        info.name = t.name
        return info
    if not t.dtype:
        return onnx.ValueInfoProto(name=t.name)
    kind = t.dtype if isinstance(t.dtype, int) else tensor_type(t.dtype)
    return onnx.helper.make_tensor_value_info(t.name, kind, t.shape)


def _node_proto(node: gs.Node) -> onnx.NodeProto:
    inputs = [t.name for t in node.inputs]
    captured = node.attrs.get(CAPTURED, ())
    renamed = {}
    if captured:
        inputs, now = inputs[: -len(captured)], inputs[-len(captured) :]
        renamed = {old: new for old, new in zip(captured, now, strict=True) if old != new}
    while inputs and not inputs[-1]:
        inputs.pop()
    proto = onnx.NodeProto(
        op_type=node.op, name=node.name, domain=node.domain or "", input=inputs, output=[t.name for t in node.outputs]
    )
    for key, value in node.attrs.items():
        if key == CAPTURED or value is None:
            continue
        a = attribute_proto(key, value)
        if renamed and a.type in (_A.GRAPH, _A.GRAPHS):
            a = _copy(a)
            for body in [a.g] if a.type == _A.GRAPH else a.graphs:
                _rename(body, renamed)
        proto.attribute.append(a)
    return proto


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
    value = _copy(value)
    value.name = key
    return value


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    local = {t.name for t in (*graph.initializer, *graph.input)} | {name for n in graph.node for name in n.output}
    names = {k: v for k, v in names.items() if k not in local}
    for n in graph.node:
        for i, name in enumerate(n.input):
            if name in names:
                n.input[i] = names[name]
        for body in _bodies(n):
            _rename(body, names)
    for o in graph.output:
        o.name = names.get(o.name, o.name)


def save(model: Model, path: str | os.PathLike) -> None:
    """Write `model` to `path` through a temporary file that is renamed; weights beyond 2 GiB go to `<path>.data`."""
    path = Path(path)
    constants = model.constants().values()
    total = sum(t.values.nbytes for t in constants)
    try:
        if total < PROTO_LIMIT:
            write_atomically(path, [to_proto(model).SerializeToString(deterministic=True)])
            return
        proto = _frame(model)
        chunks, offset = [], 0
        for t in constants:
            if t.values.nbytes <= SKELETON_BYTES or t.values.dtype == object or tensor_type(t.values.dtype) in _PACKED:
                proto.graph.initializer.append(to_tensor(t.name, t.values))
                continue
            entry = onnx.TensorProto(name=t.name, dims=t.values.shape, data_type=tensor_type(t.values.dtype))
            entry.data_location = onnx.TensorProto.EXTERNAL
            pad = -offset % 4096  # page-aligned, so that readers can map it
            for k, v in (("location", f"{path.name}.data"), ("offset", offset + pad), ("length", t.values.nbytes)):
                entry.external_data.add(key=k, value=str(v))
            proto.graph.initializer.append(entry)
            chunks += [bytes(pad), t.values]
            offset += pad + t.values.nbytes
        write_atomically(path.with_name(f"{path.name}.data"), chunks)
        write_atomically(path, [proto.SerializeToString(deterministic=True)])
    except OSError as e:
        raise BadModel(f"cannot write {path}: {(e.strerror or str(e)).lower()}") from None


def write_atomically(path: Path, chunks: list[bytes | np.ndarray]) -> None:
    """Write chunks (arrays one at a time, never all in memory) to a temporary file beside `path`, then rename it."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as f:
            for chunk in chunks:
                f.write(chunk if isinstance(chunk, bytes) else np.ascontiguousarray(_little(chunk)).data)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _copy(proto):
    new = type(proto)()
    new.CopyFrom(proto)
    return new
