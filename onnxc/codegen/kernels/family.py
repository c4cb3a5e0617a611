"""What a family of kernels is: which specs it takes, how weights lie, the code it emits, and the cycles that should take.

A family's module ends with its `FAMILY`. Everything that reads families (`choose`, lowering, benchmarks) knows this type alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxc.codegen.kernels.spec import KernelSpec, Refusal, Schedule
from onnxc.codegen.target import Target


def as_it_is(form: Any) -> Any:
    """The form of a kernel that needs no other."""
    return form


def everything(spec: KernelSpec, plan: Schedule) -> tuple:
    """The pack key of a family that does not say which parts of spec and schedule its layout needs."""
    return (spec, plan)


def no_tables(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> list[np.ndarray]:
    """The tables of a family that reads packed weights only."""
    return []


def as_given(spec: KernelSpec, plan: Schedule, weights: np.ndarray, given: list) -> list:
    """The operands of a family whose epilogue takes them as the match made them."""
    return given


@dataclass(frozen=True)
class Family:
    """A family of kernels.

    `schedule` gives the tile, or why the family does not take a spec. `emit(spec, schedule, name)` is the PrimFunc with operands x,
    packed weights, tables, the epilogue's operands in the order of its steps, y. `pack` lays weights (oc, c/groups, kh, kw),
    an array or what stands for one (`sums.Coded`), out; two kernels with equal `pack_key` that share weights share what it made, so it
    names all that the layout depends on.
    `cost` predicts cycles on one thread, without packing of activations. `tables` are what the kernel reads beside packed
    weights; `operands(spec, schedule, weights, given)` the epilogue's operands as the kernel wants them. `settle` changes the form of a
    kernel once it is known what it packs (thresholds of as few bytes as hold them). `packs` families quantise
    and pack their own result where the spec says so; those that take floats pack their own input. Sums of integers that floats
    hold come out as they are, and what is not finite reaches no sums but its own, in all families but those that are not `exact`.
    """

    name: str
    schedule: Callable[[KernelSpec, Target], Schedule | Refusal]
    emit: Callable[[KernelSpec, Schedule, str], Any]
    pack: Callable[[KernelSpec, Schedule, Any], np.ndarray]
    cost: Callable[[KernelSpec, Schedule, Target], float]
    pack_key: Callable[[KernelSpec, Schedule], tuple] = everything
    tables: Callable[[KernelSpec, Schedule, Any], list[np.ndarray]] = no_tables
    operands: Callable[[KernelSpec, Schedule, np.ndarray, list], list] = as_given
    settle: Callable[[Any], Any] = as_it_is
    packs: bool = False
    takes_floats: bool = False
    exact: bool = True
