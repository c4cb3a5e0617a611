"""quant.half: a whole model computed with in float16, what would overflow or vanish left in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.defs import OpSchema

from ...ir.model import Model, Tensor, read_only
from ..base import Context, Idle, Pass, Report, register

FLOAT, HALF = 1, 10
LARGEST = 65504.0
ROOM = 0.5
"""Share of float16's range that activations may take on the data: other data may take more."""
OF_TYPE = {"Cast": "to"}
"""Operators whose result's type is an attribute that may be changed; of others with such an attribute results stay."""


@register("quant.half")
class QuantHalf(Pass):
    """Compute in float16: activations and weights alike, half the bytes of both; inputs and outputs stay float32.

        x float32 -> Cast -> Conv(float16 w) -> Relu -> ... -> Cast -> y float32

    A node stays in float32 where ONNX has no float16 for it, where a constant of it overflows, a single number would become
    zero, or the data show values beyond half the range of float16. `quant.float16` shortens the weights alone.

    skip: patterns of node names to leave in float32.
    """

    skip: list[str] = field(default_factory=list)

    requires = ("clean",)

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        rewrite = _Rewrite(model, ctx.verified.types)
        chosen = [node for node in model.nodes if self._fits(rewrite, node, report)]
        if ctx.data is None or ctx.runner is None:
            if chosen:
                report.note("no data: only constants were looked at for numbers beyond float16's range")
        elif chosen:
            wide = self._overflowing(model, ctx, rewrite, chosen)
            for node in chosen:
                if node.name in wide:
                    report.refuse(node.name, f"stays in float32: its values reach {wide[node.name]:.3g} on the data")
            chosen = [node for node in chosen if node.name not in wide]
        if not any(any(map(rewrite.is_float, (*node.inputs, *node.outputs))) for node in chosen):
            report.note(Idle("no node computes with float32 that could do so with float16"))
            return report
        before = rewrite.stored()
        rewrite.apply(chosen)
        report.edit(
            chosen[0].name,
            f"and {len(chosen) - 1} more nodes of {len(model.nodes)} to float16; constants of {before} bytes take {rewrite.stored()}",
        )
        return report

    def _fits(self, rewrite: _Rewrite, node: gs.Node, report: Report) -> bool:
        if not any(map(rewrite.is_float, (*node.inputs, *node.outputs))):
            return False
        why = rewrite.obstacle(node)
        if why is None and any(fnmatchcase(node.name, pattern) for pattern in self.skip):
            why = "skip names it"
        if why is not None:
            report.refuse(node.name, f"stays in float32: {why}")
        return why is None

    def _overflowing(self, model: Model, ctx: Context, rewrite: _Rewrite, chosen: list[gs.Node]) -> dict[str, float]:
        """The largest value of each node that goes beyond half of what float16 holds."""
        touched = {
            t.name: None
            for node in chosen
            for t in (*node.inputs, *node.outputs)
            if isinstance(t, gs.Variable) and rewrite.is_float(t)
        }
        largest = dict.fromkeys(touched, 0.0)
        for batch in ctx.tensors(model, list(touched)):
            for name, values in batch.items():
                finite = np.abs(values[np.isfinite(values)], dtype=np.float32)
                largest[name] = max(largest[name], float(finite.max(initial=0.0)))
        of_node = {
            node.name: max((largest.get(t.name, 0.0) for t in (*node.inputs, *node.outputs)), default=0.0)
            for node in chosen
        }
        return {name: value for name, value in of_node.items() if value > ROOM * LARGEST}


