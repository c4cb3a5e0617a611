"""Outputs whose declared shape is not what the graph gives: runtimes run such files, so the declaration is corrected.

y declared [N, T], MatMul gives [N, 5, 4]   ->   y declared [N, 5, 4], and a remark
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_graphsurgeon as gs

from .analysis import analyse
from .axes import Extent
from .faults import ONNX_ERRORS
from .inference import infer
from .model import Model
from .table import proto_shape


def correct_outputs(model: Model) -> list[str]:
    """Give outputs that are declared with another rank, or another number, the shape that they have; a remark for each.

    The model is changed. Raises DimensionError where something else disagrees.
    """
    outputs = [t for t in model.outputs if isinstance(t, gs.Variable)]
    declared = [t.shape for t in outputs]
    for t in outputs:
        t.shape = None
    analysis = analyse(model)
    remarks = []
    for t, before in zip(outputs, declared, strict=True):
        have = analysis.shape(t.name)
        if have is None or before is None or _agree(before, have):
            t.shape = before
            continue
        t.shape = list(have)
        remarks.append(f"output {t.name} is declared {_text(before)}, and is {_text(have)}: corrected")
    return remarks


def correct_as_run(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Give outputs that a run gave with another rank, or another number, the shape that they had; a remark for each.

    ONNX's inference and ours may know nothing of an output until a pass has folded what its shape is computed from.
    """
    remarks = []
    for t in model.outputs:
        have, before = shapes.get(t.name), t.shape
        if not isinstance(t, gs.Variable) or have is None or before is None or _agree(before, have):
            continue
        alike = len(before) == len(have)
        t.shape = [b if not isinstance(b, int) or b == h else h for b, h in zip(before, have)] if alike else None
        remarks.append(f"output {t.name} is declared {_text(before)}, and is {_text(have)}: corrected")
    return remarks


def declared_wrongly(proto: onnx.ModelProto, data_prop: bool) -> str | None:
    """The output whose declared shape alone is what ONNX's strict inference refuses, if there is one. Where neither the
    table nor inference knew its rank, one may know it once a pass has folded what shapes are computed from."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for info in bare.graph.output:
        if info.type.WhichOneof("value") == "tensor_type":
            info.type.tensor_type.ClearField("shape")
    try:
        found = infer(bare, check_type=True, strict_mode=True, data_prop=data_prop)
    except ONNX_ERRORS:
        return None
    for ours, theirs in zip(proto.graph.output, found.graph.output, strict=True):
        before, have = proto_shape(ours), proto_shape(theirs)
        if before is not None and have is not None and not _agree(before, have):
            return ours.name
    return None


def freeze_inputs(model: Model, sizes: Mapping[str, int], whole: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Write extents into the inputs, and wherever an output is declared with the same symbol; a remark for each input.

    sizes: by symbol or "name[axis]"; whole: shapes of inputs of unknown rank, by name. The model is changed.
    """
    remarks = []
    for t in model.inputs:
        before = t.shape
        if before is None:
            t.shape = list(whole[t.name]) if t.name in whole else None
        else:
            t.shape = [d if isinstance(d, int) else sizes.get(d or f"{t.name}[{k}]", d) for k, d in enumerate(before)]
        if t.shape != before:
            remarks.append(f"input {t.name} is frozen at {_text(t.shape)}")
    for t in model.outputs:
        if isinstance(t, gs.Variable) and t.shape is not None:
            t.shape = [sizes.get(d, d) if isinstance(d, str) else d for d in t.shape]
    return remarks


def _agree(before, have: tuple[Extent, ...]) -> bool:
    numbers = zip(before, have, strict=False)
    return len(before) == len(have) and all(a == b for a, b in numbers if isinstance(a, int) and isinstance(b, int))


def _text(shape) -> str:
    return "×".join("?" if e is None else str(e) for e in shape) or "a scalar"
