"""Operators that ONNX defines by others: the function body of their schema in their place."""

from __future__ import annotations

from typing import Any

import onnx

from onnxc.codegen.prepare.walk import STANDARD, Scope, Walk


def open_definition(walk: Walk, node: onnx.NodeProto) -> list[str] | None:
    """What stands for the outputs of a node whose schema has a body for the opset of the model; None where it has none."""
    domain = "" if node.domain in STANDARD else node.domain
    version = walk.opset if not domain else walk.opsets.get(domain, 1)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    body = _body(walk, node, schema, version)
    if body is None:
        return None
    given = {a.name: a for a in node.attribute}
    defaults = {name: a.default_value for name, a in schema.attributes.items() if a.default_value.type}
    inner: Scope = dict(zip(body.input, node.input))
    inner.update(dict.fromkeys(body.input[len(node.input) :], ""))
    for i, own in enumerate(body.node):
        made = onnx.NodeProto()
        made.CopyFrom(own)
        made.name = f"{node.name}/{own.name or f'{own.op_type}_{i}'}"
        _bind(made, given, defaults)
        walk.visit(made, inner, inside=True)
    return [inner.get(name, name) for name in body.output]


def _body(walk: Walk, node: onnx.NodeProto, schema: Any, version: int) -> onnx.FunctionProto | None:
    """The body of a schema for `version` of its domain."""
    if any(version >= since for since in schema.function_opset_versions):
        text = schema.get_function_with_opset_version(version)
    elif any(version >= since for since in schema.context_dependent_function_opset_versions):
        if not all(name in walk.constants or name in walk.types for name in node.input if name):
            return None
        kinds = [walk.type_of(name).SerializeToString() if name else b"" for name in node.input]
        text = schema.get_context_dependent_function_with_opset_version(version, node.SerializeToString(), kinds)
    else:
        return None
    return onnx.FunctionProto.FromString(text) if text else None


def _bind(node: onnx.NodeProto, given: dict, defaults: dict) -> None:
    """Attributes that a body takes from its caller, in the bodies of bodies too; those that it leaves out go."""
    kept = []
    for a in node.attribute:
        for graph in (a.g, *a.graphs):
            for inner in graph.node:
                _bind(inner, given, defaults)
        if a.ref_attr_name:
            value = given.get(a.ref_attr_name) or defaults.get(a.ref_attr_name)
            if value is None:
                continue
            bound = onnx.AttributeProto()
            bound.CopyFrom(value)
            bound.name = a.name
            a = bound
        kept.append(a)
    copies = []
    for a in kept:
        copy = onnx.AttributeProto()
        copy.CopyFrom(a)
        copies.append(copy)
    del node.attribute[:]
    node.attribute.extend(copies)
