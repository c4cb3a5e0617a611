"""quant.vectors: what stays in float32 beside few-bit weights, biases, slopes and codebooks, in 8 or 16 bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from ...ir import functions
from ...ir.difference import decibels, snr
from ...ir.model import Model, Tensor, read_only
from ..base import Context, Idle, Pass, Report, register
from ..options import Range

PLACES = {"Conv": (2,), "ConvTranspose": (2,), "Gemm": (2,), "PRelu": (1,), "Add": (0, 1)}
"""Where vectors stand that are added to, or are slopes of, what a network computes."""
BOOKS = ("Lookup", "ProductLookup")
"""What reads codebooks."""
LEAST = 8
"""Numbers of a vector, at least."""
COARSE = 16
"""Values of a row of a codebook, at most, beside which a 256th of the range is little."""
SHORT = "wide"
"""Nodes are named by it and a number: longer names would take what is saved."""
BEHIND = "_short"
"""What is appended to the name of a Lookup's result that is not float32 yet."""
FIELD = 2
"""Bytes of a field's tag and length in a file, of short ones."""


@dataclass(frozen=True, eq=False)
class Form:
    """Numbers in fewer bits: scale * values, or the values alone."""

    values: np.ndarray
    scale: np.ndarray | None = None

    @property
    def real(self) -> np.ndarray:
        """The numbers, float32."""
        wide = self.values.astype(np.float32)
        return wide if self.scale is None else wide * self.scale

    def grown(self, name: str, ends: list[tuple[str, str]]) -> int:
        """Bytes of the nodes in a file that make `ends` (what is short, what is float32) of it, and of the scale."""
        total = 0
        for given, made in ends:
            cast = made if self.scale is None else f"{made}_whole"
            total += _node_bytes("Cast", [given], cast)
            if self.scale is not None:
                total += _node_bytes("Mul", [cast, f"{name}_scale"], made)
        if self.scale is not None:
            total += TensorProto(name=f"{name}_scale", data_type=1, raw_data=self.scale.tobytes()).ByteSize() + FIELD
        return total

    def widen(self, model: Model, given: Tensor, made: gs.Variable, scale: gs.Constant | None, before: gs.Node) -> None:
        """Make `made` of what is short."""
        cast = made if scale is None else model.variable(f"{made.name}_whole")
        model.node("Cast", [given], [cast], name=SHORT, attrs={"to": int(TensorProto.FLOAT)}, before=before)
        if scale is not None:
            model.node("Mul", [cast, scale], [made], name=SHORT, before=before)


