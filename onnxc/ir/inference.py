"""ONNX's shape inference, kept from what ends the process in it.

It is native code that takes some things for granted. What it does with every operator when types are missing, axes are wild
or outputs too many was tried on all of them; those that it does not survive are named here. (onnx 1.17 to 1.22)
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from .errors import BadModel
from .nodes import STANDARD, all_nodes, with_bodies

UNASKED = {
    "": {"EyeLike", "RegexFullMatch"},
    "ai.onnx.ml": {"DictVectorizer", "LabelEncoder", "TreeEnsemble"},
}
"""Operators by domain whose inference reads the type of their first input without asking whether there is one."""
HIDDEN = "ai.onnxc.hidden"
"""The domain of operators that inference is not shown."""
ELEMENT_TYPES = frozenset(onnx.helper.get_all_tensor_dtypes())
ROUNDS = 4
MOST_AXES = 64
ELEMENTS = ("to", "dtype", "output_dtype", "output_datatype", "precision", "softmax_precision", "stash_type")
"""Attributes that name a type of elements."""


def infer(proto: onnx.ModelProto, **options: bool) -> onnx.ModelProto:
    """`onnx.shape_inference.infer_shapes`, for the types of tensors: operators whose inputs have no known type may be other
    ones in the result, and what they make has none. Extents below zero in `proto` are taken out of it. Raises ONNX_ERRORS.
    """
    _drop_negative(proto)
    if not any(map(_unasked, all_nodes(proto))):
        return onnx.shape_inference.infer_shapes(proto, **options)
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    shown.opset_import.append(onnx.helper.make_opsetid(HIDDEN, 1))
    for function in shown.functions:  # nobody says what these are called with
        function.opset_import.append(onnx.helper.make_opsetid(HIDDEN, 1))
        for node in filter(_unasked, with_bodies(function.node)):
            node.domain = HIDDEN
    hidden = [(n, n.domain) for n in with_bodies(shown.graph.node) if _unasked(n)]
    for node, _ in hidden:
        node.domain = HIDDEN
    for _ in range(ROUNDS):  # one may wait for what another makes
        typed = _typed(onnx.shape_inference.infer_shapes(shown).graph)
        sure = [(n, domain) for n, domain in hidden if n.domain == HIDDEN and n.input and n.input[0] in typed]
        for node, domain in sure:
            node.domain = domain
        if not sure:
            break
    return onnx.shape_inference.infer_shapes(shown, **options)


def refuse_impossible(nodes: Iterable[onnx.NodeProto], opset: int) -> None:
    """Raise BadModel where a standard operator names an axis that no tensor can have, a type that there is not, or other
    outputs than it has: ONNX's inference would read beyond a shape, or write beyond the outputs. Or where a Split says not at
    all how it splits, which inference sees only once the shape is known."""
    for node in nodes:
        if node.domain not in STANDARD:
            continue
        name = node.name or node.op_type
        if node.op_type == "Split" and opset >= 18 and not any(node.input[1:]):
            if all(a.name != "num_outputs" for a in node.attribute):
                raise BadModel(
                    f"Split has neither lengths nor num_outputs, of which opset {opset} needs one", node=name,
                    remedy="export the model again",
                )  # fmt: skip
        for a in node.attribute:
            if a.type != onnx.AttributeProto.INT or a.ref_attr_name:
                continue
            least = {"axis": -MOST_AXES, "batch_dims": 0}.get(a.name)
            if least is not None and not least <= a.i <= MOST_AXES:
                raise BadModel(
                    f"{node.op_type} has an impossible {a.name}",
                    node=name,
                    expected=f"{least} to {MOST_AXES}",
                    found=a.i,
                )
            if a.name in ELEMENTS and not (a.i in ELEMENT_TYPES or (a.i == 0 and a.name != "to")):
                raise BadModel(f"{a.name} of {node.op_type} names no type", node=name, found=a.i)
            if node.op_type == "Split" and a.name == "num_outputs" and a.i != len(node.output):
                raise BadModel("Split has other outputs than it says", node=name, expected=a.i, found=len(node.output))


def _unasked(node: onnx.NodeProto) -> bool:
    return node.op_type in UNASKED.get("" if node.domain in STANDARD else node.domain, ())


def _typed(graph: onnx.GraphProto) -> set[str]:
    """The tensors whose type is known, in bodies too."""
    found = {t.name for t in graph.initializer}
    found |= {v.name for v in (*graph.input, *graph.value_info, *graph.output) if v.type.WhichOneof("value")}
    return found


def _drop_negative(proto: onnx.ModelProto) -> None:
    graph = proto.graph
    for info in (*graph.input, *graph.value_info, *graph.output):
        for dim in info.type.tensor_type.shape.dim if info.type.HasField("tensor_type") else ():
            if dim.dim_value < 0:
                dim.ClearField("dim_value")
