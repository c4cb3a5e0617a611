"""quant.vectors: what stays in float32 beside few-bit weights, biases, slopes and codebooks, in 8 or 16 bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from fnmatch import fnmatchcase
from typing import Annotated

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from ...ir import functions
from ...ir.difference import decibels, snr
from ...ir.model import Model, read_only
from ..base import Context, Idle, Pass, Report, register
from ..opset import raise_opset
from ..options import Range

OLDEST, RAISE_TO = 10, 13
"""The first opset with DequantizeLinear, and the one that older models are raised to."""
PLACES = {"Conv": (2,), "ConvTranspose": (2,), "Gemm": (2,), "PRelu": (1,), "Add": (0, 1)}
"""Where vectors stand that are added to, or are slopes of, what a network computes."""
LEAST = 8
"""Numbers of a vector, at least."""
COARSE = 16
"""Values of a row of a codebook, at most, beside which a 256th of the range is little."""
SHORT = "wide"
"""Nodes are named by it and a number: longer names would take what is saved."""
FIELD = 2
"""Bytes of a field's tag and length in a file, of short ones."""


@register("quant.vectors")
class QuantVectors(Pass):
    """Store biases, slopes and codebooks in fewer bits, which networks of few-bit weights have many of for their size.

    1. bias float [n] -> Conv, Gemm, Add, PRelu          ->  int8 [n], scale -> DequantizeLinear -> Conv, ...
    2. Lookup(packed, float [rows, values], shape) -> w  ->  Lookup(packed, float16 [rows, values], shape) -> Cast -> w
    3. the same of at most 16 values a row               ->  Lookup(packed, int8 [rows, values], shape) -> Cast -> Mul(scale) -> w

    Only what makes the file smaller, the new nodes and their names included, and what keeps `snr`. What is not zero stays so, with
    its sign: of a slope near zero a Binarize behind it would make noise.

    snr: signal-to-noise ratio that each vector and each codebook keeps, in dB. skip: patterns of names of nodes that read them.
    """

    snr: Annotated[float, Range(0)] = 30.0
    skip: list[str] = field(default_factory=list)

    requires = ("clean",)

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        if model.opset < OLDEST and any(True for _ in _vectors(model)):
            raise_opset(model, RAISE_TO, ctx, report, "DequantizeLinear needs that")
        for t in list(_vectors(model)):
            self._vector(model, t, report)
        for t in list(_codebooks(model)):
            self._codebook(model, t, report)
        if not report.edits:
            report.note(Idle("no vector or codebook makes the file smaller in fewer bits"))
        return report

    def _stays(self, t: gs.Constant, back: np.ndarray, saved: int, report: Report) -> bool:
        """Whether `t` stays: skip names a reader, `back` is too far from it, or nothing is saved."""
        power = float(np.sum(np.square(t.values, dtype=np.float64)))
        lost = float(np.sum(np.square(t.values - back, dtype=np.float64)))
        near = decibels(lost / power) if power else np.inf
        why = None
        if any(fnmatchcase(n.name, pattern) for n in t.outputs for pattern in self.skip):
            why = "skip names it"
        elif saved <= 0:
            why = "a node more and its names take more"
        elif not near >= self.snr:
            why = f"{near:.0f} dB are below {self.snr:g}"
        if why is not None:
            report.refuse(t.outputs[0].name, f"{t.name} stays in float32: {why}")
        return why is not None

    def _vector(self, model: Model, t: gs.Constant, report: Report) -> None:
        name = t.name
        integers, scale = _integers(t.values)
        back = integers * scale
        more = _node_bytes("DequantizeLinear", [name, f"{name}_scale"], f"{name}_float") + _scale_bytes(name)
        if self._stays(t, back, 3 * integers.size - more, report):
            return
        made = model.variable(f"{name}_float")
        report.edit(t.outputs[0].name, f"{integers.size} numbers of {name} in 8 bits, {snr(t.values, back)}")
        model.replace_uses(t, made)
        stored = [gs.Constant(name, read_only(integers)), model.constant(f"{name}_scale", scale)]
        model.node("DequantizeLinear", stored, [made], name=SHORT, before=model.nodes[0])

    def _codebook(self, model: Model, t: gs.Constant, report: Report) -> None:
        with np.errstate(over="ignore"):
            half = t.values.astype(np.float16)
        integers, scale = _integers(t.values)
        casts, muls = 0, _scale_bytes(t.name)
        for node in t.outputs:
            out = node.outputs[0].name
            casts += _node_bytes("Cast", [f"{out}_short"], out) + len("_short")
            muls += _node_bytes("Mul", [f"{out}_whole", f"{t.name}_scale"], out) + len("_whole")
        saved, fewer = half.nbytes - casts, integers.nbytes - muls
        whole = t.values.shape[1] <= COARSE and fewer > 0
        back = integers * scale if whole else half.astype(np.float32)
        if self._stays(t, back, saved + max(0, fewer) * whole, report):
            return
        text = f"{half.size} numbers of its codebook in {8 if whole else 16} bits, {snr(t.values, back)}"
        report.edit(t.outputs[0].name, text)
        lookups = list(t.outputs)
        model.replace_uses(t, gs.Constant(t.name, read_only(integers if whole else half)))
        factor = model.constant(f"{t.name}_scale", scale) if whole else None
        for node in lookups:
            out, after = node.outputs[0], model.nodes[model.nodes.index(node) + 1]
            made = node.outputs[0] = model.variable(f"{out.name}_short")
            cast = out if factor is None else model.variable(f"{out.name}_whole")
            model.node("Cast", [made], [cast], name=SHORT, attrs={"to": 1}, before=after)
            if factor is not None:
                model.node("Mul", [cast, factor], [out], name=SHORT, before=after)