@register("quant.vectors")
class QuantVectors(Pass):
    """Store biases, slopes and codebooks in fewer bits, which networks of few-bit weights have many of for their size.

    1. bias float [n] -> Conv, Gemm, Add, PRelu          ->  int8 [n] -> Cast -> Mul(scale) -> Conv, ..., or float16 [n] -> Cast
    2. Lookup(packed, float [rows, values], shape) -> w  ->  Lookup(packed, float16 [rows, values], shape) -> Cast -> w
       (and ProductLookup, of sub-vectors)
    3. Lookup of at most 16 values a row                  ->  Lookup(packed, int8 [rows, values], shape) -> Cast -> Mul(scale) -> w

    Of both the shorter one that makes the file smaller, new nodes and their names included, and keeps `snr`; else nothing. What is
    not zero stays so, with its sign: of a slope near zero a Binarize behind it would make noise. Runtimes fold what is added at load.

    snr: signal-to-noise ratio that each vector and each codebook keeps, in dB. skip: patterns of names of nodes that read them.
    """

    snr: Annotated[float, Range(0)] = 30.0
    skip: list[str] = field(default_factory=list)

    requires = ("clean",)

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        for t in [*_vectors(model), *_codebooks(model)]:
            self._shorten(model, t, report)
        if not report.edits:
            report.note(Idle("no vector or codebook makes the file smaller in fewer bits"))
        return report

    def _shorten(self, model: Model, t: gs.Constant, report: Report) -> None:
        lookups = [n for n in t.outputs if functions.is_lookup(n)]
        reader = t.outputs[0].name
        if any(fnmatchcase(n.name, pattern) for n in t.outputs for pattern in self.skip):
            report.refuse(reader, f"{t.name} stays in float32: skip names it")
            return
        ends = [(n.outputs[0].name + BEHIND, n.outputs[0].name) for n in lookups] or [(t.name, f"{t.name}_float")]
        forms = [
            _half(t.values),
            *([_whole(t.values)] if not lookups or (t.values.ndim == 2 and t.values.shape[1] <= COARSE) else []),
        ]
        saved = {
            f: t.values.nbytes - f.values.nbytes - f.grown(t.name, ends) - len(BEHIND) * len(lookups) for f in forms
        }
        near = {f: _near(t.values, f.real) for f in forms if saved[f] > 0}
        kept = [f for f in near if near[f] >= self.snr]
        if not kept:
            why = (
                f"{max(near.values()):.0f} dB are below {self.snr:g}"
                if near
                else "nodes more and their names take more"
            )
            report.refuse(reader, f"{t.name} stays in float32: {why}")
            return
        form = min(kept, key=lambda f: f.values.nbytes)
        what = "its codebook" if lookups else t.name
        bits = 8 * form.values.itemsize
        report.edit(reader, f"{t.values.size} numbers of {what} in {bits} bits, {snr(t.values, form.real)}")
        stored = gs.Constant(t.name, read_only(form.values))
        scale = None if form.scale is None else model.constant(f"{t.name}_scale", form.scale)
        if not lookups:
            made = model.variable(ends[0][1])
            model.replace_uses(t, made)
            form.widen(model, stored, made, scale, model.nodes[0])
            return
        model.replace_uses(t, stored)
        for node in lookups:
            out = node.outputs[0]
            short = node.outputs[0] = model.variable(out.name + BEHIND)
            form.widen(model, short, out, scale, model.behind(node))


def _half(values: np.ndarray) -> Form:
    with np.errstate(over="ignore"):
        return Form(values.astype(np.float16))


def _whole(values: np.ndarray) -> Form:
    """int8 with one scale: to nearest, but for what is not zero, which does not become zero."""
    scale = np.float32(np.abs(values).max(initial=0) / 127) or np.float32(1)
    nearest = np.rint(values / scale)
    return Form(np.where(nearest == 0, np.sign(values), nearest).astype(np.int8), np.asarray(scale))


def _near(values: np.ndarray, other: np.ndarray) -> float:
    """The signal-to-noise ratio in dB; -inf where `other` is not finite."""
    if not np.isfinite(other).all():
        return -np.inf
    power = float(np.sum(np.square(values, dtype=np.float64)))
    return decibels(float(np.sum(np.square(values - other, dtype=np.float64))) / power) if power else np.inf


def _vectors(model: Model) -> Iterator[gs.Constant]:
    """Float32 constants with one axis that is longer than 1, read in such places alone, beside what is computed."""
    for t in model.constants().values():
        if not _floats(model, t) or t.values.size < LEAST or t.values.size != max(t.values.shape):
            continue
        reads = [(n, i) for n in t.outputs for i, x in enumerate(n.inputs) if x is t]
        placed = all(model.is_standard(n) and i in PLACES.get(n.op, ()) for n, i in reads)
        if reads and placed and not any(all(isinstance(x, gs.Constant) for x in n.inputs) for n, _ in reads):
            yield t


def _codebooks(model: Model) -> Iterator[gs.Constant]:
    """Float32 codebooks that nothing but Lookups and ProductLookups reads."""
    for t in model.constants().values():
        readers = t.outputs if _floats(model, t) else []
        if readers and all(functions.calls(n, *BOOKS) and functions.is_lookup(n) for n in readers):
            if not any(model.is_output(n.outputs[0]) for n in readers):
                yield t


def _floats(model: Model, t: gs.Constant) -> bool:
    return t.values.dtype == np.float32 and not model.is_output(t) and bool(np.isfinite(t.values).all())


def _node_bytes(op: str, inputs: list[str], output: str) -> int:
    """Bytes of a node in a file."""
    node = helper.make_node(op, inputs, [output], name=f"{SHORT}_00")
    if op == "Cast":
        node.attribute.append(helper.make_attribute("to", int(TensorProto.FLOAT)))
    return node.ByteSize() + FIELD
