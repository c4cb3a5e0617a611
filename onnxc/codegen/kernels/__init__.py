"""Kernel families. `RULES` is the list of schedule rules: the first that returns a Schedule wins.

A family is a module with `schedule(spec, target) -> Schedule | Refusal`, `emit(spec, schedule, name) -> PrimFunc`
and `pack(spec, schedule, weights) -> ndarray`; one that reads more than packed weights has
`tables(spec, schedule, weights) -> list of ndarray`, operands after them. docs/codegen.md shows how to add one.
"""

from __future__ import annotations

from types import ModuleType

from onnxc.codegen.kernels import bits, bytecount, depthwise, float32, int8, int8_depthwise, lookup, nibbles
from onnxc.codegen.kernels.spec import KernelSpec, Refusal, Schedule
from onnxc.codegen.target import Target

RULES: tuple[ModuleType, ...] = (depthwise, float32, int8_depthwise, int8, lookup, nibbles, bytecount, bits)


def choose(spec: KernelSpec, target: Target) -> tuple[ModuleType | None, Schedule | None, list[Refusal]]:
    """The first family that takes `spec`, its schedule, and the refusals of the families before it."""
    refusals = []
    for family in RULES:
        answer = family.schedule(spec, target)
        if isinstance(answer, Schedule):
            return family, answer, refusals
        refusals.append(answer)
    return None, None, refusals
