"""Kernel families. Of those that take a spec the one that is predicted to be fastest wins; of equals the first of FAMILIES.

A family is a module whose FAMILY says what it takes and how (`family.Family`). docs/codegen.md shows how to add one.
"""

from __future__ import annotations

from onnxc.codegen.kernels import (
    bits,
    bytecount,
    depthwise,
    float32,
    int8,
    int8_depthwise,
    lookup,
    narrow,
    nibbles,
    packed_weights,
    sums,
    winograd,
)
from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.spec import KernelSpec, Refusal, Schedule
from onnxc.codegen.micro.fewbit import FAMILY as FEW_BIT_FAMILY
from onnxc.codegen.micro.fewbit import FIELDS_FAMILY
from onnxc.codegen.micro.layers import CONV_FAMILY, DEPTHWISE_FAMILY
from onnxc.codegen.target import Target

MICRO: tuple[Family, ...] = (DEPTHWISE_FAMILY, CONV_FAMILY, FEW_BIT_FAMILY, FIELDS_FAMILY)
FAMILIES: tuple[Family, ...] = tuple(
    module.FAMILY
    for module in (
        depthwise,
        float32,
        winograd,
        packed_weights,
        sums,
        narrow,
        int8_depthwise,
        int8,
        lookup,
        nibbles,
        bytecount,
        bits,
    )
)


def choose(
    spec: KernelSpec, target: Target, micro: bool = True, exact: bool = False
) -> tuple[Family | None, Schedule | None, list[Refusal]]:
    """The family that takes `spec`, its schedule, and what speaks against the other families.

    A family in C comes first where one takes it and `micro` allows: layers share its code and keep their weights' bytes. With
    `exact` sums of integers must stay such, and NaN and infinities where they are.
    """
    refusals: list[Refusal] = []
    taken = _taken(MICRO if target.micro and micro else (), spec, target, False, refusals)
    taken = taken or _taken(FAMILIES, spec, target, exact, refusals)
    if not taken:
        return None, None, refusals
    least, best, plan = min(taken, key=lambda one: one[0])
    for cycles, family, other in taken:
        if family is not best:
            why = f"predicted to take {cycles:.3g} cycles, {plan.rule} {least:.3g}"
            refusals.append(Refusal(other.rule, why))
    return best, plan, refusals


def _taken(
    families: tuple[Family, ...], spec: KernelSpec, target: Target, exact: bool, refusals: list[Refusal]
) -> list[tuple[float, Family, Schedule]]:
    """Predicted cycles, family and schedule of those that take `spec`; why the others do not is added to `refusals`."""
    taken = []
    for family in families:
        inexact = Refusal(
            family.name, "rounds sums of integers and spreads what is not finite, one of which matters here"
        )
        answer = inexact if exact and not family.exact else family.schedule(spec, target)
        if isinstance(answer, Refusal):
            refusals.append(answer)
        else:
            taken.append((family.cost(spec, answer, target), family, answer))
    return taken
