"""A pass within bodies of If, Loop and Scan: each is a model whose inputs and outputs stay, changed as any other, or left."""

from __future__ import annotations

from dataclasses import replace

from ..ir.bodies import PRODUCTS, Body, inner, put_back
from ..ir.errors import OnnxcError
from ..ir.graph import CAPTURED
from ..ir.hoist import hoist
from ..ir.model import Model
from ..ir.verify import verify
from .base import Context, Idle, Pass, Report
from .within import data_within


def run_inside(p: Pass, before: Model, model: Model, ctx: Context, report: Report) -> None:
    """Run `p` in the bodies of `model`, on which it has been and which was `before`; edits and refusals bear the body's name
    ahead of the node's. Data within are those of `before`.

    A pass that says `bodies = False` leaves products there alone, which is told.
    """
    if p.reaches or not any(CAPTURED in node.attrs for node in model.nodes):
        return
    changed = False
    for body in inner(model, verify(model)):
        if not body.key:
            continue
        if not p.bodies:
            _left(body.name, body.model, report, f"{p.name} works outside of bodies")
            continue
        work, found = body.model.copy(), Report()
        own = Context(body.verified, seed=ctx.seed, synthetic=ctx.synthetic, runner=ctx.runner)
        try:
            if p.needs_data:
                own.data = within = data_within(before, _twin(body, before), ctx)
                if not within.feeds:
                    _left(body.name, body.model, report, "no sample of the data goes there")
                    continue
            part = p.run(work, own)
            run_inside(p, body.model, work, own, part)
            if part.edits:
                verify(work, like=body.model)
        except OnnxcError as e:
            report.refuse(body.name, f"it is left as it is: {e}")
            continue
        if part.edits and work.opset != model.opset:
            found.refuse(body.name, "it would take another opset than the model")
        else:
            found = part
        for edit in found.edits:
            report.edit(f"{body.name}/{edit.node}", edit.what)
        for refusal in found.refusals:
            report.refuse(f"{body.name}/{refusal.node}", refusal.reason)
        if found.edits:
            body.model = work
            put_back(model, body)
            changed = True
    if changed:
        hoist(model)
        report.notes = [note for note in report.notes if not isinstance(note, Idle)]


def _twin(body: Body, before: Model) -> Body:
    """The body, as it is fed by the node of its name in `before`."""
    node = next(n for n in before.nodes if n.name == body.node.name)
    tensors = dict(zip(node.attrs[CAPTURED], node.inputs[len(node.inputs) - len(node.attrs[CAPTURED]) :], strict=True))
    return replace(body, node=node, passed={name: tensors.get(name, t) for name, t in body.passed.items()})


def _left(name: str, model: Model, report: Report, why: str) -> None:
    count = sum(model.is_standard(node, *PRODUCTS) for node in model.nodes)
    if count:
        report.refuse(name, f"{count} product{'s' * (count > 1)} in a body stay: {why}")
