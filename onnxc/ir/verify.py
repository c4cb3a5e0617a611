"""Whether a model is sound: dimension check, ONNX checker, strict inference, and an interface that did not change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx

from .analysis import analyse
from .axes import numbers
from .declared import declared_wrongly
from .errors import InferenceObjects, VerificationError
from .faults import ONNX_ERRORS, first_line
from .inference import infer
from .model import Model
from .nodes import STANDARD
from .table import Analysis, follow_no_weights, long_vectors, proto_shape

if TYPE_CHECKING:
    from .bodies import Body


@dataclass
class Verified:
    """The evidence of a verified model: its axes, the element type (ONNX number) of every tensor that has one,
    and what was corrected on the way. bodies: what `bodies.inner` found within its nodes, None before it looked."""

    analysis: Analysis
    types: dict[str, int]
    remarks: list[str] = field(default_factory=list)
    bodies: list[Body] | None = None


def verify(model: Model, like: Model | None = None) -> Verified:
    """Check `model`, and that its inputs and outputs are those of `like`.

    Raises DimensionError or VerificationError, naming node and tensor[axis]. Two independent derivations of every shape
    (the operator table's and ONNX's own) must agree; of a model that is `lax` the table's alone holds.
    """
    _unique_names(model)
    if like is not None:
        _same_interface(model, like)
    proto = model.to_proto(weights=False)
    _settle_normalisations(proto, model.opset)
    try:
        onnx.checker.check_model(_complete(proto))
    except ONNX_ERRORS as e:
        raise VerificationError(f"the ONNX checker refuses the model: {first_line(e)}") from None
    analysis = analyse(model)
    _settle_last_windows(proto, analysis)
    infos = list(proto.graph.input)
    follow_no_weights(proto.graph, {t.name for t in model.inputs})
    try:
        follow = not long_vectors(map(analysis.shape, analysis.axes))
        strict = {} if model.lax else {"check_type": True, "strict_mode": True}
        inferred = infer(proto, data_prop=follow, **strict)
    except ONNX_ERRORS as e:
        if not model.lax:
            raise InferenceObjects(
                f"strict shape inference fails: {first_line(e)}", tensor=declared_wrongly(proto, data_prop=follow)
            ) from None
        inferred = proto
    types: dict[str, int] = {}
    for info in (*infos, *inferred.graph.value_info, *inferred.graph.output):
        if info.type.WhichOneof("value") == "tensor_type":
            types[info.name] = info.type.tensor_type.elem_type
        if not model.lax:
            _agree(analysis, info)
    if model.shapes:
        _ = analysis.sizes  # now: a pass that edits the model may ask later
    return Verified(analysis, types)


def _complete(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto`, with stand-ins for what its interface leaves out: runtimes take that, the checker does not."""
    infos = (*proto.graph.input, *proto.graph.output)
    kinds = [info.type.WhichOneof("value") for info in infos]
    if all(
        k not in (None, "tensor_type") or i.type.tensor_type.HasField("shape")
        for i, k in zip(infos, kinds, strict=True)
    ):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for info in (*copy.graph.input, *copy.graph.output):
        if info.type.WhichOneof("value") in (None, "tensor_type"):
            info.type.tensor_type.elem_type = info.type.tensor_type.elem_type or onnx.TensorProto.FLOAT
            info.type.tensor_type.shape.SetInParent()
    return copy


def _settle_normalisations(proto: onnx.ModelProto, opset: int) -> None:
    """Rewrite, for the checks only, two operators that runtimes take and ONNX's own checks do not.

    GroupNormalization of opset 18 to 20 was deprecated afterwards; InstanceNormalization has its shapes and types.
    MeanVarianceNormalization without axes has a default that inference overlooks.
    """
    for node in proto.graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "GroupNormalization" and opset < 21:
            node.op_type = "InstanceNormalization"
            kept = [a for a in node.attribute if a.name == "epsilon"]
            del node.attribute[:]
            node.attribute.extend(kept)
        elif node.op_type == "MeanVarianceNormalization" and not any(a.name == "axes" for a in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("axes", [0, 2, 3]))


