"""train.proximal: few levels where the loss feels it least, by a proximal Newton step (Hou 2017)."""

from __future__ import annotations

from dataclasses import field

from ...ir.model import Model
from ..base import Context, Report, register
from .common import Learnt
from .levels import CODES, Levels
from .objective import Form, Objective


@register("train.proximal")
class Proximal(Learnt):
    """Train with weights read as a scale times few levels, which are nearest by the curvature of the loss (Hou 2017).

    Before -> after, d the root of the mean squared gradient, as Adam keeps it:

        w  ->  a q,  a and q least in sum d (w - a q)^2;  of two levels a = sum d |w| / sum d, q = sign w  (eq. 7)

    Learns from labels where the data have them, else from the model as given.

    levels: binary; ternary; bits3: 0, 1, 2, 4 and their negatives (loss-aware quantisation, Hou and Kwok 2018). ends: the
    first and the last product keep their floats. skip: patterns of layer names that keep theirs.
    """

    always = True
    levels: Levels = "binary"
    ends: bool = True
    skip: list[str] = field(default_factory=list)

    def objective(self, model: Model, ctx: Context, report: Report) -> Objective:
        forms = self.formed(model, Form("felt", codes=CODES[self.levels]), self.skip, self.ends)
        return Objective(**self.learnt_from(model, ctx), forms=forms)
