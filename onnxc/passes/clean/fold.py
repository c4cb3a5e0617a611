"""Constant folding, bounded: what every run computes alike is computed once.

    Unsqueeze(scale), Transpose(weight), Cast(weight)   ->  a weight
    ConstantOfShape(shape)                              ->  a weight (a fill, stored as one element until it is written)
    Expand(bias, [64, 1000, 1000])                      ->  stays: the file would grow

A result may be twice as large as its inputs, or SMALL bytes; a ConstantOfShape stands for a weight that the exporter
left out, and may have FILL bytes. Random operators, DequantizeLinear and QuantizeLinear (a quantised weight stays
quantised), a Cast of float16 or bfloat16 to more bytes (a weight stored short stays short; scalars and the like are
folded), bodies, functions and foreign domains are never folded.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.evaluate import CannotFold, evaluate
from ..editor import Editor, opaque

SMALL = 1 << 20
FILL = 1 << 30
RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
KEPT = RANDOM | {
    "Constant", "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
    "ConvInteger", "MatMulInteger", "If", "Loop", "Scan", "Optional", "OptionalGetElement", "OptionalHasElement",
    "SequenceConstruct", "SequenceEmpty", "SequenceAt", "SplitToSequence", "SequenceMap", "StringNormalizer",
    "TfIdfVectorizer", "ImageDecoder", "Conv", "ConvTranspose",
}  # fmt: skip
SHORT, LONG = ("float16", "bfloat16"), (1, 11)
FEW = 16
"""A Cast of more numbers than this from SHORT to LONG (float, double) is a weight's."""
GROWING = {"Expand", "Tile", "Pad", "Resize", "Upsample", "Range", "OneHot", "Gather", "GatherND", "GatherElements"}


def fold(e: Editor, node: gs.Node) -> bool:
    """Replace `node` by a constant where all its inputs are constants."""
    if node.op in KEPT or opaque(node) or not node.outputs:
        return False
    if not all(isinstance(t, gs.Constant) or not t.name for t in node.inputs):
        return False
    arrays = [t.values if t.name else None for t in node.inputs]
    if any(a is not None and a.dtype == object for a in arrays):
        return e.refuse(node, "strings are not folded")
    if node.op == "Cast" and node.attrs.get("to") in LONG and arrays[0].dtype.name in SHORT and arrays[0].size > FEW:
        return e.refuse(node, f"its weight is stored in {arrays[0].dtype.name} on purpose")
    allowed = max(SMALL, 2 * sum(a.nbytes for a in arrays if a is not None))
    if node.op == "ConstantOfShape":
        allowed = FILL
    elif node.op in GROWING:
        n = _grown(e, node)
        if n is None or n > allowed:
            return e.refuse(node, "its result would make the file much larger")
    try:
        results = evaluate(e.model, node, arrays)
    except CannotFold as reason:
        return e.refuse(node, str(reason))
    if len(results) != len(node.outputs) or any(r.nbytes > allowed for r in results):
        return e.refuse(node, "its result would make the file much larger")
    for t, r in zip(node.outputs, results, strict=True):
        want = e.dtype(t)
        if t.name and want is not None and want != r.dtype:
            return e.refuse(node, f"it evaluates to {r.dtype.name}, expected {want.name}")
    return become_constant(e, node, results, "folded into a constant")


def _grown(e: Editor, node: gs.Node) -> int | None:
    """Bytes of the first output, before it is computed."""
    axes, dtype = e.analysis.shape(node.outputs[0].name), e.dtype(node.outputs[0])
    if axes is None or dtype is None or not all(isinstance(n, int) for n in axes):
        return None
    return int(np.prod(axes, dtype=np.int64)) * dtype.itemsize


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
