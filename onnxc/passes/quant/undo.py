"""quant.floats: a quantised model in floats again, so that other passes can start from it."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Model
from ...ir.qtype import dtype_bits
from ..base import Claim, Context, Pass, Report, register

CLIP = 11
"""The opset from which on Clip takes its bounds as inputs."""


@register("quant.floats")
class QuantFloats(Pass):
    """Write a model of QuantizeLinear and DequantizeLinear in floats again: the way back from quant.int8, up to what was rounded.

    1. DequantizeLinear(w, s, z), all constant             ->  float32 w'
    2. DequantizeLinear(QuantizeLinear(x, s, z), s, z)     ->  Clip(x, (low - z) s, (high - z) s)

    What a quantiser cuts off stays cut off: often that is all there is of a Relu. Weights stay rounded as they were, activations
    are rounded no more, so that outputs move by that noise. The file grows; the pass is meant for the head of a list.

    activations: false leaves 2 undone.
    """

    claim = Claim.LOSSY
    requires = ("clean",)

    activations: bool = True

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        for node in list(model.nodes):
            if model.is_standard(node, "DequantizeLinear"):
                if all(isinstance(t, gs.Constant) for t in node.inputs if t.name):
                    self._weight(model, node, report)
                elif self.activations:
                    self._pair(model, node, report)
        model.drop_dead()
        return report

    def _weight(self, model: Model, node: gs.Node, report: Report) -> None:
        if model.is_output(node.outputs[0]):
            report.refuse(node.name, "it makes an output of the model")
            return
        values = floats(node)
        model.replace_uses(node.outputs[0], model.constant(f"{node.name}_floats", values))
        report.edit(node.name, f"{node.inputs[0].dtype} weight [{'x'.join(map(str, values.shape))}] as {values.dtype}")

    def _pair(self, model: Model, node: gs.Node, report: Report) -> None:
        ahead = node.inputs[0].inputs[0] if isinstance(node.inputs[0], gs.Variable) and node.inputs[0].inputs else None
        if ahead is None or not model.is_standard(ahead, "QuantizeLinear"):
            return
        if [_array(t) for t in node.inputs[1:]] != [_array(t) for t in ahead.inputs[1:]] or any(
            _array(t) is None for t in node.inputs[1:]
        ):
            report.refuse(node.name, "it reads by another scale than the one that it was written by")
            return
        scale, kind = node.inputs[1].values, _stored(node, ahead)
        if scale.size != 1 or model.opset < CLIP:
            report.refuse(
                node.name, "scales by channel have no Clip" if scale.size != 1 else "Clip takes bounds from opset 11 on"
            )
            return
        zero = node.inputs[2].values.astype(np.int64).item() if len(node.inputs) > 2 and node.inputs[2].name else 0
        bounds = [
            model.constant(
                f"{node.name}_{name}", ((end - zero) * scale.reshape(()).astype(np.float64)).astype(scale.dtype)
            )
            for name, end in zip(("low", "high"), kind)
        ]
        clip = model.node("Clip", [ahead.inputs[0], *bounds], name=f"{node.name}_clip", before=node)
        low, high = (float(b.values) for b in bounds)
        if not model.bypass(node, clip.outputs[0]):
            model.remove(clip)
            report.refuse(node.name, "it makes an output of the model")
            return
        report.edit(clip.name, f"a quantiser's range {low:.4g} to {high:.4g}, unrounded")


def floats(node: gs.Node) -> np.ndarray:
    """What a DequantizeLinear of constants makes: (w - z) s, with scales by tensor, channel or block."""
    w, scale = node.inputs[0].values, node.inputs[1].values
    zero = node.inputs[2].values if len(node.inputs) > 2 and node.inputs[2].name else None
    axis = int(node.attrs.get("axis", 1))
    block = int(node.attrs.get("block_size", 0))

    def spread(a: np.ndarray) -> np.ndarray:
        if a.size == 1:
            return a.reshape(())
        if block:
            return np.repeat(a, block, axis=axis)[tuple(map(slice, w.shape))]
        shape = [1] * w.ndim
        shape[axis] = -1
        return a.reshape(shape)

    wide = (
        np.int64 if w.dtype == np.int32 else np.float32
    )  # numbers of 8 and 16 bits, floats of 8 bits too, are exact there
    whole = w.astype(wide) if zero is None else w.astype(wide) - spread(zero.astype(wide))
    return (whole.astype(scale.dtype) * spread(scale)).astype(scale.dtype)


def _stored(node: gs.Node, ahead: gs.Node) -> tuple[int, int]:
    """The least and the largest integer that the pair stores: of the zero point's type, uint8 without one."""
    zero = next((n.inputs[2] for n in (node, ahead) if len(n.inputs) > 2 and n.inputs[2].name), None)
    if zero is None:
        return 0, 255
    bits, signed = dtype_bits(zero.values.dtype), str(zero.values.dtype).startswith("int")
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def _array(t: gs.Variable | gs.Constant) -> tuple | None:
    """A small constant as something to compare; None where it is computed."""
    if not t.name:
        return ()
    return (str(t.values.dtype), t.values.shape, t.values.tobytes()) if isinstance(t, gs.Constant) else None
