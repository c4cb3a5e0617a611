"""Constant folding, bounded: what every run computes alike is computed once.

    Unsqueeze(scale), Transpose(weight), Cast(weight)   ->  a weight
    ConstantOfShape(shape)                              ->  a weight (a fill, stored as one element until it is written)
    Expand(bias, [64, 1000, 1000])                      ->  stays: the file would grow

A result may be twice as large as its inputs, or SMALL bytes; a ConstantOfShape stands for a weight that the exporter
left out, and all of them may have FILL bytes. What a result takes is known before it is computed (`sizes`). Random
operators, DequantizeLinear and QuantizeLinear (a quantised weight stays quantised), a Cast of numbers of 16 bits or
fewer to wider floats (a weight stored short stays short, whether a scale follows or not; scalars and the like are
folded), bodies, functions and foreign domains are never folded.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ...ir import sizes
from ...ir.axes import numbers
from ...ir.evaluate import CannotFold, core, evaluate
from ...ir.qtype import of_dtype
from ..editor import Editor, opaque

SMALL = 1 << 20
RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
KEPT = RANDOM | {
    "Constant", "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
    "ConvInteger", "MatMulInteger", "If", "Loop", "Scan", "Optional", "OptionalGetElement", "OptionalHasElement",
    "SequenceConstruct", "SequenceEmpty", "SequenceAt", "SplitToSequence", "SequenceMap", "StringNormalizer",
    "TfIdfVectorizer", "ImageDecoder", "Conv", "ConvTranspose",
}  # fmt: skip
FEW = 16
"""A Cast of more numbers than this to wider floats is a weight's."""


def fold(e: Editor, node: gs.Node) -> bool:
    """Replace `node` by a constant where all its inputs are constants."""
    if node.op in KEPT or opaque(node) or not node.outputs:
        return False
    if not all(isinstance(t, gs.Constant) or not t.name for t in node.inputs):
        return False
    arrays = [t.values if t.name else None for t in node.inputs]
    if any(a is not None and a.dtype == object for a in arrays):
        return e.refuse(node, "strings are not folded")
    given = arrays[0] if arrays else None
    if node.op == "Cast" and given is not None and _stored_short(given, node.attrs.get("to")):
        return e.refuse(node, f"its weight is stored in {given.dtype.name} on purpose")
    reason = _too_much(e, node, arrays)
    if reason:
        return e.refuse(node, reason)
    try:
        results = evaluate(node, arrays, e.model.opset)
    except CannotFold as reason:
        return e.refuse(node, str(reason))
    if len(results) != len(node.outputs):
        return e.refuse(node, "it evaluates to another number of outputs")
    for t, r in zip(node.outputs, results, strict=True):
        want = e.dtype(t)
        if t.name and want is not None and want != r.dtype:
            return e.refuse(node, f"it evaluates to {r.dtype.name}, expected {want.name}")
    return become_constant(e, node, results, "folded into a constant")


def _stored_short(values: np.ndarray, to: int) -> bool:
    """Whether a Cast to element type `to` would store numbers at more bits than they were stored at."""
    if values.size <= FEW or to not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16):
        return False
    before, after = of_dtype(values.dtype), of_dtype(onnx.helper.tensor_dtype_to_np_dtype(to))
    return values.dtype != bool and before.bits <= 16 and before.bits < after.bits


def _too_much(e: Editor, node: gs.Node, arrays: list[np.ndarray | None]) -> str:
    """Why `node` is not evaluated: what its results take, known before anything is computed; "" where it may be."""
    size = sizes.written(node, arrays, e.model.opset, _known(e, node))
    if size is None:
        return "how large its result is cannot be told before it is computed"
    given = [a for a in arrays if a is not None]
    if size > max(SMALL, 2 * sum(a.nbytes for a in given)) and (node.op != "ConstantOfShape" or size > e.fill):
        return "its result would make the file much larger"
    new = sizes.held(node, arrays, size)
    if new > max(SMALL, 2 * sum(core(a).nbytes for a in given)):
        return "its result would take much memory"
    dying = {id(t): core(t.values).nbytes for t in node.inputs if isinstance(t, gs.Constant) and len(t.outputs) == 1}
    growth = max(0, new - sum(dying.values()))
    if growth > e.room:
        return "folded constants have made the model much larger already"
    facts = e.analysis.facts.get(node.name)
    if sizes.too_long(node, arrays, size, facts is not None and bool(facts.iteration)):
        return "it would take long to compute"
    e.room -= growth
    e.fill -= size if node.op == "ConstantOfShape" else 0
    return ""


def _known(e: Editor, node: gs.Node) -> sizes.Known:
    found: dict[str, tuple[tuple[int, ...] | None, int]] = {}
    for t in node.outputs:
        shape, dtype = e.analysis.shape(t.name), e.dtype(t)
        extents = None if shape is None else numbers(shape)
        found[t.name] = (None if extents is None else tuple(extents), 8 if dtype is None else dtype.itemsize)
    return found


def become_constant(e: Editor, node: gs.Node, results: list[np.ndarray], what: str) -> bool:
    """Let the readers of `node` read constants; a graph output gets a Constant node."""
    if any(e.is_output(t) for t in node.outputs):
        if len(node.outputs) != 1 or (node.op == "Identity" and not node.inputs[0].inputs):
            return False  # a constant as graph output needs one node
        e.edited(node, what)
        e.rewrite(node, "Constant", [], {"value": np.array(results[0])})
        return True
    e.edited(node, what)
    outs = list(node.outputs)
    e.kill(node)
    for t, r in zip(outs, results, strict=True):
        if t.name and t.outputs:
            # the name keeps its meaning, so it stays
            new = gs.Constant(t.name, r)
            r.flags.writeable = False
            e.model.replace_uses(t, new)
    return True
