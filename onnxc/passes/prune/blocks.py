"""prune.blocks: drop the residual branches that change the output least (Veit 2016; Chen and Zhao, 2018).

    y = Add(x, f(x))      ->      y = x
    y = Add(s(x), f(x))   ->      y = s(x)          (a projected shortcut stays)

The result equals the model whose branch output f(x) is multiplied by zero; the interface does not change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis
from ...ir.axes import same
from ...ir.cost import node_macs
from ...ir.difference import Difference
from ...ir.model import Model
from ..base import Claim, Context, Pass, Report, register
from ..options import Range

SAMPLES = 256
"""Most calibration samples on which outputs are compared."""


@register("prune.blocks")
class PruneBlocks(Pass):
    """Remove whole residual branches, one after the other, each time the one whose loss changes the outputs least.

    drop: how many branches go. ratio: share of all branches that go, where drop is not given. measure: what is
    compared on data: outputs of the whole model with and without the branch, measured anew after each removal, or the
    branch against the sum that it adds to (local; one run in all). skip: patterns of names of Add nodes, or of nodes in
    a branch, that stay.
    """

    claim = Claim.LOSSY
    requires = ("clean",)
    needs_data = True

    drop: Annotated[int | None, Range(0)] = None
    ratio: Annotated[float, Range(0, 1)] = 0.25
    measure: Literal["output", "local"] = "output"
    skip: list[str] = field(default_factory=list)

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        found = branches(model, ctx.verified.analysis, self.skip, report)
        wanted = int(len(found) * self.ratio + 0.5) if self.drop is None else self.drop
        if wanted > len(found):
            report.note(f"only {len(found)} branches can go, of {wanted} asked for")
        rate = self._outputs if self.measure == "output" else self._local
        left = {branch.add: branch for branch in found}
        rated: dict[str, float] = {}
        original = model.copy()
        while left and len(report.edits) < wanted:
            if not rated or self.measure == "output":
                rated = rate(original, model, list(left.values()), ctx)
            branch = left.pop(min(left, key=lambda n: rated[n]))
            if not branch.remove(model):
                report.refuse(branch.add, "the graph output needs a node that makes it")
                continue
            what = f"branch of {len(branch.nodes)} nodes from {branch.nodes[0]} dropped"
            report.edit(branch.add, f"{what}, changes {rated[branch.add]:.2%}")
            model.drop_dead()
            there = {node.name for node in model.nodes}
            left = {name: b for name, b in left.items() if name in there}  # those nested in it went with it
        return report

    def _outputs(self, original: Model, model: Model, left: list[Branch], ctx: Context) -> dict[str, float]:
        """The relative squared change of all outputs, by Add, if this branch went too."""
        rated, judge = {}, ctx.evaluate(original, SAMPLES)
        for branch in ctx.each(left, "branch"):
            trial = model.copy()
            if not branch.remove(trial):
                rated[branch.add] = float("inf")
                continue
            trial.drop_dead()
            rated[branch.add] = judge(trial).noise
        return rated

    def _local(self, original: Model, model: Model, left: list[Branch], ctx: Context) -> dict[str, float]:
        """The relative squared change of the sum, by Add, if its branch went."""
        changes = {branch.add: Difference() for branch in left}
        names = sorted({name for branch in left for name in (branch.out, branch.total)})
        for batch in ctx.tensors(original, names):
            for branch in left:
                whole = batch[branch.total].astype(np.float64)
                changes[branch.add].add(whole, whole - batch[branch.out])
        return {name: change.noise for name, change in changes.items()}


@dataclass(frozen=True)
class Branch:
    """Operand `i` of the node `add`: the tensor `out` of the sum `total`, made by `nodes`, which nothing else needs."""

    add: str
    i: int
    out: str
    total: str
    nodes: tuple[str, ...]

    def remove(self, model: Model) -> bool:
        """Let the sum do without this branch; the nodes behind it are then dead. False where that cannot be."""
        node = next(n for n in model.nodes if n.name == self.add)
        if len(node.inputs) > 2:
            del node.inputs[self.i]
            return True
        return model.bypass(node, node.inputs[1 - self.i])


def branches(model: Model, analysis: Analysis, skip: list[str], report: Report) -> list[Branch]:
    """Every residual branch that can go: the operand of an Add or Sum that costs most, where the others have the shape
    of the sum and are made from what the branch reads."""
    producers = {id(t): node for node in model.nodes for t in node.outputs}
    found = []
    for node in model.nodes:
        if not model.is_standard(node, "Add", "Sum") or len(node.inputs) < 2:
            continue
        if any(isinstance(t, gs.Constant) for t in node.inputs):
            continue
        if len({id(t) for t in node.inputs}) < len(node.inputs):
            continue
        own = [_exclusive(model, node, i, producers) for i in range(len(node.inputs))]
        costs = [sum(node_macs(analysis, n) for n in nodes) for nodes in own]
        i = max(range(len(own)), key=lambda k: (costs[k], len(own[k])))
        if not costs[i]:
            continue
        reason = _reason(model, analysis, node, i, own[i], producers)
        names = [node.name, *(n.name for n in own[i])]
        hit = next((p for p in skip if any(fnmatchcase(name, p) for name in names)), None)
        if reason or hit:
            report.refuse(node.name, reason or f"skipped, as {hit} says")
            continue
        inside = tuple(n.name for n in own[i])
        found.append(Branch(node.name, i, node.inputs[i].name, node.outputs[0].name, inside))
    return found


def _exclusive(model: Model, add: gs.Node, i: int, producers: dict[int, gs.Node]) -> list[gs.Node]:
    """The nodes that only operand `i` of `add` needs, in graph order."""
    mine: dict[int, gs.Node] = {}
    stack = [add.inputs[i]]
    while stack:
        node = producers.get(id(stack.pop()))
        if node is None or id(node) in mine:
            continue
        free = all(id(r) in mine or (r is add and t is add.inputs[i]) for t in node.outputs for r in t.outputs)
        if free and not any(model.is_output(t) for t in node.outputs):
            mine[id(node)] = node
            stack += node.inputs
    return [n for n in model.nodes if id(n) in mine]


def _reason(model: Model, analysis: Analysis, add: gs.Node, i: int, nodes: list[gs.Node], producers) -> str | None:
    """Why this operand cannot be dropped, or None."""
    out = analysis.axes.get(add.outputs[0].name)
    rest = [t for k, t in enumerate(add.inputs) if k != i]

    def whole(t) -> bool:
        axes = analysis.axes.get(t.name)
        return out is not None and axes is not None and len(axes) == len(out) and all(map(same, axes, out))

    if not any(map(whole, rest)):
        return "without this branch the sum has another shape"
    behind = _ancestors(rest, producers)
    inside = {id(t) for n in nodes for t in n.outputs}
    reads = [t for n in nodes for t in n.inputs if not isinstance(t, gs.Constant) and id(t) not in inside and t.name]
    if not all(id(t) in behind for t in reads):
        return "it joins two streams: the other operand is not made from what this one reads"
    if len(rest) == 1 and model.is_output(add.outputs[0]) and (not rest[0].inputs or model.is_output(rest[0])):
        return "the graph output needs a node that makes it"
    return None


def _ancestors(tensors, producers: dict[int, gs.Node]) -> set[int]:
    seen: set[int] = set()
    stack = list(tensors)
    while stack:
        t = stack.pop()
        if id(t) in seen:
            continue
        seen.add(id(t))
        node = producers.get(id(t))
        if node is not None:
            stack += node.inputs
    return seen
