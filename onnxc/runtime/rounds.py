"""Loops that cannot end while somebody waits: what runs them must not begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxc.ir.errors import Unsupported

if TYPE_CHECKING:
    import onnx

ROUNDS = 10**10
"""Of a loop; ONNX Runtime takes some microseconds for one, however little it does."""


def refuse_endless(node: onnx.NodeProto, proto: onnx.ModelProto) -> None:
    """Raise Unsupported where a Loop has a constant limit above ROUNDS, and no condition ends it before."""
    if node.op_type != "Loop" or node.domain not in ("", "ai.onnx") or not node.input:
        return
    body = next((a.g for a in node.attribute if a.name == "body"), None)
    limit = _number(proto.graph, node.input[0])
    if body is None or len(body.input) < 2 or not body.output or limit is None or limit <= ROUNDS:
        return
    begins = len(node.input) < 2 or not node.input[1] or _number(proto.graph, node.input[1])
    makers = {n.output[0]: n for n in body.node if n.op_type == "Identity" and n.input and n.output}
    goes_on = body.output[0].name
    for _ in range(len(makers)):
        goes_on = makers[goes_on].input[0] if goes_on in makers else goes_on
    if begins and (goes_on == body.input[1].name or _number(body, goes_on)):
        raise Unsupported(
            "a Loop runs too often for ONNX Runtime", node=node.name or node.op_type, expected=f"at most {ROUNDS} rounds",
            found=limit, remedy="use --check shapes, and passes that need no data",
        )  # fmt: skip


def _number(graph: onnx.GraphProto, name: str) -> int | None:
    """A constant of one element, as initialisers and Constant nodes give it; None for all else."""
    from onnx import numpy_helper

    tensors = [t for t in graph.initializer if t.name == name]
    for node in graph.node:
        if node.op_type == "Constant" and list(node.output) == [name]:
            tensors += [a.t for a in node.attribute if a.name == "value"]
    if not tensors or tensors[0].external_data or np.prod(tensors[0].dims, dtype=object) != 1:
        return None
    values = numpy_helper.to_array(tensors[0])
    return int(values.reshape(())) if values.dtype.kind in "iub" else None
