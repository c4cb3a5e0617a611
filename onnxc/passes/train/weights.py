"""Which weights a training pass speaks of: products and their output axes, batch normalisations, kept zeros."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ...ir.body_weights import body_weights
from ...ir.functions import is_lookup
from ...ir.model import Model
from ..layers.layout import RECURRENT
from .objective import Form

SPARSE = 0.1
"""A weight with at least this share of zeros was made sparse: they stay."""


READS = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (1,), "MatMul": (1, 0)} | dict.fromkeys(RECURRENT, (1, 2))
"""Operands of products that may be stored weights."""


def kept_zeros(model: Model) -> dict[str, Form]:
    """The form that keeps zeros for every float weight that is sparse, and for the zero of a codebook, by name."""
    inside = {name: onnx.numpy_helper.to_array(t) for name, t in body_weights(model).items()}
    sparse = {
        n: Form("zeros") for n, w in inside.items() if w.dtype.kind == "f" and w.size > 1 and np.mean(w == 0) >= SPARSE
    }
    return sparse | {
        name: Form("zeros")
        for name, t in model.constants().items()
        if t.values.dtype.kind == "f" and t.values.size > 1
        if np.mean(t.values == 0) >= SPARSE or ((t.values == 0).any() and any(map(is_lookup, t.outputs)))
    }


def products(model: Model, skip: Sequence[str] = ()) -> Iterator[tuple[gs.Node, gs.Constant, int]]:
    """(node, weight, axis of its outputs) of each product with a stored float weight, those within LSTM, GRU and RNN among them; a
    weight comes once."""
    seen = set()
    for node in model.nodes:
        if not model.is_standard(node, *READS):
            continue
        for i in READS[node.op]:
            w = node.inputs[i] if len(node.inputs) > i else None
            if not isinstance(w, gs.Constant) or w.values.dtype.kind != "f" or w.values.ndim < 2 or id(w) in seen:
                continue
            if any(fnmatchcase(node.name, pattern) for pattern in skip):
                continue
            seen.add(id(w))
            yield node, w, output_axis(node, w.values.ndim, i)


def output_axis(node: gs.Node, rank: int, operand: int) -> int:
    """The axis of a weight along which its outputs stand."""
    if node.op in RECURRENT:  # [directions, gates x hidden, inputs]
        return 1
    if node.op == "Conv":
        return 0
    if node.op == "ConvTranspose":
        return 1
    if node.op == "Gemm":
        return 0 if node.attrs.get("transB", 0) else 1
    return rank - 1 if operand else rank - 2


def scales(model: Model) -> list[gs.Constant]:
    """The scales of batch normalisations, each once."""
    found = {}
    for node in model.nodes:
        if node.op == "BatchNormalization" and isinstance(node.inputs[1], gs.Constant):
            found[node.inputs[1].name] = node.inputs[1]
    return list(found.values())


def untied(model: Model) -> Callable[[], None]:
    """Operands of batch normalisations that only their equal values made one tensor become tensors of their own. Returns what makes
    them one again, where training changed nothing.

    A scale of ones may be the variance of ones: the one is trained, the other is a statistic.
    """
    seen, before = set(), []
    for node in model.nodes:
        if node.op != "BatchNormalization" or not model.is_standard(node, node.op):
            continue
        for i, t in enumerate(node.inputs[1:5], 1):
            if isinstance(t, gs.Constant) and t.name in seen:
                before.append((node, i, t))
                node.inputs[i] = model.constant(t.name, t.values)
            seen.add(t.name)

    def back() -> None:
        for node, i, t in before:
            node.inputs[i] = t
        model.drop_dead()

    return back
