"""clean: what every run computes alike, what nobody reads, what changes nothing and what stands twice is removed.

Each sweep goes once through the nodes in order and tries, at each, sharing of constants, folding, known shapes,
identities, merging with the producer, common subexpressions; so an edit costs no restart. Sweeps are repeated until one
changes nothing, which is the fixpoint, and no more than SWEEPS times.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from ...ir.analysis import analyse
from ...ir.cost import has_bodies
from ...ir.errors import VerificationError
from ...ir.model import Model
from ...ir.verify import Verified, verify
from ..base import Claim, Context, Pass, Report, register
from ..editor import Editor, opaque
from .duplicates import Pool, common, share_constants
from .fold import fold
from .identities import identity
from .merge import merge
from .opened import open_bodies, open_functions
from .sequences import sequence
from .shapes import computed_target, known_values, named_axes
from .states import zero_states

SWEEPS = 32
SPARE_OUTPUTS = {
    "MaxPool": 1,
    "Dropout": 1,
    "LayerNormalization": 1,
    "GRU": 0,
    "LSTM": 0,
    "RNN": 0,
    "BatchNormalization": 1,
}


@register("clean")
class Clean(Pass):
    """Fold constants, remove dead code, identities and duplicates, merge consecutive and inverse pairs.

    1. Unsqueeze(w)                       ->  a constant          (bounded growth: see `fold`)
    2. Identity, Dropout, Reshape to the same shape, x*1, x+0, ... ->  x
    3. Shape, Gather, Concat, Reshape     ->  Reshape with a constant target; Squeeze names its axes
    4. Transpose(Transpose(x))            ->  Transpose(x) or x; likewise Reshape, Cast, Pad, Slice, Concat
    5. two nodes or constants that agree  ->  one
    6. outputs and nodes that nobody reads are dropped
    7. functions that hide products, constant Ifs and small loops are opened; what stays in bodies is cleaned there
    8. SequenceAt, ConcatFromSequence, ... ->  the tensors themselves, where a sequence's are known
    """

    claim = Claim.EXACT
    bodies = True

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        verified = verify(model) if open_functions(model, report) else ctx.verified
        for _ in range(SWEEPS):
            self._settle(model, verified, report)
            if not has_bodies(model) or not open_bodies(model, verify(model), report):
                return report
            verified = verify(model)
        raise self._endless()

    def _settle(self, model: Model, verified: Verified, report: Report) -> None:
        """Sweep until nothing changes."""
        editor = Editor(model, verified, report)
        known = 0
        for _ in range(SWEEPS):
            before = editor.changes
            sweep(editor)
            if editor.changes > before:
                continue
            if known == editor.changes or not incomplete(editor):
                return
            # folded constants may have told the analysis more: read the model again
            known = editor.changes
            editor.analysis = analyse(model)
        raise self._endless()

    def _endless(self) -> VerificationError:
        return VerificationError(
            "clean found no fixpoint", expected=f"at most {SWEEPS} sweeps", remedy="report the model"
        )


def incomplete(e: Editor) -> bool:
    """Whether the analysis lacks an extent that another look might find."""
    names = (t.name for n in e.model.nodes for t in n.outputs if t.name)
    return any((shape := e.analysis.shape(name)) is None or None in shape for name in names)


def sweep(e: Editor) -> None:
    """One pass over the nodes, in order."""
    e.begin()
    pool, seen = Pool(), dict[tuple, gs.Node]()
    for node in list(e.model.nodes):
        if id(node) in e.gone:
            continue
        share_constants(e, node, pool)
        if opaque(node):
            continue
        _spare_outputs(e, node)
        zero_states(e, node)
        if fold(e, node) or known_values(e, node):
            continue
        sequence(e, node)
        computed_target(e, node)
        named_axes(e, node)
        if identity(e, node):
            continue
        if merge(e, node) and id(node) in e.gone:
            continue
        common(e, node, seen)
    e.finish()


def _spare_outputs(e: Editor, node: gs.Node) -> None:
    """Drop trailing optional outputs that nobody reads."""
    least = SPARE_OUTPUTS.get(node.op)
    if least is None or len(node.outputs) <= max(least, 1):
        return
    if node.op == "BatchNormalization" and e.model.opset < 14:
        e.refuse(node, "before opset 14 the number of outputs says whether it trains")
        return
    count = len(node.outputs)
    while count > max(least, 1) and not e.used(node.outputs[count - 1]):
        count -= 1
    if count < len(node.outputs):
        e.cut_outputs(node, count)
        e.edited(node, "unused outputs dropped")
