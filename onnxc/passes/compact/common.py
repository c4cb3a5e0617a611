"""What compact rewrites share: which convolutions, what a block must save, and how its stages enter the graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.difference import snr
from ...ir.model import Model, Tensor
from ..base import Claim, Context, Pass, Report
from .blocks import Block, Stage


@dataclass(kw_only=True, repr=False, eq=False)
class Compact(Pass):
    """Base of the compact rewrites: a subclass gives the block of one convolution, or says why there is none."""

    claim = Claim.LOSSY
    requires = ("clean",)

    ends: bool = True
    skip: list[str] = field(default_factory=list)

    def block(self, node: gs.Node, w: np.ndarray) -> Block | str:
        """The block for w [o, c, i, j], float64; a text says why this convolution stays."""
        raise NotImplementedError

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        before = after = 0
        for node in list(self._found(model, report)):
            w = node.inputs[1].values
            block = self.block(node, w.astype(np.float64))
            strides = prod(node.attrs.get("strides", [1, 1]))
            if isinstance(block, Block) and block.macs(strides) >= w.size:
                block = f"its block would have {block.macs(strides) / w.size:.2f} times its MACs"
            if isinstance(block, str):
                report.refuse(node.name, block)
                continue
            before, after = before + w.size, after + block.macs(strides)
            report.edit(node.name, f"{_shape(w)} -> {_said(block)}, {snr(w, block.like)}")
            _enter(model, node, block)
        if before:
            model.drop_dead()
            model.sort()
            report.note(f"{after / before:.2f} of these layers' weights are left: train on, as by train.distill")
        return report

    def _found(self, model: Model, report: Report) -> Iterator[gs.Node]:
        products = [n for n in model.nodes if model.is_standard(n, "Conv", "ConvTranspose", "Gemm", "MatMul")]
        edges = {id(products[0]), id(products[-1])} if products and self.ends else set()
        for node in products:
            if node.op != "Conv":
                continue
            if any(fnmatchcase(node.name, glob) for glob in self.skip):
                report.refuse(node.name, "skipped")
            elif id(node) in edges:
                report.refuse(node.name, "the first and the last product stay, unless ends=false")
            elif (why := _unfit(node)) is not None:
                report.refuse(node.name, why)
            else:
                yield node


def _unfit(node: gs.Node) -> str | None:
    w = node.inputs[1]
    if not isinstance(w, gs.Constant) or w.values.dtype.kind != "f" or w.values.ndim != 4:
        return "it has no stored weight of floats with two spatial axes"
    if len(w.outputs) != 1:
        return "its weight has other readers"
    if node.attrs.get("group", 1) != 1:
        return "it has groups already"
    return None


def middle(node: gs.Node) -> bool:
    """Whether the middle of the kernel stands over the input position of each output, so that 1 x 1 reads the same."""
    k = node.inputs[1].values.shape[2:]
    d = node.attrs.get("dilations", [1, 1])
    half = [n // 2 * step for n, step in zip(k, d, strict=True)]
    return (
        all(n % 2 for n in k)
        and node.attrs.get("auto_pad", "NOTSET") == "NOTSET"
        and list(node.attrs.get("pads", [0] * 4)) == half * 2
    )


def _shape(w: np.ndarray) -> str:
    o, c, i, j = w.shape
    return f"{i}x{j} {c} -> {o}"


def _said(block: Block) -> str:
    def one(s: Stage) -> str:
        o, c, i, j = s.weight.shape
        groups = f" in {s.groups} groups" if s.groups > 1 else ""
        return f"{i}x{j} {c * s.groups} -> {o}{groups}"

    parts = [one(s) for s in block.stages] + [" beside ".join(map(one, block.ends))]
    return ", ".join([*parts, "with a shortcut"] if block.shortcut else parts)


def _enter(model: Model, node: gs.Node, block: Block) -> None:
    """Put the block in the node's place; its output keeps its name, its bias goes to the end."""
    x, out = node.inputs[0], node.outputs[0]
    y: Tensor = x
    bias = node.inputs[2].values if len(node.inputs) > 2 and isinstance(node.inputs[2], gs.Constant) else None
    extra = node.inputs[2] if len(node.inputs) > 2 and bias is None else None
    for k, stage in enumerate(block.stages):
        y = _stage(model, node, stage, y, f"{node.name}_{k}", None)
    made, at = [], 0
    for k, stage in enumerate(block.ends):
        o = len(stage.weight)
        b = extra if bias is None else model.constant(f"{node.name}_bias", bias[at : at + o])
        made.append(_stage(model, node, stage, y, f"{node.name}_end{k}", b))
        at += o
    y = made[0] if len(made) == 1 else _one(model, node, "Concat", made, "joined", {"axis": 1})
    if block.shortcut:
        y = _one(model, node, "Add", [x, y], "shortcut", {})
    node.outputs.clear()
    last = y.inputs[0]
    last.outputs.clear()
    last.outputs.append(out)


def _stage(model: Model, node: gs.Node, stage: Stage, x: Tensor, stem: str, bias: Tensor | None) -> Tensor:
    w = stage.weight.astype(node.inputs[1].values.dtype)
    attrs = {}
    if stage.place == "k":
        attrs = {n: v for n, v in node.attrs.items() if n not in ("group", "kernel_shape")}
    elif stage.place == "centre" and "strides" in node.attrs:
        attrs = {"strides": node.attrs["strides"]}
    attrs |= {"kernel_shape": list(w.shape[2:]), "group": stage.groups}
    given = [x, model.constant(f"{stem}_weight", w), *([bias] if bias is not None else [])]
    y = model.node("Conv", given, name=stem, attrs=attrs, before=node).outputs[0]
    if stage.relu:
        y = model.node("Relu", [y], name=f"{stem}_relu", before=node).outputs[0]
    if stage.shuffle > 1:
        dealt = np.arange(len(w)).reshape(stage.shuffle, -1).T.reshape(-1)
        order = model.constant(f"{stem}_order", dealt.astype(np.int64))
        y = model.node("Gather", [y, order], name=f"{stem}_shuffle", attrs={"axis": 1}, before=node).outputs[0]
    return y


def _one(model: Model, node: gs.Node, op: str, inputs: list, stem: str, attrs: dict) -> Tensor:
    return model.node(op, inputs, name=f"{node.name}_{stem}", attrs=attrs, before=node).outputs[0]
