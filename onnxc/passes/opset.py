"""Raise a model to a newer standard opset: onnx.version_converter on a skeleton, weights put back, the result verified.

Passes need it that insert operators of a newer opset (quantisation by channel needs 13, a function with bit shifts 11).
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ..ir.errors import BadModel, DimensionError, Unsupported, VerificationError
from ..ir.faults import ONNX_ERRORS, first_line
from ..ir.files import load
from ..ir.model import Model, read_only
from ..ir.nodes import bodies
from ..ir.verify import verify
from .base import Context, Report

RESIZES = 11
_REDUCES = ("Max", "Min", "Mean", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
CHANGED = {
    **{f"Reduce{name}": (18,) for name in _REDUCES},
    **dict.fromkeys(("Squeeze", "Unsqueeze", "ReduceSum", "Softmax", "LogSoftmax", "Hardmax"), (13,)),
    "Split": (13, 18), "Clip": (11,), "Pad": (11,), "Slice": (10,), "Upsample": (9, 10), "Resize": (RESIZES,), "TopK": (10, 11),
    "Dropout": (12,), "BatchNormalization": (9, 14), "Scan": (9,), "Scatter": (11,), "GroupNormalization": (21,),
}  # fmt: skip
"""Operators that another opset writes or means otherwise, and those opsets; the converter leaves bodies as they are."""
AGREES = 1e-5
"""Allowed difference of an output before and after, relative to its largest value: only operators are rewritten."""


def raise_opset(model: Model, to: int, ctx: Context | None = None, report: Report | None = None, why: str = "") -> bool:
    """Turn `model` (in place) into the same model of opset `to`; False where it is that new already.

    Names of inputs, outputs and nodes stay. `report` is told that it was raised, and `why`. With a `ctx` that can run models,
    the outputs on the first batch are compared too. Raises Unsupported, with `model` untouched, where the converter fails
    or its result does not verify.
    """
    if model.opset >= to:
        return False
    _convertible(model, to)
    try:
        proto = _converted(model, to)
        raised = reattach(load(proto), model)
        raised.declared = {**model.declared, **raised.declared}
        verify(raised, like=model)
    except (BadModel, DimensionError, VerificationError) as e:
        raise _refusal(model, to, f"the converted model does not verify: {e}") from e
    if ctx is not None and ctx.runner is not None and ctx.data is not None:
        _same_outputs(model, raised, to, ctx)
    was = model.opset
    model.adopt(raised)
    if report is not None:
        report.note(f"raised from opset {was} to {model.opset}{': ' if why else ''}{why}")
    return True


def _converted(model: Model, to: int) -> onnx.ModelProto:
    try:
        made = onnx.version_converter.convert_version(model.to_proto(weights=False), to)
    except ONNX_ERRORS as e:
        raise _refusal(model, to, f"onnx.version_converter fails: {first_line(e)}") from e
    if model.opset < RESIZES <= to:
        _as_before(made, model)
    return made


def _as_before(made: onnx.ModelProto, model: Model) -> None:
    """Where a Resize reads: opset 11 has other defaults than opset 10 and Upsample, which the converter overlooks."""
    scales = {t.name: t.values for t in model.constants().values()}
    scales |= {n.output[0]: np.array(n.attribute[0].floats) for n in made.graph.node if n.op_type == "Constant"}
    for node in made.graph.node:
        if node.op_type == "Resize" and not any(a.name == "coordinate_transformation_mode" for a in node.attribute):
            known = scales.get(node.input[2]) if len(node.input) > 2 else None
            shorter = model.opset == RESIZES - 1 and known is not None and known.size and known.min() < 1
            node.attribute.append(onnx.helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            node.attribute.append(onnx.helper.make_attribute("nearest_mode", "ceil" if shorter else "floor"))


def _refusal(model: Model, to: int, why: str) -> Unsupported:
    what = f"the model cannot be raised from opset {model.opset}: {why}"
    return Unsupported(what, expected=f"opset {to}", remedy="export it again with a newer opset")


def _convertible(model: Model, to: int) -> None:
    """The converter drops functions and leaves bodies as they are, without a word."""
    if model.functions:
        raise _refusal(model, to, "it has model-local functions")
    for node in model.nodes:
        graphs = [a for a in node.attrs.values() if isinstance(a, onnx.AttributeProto)]
        stack = bodies(onnx.NodeProto(attribute=graphs))
        while stack:
            for inner in stack.pop().node:
                if any(model.opset < version <= to for version in CHANGED.get(inner.op_type, ())):
                    raise _refusal(model, to, f"node {node.name} has a body with a {inner.op_type}, which has changed")
                stack += bodies(inner)


def reattach(raised: Model, model: Model) -> Model:
    """`raised`, made of the skeleton of `model`, with its extra inputs turned back into the weights that they stand for."""
    weights = model.constants()
    real = {t.name for t in model.inputs}
    for t in raised.inputs:
        if t.name not in real:
            t.to_constant(weights[t.name].values)
    raised.graph.inputs[:] = [t for t in raised.inputs if not isinstance(t, gs.Constant)]
    for t in raised.constants().values():
        t.values = read_only(t.values)
    for now, before in ((raised.inputs, model.inputs), (raised.outputs, model.outputs)):
        for t, old in zip(now, before, strict=True):  # the converter gives unknown extents a name
            if not isinstance(t, gs.Constant):  # an initialiser that is an output says both itself
                t.dtype, t.shape = old.dtype, old.shape
    return raised


def _same_outputs(model: Model, raised: Model, to: int, ctx: Context) -> None:
    names = [t.name for t in model.outputs]
    a, b = (next(iter(ctx.tensors(m, names))) for m in (model, raised))
    for name in names:
        if a[name].dtype.kind != "f":
            same = np.array_equal(a[name], b[name])
        else:
            x, y = a[name].astype(np.float64), b[name].astype(np.float64)
            finite = np.isfinite(x)
            bound = AGREES * max(float(np.abs(x[finite]).max(initial=0.0)), 1e-30)
            same = np.array_equal(finite, np.isfinite(y)) and bool((np.abs(x - y)[finite] <= bound).all())
        if not same:
            raise _refusal(model, to, f"the converted model gives another output {name}")