@dataclass
class _Rewrite:
    """What a model's nodes may do in float16, and the change."""

    model: Model
    types: dict[str, int]

    def is_float(self, t: Tensor) -> bool:
        return t.values.dtype == np.float32 if isinstance(t, gs.Constant) else self.types.get(t.name) == FLOAT

    def stored(self) -> int:
        """Bytes of all constants."""
        return sum(t.values.nbytes for t in self.model.constants().values())

    def obstacle(self, node: gs.Node) -> str | None:
        """Why a node cannot compute in float16, or None."""
        if not self.model.is_standard(node):
            return f"{node.op} is no standard operator"
        if any(isinstance(value, (gs.Graph, onnx.GraphProto)) for value in node.attrs.values()):
            return f"{node.op} holds a body"
        schema = _schema(node, self.model.opset)
        if schema is None:
            return f"ONNX has no {node.op} in opset {self.model.opset}"
        if node.op in OF_TYPE:
            if node.attrs.get(OF_TYPE[node.op]) != FLOAT:
                return None
        elif "dtype" in node.attrs or node.op in ("ConstantOfShape", "Constant"):
            return "the type of its result is an attribute"
        for t, formal in (*_formal(node.inputs, schema.inputs), *_formal(node.outputs, schema.outputs)):
            if self.is_float(t) and not _takes_half(schema, formal) and formal.type_str != "tensor(float)":
                return f"{node.op} takes no float16"
        for i, (t, formal) in enumerate(_formal(node.inputs, schema.inputs)):
            if not isinstance(t, gs.Constant) or not self.is_float(t) or formal.type_str == "tensor(float)":
                continue
            finite = t.values[np.isfinite(t.values)]
            if np.abs(finite).max(initial=0.0) > LARGEST:
                return f"input {i} holds {np.abs(finite).max():.3g}"
            if finite.size == 1 and finite.ravel()[0] and not finite.ravel()[0].astype(np.float16):
                return f"input {i}, {finite.ravel()[0]:.3g}, would become zero"
        return None

    def apply(self, chosen: list[gs.Node]) -> None:
        """Let the chosen nodes compute in float16, with Casts where their tensors meet others."""
        model, short = self.model, {id(node) for node in chosen}
        constants: dict[str, gs.Constant] = {}
        casts: dict[tuple[str, int], gs.Variable] = {}
        halves = {
            t.name
            for node in chosen
            for t, formal in _formal(node.outputs, _schema(node, model.opset).outputs)  # type: ignore[union-attr]
            if self.is_float(t) and formal.type_str != "tensor(float)"
        }

        def cast(t: gs.Variable, to: int, before: gs.Node) -> gs.Variable:
            if (t.name, to) not in casts:
                name = f"{t.name}_{'half' if to == HALF else 'float'}"
                out = model.variable(name)
                model.node("Cast", [t], [out], name=name, attrs={"to": to}, before=before)
                casts[t.name, to] = out
            return casts[t.name, to]

        for node in list(model.nodes):
            schema = _schema(node, model.opset) if id(node) in short else None
            formals = schema.inputs if schema is not None else ()
            for i, t in enumerate(node.inputs):
                if not t.name or not (self.is_float(t) or t.name in halves):
                    continue
                formal = formals[min(i, len(formals) - 1)] if formals else None
                wants_half = formal is not None and formal.type_str != "tensor(float)"
                if isinstance(t, gs.Constant):
                    if wants_half:
                        if t.name not in constants:
                            constants[t.name] = model.constant(f"{t.name}_half", read_only(t.values.astype(np.float16)))
                        node.inputs[i] = constants[t.name]
                elif wants_half != (t.name in halves):
                    node.inputs[i] = cast(t, HALF if wants_half else FLOAT, node)
            if schema is not None and node.op in OF_TYPE and node.attrs.get(OF_TYPE[node.op]) == FLOAT:
                node.attrs[OF_TYPE[node.op]] = HALF
        for t in [t for t in model.outputs if t.name in halves]:
            self._keep_output(t)

    def _keep_output(self, t: gs.Variable) -> None:
        """An output of the graph stays float32 under its name; who else reads it reads what was made."""
        model, (maker,) = self.model, t.inputs
        made = model.set_free(t)
        model.node("Cast", [made], [t], name=f"{t.name}_cast", attrs={"to": FLOAT}, before=model.behind(maker))


def _schema(node: gs.Node, opset: int) -> OpSchema | None:
    try:
        return onnx.defs.get_schema(node.op, opset, "")
    except onnx.defs.SchemaError:
        return None


def _formal(
    tensors: list[Tensor], formals: Sequence[OpSchema.FormalParameter]
) -> Iterator[tuple[Tensor, OpSchema.FormalParameter]]:
    """Each tensor that is there with what the schema says of its place; the last place may repeat."""
    for i, t in enumerate(tensors):
        if t.name and formals:
            yield t, formals[min(i, len(formals) - 1)]


def _takes_half(schema: OpSchema, formal: OpSchema.FormalParameter) -> bool:
    return "tensor(float16)" in formal.types
