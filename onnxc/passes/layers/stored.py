"""Stored weights with all nodes that read them: one initialiser of convolutions or matrix products, in the common view."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis
from ...ir.errors import BadOption
from ...ir.model import Model, read_only
from ..base import Report
from .layout import PRODUCTS, RECURRENT, Layout, layout
from .linear import Linear
from .moments import MAX_COLUMNS


@dataclass
class Layer:
    """One initialiser with all nodes that read it; each reads it at input `i`, in the same layout."""

    tensor: gs.Constant
    nodes: list[gs.Node]
    i: int
    layout: Layout

    @property
    def name(self) -> str:
        return self.nodes[0].name + (".R" if self.recurrent and self.i == 2 else ".W" if self.recurrent else "")

    @property
    def recurrent(self) -> bool:
        return self.nodes[0].op in RECURRENT

    @property
    def size(self) -> int:
        return self.tensor.values.size

    def view(self) -> np.ndarray:
        """The weights as [groups, outputs, channels, positions]; read-only, in their own dtype."""
        return self.layout.view(self.tensor.values)

    def matrix(self) -> np.ndarray:
        """The weights as float64 [groups, outputs, columns]."""
        return self.layout.matrix(self.tensor.values)

    def linears(self) -> list[Linear]:
        """Each node by itself."""
        return [Linear(node, self.layout, self.i) for node in self.nodes]

    def store(self, view: np.ndarray) -> None:
        """Replace the weights, for all readers, by an array in the common view."""
        self.tensor.values = read_only(self.layout.store(view, self.tensor.values.dtype))

    def drop(self, dropped: np.ndarray, report: Report) -> None:
        """Zero the weights where `dropped`, a boolean array that broadcasts to the common view, is True."""
        view = self.view()
        self.replace(np.where(dropped, view.dtype.type(0), view), report)

    def replace(self, view: np.ndarray, report: Report, what: str = "") -> None:
        """Store new weights and report the layer's sparsity. What is equal to before is left alone and not reported."""
        before = self.tensor.values
        old = before.size - np.count_nonzero(before)
        self.store(view)
        if np.array_equal(before, self.tensor.values):
            self.tensor.values = before
            return
        now = before.size - np.count_nonzero(self.tensor.values)
        text = f"{now / before.size:.1%} of {before.size} weights are zero, was {old / before.size:.1%}"
        if len(self.nodes) > 1:
            text += f", shared by {len(self.nodes)} nodes"
        report.edit(self.name, text + what)


def layers(model: Model, analysis: Analysis, skip: list[str], report: Report) -> list[Layer]:
    """Every weight that may be zeroed, in graph order; the others are refused in `report`, with the reason.

    skip: patterns of node or weight names that are left alone. A pattern that fits nothing is noted.
    """
    readers: dict[int, tuple[gs.Constant, list[tuple[gs.Node, int]]]] = {}
    for node in model.nodes:
        if model.is_standard(node, *RECURRENT):
            for i, letter in ((1, "W"), (2, "R")):
                t = node.inputs[i]
                if isinstance(t, gs.Constant):
                    readers.setdefault(id(t), (t, []))[1].append((node, i))
                else:
                    report.refuse(f"{node.name}.{letter}", _computed(node, t) or "its weights are no initialiser")
            continue
        reason = None if model.is_standard(node, *PRODUCTS) else _foreign(model, node, analysis)
        if reason or not model.is_standard(node, *PRODUCTS):
            if reason:
                report.refuse(node.name, reason)
            continue
        at = [i for i in (1, 0) if i < len(node.inputs) and isinstance(node.inputs[i], gs.Constant)]
        if len(at) != 1:
            reason = "both sides are constants" if at else _computed(node)
            if reason:
                report.refuse(node.name, reason)
            continue
        t = node.inputs[at[0]]
        readers.setdefault(id(t), (t, []))[1].append((node, at[0]))
    used: set[str] = set()
    found = []
    for t, uses in readers.values():
        layer, reason = _layer(model, t, uses, skip, used)
        if reason:
            report.refuse(uses[0][0].name, reason)
        else:
            found.append(layer)
    for pattern in skip:
        if pattern not in used:
            report.note(f"skip pattern {pattern} fits no layer")
    return found


