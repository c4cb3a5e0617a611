"""Inputs whose values decide extents: a library with static shapes is made for one value of each.

x [N, 64], k []   TopK(x, k)         k
x [N, T], sr []   If(sr == 16000)    sr, where the branches give different shapes
trips []          Loop(trips)        trips
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

FEW = 8
"""Elements of an input that a user can be asked to name."""
FINDERS = {"NonZero", "NonMaxSuppression", "Unique", "Compress"}
"""Operators that find as many elements as there are: no input that a user could fix says how many."""
DATA = {
    "Reshape",
    "Expand",
    "Tile",
    "TopK",
    "Resize",
    "Upsample",
    "Slice",
    "Pad",
    "Squeeze",
    "Unsqueeze",
    "Split",
    "OneHot",
}
"""Operators whose first input's values decide no extent."""


def skeleton(graph: onnx.GraphProto) -> onnx.GraphProto:
    """The nodes without their attributes, and the inputs."""
    nodes = [onnx.NodeProto(name=n.name, op_type=n.op_type, input=n.input, output=n.output) for n in graph.node]
    return onnx.GraphProto(node=nodes, input=graph.input)


def advice(graph: onnx.GraphProto, nodes: Iterable[str]) -> str | None:
    """What to do where shapes cannot be known because of `nodes`; None where no small input of `graph` decides them.

    Of a node of a body, the node that holds it counts.
    """
    small = {v.name for v in graph.input if _is_small(v.type.tensor_type)}
    makers = {out: n for n in graph.node for out in n.output}
    stack: list[str] = []
    for start in graph.node:
        if start.op_type != "Scan" and any(
            start.name and (start.name == name or name.startswith(f"{start.name}/")) for name in nodes
        ):
            stack += start.input[:1] if start.op_type in ("If", "Loop") else start.input[start.op_type in DATA :]
    found: dict[str, None] = {}
    seen: set[str] = set()
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in small:
            found[name] = None
        elif name in makers and makers[name].op_type not in ("Shape", "Size"):
            stack += makers[name].input
    if not found:
        return None
    return "fix what decides it, a library for each value: " + " ".join(f"--input {name}=..." for name in found)


def _is_small(tensor: onnx.TypeProto.Tensor) -> bool:
    count = 1
    for dim in tensor.shape.dim:
        count *= dim.dim_value
    kinds = (onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT)
    return tensor.elem_type in kinds and tensor.HasField("shape") and len(tensor.shape.dim) < 2 and 0 < count <= FEW
