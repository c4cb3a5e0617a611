"""What a plan must be when C is written of it; a breach is a fault of ours and ends the compilation with one line.

memory -> c: every operand has a place within its space, what is alive at once shares no byte, and each output is written
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxc.codegen.memory.arena import ALIGN, Overlap, Tenant
from onnxc.ir.errors import VerificationError

if TYPE_CHECKING:
    from onnxc.codegen.memory.plan import MemoryPlan

REMEDY = "this is a fault of onnxc: report it with the model"


def check_assignment(
    tenants: Sequence[Tenant],
    offsets: Sequence[int],
    total: int,
    overlaps: Sequence[Overlap] = (),
    align: int = ALIGN,
) -> None:
    """Raises VerificationError unless tenants that live at once have bytes of their own, aligned, within `total`, or lie over one
    another as one of `overlaps` lets them."""
    for t, at in zip(tenants, offsets, strict=True):
        if at < 0 or at % align or at + t.size > total:
            raise VerificationError(
                "a buffer lies outside of the arena", expected=f"a multiple of {align} within {total} bytes",
                found=f"{t.size} bytes at {at}", remedy=REMEDY,
            )  # fmt: skip
    allowed = {(o.x, o.y) for o in overlaps if _lies_over(offsets[o.x], offsets[o.y], o)}
    living: list[int] = []
    for i in sorted((i for i, t in enumerate(tenants) if t.size), key=lambda i: tenants[i].first):
        living = [j for j in living if tenants[j].last >= tenants[i].first]
        for j in living:
            shared = offsets[j] < offsets[i] + tenants[i].size and offsets[i] < offsets[j] + tenants[j].size
            if shared and not allowed & {(i, j), (j, i)}:
                raise VerificationError(
                    "two buffers that live at once share bytes", expected="bytes of their own",
                    found=f"{tenants[i]} at {offsets[i]}, {tenants[j]} at {offsets[j]}", remedy=REMEDY,
                )  # fmt: skip
        living.append(i)


def _lies_over(x: int, y: int, rule: Overlap) -> bool:
    return x == y if rule.same else x >= y + rule.ahead


def check_plan(plan: MemoryPlan, inputs: int, outputs: int, weights: int, start: int) -> None:
    """Raises VerificationError unless every place of a settled plan is within its space, arena places from `start` on; `inputs`,
    `outputs` and `weights`: how many the library has; its programs share weights."""
    bounds = {
        "input": range(inputs), "output": range(outputs), "weight": range(weights),
        "arena": range(start, start + plan.arena + 1),  # what is empty may lie at the end
    }  # fmt: skip
    operands = [(function, place) for function, places in plan.calls for place in places]
    operands += [("a copy", place) for _, place, _ in plan.copies] + [("an index flag", place) for place in plan.flags]
    for user, place in operands:
        if place.offset not in bounds.get(place.space, ()):
            found = f"{place.space} {place.offset}"
            raise VerificationError(f"{user} has an operand without a place", found=found, remedy=REMEDY)
    written = {place.offset for _, place in operands if place.space == "output"} | {n for n, _, _ in plan.copies}
    made = {place.offset for _, place in operands}
    written |= {n for n, offset in enumerate(plan.ends[1]) if offset in made}
    if written != set(range(outputs)):
        raise VerificationError(
            "an output is written by nobody", expected=outputs, found=sorted(written), remedy=REMEDY
        )
