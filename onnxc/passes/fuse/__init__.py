"""fuse: operators that a neighbour can take over are taken over; decomposed operators become one again.

A sweep goes once through the nodes in order; at each node the rules below are tried until none applies. Sweeps are
repeated until one changes nothing, no more than SWEEPS times.
"""

from __future__ import annotations

from ...ir.errors import VerificationError
from ...ir.model import Model
from ..base import Claim, Context, Pass, Report, register
from ..clean.duplicates import Pool, share_constants
from ..editor import Editor, opaque
from .affine import divide_to_multiply, merge_affine
from .bounds import merge_bounds
from .composites import Composites
from .linear import fold_after, fold_before, fold_shared, to_gemm
from .pads import fold_pad

SWEEPS = 64
NO_END = "fuse found no fixpoint"
RULES = (fold_after, merge_affine, fold_before, fold_pad, merge_bounds)


@register("fuse")
class Fuse(Pass):
    """Fold BatchNormalization, constant factors, shifts, pads and bounds into neighbours; recognise composites.

    1. Conv -> BatchNormalization, Mul, Div, Add, Sub by constants    ->  Conv   (ConvTranspose, Gemm, MatMul likewise)
    2. BatchNormalization, Mul, ... -> Conv without padding           ->  Conv
    3. MatMul -> Add of a constant, on matrices                       ->  Gemm
    4. Pad -> Conv, AveragePool, MaxPool                              ->  one of them
    5. Clip, Relu, Min, Max in a row                                  ->  Clip or Relu
    6. decomposed LayerNormalization, RMSNormalization, Gelu, HardSigmoid, HardSwish, Swish, Softmax  ->  the operator
    7. Div by a constant                                              ->  Mul

    Nothing is folded across a tensor that is a graph output or has other readers: the work would be done twice.
    """

    claim = Claim.TOLERANCE(1e-5, 1e-5)
    requires = ("clean",)
    bodies = True

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        editor = Editor(model, ctx.verified, report)
        composites = Composites()
        stages = ((composites,), RULES, (fold_shared, divide_to_multiply, to_gemm))
        for _ in range(SWEEPS):
            before = editor.changes
            editor.begin()
            for rules in stages:
                _repeat(editor, rules)
            if editor.changes == before:
                break
        else:
            raise VerificationError(NO_END, expected=f"at most {SWEEPS} rounds", remedy="report the model")
        composites.notes(editor)
        pool = Pool()
        for node in model.nodes:
            share_constants(editor, node, pool)
        return report


def _repeat(e: Editor, rules) -> None:
    for _ in range(SWEEPS):
        before = e.changes
        for node in list(e.model.nodes):
            if id(node) in e.gone or opaque(node):
                continue
            for rule in rules:
                if rule(e, node) and id(node) in e.gone:
                    break
        e.finish()
        if e.changes == before:
            return
    raise VerificationError(NO_END, expected=f"at most {SWEEPS} sweeps", remedy="report the model")
