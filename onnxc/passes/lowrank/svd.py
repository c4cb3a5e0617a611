"""lowrank.svd: fully connected layers and 1x1 convolutions as two thinner ones."""

from __future__ import annotations

from fnmatch import fnmatchcase

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.cost import node_macs
from ...ir.errors import BadOption
from ...ir.model import Model
from ..base import Context, Pass, Report, register
from .factor import Spectrum, saving_rank, spectrum
from .layers import OPERATORS, Factors, matrix, refusal, split

ENERGY = 0.9


@register("lowrank.svd", alias="lowrank")
class LowRankSVD(Pass):
    """Replace W [out, in] by its best approximation of rank r, as two layers (Eckart and Young 1936; Denton 2014).

    Before -> after, with first [r, in] and second [out, r]:

    1. Gemm(x, W, b)            ->  Gemm(Gemm(x, first), second, b)
    2. MatMul(x, W)             ->  MatMul(MatMul(x, first), second), any leading axes of x
    3. Conv 1x1(x, W, b)        ->  Conv(Conv(x, first), second, b), strides and pads on the first

    A layer is factored only where that lowers its MACs and the parameters, that is where r (out + in) < out in, and the
    old weight has no other reader that keeps it. energy: share of the squared singular values to keep, which sets the
    rank of each layer. rank: one rank for all instead. skip: globs of names of nodes to leave alone.

    Not idempotent: a second run factors the factors, again at that energy.
    """

    energy: float = ENERGY
    rank: int | None = None
    skip: list | str | None = None

    requires = ("clean",)

    def __post_init__(self):
        if not 0 < self.energy <= 1:
            raise BadOption("option energy does not fit", expected="above 0, to 1", found=self.energy)
        if self.rank is not None and self.rank < 1:
            raise BadOption("option rank does not fit", pass_name=self.name, expected="1 or more", found=self.rank)
        if self.rank is not None and self.energy != ENERGY:
            raise BadOption("give energy or rank, not both", pass_name=self.name)

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        macs = {n.name: node_macs(ctx.verified.analysis, n) for n in model.nodes}
        for users in _by_weight(model):
            self._weight(model, users, macs, report)
        return report

    def _weight(self, model: Model, users: list[gs.Node], macs: dict[str, int], report: Report) -> None:
        """Factor one weight for all nodes that read it, or refuse each of them."""
        why = self._refuse(model, users)
        node = users[0]
        if why is None:
            w = matrix(node)
            m, n = w.shape
            most = saving_rank(m, n)
            s = spectrum(w) if most and (self.rank is None or self.rank <= most) else None
            rank = self.rank if self.rank is not None else s.rank_for(self.energy) if s is not None else 1
            if rank > most:
                why = f"rank {rank} of {m}x{n} would take {rank * (m + n)} parameters and MACs a position, not {m * n}"
        if why is not None:
            for user in users:
                report.refuse(user.name, f"{user.op} stays whole: {why}")
            return
        first, second = s.factor(rank)
        factors = Factors.of(model, node, first, second)
        for user in users:
            split(model, user, factors)
            old = macs[user.name]
            new = old * rank * (m + n) // (m * n)
            report.edit(user.name, f"{user.op} {m}x{n} to rank {rank}: {_figures(s, rank)}, {old} MACs to {new}")

    def _refuse(self, model: Model, users: list[gs.Node]) -> str | None:
        skip = [self.skip] if isinstance(self.skip, str) else self.skip or ()
        if any(fnmatchcase(u.name, glob) for u in users for glob in skip):
            return "left out by skip"
        for user in users:
            why = refusal(user)
            if why is not None:
                return why
        t = users[0].inputs[1]
        if len(t.outputs) > len(users) or model.is_output(t):
            other = next((n.name for n in t.outputs if all(n is not u for u in users)), "a graph output")
            return f"its weight must stay for {other}"
        if any(u.op != users[0].op or u.attrs.get("transB", 0) != users[0].attrs.get("transB", 0) for u in users):
            return "its weight is shared with another kind of layer"
        return None


def _by_weight(model: Model) -> list[list[gs.Node]]:
    """The nodes that could be factored, those that share a weight together, in graph order."""
    groups: dict[object, list[gs.Node]] = {}
    for node in model.nodes:
        if model.is_standard(node, *OPERATORS) and len(node.inputs) > 1:
            groups.setdefault(id(node.inputs[1]), []).append(node)
    return list(groups.values())


def _figures(s: Spectrum, rank: int) -> str:
    kept = float(s.energy[rank - 1])
    return f"energy {kept:.4f} kept, relative error {np.sqrt(max(0.0, 1 - kept)):.3g}"