def _layer(model: Model, t: gs.Constant, uses: list[tuple[gs.Node, int]], skip: list[str], used: set[str]):
    """(Layer, None), or (None, why not)."""
    names = [t.name, *(node.name for node, _ in uses)]
    hits = [p for p in skip if any(fnmatchcase(name, p) for name in names)]
    used.update(hits)
    if hits:
        return None, f"skipped, as {hits[0]} says"
    if t.values.dtype.kind != "f":
        return None, f"its weight holds {t.values.dtype.name} numbers"
    if t.values.size == 0 or not np.isfinite(t.values).all():
        return None, "its weight is empty, or not finite"
    if t.values.ndim < 2:
        return None, "its weight is a vector"
    mine = {id(node) for node, _ in uses}
    others = [n for n in t.outputs if id(n) not in mine]
    if others or model.is_output(t):
        return None, f"its weight is read by {f'{others[0].op} {others[0].name}' if others else 'the graph output'} too"
    views = {(i, layout(node, i)) for node, i in uses}
    if len(views) > 1 or len(t.outputs) != len(uses):
        return None, f"its weight is read in another layout by {uses[-1][0].name}"
    return Layer(t, [node for node, _ in uses], *views.pop()), None


def unread(layer: Layer) -> str | None:
    """Why the inputs of a layer are not read as columns, or None."""
    if layer.recurrent:
        return "inputs of recurrent layers are not read"
    if layer.nodes[0].op == "ConvTranspose":
        return "inputs of transposed convolutions are not read"
    if not layer.layout.is_conv and layer.layout.groups > 1:
        return "inputs of batched matrix products are not read"
    if layer.layout.columns > MAX_COLUMNS:
        return f"each output has {layer.layout.columns} inputs, and second moments are kept for at most {MAX_COLUMNS}"
    return None


def readable(found: list[Layer], report: Report) -> list[Layer]:
    """The layers whose inputs can be read as columns; the others are refused."""
    kept = []
    for layer in found:
        reason = unread(layer)
        if reason is None:
            kept.append(layer)
        else:
            report.refuse(layer.name, reason)
    return kept


def _foreign(model: Model, node: gs.Node, analysis: Analysis) -> str | None:
    """Why a product of another kind is refused; None for what is no product."""
    facts = analysis.facts[node.name]
    if not facts.iteration or not any(isinstance(t, gs.Constant) and t.values.ndim > 1 for t in node.inputs):
        return None
    if "Integer" in node.op or node.op.startswith("QLinear"):
        return "its weights are quantised: prune before quantising"
    return f"weights of {node.op} are left alone"


def _computed(node: gs.Node, *weights: gs.Variable) -> str | None:
    """Why a product without an initialiser is refused; None where both sides are activations."""
    for t in weights or node.inputs[:2]:
        maker = t.inputs[0] if t.inputs else None
        if maker is not None and maker.op == "DequantizeLinear" and isinstance(maker.inputs[0], gs.Constant):
            return "its weights are quantised: prune before quantising"
    return "its weights are no initialiser" if node.op.startswith("Conv") else None


def smallest(scores: np.ndarray, count: int) -> np.ndarray:
    """Mask of the `count` smallest entries of a vector; of equal ones the first. Linear time."""
    if count <= 0:
        return np.zeros(scores.shape, bool)
    if count >= scores.size:
        return np.ones(scores.shape, bool)
    limit = np.partition(scores, count - 1)[count - 1]
    chosen = scores < limit
    ties = np.flatnonzero(scores == limit)
    chosen[ties[: count - np.count_nonzero(chosen)]] = True
    return chosen


def select(scores: list[np.ndarray], share: float, together: bool) -> list[np.ndarray]:
    """Masks of the smallest `share` of each array of scores, or of all of them together."""
    if not together:
        return [smallest(s.ravel(), int(s.size * share + 0.5)).reshape(s.shape) for s in scores]
    if not scores:
        return []
    flat = np.concatenate([s.ravel() for s in scores])
    chosen = smallest(flat, int(flat.size * share + 0.5))
    pieces = np.split(chosen, np.cumsum([s.size for s in scores])[:-1])
    return [piece.reshape(s.shape) for piece, s in zip(pieces, scores, strict=True)]


def total(found: list[Layer], report: Report) -> None:
    """Note the sparsity over all layers."""
    size = sum(layer.size for layer in found)
    zeros = size - sum(int(np.count_nonzero(layer.tensor.values)) for layer in found)
    if size:
        report.note(f"{zeros / size:.1%} of {size} weights in {len(found)} layers are zero")


def by_name(name: str, usual: int, by: Mapping[str, int] | None) -> int:
    """The number of a layer: that of the last glob in `by` that fits its name, else the usual one."""
    fitting = [number for glob, number in (by or {}).items() if fnmatchcase(name, glob)]
    return fitting[-1] if fitting else usual


def check_names(by: Iterable[str] | None, found: Sequence[Layer], pass_name: str, option: str) -> None:
    """Raises BadOption where a glob fits the name of no layer."""
    for glob in by or ():
        if not any(fnmatchcase(layer.name, glob) for layer in found):
            names = ", ".join(layer.name for layer in found[:4]) or "none"
            raise BadOption(f"option {option} names no layer", pass_name=pass_name, expected=f"names like {names}",
                            found=glob)  # fmt: skip
