"""quant.embedding: tables that are looked up by row (Gather) in 8, 4 or 2 bits."""

from __future__ import annotations

from dataclasses import field
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.difference import snr
from ...ir.model import Model, read_only
from ...ir.qtype import stored_bytes
from ..base import Context, Idle, Pass, Report, register
from ..opset import raise_opset
from ..options import Range
from . import blockwise, formats
from .tables import LEAST, lookups


@register("quant.embedding")
class QuantEmbedding(Pass):
    """Store embedding tables as small integers with a scale for each row (8 bits), or for each block of it (4 and 2 bits).

        8 bits: Gather(int8 [n, d], i) -> Cast -> Mul(Gather(scale [n, 1], i))
        4, 2:   DequantizeLinear(int4 [n, d], scale [n, d / block]) -> Gather

    With 8 bits no row is widened that is not looked up, so that memory shrinks as the file does. A table that a product
    reads as well (tied weights) is left alone. The step of each row or block is searched for the least squared error.

    bits: 8, 4 (raises the model to opset 21) or 2 (25). block: numbers that share a scale, at most, with 4 and 2 bits.
    least: tables of fewer numbers are left alone. skip: patterns of names of tables or nodes to leave alone.
    """

    bits: Literal[8, 4, 2] = 8
    block: Annotated[int, Range(2)] = 32
    least: Annotated[int, Range(1)] = LEAST
    skip: list[str] = field(default_factory=list)

    requires = ("clean",)
    bodies = True

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        tables = self._tables(model, report)
        opset = blockwise.OPSET[self.bits]
        if tables and self.bits < 8 and raise_opset(model, opset, ctx, report):
            tables = self._tables(model, Report())
        for table in tables:
            values = table.values
            rows = values.reshape(len(values), -1)
            split, block = (rows[:, None], rows.shape[1]) if self.bits == 8 else formats.blocked(rows, 1, self.block)
            integers, scale, _ = blockwise.quantised(split, 2, self.bits, True)
            size = stored_bytes(integers) + scale.nbytes
            if size >= values.nbytes:
                report.refuse(table.name, f"rows of {block} numbers do not pay for their scales")
                continue
            back = blockwise.restored(integers, scale, None, 2).reshape(values.shape)
            if self.bits == 8:
                _by_row(model, table, integers.reshape(values.shape), scale)
            else:
                _dequantised(model, table, integers.reshape(values.shape), scale, block)
            each = 8 * size / values.size
            report.edit(
                table.name, f"{values.size} numbers in {self.bits} bits, {each:.2f} with scales, {snr(values, back)}"
            )
        return report

    def _tables(self, model: Model, report: Report) -> list[gs.Constant]:
        found = []
        for table in model.constants().values():
            found_at = lookups(model, table)
            if not found_at:
                continue
            others = sorted({node.op for node in table.outputs if node not in found_at})
            if table.values.size < self.least:
                report.refuse(table.name, f"it has {table.values.size} numbers, fewer than least={self.least}")
            elif any(fnmatchcase(name, p) for p in self.skip for name in (table.name, *(n.name for n in found_at))):
                report.refuse(table.name, "skip names it")
            elif others:
                report.refuse(table.name, f"{', '.join(others)} reads it too")
            elif any(node.attrs.get("axis", 0) not in (0, -table.values.ndim) for node in found_at):
                report.refuse(table.name, "it is looked up along another axis than its first")
            elif table.values.dtype != np.float32:
                report.refuse(table.name, f"its numbers are {table.values.dtype}, not float32")
            elif model.is_output(table):
                report.refuse(table.name, "it is an output of the graph")
            elif not np.isfinite(table.values).all():
                report.refuse(table.name, "its numbers are not all finite")
            else:
                found.append(table)
        if not found and not report.refusals:
            report.note(Idle("no Gather looks rows up in a stored table of floats"))
        return found


def _by_row(model: Model, table: gs.Constant, integers: np.ndarray, scale: np.ndarray) -> None:
    """Every lookup fetches integers and scales, and multiplies."""
    stem = table.name
    stored = model.constant(f"{stem}_integers", read_only(integers))
    scales = model.constant(f"{stem}_scale", read_only(scale.reshape(-1, *[1] * (integers.ndim - 1))))
    for node in list(table.outputs):
        index, old = node.inputs[1], node.outputs[0]
        made = []
        for part, source in (("integers", stored), ("scale", scales)):
            out = model.variable(f"{node.name}_{part}")
            model.node("Gather", [source, index], [out], name=f"{node.name}_{part}", attrs={"axis": 0}, before=node)
            made.append(out)
        wide = model.variable(f"{node.name}_wide")
        model.node("Cast", made[:1], [wide], name=f"{node.name}_wide", attrs={"to": 1}, before=node)
        node.op, node.inputs, node.attrs = "Mul", [wide, made[1]], {}
        assert node.outputs[0] is old


def _dequantised(model: Model, table: gs.Constant, integers: np.ndarray, scale: np.ndarray, block: int) -> None:
    stem, shape = table.name, integers.shape
    flat = integers.reshape(len(integers), -1)
    inputs = [model.constant(f"{stem}_integers", read_only(flat)), model.constant(f"{stem}_scale", read_only(scale))]
    first = model.nodes[0]
    out = model.variable(f"{stem}_float")
    attrs = {"axis": 1, "block_size": block}
    model.node("DequantizeLinear", inputs, [out], name=f"{stem}_float", attrs=attrs, before=first)
    if len(shape) > 2:
        target = model.constant(f"{stem}_shape", np.array(shape, np.int64))
        deep = model.variable(f"{stem}_shaped")
        model.node("Reshape", [out, target], [deep], name=f"{stem}_shaped", before=first)
        out = deep
    model.replace_uses(table, out)
