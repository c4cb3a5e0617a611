"""Write quantisers into a model in QDQ form: pairs on activations, DequantizeLinear on integer weights and biases.

t -> reader      becomes      t -> QuantizeLinear -> DequantizeLinear -> reader
w -> product     becomes      int8 w -> DequantizeLinear(axis) -> product
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.model import Model, read_only
from ...ir.qtype import QType
from ..layers.linear import bias_home
from . import affine
from .fitted import Fitted
from .products import Product

BY_AXIS = 13
"""The first opset whose DequantizeLinear takes a scale by channel."""


class Writer:
    """Puts quantisers into `model`. Tensors of one group share their scale, equal uses of a weight its integers.

    `sums`: whether a vector that is added to a MatMul is stored as its bias, so that runtimes that make a Gemm of both have
    all of its operands as integers.
    """

    def __init__(self, model: Model, sums: bool = True):
        self.model, self.sums = model, sums
        self._parameters: dict[str, tuple[gs.Constant, gs.Constant]] = {}
        self._weights: dict[tuple, gs.Variable] = {}
        self._sources: list[np.ndarray | None] = []  # kept alive: the keys above hold their ids

    def activation(self, t: gs.Variable, group: str, q: QType, readers: set[str] | None) -> None:
        """Quantise `t` for all its readers, or for the nodes named alone. A graph output keeps its name."""
        model, name, source, target = self.model, t.name, t, t
        if readers is None and model.is_output(t):
            maker, source = t.inputs[0], model.variable(f"{name}_float")
            maker.outputs[next(i for i, o in enumerate(maker.outputs) if o is t)] = source
        else:
            target = model.variable(f"{name}_dequantized")
            model.replace_uses(t, target, readers)
        stored = model.variable(f"{name}_quantized")
        parameters = self._of_group(group, q)
        model.node("QuantizeLinear", [source, *parameters], [stored], name=f"{name}_quantize")
        model.node("DequantizeLinear", [stored, *parameters], [target], name=f"{name}_dequantize")

    def _of_group(self, group: str, q: QType) -> tuple[gs.Constant, gs.Constant]:
        if group not in self._parameters:
            scale, zero = affine.parameters(q)
            constants = self.model.constant(f"{group}_scale", scale), self.model.constant(f"{group}_zero_point", zero)
            self._parameters[group] = constants
        return self._parameters[group]

    def product(
        self, p: Product, x_scale: np.ndarray, bits: int, per_channel: bool, fitted: Fitted | None = None
    ) -> str:
        """Give the product integer weights, and a bias at the scale of its sums; returns in words what was done."""
        axis = p.axis if per_channel and self.model.opset >= BY_AXIS else None
        node, bias, stored = p.node, p.bias, None
        if fitted is not None:
            scales, stored = fitted.scale, fitted.stored
            bias = fitted.bias if node.op != "MatMul" else None
        else:
            scales = affine.weight_scales(p.weight, axis, bits)
            if bias is not None:
                # ConvTranspose repeats the scales of one group in every group
                strongest = np.abs(bias).reshape(p.groups, -1).max(0) if axis is not None else np.abs(bias)
                scales = affine.room_for_bias(scales, strongest, x_scale)
        if bias is None and self.sums and node.op == "MatMul":
            self._set_sum(node, x_scale * scales)
        q = QType(bits, True, scales, np.zeros(scales.shape, np.int8), axis)
        node.inputs[1] = self._weight(node.inputs[1], p.weight, q, stored)
        if bias is not None:
            self._set_bias(node, 2, bias, x_scale * scales, p.groups)
        for key in ("alpha", "beta"):
            node.attrs.pop(key, None)
        by = "by channel" if axis is not None else "one scale"
        return f"weights {'x'.join(map(str, p.weight.shape))} to int{bits} ({by})"

    def _weight(self, old: gs.Constant, values: np.ndarray, q: QType, stored: np.ndarray | None) -> gs.Variable:
        key = (id(values if stored is None else stored), q.bits, q.axis, affine.parameters(q)[0].tobytes())
        if key not in self._weights:
            self._sources += [values, stored]
            integers = affine.quantise(values, q) if stored is None else stored
            constant = self.model.constant(f"{old.name}_quantized", integers)
            self._weights[key] = self._dequantised(old.name, constant, q)
        return self._weights[key]

    def _set_sum(self, node: gs.Node, scale: np.ndarray) -> None:
        """The vector that is added to a MatMul alone becomes integers where they hold it."""
        home = bias_home(self.model, node)
        if home is None:
            return
        bias = home[0].inputs[home[1]].values
        if bias.dtype == np.float32 and (np.abs(bias) < scale * affine.BIAS_LIMIT).all():  # not where it is not finite
            self._set_bias(*home, bias, scale, 1)

    def _set_bias(self, node: gs.Node, i: int, bias: np.ndarray, scale: np.ndarray, groups: int) -> None:
        scale = np.tile(scale, groups) if scale.ndim else scale
        name = node.inputs[i].name if len(node.inputs) > i and node.inputs[i].name else f"{node.name}_bias"
        stored = self.model.constant(f"{name}_quantized", affine.quantise_bias(bias, scale))
        q = QType(32, True, scale, np.zeros(scale.shape, np.int32), 0 if scale.ndim else None)
        made = self._dequantised(name, stored, q)
        if len(node.inputs) > i:
            node.inputs[i] = made
        else:
            node.inputs.append(made)

    def _dequantised(self, name: str, stored: gs.Constant, q: QType) -> gs.Variable:
        steps, zeros = affine.parameters(q)
        scale = self.model.constant(f"{name}_scale", read_only(np.asarray(steps, np.float32)))
        zero = self.model.constant(f"{name}_zero_point", zeros)
        attrs = {} if q.axis is None else {"axis": q.axis}
        out = self.model.variable(f"{name}_dequantized")
        self.model.node("DequantizeLinear", [stored, scale, zero], [out], name=f"{name}_dequantize", attrs=attrs)
        return out
