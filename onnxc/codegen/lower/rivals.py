"""Whether a kernel on few bits is worth it beside the float kernel of the same layer."""

from __future__ import annotations

from onnxc.codegen.kernels import choose, cost, narrow, sums
from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.spec import KernelSpec, Refusal, Schedule
from onnxc.codegen.match.fewbit import FewBit
from onnxc.codegen.match.products import Match
from onnxc.codegen.target import Target

FROM_AFAR = 8
"""Bytes a cycle of weights that other layers have pushed out of the near caches (measured on Zen 5)."""


def slower(form: FewBit | Match, family: Family, plan: Schedule, found: Match, target: Target) -> list[Refusal]:
    """A refusal if the float form of a few-bit kernel, or of one on codes or narrow weights, is predicted to be faster."""
    rival, other, _ = choose(found.spec, target, exact=found.few_bit is not None)
    if rival is None or other is None:
        return []
    floats, bits = rival.cost(found.spec, other, target), family.cost(form.spec, plan, target)
    packs, certain = isinstance(form, FewBit), 1.0
    if packs:
        bits += cost.packing_cycles(form.spec)
    elif form.spec.weight.kind in narrow.KINDS:
        floats, bits = floats + _fetched(found.spec), bits + _fetched(form.spec)
    else:
        certain = sums.CERTAIN
    with_packing = " with packing" if packs else ""
    told = f"predicted to take {bits:.2g} cycles{with_packing}, {other.rule} {floats:.2g}"
    return [Refusal(plan.rule, told)] if floats < certain * bits else []


def _fetched(spec: KernelSpec) -> float:
    """Cycles that weights beyond a near cache take to come."""
    return max(spec.oc * spec.c * spec.kh * spec.kw * spec.weight.bits / 8 - cost.NEAR, 0) / FROM_AFAR
