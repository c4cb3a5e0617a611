"""One walk over a model ties its axes together: the dimension check, the groups of coupled indices, the shapes.

Each node's row of the operator table (`onnxc.ir.ops`) says how the axes of its inputs and outputs relate. What has none
(foreign operators, subgraph bodies, unknown ranks) freezes every axis that it touches; its output shapes come from
ONNX's own inference.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs

from . import ops  # noqa: F401  the rows enter themselves
from .axes import Aligned, Atom, Axis, Prod, Sum, extent, find, freeze, settle
from .computed import Computed
from .errors import DimensionError
from .model import Model
from .table import ROWS, Analysis, Unreadable, Use, key_of, proto_shape
from .unify import tie

__all__ = ["Analysis", "analyse"]


def analyse(
    model: Model, prepare: Callable[[Analysis, gs.Node], None] | None = None, *, alike: bool = False
) -> Analysis:
    """Tie all axes of `model`. Raises DimensionError, naming node and tensor[axis], where two uses disagree.

    prepare: called with the analysis so far and each node before it is read; it may change that node's constants and
    attributes to fit what reaches it. alike: all products that read one weight have the same axes there, so that one
    mask cuts it for all of them; without, each use has axes of its own.
    """
    result = Analysis(model)
    for t in model.inputs:
        result.axes[t.name] = None if t.shape is None else tuple(Atom(d, "graph input") for d in t.shape)
    for node in model.nodes:
        if prepare is not None:
            prepare(result, node)
        _visit(result, node)
    for t in model.outputs:
        _check_output(result, t)
    if alike:
        _share(result)
    settle(a for axes in (*result.axes.values(), *result.uses.values()) for a in axes or ())
    result.measure = _measure
    return result


def _measure(analysis: Analysis) -> dict[Axis, int]:
    """Extents of the axes that are no numbers where the inputs have `Model.shapes`: the same model is read once more, with
    those, and its tensors' axes are looked up beside the first reading's."""
    model = analysis.model
    opened = any(not isinstance(extent(a), int) for axes in analysis.axes.values() for a in axes or ())
    if not model.shapes or not opened:
        return {}
    fixed = model.copy()
    for t in fixed.inputs:
        if t.name in model.shapes and (t.shape is None or len(t.shape) == len(model.shapes[t.name])):
            t.shape = list(model.shapes[t.name])
    for t in fixed.outputs:
        if isinstance(t, gs.Variable):
            t.shape = None
    try:
        second = analyse(fixed, Computed(fixed.opset))
    except DimensionError as e:
        analysis.unfit = str(e)
        return {}
    found: dict[Axis, int] = {}
    for name, axes in analysis.axes.items():
        for axis, n in zip(axes or (), second.shape(name) or ()):
            a = find(axis)
            if not isinstance(extent(a), int) and isinstance(n, int):
                found.setdefault(a, n)
    return found


def _share(result: Analysis) -> None:
    """Tie the axes of all uses of each weight that several products read, each at the same input."""
    first: dict[tuple[int, int], tuple[Axis, ...]] = {}
    for node in result.model.nodes:
        if not result.facts[node.name].iteration:
            continue
        for i, t in enumerate(node.inputs):
            if not isinstance(t, gs.Constant) or t.values.ndim < 2:
                continue
            axes = result.uses[node.name, i]
            for a, b in zip(first.setdefault((id(t), i), axes), axes, strict=True):
                a, b = find(a), find(b)
                if type(a) is Aligned and type(b) is Aligned and len(a.parts) == len(b.parts):
                    for x, y in zip(a.parts, b.parts, strict=True):
                        tie(x, y)
                else:
                    tie(a, b)


def _visit(result: Analysis, node: gs.Node) -> None:
    for i, t in enumerate(node.inputs):
        if isinstance(t, gs.Constant):
            result.uses[node.name, i] = tuple(map(Atom, t.values.shape))
    use = Use(result, node)
    entry = ROWS.get(key_of(node))
    if entry is None:
        _unknown(use, f"{key_of(node)} {node.name} has no row in the operator table")
    else:
        try:
            entry(use)
        except Unreadable as e:
            use = Use(result, node)
            _unknown(use, f"{node.op} {node.name}: {e}")
        except (ArithmeticError, LookupError, ValueError) as e:
            # attributes or ranks that the operator does not allow: strict inference has the last word
            use = Use(result, node)
            _unknown(use, f"{node.op} {node.name}: it makes no sense ({e})")
    for i, t in enumerate(node.inputs):
        # a tensor of extents that goes anywhere but into a shape operand makes these extents data
        if i not in use._read and not isinstance(t, gs.Constant):
            _freeze_values(result, t.name, f"its extent is used as data by {node.op} {node.name}")
        # the elements of a shape operand, and whatever the row says nothing about, stay
        if i in use._read or i not in use._seen:
            for a in result.of(node, i) or ():
                if i not in use._read or not use._passes(a):
                    freeze(a, f"input {i} of {node.op} {node.name}")
    for j, t in enumerate(node.outputs):
        if t.name:
            result.axes[t.name] = use.outs.get(j)
    result.facts[node.name] = use.facts


def _freeze_values(result: Analysis, name: str, reason: str) -> None:
    values = result.values.get(name)
    if values is not None:
        for v in values.ravel():
            if isinstance(v, (Atom, Prod, Sum)):
                freeze(v, reason)


def _unknown(use: Use, reason: str) -> None:
    node, analysis = use.node, use.analysis
    use.facts.known = False
    for i in range(len(node.inputs)):
        for a in analysis.of(node, i) or ():
            freeze(a, reason)
    for j, t in enumerate(node.outputs):
        shape = analysis.inferred(t.name) if t.name else None
        if shape is None and t.name in analysis.model.declared:
            shape = proto_shape(analysis.model.declared[t.name])
        if shape is not None:
            use.outs[j] = tuple(Atom(d, reason) for d in shape)


def _check_output(result: Analysis, t) -> None:
    axes = result.axes.get(t.name)
    _freeze_values(result, t.name, "its extent is a graph output")
    if axes is None:
        return
    for a in axes:
        freeze(a, "graph output")
    declared = t.shape if isinstance(t, gs.Variable) else None
    if declared is None:
        return
    if len(declared) != len(axes):
        raise DimensionError(
            "a graph output has another rank than declared", tensor=t.name, expected=len(declared), found=len(axes)
        )
    for d, (want, a) in enumerate(zip(declared, axes, strict=True)):
        have = extent(a)
        if isinstance(want, int) and isinstance(have, int) and want != have:
            raise DimensionError(
                "a graph output has another extent than declared", tensor=t.name, axis=d, expected=want, found=have
            )
