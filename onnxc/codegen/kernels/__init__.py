"""Kernel families. `RULES` is the list of schedule rules: the first that returns a Schedule wins, of few-bit ones the one
that is predicted to be fastest.

A family is a module with `schedule(spec, target) -> Schedule | Refusal`, `emit(spec, schedule, name) -> PrimFunc`
and `pack(spec, schedule, weights) -> ndarray`; one that reads more than packed weights has
`tables(spec, schedule, weights) -> list of ndarray`, operands after them. docs/codegen.md shows how to add one.
"""

from __future__ import annotations

from types import ModuleType

from onnxc.codegen.kernels import (
    bits,
    bytecount,
    cost,
    depthwise,
    float32,
    int8,
    int8_depthwise,
    lookup,
    nibbles,
    packed_weights,
)
from onnxc.codegen.kernels.spec import KernelSpec, Refusal, Schedule
from onnxc.codegen.target import Target

RULES: tuple[ModuleType, ...] = (
    depthwise,
    float32,
    packed_weights,
    int8_depthwise,
    int8,
    lookup,
    nibbles,
    bytecount,
    bits,
)


def choose(spec: KernelSpec, target: Target) -> tuple[ModuleType | None, Schedule | None, list[Refusal]]:
    """The family that takes `spec`, its schedule, and what speaks against the families that were asked beside it."""
    refusals, taken = [], []
    for family in RULES:
        answer = family.schedule(spec, target)
        if isinstance(answer, Refusal):
            refusals.append(answer)
            continue
        taken.append((family, answer))
        if spec.activation.kind != "bits":
            break
    if not taken:
        return None, None, refusals
    predicted = [cost.cycles(spec, plan, target) for _, plan in taken]
    best = 0 if None in predicted else predicted.index(min(predicted))
    family, plan = taken.pop(best)
    least = predicted.pop(best)
    for (_, other), found in zip(taken, predicted):
        why = (
            f"predicted to take {found:.3g} cycles, {plan.rule} {least:.3g}"
            if found and least
            else f"behind {plan.rule}"
        )
        refusals.append(Refusal(other.rule, why))
    return family, plan, refusals
