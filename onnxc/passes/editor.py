"""Editor: what a rewriting sweep needs to know of a verified model, and edits that cost a sweep nothing each.

A rule changes a node in place or lets the readers of its output read another tensor; names of tensors keep their
meaning, so the axes and element types of the analysis stay true from the first edit to the last. Nodes are taken out of
the list once, by `finish`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ..ir.axes import Aligned, Atom, Axis, Extent, Prod, Sum, extent, same
from ..ir.evaluate import core
from ..ir.graph import unlink
from ..ir.model import CAPTURED, STANDARD, Model, Tensor
from ..ir.values import tensor_type
from ..ir.verify import Verified
from .base import Report

AXIS = (Atom, Prod, Sum)
FILL = 1 << 30
"""Bytes, when written, of all constants of one repeated element that a model may get."""
ROOM = 1 << 26
"""Bytes by which folded constants may make a model larger, or as many as its weights have."""
Dim: TypeAlias = "Axis | int"


def size(d: Dim) -> Extent:
    """The extent of an axis; a number is its own."""
    return extent(d) if isinstance(d, (Atom, Prod, Sum, Aligned)) else d


def alike(a: Dim | None, b: Dim | None) -> bool:
    """Whether two extents are surely equal."""
    if a is None or b is None:
        return False
    if isinstance(a, AXIS) and isinstance(b, AXIS) and same(a, b):
        return True
    m, n = size(a), size(b)
    return m is not None and m == n


class Editor:
    """A model under edit: `model`, the axes and types of its tensors, and the report that edits are written to.

    fill and room: bytes by which folded constants may still grow (see FILL and ROOM).
    """

    def __init__(self, model: Model, verified: Verified, report: Report):
        self.model = model
        self.analysis = verified.analysis
        self.types = verified.types
        self.report = report
        self.gone: set[int] = set()
        self.changes = 0
        self.fill = FILL
        self.room = max(ROOM, sum(core(t.values).nbytes for t in model.constants().values()))
        self._outputs = {id(t) for t in model.outputs}
        self._refused: set[tuple[str, str]] = set()

    # what is there

    def axes(self, t: Tensor) -> tuple[Dim, ...] | None:
        """The axes of a variable, the extents of a constant; None where the rank is unknown."""
        return t.values.shape if isinstance(t, gs.Constant) else self.analysis.axes.get(t.name)

    def rank(self, t: Tensor) -> int | None:
        axes = self.axes(t)
        return None if axes is None else len(axes)

    def elem(self, t: Tensor) -> int | None:
        """The ONNX element type of a tensor, or None."""
        return tensor_type(t.values.dtype) if isinstance(t, gs.Constant) else self.types.get(t.name)

    def dtype(self, t: Tensor) -> np.dtype | None:
        kind = self.elem(t)
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)) if kind else None

    def same_shape(self, a: Tensor, b: Tensor) -> bool:
        """Whether both surely have the same shape."""
        x, y = self.axes(a), self.axes(b)
        return x is not None and y is not None and len(x) == len(y) and all(map(alike, x, y))

    def is_output(self, t: Tensor) -> bool:
        return id(t) in self._outputs

    def producer(self, t: Tensor, *ops: str) -> gs.Node | None:
        """The standard node (of one of `ops`) that makes `t` as its first output, or None."""
        if isinstance(t, gs.Constant) or not t.inputs:
            return None
        node = t.inputs[0]
        if node.domain not in STANDARD or node.outputs[0] is not t or (ops and node.op not in ops):
            return None
        return node

    def alone(self, t: Tensor) -> bool:
        """Whether `t` has one reader (at one place) and is no graph output."""
        return len(t.outputs) == 1 and id(t) not in self._outputs

    def used(self, t: Tensor) -> bool:
        return bool(t.name) and (bool(t.outputs) or id(t) in self._outputs)

    # edits

    def edited(self, node: gs.Node | str, what: str) -> None:
        self.changes += 1
        self.report.edit(node if isinstance(node, str) else node.name, what)

    def refuse(self, node: gs.Node, reason: str) -> bool:
        """Report, once, that `node` is left alone. Always False, so that a rule can return it."""
        if (node.name, reason) not in self._refused:
            self._refused.add((node.name, reason))
            self.report.refuse(node.name, reason)
        return False

    def begin(self) -> None:
        """Forget the refusals so far: the sweep that comes looks at every node again, and the last one's count."""
        self._refused.clear()
        self.report.refusals.clear()

    def constant(self, stem: str, values: np.ndarray) -> gs.Constant:
        return self.model.constant(stem, values)

    def set_input(self, node: gs.Node, i: int, new: Tensor) -> None:
        """Let `node` read `new` at input `i`."""
        unlink(node.inputs[i].outputs, node)
        list.__setitem__(node.inputs, i, new)
        list.append(new.outputs, node)

    def set_inputs(self, node: gs.Node, inputs: Iterable[Tensor]) -> None:
        new = list(inputs)
        for t in node.inputs:
            unlink(t.outputs, node)
        list.clear(node.inputs)
        list.extend(node.inputs, new)
        for t in new:
            list.append(t.outputs, node)

    def rewrite(self, node: gs.Node, op: str, inputs: Iterable[Tensor], attrs: dict | None = None) -> None:
        """Turn `node` into another standard operator that makes the same first output."""
        node.op, node.domain = op, None
        node.attrs = dict(attrs or {})
        self.set_inputs(node, inputs)
        self.cut_outputs(node, 1)

    def cut_outputs(self, node: gs.Node, count: int) -> None:
        """Leave the first `count` outputs of `node`."""
        for t in node.outputs[count:]:
            unlink(t.inputs, node)
        list.__delitem__(node.outputs, slice(count, None))

    def kill(self, node: gs.Node) -> None:
        """Take `node` out: it leaves the list with `finish`."""
        for t in node.inputs:
            unlink(t.outputs, node)
        for t in node.outputs:
            unlink(t.inputs, node)
        list.clear(node.inputs)
        list.clear(node.outputs)
        self.gone.add(id(node))

    def bypass(self, node: gs.Node, source: Tensor) -> bool:
        """Remove `node`; readers of its first output read `source`.

        A graph output keeps its name: the producer of `source` then writes it. False, with nothing changed, where
        `source` has no producer or is itself an output, or another output of `node` is used.
        """
        out = node.outputs[0]
        if any(map(self.used, node.outputs[1:])):
            return False
        if not self.is_output(out):
            self.kill(node)
            self.model.replace_uses(out, source)
            return True
        if not isinstance(source, gs.Variable) or not source.inputs or self.is_output(source):
            return False
        maker = source.inputs[0]
        self.kill(node)
        self.model.replace_uses(source, out)
        at = next(i for i, t in enumerate(maker.outputs) if t is source)
        unlink(source.inputs, maker)
        list.__setitem__(maker.outputs, at, out)
        list.append(out.inputs, maker)
        return True

    def finish(self) -> None:
        """Take removed nodes and dead code out of the list."""
        if self.gone:
            self.model.nodes[:] = [n for n in self.model.nodes if id(n) not in self.gone]
            self.gone.clear()
        before = {id(n): n.name for n in self.model.nodes}
        if self.model.drop_dead():
            for n in self.model.nodes:
                before.pop(id(n), None)
            for name in before.values():
                self.edited(name, "dropped: no output needs it")


def opaque(node: gs.Node) -> bool:
    """Whether a node holds a body (If, Loop, Scan) or is of a foreign domain: only dead code applies to it."""
    return CAPTURED in node.attrs or node.domain not in STANDARD