def _settle_last_windows(proto: onnx.ModelProto, analysis: Analysis) -> None:
    """Rewrite, for inference only, pools with ceil_mode whose last window would start in the end padding or behind the input.

    Runtimes drop that window, and so does the standard from opset 22 on; before, ONNX's inference counts it. A window that
    reaches from the last start, (n-1)*s, to the end of the input is that many windows under floor, whatever ceil would say.
    """
    for node in proto.graph.node:
        if node.domain not in STANDARD or node.op_type not in ("MaxPool", "AveragePool", "LpPool"):
            continue
        attrs = {a.name: a for a in node.attribute}
        if "ceil_mode" not in attrs:
            continue
        sizes, out = analysis.shape(node.input[0]), analysis.shape(node.output[0])
        if attrs["ceil_mode"].i != 1 or not sizes or not out:
            continue
        before, after = numbers(sizes[2:]), numbers(out[2:])
        if before is None or after is None:
            continue
        rank = len(sizes) - 2
        strides = list(attrs["strides"].ints) if "strides" in attrs else [1] * rank
        begins = list(attrs["pads"].ints)[:rank] if "pads" in attrs else [0] * rank
        if not len(strides) == len(begins) == rank:
            continue  # inference says so
        spans = [x + b - (n - 1) * s for x, b, n, s in zip(before, begins, after, strides, strict=True)]
        if min(spans, default=0) < 1 or ("auto_pad" in attrs and attrs["auto_pad"].s not in (b"", b"NOTSET")):
            continue
        kept = [a for a in node.attribute if a.name not in ("ceil_mode", "dilations", "pads", "kernel_shape")]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.append(onnx.helper.make_attribute("kernel_shape", spans))
        node.attribute.append(onnx.helper.make_attribute("pads", begins + [0] * rank))


def _unique_names(model: Model) -> None:
    seen: set[str] = set()
    for node in model.nodes:
        if not node.name or node.name in seen:
            raise VerificationError("two nodes share a name, or one has none", node=node.name or node.op)
        seen.add(node.name)
    tensors = model.tensors()
    for node in model.nodes:
        for t in (*node.inputs, *node.outputs):
            if t.name and tensors[t.name] is not t:
                raise VerificationError("two tensors share a name", node=node.name, tensor=t.name)


def _agree(analysis: Analysis, info: onnx.ValueInfoProto) -> None:
    ours, theirs = analysis.shape(info.name), proto_shape(info)
    if ours is None or theirs is None:
        return
    t = analysis.model.tensors().get(info.name) if len(ours) != len(theirs) else None
    if len(ours) != len(theirs):
        node = t.inputs[0].name if t is not None and t.inputs else None
        raise InferenceObjects(
            "the operator table and ONNX inference disagree about the rank",
            node=node,
            tensor=info.name,
            expected=len(theirs),
            found=len(ours),
        )
    for d, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if isinstance(a, int) and isinstance(b, int) and a != b:
            t = analysis.model.tensors().get(info.name)
            node = t.inputs[0].name if t is not None and t.inputs else None
            raise InferenceObjects(
                "the operator table and ONNX inference disagree",
                node=node,
                tensor=info.name,
                axis=d,
                expected=b,
                found=a,
            )


def _same_interface(model: Model, like: Model) -> None:
    for what, ours, theirs in (("input", model.inputs, like.inputs), ("output", model.outputs, like.outputs)):
        have, want = [t.name for t in ours], [t.name for t in theirs]
        if have != want:
            raise VerificationError(f"the graph's {what}s have changed", expected=want, found=have)
        for a, b in zip(ours, theirs, strict=True):
            if _declaration(a) != _declaration(b):
                raise VerificationError(
                    f"the graph's {what} has changed", tensor=a.name, expected=_declaration(b), found=_declaration(a)
                )


def _declaration(t) -> tuple:
    return str(t.dtype), None if t.shape is None else tuple(t.shape)
