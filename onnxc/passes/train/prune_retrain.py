"""train.prune_retrain: the smallest weights go step by step while the others learn; what was cut may grow back."""

from __future__ import annotations

from dataclasses import field
from fnmatch import fnmatchcase
from typing import Annotated

import numpy as np

from ...ir.errors import BadOption
from ...ir.model import Model
from ..base import Context, Report, register
from ..options import Range
from .common import Learnt
from .objective import Form, Objective
from .weights import products


@register("train.prune_retrain")
class PruneRetrain(Learnt):
    """Iterative magnitude pruning (Han 2015) on a cubic schedule (Zhu and Gupta 2017, eq. 1), with weights that return.

    sparsity: share of zeros in each layer at the end; reached half way, the rest of the time the network recovers. Until
    then a weight that is cut goes on learning and returns if it grows (dynamic network surgery, Guo 2016). sparsity_by:
    shares of their own for layers by glob on their names, the last that fits counts. skip: patterns of layer names to leave
    alone.
    """

    always = True
    sparsity: Annotated[float, Range(above=0, below=1)] = 0.8
    sparsity_by: dict[str, float] | None = None
    skip: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.within("sparsity_by", all(0 <= s < 1 for s in (self.sparsity_by or {}).values()), "0 to below 1 each")

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        layers = list(products(model, self.skip))
        for glob in self.sparsity_by or ():
            if not any(fnmatchcase(node.name, glob) for node, _, _ in layers):
                names = ", ".join(node.name for node, _, _ in layers[:4]) or "none"
                raise BadOption("option sparsity_by names no layer", pass_name=self.name, expected=f"names like {names}",
                                found=glob)  # fmt: skip
        forms = {
            w.name: Form("magnitude", self._share(node.name), float(np.mean(w.values == 0))) for node, w, _ in layers
        }
        if not forms:
            raise BadOption("no product with a stored weight", pass_name=self.name)
        return Objective(**self.learnt_from(model, ctx), forms=forms)

    def _share(self, name: str) -> float:
        fitting = [share for glob, share in (self.sparsity_by or {}).items() if fnmatchcase(name, glob)]
        return fitting[-1] if fitting else self.sparsity
