"""float16 networks for the quantiser: computed with in float32 between Casts, and what stays unquantised stored short again.

    x float16 -> Conv(float16 w) -> Relu -> y      x float16 -> Cast -> Conv(float32 w) -> Relu -> Cast -> y float16

Scales and the sums that integers stand for are float32 in every runtime's integer kernels. Each number of float16 is one of
float32, so that a network only becomes more exact.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ...ir.model import Model, read_only
from ..base import Report
from .placement import PRODUCTS

FLOAT, HALF = 1, 10


def widen(model: Model, types: dict[str, int], report: Report) -> tuple[dict[str, int], set[str]]:
    """Let a network that multiplies float16 by stored weights do so in float32; inputs and outputs keep their type.

    Returns the element types by tensor, and the names of the constants that were float16: empty where nothing changed.
    """
    halves = {name for name, kind in types.items() if kind == HALF}
    products = [n for n in model.nodes if model.is_standard(n, *PRODUCTS) and n.inputs and n.inputs[0].name in halves]
    if not any(_stored(t) for n in products for t in n.inputs[1:2]):
        return types, set()
    odd = next((n for n in model.nodes if _fixed(model, n, halves)), None)
    if odd is not None:
        report.note(f"float16 stays: {odd.op} {odd.name} is not to be widened")
        return types, set()
    for t in [t for t in model.inputs if t.name in halves]:
        _from_input(model, t)
    for t in [t for t in model.outputs if t.name in halves]:
        _to_output(model, t)
    edges = {t.name for t in (*model.inputs, *model.outputs)}
    wide = set()
    for node in model.nodes:
        for t in (*node.inputs, *node.outputs):
            if isinstance(t, gs.Constant) and t.values.dtype == np.float16:
                t.values = read_only(t.values.astype(np.float32))
                wide.add(t.name)
            elif isinstance(t, gs.Variable) and t.dtype == np.float16 and t.name not in edges:
                t.dtype = np.dtype(np.float32)
        for key in ("to", "dtype"):
            if node.attrs.get(key) == HALF and node.outputs[0].name not in edges:
                node.attrs[key] = FLOAT
    report.note("float16 becomes float32 inside, which integers are scaled in; inputs and outputs keep their type")
    now = {name: FLOAT if kind == HALF and name not in edges else kind for name, kind in types.items()}
    return now | {t.name: FLOAT for n in model.nodes for t in n.outputs if t.name not in now}, wide


def shorten(model: Model, wide: set[str]) -> None:
    """Constants that were float16 and are read as floats still are stored so again, ahead of a Cast."""
    done: dict[str, gs.Variable] = {}
    for node in list(model.nodes):
        for i, t in enumerate(node.inputs):
            if isinstance(t, gs.Constant) and t.name in wide and t.values.dtype == np.float32 and t.values.size > 1:
                if t.name not in done:
                    short = model.constant(f"{t.name}_half", read_only(t.values.astype(np.float16)))
                    done[t.name] = model.variable(f"{t.name}_float")
                    model.node("Cast", [short], [done[t.name]], name=f"{t.name}_cast", attrs={"to": FLOAT}, before=node)
                node.inputs[i] = done[t.name]


def _stored(t: gs.Tensor) -> bool:
    return isinstance(t, gs.Constant) and t.values.dtype == np.float16


def _fixed(model: Model, node: gs.Node, halves: set[str]) -> bool:
    """Whether a node near float16 cannot simply take float32: bodies, tensors as attributes, functions of the model."""
    if not any(t.name in halves or _stored(t) for t in (*node.inputs, *node.outputs)):
        return False
    held = gs.Graph, onnx.GraphProto, onnx.AttributeProto
    return not model.is_standard(node) or any(isinstance(value, held) for value in node.attrs.values())


def _from_input(model: Model, t: gs.Variable) -> None:
    readers = list(t.outputs)
    inside = model.variable(f"{t.name}_float")
    model.replace_uses(t, inside)
    first = min(readers, key=model.nodes.index) if readers else None
    model.node("Cast", [t], [inside], name=f"{t.name}_to_float", attrs={"to": FLOAT}, before=first)


def _to_output(model: Model, t: gs.Variable) -> None:
    if not t.inputs:
        return  # an input that is handed on
    model.node("Cast", [model.set_free(t)], [t], name=f"{t.name}_to_half", attrs={"to": HALF})
