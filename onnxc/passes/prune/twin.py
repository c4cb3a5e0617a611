"""The exact twin of structured pruning: the unpruned model with zeros where pruning removes.

    y = Conv(x, w)    with channels of x removed    ->    y = Conv(Where(keep, x, 0), w)

Where an axis is summed over, adding zeros and removing are the same; the operator table says where that is
(`Facts.contracted`). So the twin computes what the pruned model must compute, by other means: no weight changes its
shape. Equal outputs show that the masks, the ties and the shape operands are right.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis
from ...ir.axes import Atom, Extent, atoms, mask, touched
from ...ir.errors import Unsupported
from ...ir.model import Model
from ...ir.verify import verify


def zeroed(model: Model, analysis: Analysis, keep: Mapping[Atom, np.ndarray]) -> Model:
    """A copy of `model` that keeps all its shapes and computes what `apply_masks(model, analysis, keep)` would.

    `analysis` is of this very model; `keep` gives boolean masks, shape [atom.size], of free atoms. Every operand that
    is summed over a masked axis gets zeros there (its zero point, where it is quantised): weights are replaced,
    activations pass through a Where. Raises Unsupported where a masked axis has a factor of unknown extent.
    """
    twin = model.copy()
    types: dict[str, int] | None = None
    for node in list(twin.nodes):
        facts = analysis.facts[node.name]
        for i, d in facts.contracted:
            axes = analysis.of(facts.node, i)
            if axes is None or not touched(axes[d], keep):
                continue
            sizes: list[Extent] = [a.size for a in atoms(axes[d])]
            if not all(isinstance(s, int) for s in sizes):
                raise Unsupported(
                    "a masked axis has a factor of unknown extent",
                    node=node.name,
                    tensor=node.inputs[i].name,
                    axis=d,
                    found=sizes,
                )
            kept = mask(axes[d], keep)
            if kept.all():
                continue
            if types is None:
                types = verify(model).types
            kind = types.get(facts.node.inputs[i].name, onnx.TensorProto.FLOAT)
            shape = [-1] + [1] * (len(axes) - d - 1)
            _zero(
                twin, node, i, kept.reshape(shape), facts.zero_points.get(i), onnx.helper.tensor_dtype_to_np_dtype(kind)
            )
    return twin


def _zero(twin: Model, node: gs.Node, i: int, kept: np.ndarray, zero_point: int | None, dtype: np.dtype) -> None:
    """Let input `i` of `node` hold zeros where `kept`, which broadcasts to it, is False."""
    x = node.inputs[i]
    given = zero_point is not None and zero_point < len(node.inputs) and bool(node.inputs[zero_point].name)
    zero = node.inputs[zero_point] if given else None
    if isinstance(x, gs.Constant) and (zero is None or isinstance(zero, gs.Constant)):
        nothing = np.zeros((), x.values.dtype) if zero is None else zero.values
        twin.set_weight(node, i, np.where(kept, x.values, nothing).astype(x.values.dtype))
        return
    if twin.opset >= 9:
        if zero is None:
            zero = twin.constant(f"{node.name}_zero", np.zeros((), dtype))
        masked = twin.node("Where", [twin.constant(f"{node.name}_kept", kept), x, zero], before=node)
    else:  # Where came with opset 9
        masked = twin.node("Mul", [x, twin.constant(f"{node.name}_kept", kept.astype(dtype))], before=node)
    node.inputs[i] = masked.outputs[0]
