"""portable: what plain runtimes take: standard operators alone, no functions of the model's own."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ..ir import functions, numbers
from ..ir.bodies import opened
from ..ir.files import load
from ..ir.graph import STANDARD
from ..ir.model import CAPTURED, Model, read_only
from ..ir.verify import verify
from .base import Claim, Context, Pass, Report, register
from .opset import reattach
from .quant.few_bits import integers
from .quant.placement import single_reader

DEQUANTIZE, BY_AXIS = 10, 13
"""The opsets from which DequantizeLinear takes one scale, and scales by axis."""
MOST = 127


@register("portable")
class Portable(Pass):
    """Write packed and shared weights as plain initialisers, and put the bodies of functions in the place of their calls.

    1. Lookup, ProductLookup, HashedLookup of initialisers    ->  floats
    2. the same, whose values are integers up to 127 times a scale, for the weight or each output
                                                              ->  int8 -> DequantizeLinear
    3. Binarize, Quantize, UnpackBits, ...                    ->  the standard operators that they consist of

    The outputs stay; the file grows by what was packed, which the report says. `--portable` puts this pass last.

    store: what weights become: dequantize where that gives the very floats (2) and else floats, or floats alone.
    """

    claim = Claim.EXACT
    bodies = True

    store: Literal["dequantize", "floats"] = "dequantize"

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        for node in [n for n in model.nodes if functions.is_lookup(n)]:
            w, packed = functions.weight(node), sum(t.values.nbytes for t in node.inputs)
            grid = _grid(w, model.opset) if self.store == "dequantize" else None
            if grid is None:
                made, size, what = model.constant(f"{_stem(node)}_floats", read_only(w)), w.nbytes, "floats"
                model.bypass(node, made)
            else:
                what, size = f"int8 and {grid[1].size} scales", w.size + grid[1].nbytes
                _dequantised(model, node, *grid)
            report.edit(node.name, f"{w.size} weights as {what}: {size} bytes, {packed} before")
        for node in [n for n in model.nodes if functions.calls(n, "UnpackBits")]:
            self._bytes(model, node, report)
        calls = {(n.domain or "", n.op): n.name for n in model.nodes if (n.domain or "", n.op) in model.functions}
        if calls:
            inlined = reattach(load(opened(model.to_proto(weights=False), list(calls))), model)
            verify(inlined, like=model)
            inlined.shapes = model.shapes
            model.adopt(inlined)
            for (domain, op), name in calls.items():
                report.edit(name, f"function {domain}.{op} is written out")
        model.drop_dead()
        if not any(CAPTURED in node.attrs for node in model.nodes):  # else a body may call them
            used = {(n.domain or "", n.op) for n in model.nodes}
            for key in [key for key in model.functions if key not in used]:
                del model.functions[key]
            domains = {domain for domain, _ in used}
            for domain in [d for d in model.opsets if d not in domains and d not in STANDARD]:
                del model.opsets[domain]
        for node in model.nodes:
            if node.domain not in STANDARD:
                report.refuse(
                    node.name, f"{node.domain}.{node.op} has no standard form here: other runtimes may refuse it"
                )
        return report

    def _bytes(self, model: Model, node: gs.Node, report: Report) -> None:
        """UnpackBits(packed, shape) -> Sub -> Cast, as `quant.int8(store=bits)` leaves it, as an int8 initialiser."""
        less = single_reader(model, node.outputs[0])
        cast = single_reader(model, less.outputs[0]) if less is not None and less.op == "Sub" else None
        if less is None or cast is None or cast.op != "Cast" or cast.attrs["to"] != onnx.TensorProto.INT8:
            return
        found, bottom = numbers.read(node.outputs[0]), less.inputs[1]
        if found is None or not found.constant or not isinstance(bottom, gs.Constant):
            return
        values = (found.integers().astype(np.int16) - bottom.values).astype(np.int8)
        name = node.name.removesuffix("_bits")
        model.bypass(cast, model.constant(f"{name}_bytes", read_only(values)))
        report.edit(
            node.name, f"{values.size} integers as int8: {values.nbytes} bytes, {node.inputs[0].values.nbytes} before"
        )


def _stem(node: gs.Node) -> str:
    return node.outputs[0].name.removesuffix("_shared")


def _grid(w: np.ndarray, opset: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(int8 of w's shape, scale float32 [] or [outputs]) with w = integers * scale to the last bit, or None."""
    if w.dtype != np.float32 or opset < DEQUANTIZE or not w.size:
        return None
    for rows in (1, *((w.shape[0],) if w.ndim > 1 and opset >= BY_AXIS else ())):
        flat = w.reshape(rows, -1)
        found = integers(flat, MOST)
        if found is not None:
            scale, whole = found[0].astype(np.float32), found[1].astype(np.int8)
            if np.array_equal(whole.astype(np.float32) * scale, flat):
                return whole.reshape(w.shape), scale.ravel() if rows > 1 else scale.reshape(())
    return None


def _dequantised(model: Model, node: gs.Node, whole: np.ndarray, scale: np.ndarray) -> None:
    stem = _stem(node)
    parts = (("integers", whole), ("scale", scale), ("zero_point", np.zeros(scale.shape, np.int8)))
    given = [model.constant(f"{stem}_{name}", read_only(part)) for name, part in parts]
    attrs = {"axis": 0} if scale.ndim else {}
    made = model.node("DequantizeLinear", given, name=f"{stem}_dequantize", attrs=attrs, before=node)
    model.bypass(node, made.outputs[0])
