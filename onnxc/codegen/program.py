"""One model, one shape, one instruction set: lowered, planned, and its kernels compiled to an object file."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from onnxc.codegen import cache
from onnxc.codegen.c.function import CFunction, compile_functions
from onnxc.codegen.c.portable import c_functions
from onnxc.codegen.c.private import keep_private
from onnxc.codegen.candidates import Chooser, Layouts, Picks
from onnxc.codegen.kernels import generic, legal
from onnxc.codegen.later import Later
from onnxc.codegen.layers import CallRow, call_rows
from onnxc.codegen.lower.lowering import lower
from onnxc.codegen.memory.plan import MemoryPlan, make_plan
from onnxc.codegen.micro.calls import Micro, micro_of
from onnxc.codegen.origins import Trail
from onnxc.codegen.prepare.record import StaticModel, StaticRegion
from onnxc.codegen.quiet import quiet
from onnxc.codegen.regions import Call, call_of
from onnxc.codegen.target import Target
from onnxc.codegen.tvm_api import finish, name_of, tvm_modules
from onnxc.ir.errors import Unsupported
from onnxc.ir.garbage import uncollected


@dataclass
class Program:
    """What `lower_program` has made of a model: its plan, TIR functions by C name, and rows of the report.

    All names in its object file begin with `prefix`. `compiled` says how C calls each function, once `compile_program` has been;
    `micro` are the functions that C code computes, `text` the C of the others, for a library of C sources.
    `rows`: what each call is, where it is to be timed and for processors without an operating system.
    `regions`: by C name the calls that stand for a Loop or an If, with the programs of their bodies. These have no functions of
    their own: `bodies` and `micro` have them, and their plans read the weights of this one.
    """

    static: StaticModel
    target: Target
    prefix: str
    plan: MemoryPlan
    bodies: dict[str, object]
    kernels: tuple[dict, ...]
    fallbacks: tuple[dict, ...]
    compiled: dict[str, CFunction]
    micro: dict[str, Micro] = field(default_factory=dict)
    rows: list[CallRow] = field(default_factory=list)
    text: str = ""
    regions: dict[str, Nested] = field(default_factory=dict)

    @property
    def arrays(self) -> list[np.ndarray]:
        """The weights of the plan."""
        return self.plan.weights

    def weight_numbers(self) -> set[int]:
        """Which weights of the plan are those of products: the second operand of a kernel."""
        calls = [places for function, places in self.plan.calls if re.search(r"_kernel\d+$", function)]
        own = {places[1].offset for places in calls if places[1].space == "weight"}
        return own.union(*(inner.weight_numbers() for inner in self.inner()))

    def inner(self) -> list[Program]:
        """The programs of bodies of Loops and Ifs."""
        return [body for region in self.regions.values() for body in region.bodies]

    def renumber(self, numbers: list[int], arrays: list[np.ndarray]) -> None:
        """Weight i of the plan becomes weight numbers[i], which is one of `arrays`, the weights of all programs."""
        self.plan.weights = arrays
        for i, (function, places) in enumerate(self.plan.calls):
            moved = [replace(p, offset=numbers[p.offset]) if p.space == "weight" else p for p in places]
            self.plan.calls[i] = (function, moved)
        self.plan.copies = [
            (n, replace(p, offset=numbers[p.offset]) if p.space == "weight" else p, size)
            for n, p, size in self.plan.copies
        ]
        self.plan.flags = [replace(p, offset=numbers[p.offset]) if p.space == "weight" else p for p in self.plan.flags]
        for inner in self.inner():
            inner.renumber(numbers, arrays)


@dataclass
class Nested:
    """A Loop or an If of a program: how it is called, what it is, and the programs of its bodies."""

    call: Call
    region: StaticRegion
    bodies: list[Program]


@uncollected()
def lower_shapes(
    statics: Sequence[StaticModel],
    target: Target,
    threads: int,
    prefixes: Sequence[str],
    timed: bool = False,
    picks: Picks | None = None,
) -> list[Program]:
    """A program for each shape, as `lower_program` has them; those behind the first hold weights as it does where that pays."""
    layouts, made = Layouts(), []
    for static, prefix in zip(statics, prefixes, strict=True):
        made.append(lower_program(static, target, threads, prefix, timed, picks, layouts))
        layouts.turn()
    return made


@np.errstate(all="ignore")  # of constants that are not finite
def lower_program(
    static: StaticModel,
    target: Target,
    threads: int,
    prefix: str,
    timed: bool = False,
    picks: Picks | None = None,
    layouts: Layouts | None = None,
) -> Program:
    """Lowers a static model; its functions are named `prefix`_something, so that no two objects of a program clash.

    `timed`: with rows of its calls. `picks`: kernels that were measured, `layouts`: how other shapes hold weights (`codegen.candidates`).

    Raises Unsupported for what cannot be lowered.
    """
    with quiet():
        lowered = lower(static, target, threads, Chooser(target, picks, layouts, exact=not _finite(static)))
        trail = Trail(lowered.nodes)
        module = finish(lowered.module, target, legal.rules(target), trail.note)
    plan = make_plan(module["main"], static, lowered.arrays)
    before = replace(plan, calls=list(plan.calls))
    count = Counter(function for function, _ in plan.calls)
    bodies = _functions(module, plan, prefix, target, threads, lowered.later)
    general = {f: generic.cycles(bodies[f"{prefix}_{f}"]) for f in sorted(count) if not _ours(f)}
    fallbacks = [{"function": f, "calls": count[f], "cycles": count[f] * each} for f, each in general.items()]
    rows = call_rows(static, before, trail.calls(), lowered.kernels, general) if timed or target.micro else []
    others = {name: body for name, body in bodies.items() if not isinstance(body, Later)}
    calls = {name: micro_of(body) for name, body in others.items()}
    micro = {name: call for name, call in calls.items() if call is not None}
    regions = {name: found for name, body in others.items() if (found := call_of(body)) is not None}
    bodies = {name: body for name, body in bodies.items() if name not in micro and name not in regions}
    made = Program(static, target, prefix, plan, bodies, tuple(lowered.kernels), tuple(fallbacks), {}, micro, rows)
    for name, found in regions.items():
        _nest(made, name, found)
    return made


def _finite(static: StaticModel) -> bool:
    """Whether the numbers that a model holds are."""
    floats = (a for a in static.constants.values() if isinstance(a, np.ndarray) and a.dtype.kind == "f")
    return all(math.isfinite(np.sum(a, dtype=np.float64)) for a in floats)


def _nest(outer: Program, name: str, call: Call) -> None:
    """Lowers the bodies of a region of `outer`, which takes over their functions and weights. They run on one thread."""
    region = outer.static.regions[call.node]
    bodies = [lower_program(body, outer.target, 1, f"{name}_{i}") for i, body in enumerate(region.bodies)]
    outer.regions[name] = Nested(call, region, bodies)
    for body in bodies:
        first, arrays = len(outer.arrays), body.arrays
        outer.arrays.extend(arrays)
        body.renumber([first + i for i in range(len(arrays))], outer.arrays)
        outer.bodies |= body.bodies
        outer.micro |= body.micro
        body.micro = outer.micro
        outer.kernels += body.kernels
        outer.fallbacks += body.fallbacks


@uncollected()
def compile_program(program: Program, threads: int, path: Path) -> None:
    """Compiles the functions into the object file `path`; there is none where C code computes them all."""
    program.compiled = {name: CFunction(call.work) for name, call in program.micro.items()}
    if not program.bodies:
        return
    if program.target.portable:
        with quiet():
            program.text, compiled = c_functions(program.bodies, program.target)
        program.compiled |= compiled
        return
    with quiet():
        name = cache.key(program.bodies, program.target, threads, program.prefix)
        kept = cache.load(name)
        if kept is not None:
            data, compiled = kept
        else:
            compiled = compile_functions(program.bodies, program.target, threads, path)
            data = keep_private(path.read_bytes(), program.prefix, program.bodies)
            cache.save(name, data, compiled)
    program.compiled |= compiled
    path.write_bytes(data)


def _ours(function: str) -> bool:
    return re.fullmatch(r"(kernel|pack|micro)\d+|region\d*", function) is not None


def _functions(
    module, plan: MemoryPlan, prefix: str, target: Target, threads: int, later: Mapping[str, Later]
) -> dict[str, object]:
    """The functions that the plan calls, under names with the prefix, which the plan takes over."""
    prim = {name_of(var): f for var, f in module.functions_items() if isinstance(f, tvm_modules().tirx.PrimFunc)}
    wanted = {}
    for i, (function, places) in enumerate(plan.calls):
        plan.calls[i] = (f"{prefix}_{function}", places)
        if f"{prefix}_{function}" in wanted:
            continue
        if function in later:
            wanted[f"{prefix}_{function}"] = later[function]
            continue
        body = prim[function]
        if micro_of(body) is not None or call_of(body) is not None:
            wanted[f"{prefix}_{function}"] = body
            continue
        if not _ours(function):
            text = body.script()
            if "call_packed" in text or "call_cpacked" in text:
                raise Unsupported(
                    f"{function} needs TVM's runtime", remedy="compile the part of the model without this operator"
                )
            body = generic.schedule(body, target, threads)
        wanted[f"{prefix}_{function}"] = body
    return dict(sorted(wanted.items()))
