"""quant.dynamic: matrix products in integers, the range of their activations found at run time."""

from __future__ import annotations

from dataclasses import field
from fnmatch import fnmatchcase

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.difference import snr
from ...ir.model import Model, read_only
from ...ir.verify import verify
from ..base import Context, Pass, Report, register
from ..opset import raise_opset
from . import blockwise, products

OPSET = 11


@register("quant.dynamic")
class QuantDynamic(Pass):
    """Matrix products by 8-bit weights and activations, without calibration (Krishnamoorthi 2018, section 3.1.2):

        x -> DynamicQuantizeLinear -> MatMulInteger(uint8 w) -> Cast -> Mul(scale of x * scales of w) [-> Add bias]

    Weights have a scale and a zero point for each output, searched for the least squared error, and are unsigned: on
    processors without VNNI, products of unsigned by signed bytes saturate in pairs. Each run of a product
    takes the range of its input from the whole tensor. Suits transformers and recognisers whose ranges differ from input to
    input; `quant.int8` is faster where data are at hand. Convolutions are left alone: runtimes have no fast ConvInteger.

    skip: patterns of layer names to leave alone.
    """

    skip: list[str] = field(default_factory=list)

    requires = ("clean",)
    bodies = True

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        chosen = self._chosen(model, ctx.verified.types, report)
        if chosen and raise_opset(model, OPSET, ctx, report):
            chosen = self._chosen(model, verify(model).types, Report())
        shared: dict[str, list[gs.Variable]] = {}
        stored: dict[tuple[str, bool, float], tuple[list[gs.Constant], str]] = {}
        for node in chosen:
            product = products.read(node)
            turned = node.op == "Gemm" and bool(node.attrs.get("transB", 0))
            key = (node.inputs[1].name, turned, float(node.attrs.get("alpha", 1.0)) if node.op == "Gemm" else 1.0)
            if key not in stored:
                stored[key] = _weights(model, node.inputs[1].name, product.weight.T if turned else product.weight)
            weight, kept = stored[key]
            x = node.inputs[0]
            if x.name not in shared:
                shared[x.name] = [model.variable(f"{x.name}_{part}") for part in ("integers", "step", "zero_point")]
                model.node("DynamicQuantizeLinear", [x], shared[x.name], name=f"{x.name}_dynamic", before=node)
            _multiply(model, node, shared[x.name], weight, product.bias)
            report.edit(
                node.name, f"{product.weight.size} weights in 8 bits, {kept}; its input is quantised at run time"
            )
        return report

    def _chosen(self, model: Model, types: dict[str, int], report: Report) -> list[gs.Node]:
        chosen = []
        for node in model.nodes:
            if not model.is_standard(node, "MatMul", "Gemm", "Conv", "ConvTranspose"):
                continue
            why = products.refusal(node, types)
            if node.op not in ("MatMul", "Gemm"):
                why = "runtimes have no fast convolution of integers with ranges found at run time"
            elif why is None and node.inputs[1].values.ndim != 2:
                why = "its weight is no matrix"
            elif any(fnmatchcase(name, pattern) for pattern in self.skip for name in (node.name, node.inputs[1].name)):
                why = "skip names it"
            if why is None:
                chosen.append(node)
            else:
                report.refuse(node.name, why)
        return chosen


def _weights(model: Model, stem: str, weight: np.ndarray) -> tuple[list[gs.Constant], str]:
    """[uint8 [k, n], scales float32 [n], zero points uint8 [n]], and how well they keep the weights."""
    integers, scales, zeros = blockwise.quantised(weight, 0, 8, False)
    kept = snr(weight, blockwise.restored(integers, scales, zeros, 0))
    parts = {"integers": integers, "scale": scales, "zero_point": zeros}
    return [model.constant(f"{stem}_{k}", read_only(np.ascontiguousarray(v))) for k, v in parts.items()], kept


def _multiply(
    model: Model,
    node: gs.Node,
    x: list[gs.Variable],
    weight: list[gs.Constant],
    bias: np.ndarray | None,
) -> None:
    """Put the product in integers in the place of `node`."""

    def made(op: str, inputs: list, part: str, **attrs: int) -> gs.Variable:
        name = f"{node.name}_{part}"
        return model.node(op, inputs, [model.variable(name)], name=name, attrs=attrs, before=node).outputs[0]

    integers, scales, zeros = weight
    total = made("MatMulInteger", [x[0], integers, x[2], zeros], "total")
    wide = made("Cast", [total], "wide", to=1)
    scale = made("Mul", [x[1], scales], "step")
    last: list = [wide, scale]
    op = "Mul"
    if bias is not None:
        op, last = (
            "Add",
            [made("Mul", last, "scaled"), model.constant(f"{node.name}_bias", read_only(np.ascontiguousarray(bias)))],
        )
    node.op, node.attrs, node.inputs = op, {}, last
