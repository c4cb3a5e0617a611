"""Model -> ModelProto, and model files: written whole or not at all; beyond 2 GiB the weights stand in a file beside."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from . import temporary
from .errors import BadModel
from .external import named
from .graph import CAPTURED
from .lean import NOWHERE, Lean
from .nodes import bodies
from .output import cannot_write, destination, drafted, is_special, put, turn, write_whole
from .streaming import parts
from .values import (
    PACKED,
    attribute_proto,
    copied,
    fill,
    little_endian,
    tensor_type,
    value_info,
)

if TYPE_CHECKING:
    from .model import Model

MAX_PLAIN_IR = 10
"""ONNX Runtime and most tools read this IR version; a newer one is written only where the opset demands it."""
PROTO_LIMIT = 2**31 - 2**20
"""Bytes beyond which a protobuf message cannot be written; the weights then go beside the model."""
SKELETON_BYTES = 2048
"""Initialisers larger than this are left out of a skeleton: none of them can be a shape operand."""
PAGE = 4096

_A = onnx.AttributeProto


def to_proto(model: Model, *, weights: bool = True) -> onnx.ModelProto:
    """The model as a ModelProto; with weights=False those over 2 KiB become inputs (for checker and inference)."""
    proto = _frame(model)
    for t in model.constants().values():
        if weights or t.values.nbytes <= SKELETON_BYTES:
            fill(proto.graph.initializer.add(), t.name, t.values)
        else:
            kind = onnx.TensorProto.STRING if t.values.dtype == object else tensor_type(t.values.dtype)
            proto.graph.input.append(onnx.helper.make_tensor_value_info(t.name, kind, t.values.shape))
    return proto


def lean(model: Model) -> Lean:
    """The model as a `Lean`: weights over 2 KiB stand beside the proto, and are the model's own arrays."""
    proto, arrays = _frame(model), {}
    for t in model.constants().values():
        values, tensor = t.values, proto.graph.initializer.add()
        # no runtime takes other types than NumPy's own, nor what is not dense, as it is
        plain = (
            values.dtype.kind in "biuf" and values.dtype.isnative and type(values.dtype).__module__ == "numpy.dtypes"
        )
        if values.nbytes <= SKELETON_BYTES or not (plain and values.flags.c_contiguous and values.flags.aligned):
            fill(tensor, t.name, values)
            continue
        arrays[t.name] = values
        tensor.name, tensor.data_type = t.name, tensor_type(values.dtype)
        tensor.dims.extend(values.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", NOWHERE), ("offset", "0"), ("length", str(values.nbytes))):
            tensor.external_data.add(key=key, value=value)
    return Lean(proto, arrays)


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
    graph.node.extend(map(node_proto, model.nodes))
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


def node_proto(node: gs.Node) -> onnx.NodeProto:
    """The node as ONNX; in its bodies, captured tensors bear the names that they have now."""
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
            a = copied(a)
            for body in [a.g] if a.type == _A.GRAPH else a.graphs:
                rename(body, renamed)
        proto.attribute.append(a)
    return proto


def rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Let the nodes of a body, and of bodies in it, read other outer tensors, new names by old; what it makes itself stays."""
    local = {t.name for t in (*graph.initializer, *graph.input)} | {name for n in graph.node for name in n.output}
    names = {k: v for k, v in names.items() if k not in local}
    for n in graph.node:
        for i, name in enumerate(n.input):
            if name in names:
                n.input[i] = names[name]
        for body in bodies(n):
            rename(body, names)
    for o in graph.output:
        o.name = names.get(o.name, o.name)


def save(model: Model, path: str | os.PathLike) -> None:
    """Write `model` to `path`, whole or not at all. Raises BadOption where it cannot be written.

    Beyond 2 GiB weights go to `<path>.<digest>.data`, a name that no other weights have. It is there before `path` names it,
    and what the old `path` named goes after: whenever the process ends, `path` has its own weights.
    """
    target = destination(path)
    constants = model.constants().values()
    message: Iterable[bytes | memoryview]
    if sum(t.values.nbytes for t in constants) < PROTO_LIMIT:
        message, data = parts(_frame(model), {t.name: t.values for t in constants}), []
    elif is_special(target):
        raise BadModel(f"weights beyond 2 GiB stand in a file beside the model, and {target} can have none")
    else:
        message, data = [], list(constants)
    if not data and not _data_files(target):
        write_whole(target, message)
        return
    try:
        with ExitStack() as stack:
            left = temporary.stale(target.parent, target.name)
            if data:
                weights = stack.enter_context(drafted(target))
                whole, name = _beside(model, target, weights)
                message = [whole]
            draft = stack.enter_context(drafted(target))
            with open(draft, "wb") as file:
                file.writelines(message)
            with turn(target.parent), temporary.unbroken:
                old = _link(target, stack)
                try:
                    if data:
                        put(weights, target.with_name(name))
                    put(draft, target)
                finally:
                    _sweep(target, [*left, *old, *([draft] if draft.exists() else [])])
    except OSError as e:
        raise cannot_write(path, e) from None


def _beside(model: Model, target: Path, file: Path) -> tuple[bytes, str]:
    """Write the weights of `model` to `file`; the model's message, which names them by their content, and that name."""
    proto, digest, offset = _frame(model), hashlib.blake2b(digest_size=16), 0
    entries = []
    with open(file, "wb") as out:
        for t in model.constants().values():
            if t.values.nbytes <= SKELETON_BYTES or t.values.dtype == object or tensor_type(t.values.dtype) in PACKED:
                fill(proto.graph.initializer.add(), t.name, t.values)
                continue
            pad = -offset % PAGE  # page-aligned, so that readers can map it
            entry = proto.graph.initializer.add(
                name=t.name, dims=t.values.shape, data_type=tensor_type(t.values.dtype),
                data_location=onnx.TensorProto.EXTERNAL,
            )  # fmt: skip
            for chunk in (bytes(pad), np.ascontiguousarray(little_endian(t.values)).reshape(-1).view(np.uint8).data):
                out.write(chunk)
                digest.update(chunk)
            entries.append((entry, offset + pad, t.values.nbytes))
            offset += pad + t.values.nbytes
    name = f"{target.name}.{digest.hexdigest()}.data"
    for entry, at, size in entries:
        for key, value in (("location", name), ("offset", at), ("length", size)):
            entry.external_data.add(key=key, value=str(value))
    return proto.SerializeToString(deterministic=True), name


def _data_files(target: Path) -> list[Path]:
    """Files beside `target` that bear the name of weights which `save` puts there."""
    ours = re.compile(re.escape(target.name) + r"\.[0-9a-f]{32}\.data")
    with suppress(OSError):
        return [target.with_name(name) for name in os.listdir(target.parent) if ours.fullmatch(name)]
    return []


def _link(target: Path, stack: ExitStack) -> list[Path]:
    """The old model once more, under a temporary name: what it names is known even if this process ends."""
    if not target.exists():
        return []
    link = stack.enter_context(temporary.file(target.parent, target.name))
    link.unlink()
    try:
        os.link(target, link)
    except OSError:  # a file system without hard links
        link.write_bytes(target.read_bytes())
    return [link]


def _sweep(target: Path, models: list[Path]) -> None:
    """Remove weights that `models`, temporary files of `target`, name and `target` does not."""
    ours = _data_files(target)
    gone = set().union(*map(named, models)) - named(target) if ours and models else set()
    for path in ours:
        if path.name in gone:
            path.unlink(missing_ok=True)
    for path in models:
        temporary.remove(path)