def _integers(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int8 of the shape, their scale float32 []): to nearest, but for what is not zero, which does not become zero."""
    scale = np.float32(np.abs(values).max(initial=0) / 127) or np.float32(1)
    nearest = np.rint(values / scale)
    return np.where(nearest == 0, np.sign(values), nearest).astype(np.int8), np.asarray(scale)


def _vectors(model: Model) -> Iterator[gs.Constant]:
    """Float32 constants with one axis that is longer than 1, read in such places alone."""
    for t in model.constants().values():
        if t.values.dtype != np.float32 or t.values.size < LEAST or t.values.size != max(t.values.shape):
            continue
        if not np.isfinite(t.values).all():
            continue
        reads = [(n, i) for n in t.outputs for i, x in enumerate(n.inputs) if x is t]
        if (
            reads
            and not model.is_output(t)
            and all(model.is_standard(n) and i in PLACES.get(n.op, ()) for n, i in reads)
            and not any(all(isinstance(x, gs.Constant) for x in n.inputs) for n, _ in reads)
        ):
            yield t


def _codebooks(model: Model) -> Iterator[gs.Constant]:
    """Float32 codebooks that nothing but Lookups reads."""
    for t in model.constants().values():
        if t.values.dtype != np.float32 or model.is_output(t) or not np.isfinite(t.values).all():
            continue
        if t.outputs and all(functions.calls(n, "Lookup") and functions.is_lookup(n) for n in t.outputs):
            yield t


def _scale_bytes(name: str) -> int:
    """Bytes of the scale of such a tensor in a file."""
    return TensorProto(name=f"{name}_scale", data_type=1, raw_data=bytes(4)).ByteSize() + FIELD


def _node_bytes(op: str, inputs: list[str], output: str) -> int:
    """Bytes of a node in a file."""
    node = helper.make_node(op, inputs, [output], name=f"{SHORT}_00")
    if op == "Cast":
        node.attribute.append(helper.make_attribute("to", int(TensorProto.FLOAT)))
    return node.ByteSize() + FIELD
