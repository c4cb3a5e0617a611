"""The one door to TVM: lazy import, the pass pipelines, targets.

Importing tvm takes seconds and 200 MB, so it happens when something is compiled and not before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from onnxc.ir.errors import MissingTool
from onnxc.ir.garbage import uncollected

# what TVM raises, in Python and from C++
TVM_ERRORS = (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError)
SCALABLE = ("+v", "+sve", "+sve2", "+sme")


@cache
def tvm_modules() -> SimpleNamespace:
    """tvm, relax, tirx, s_tir and ir. Raises MissingTool when TVM is not installed."""
    try:
        with _hidden("torch"), uncollected():
            import tvm
            from tvm import ir, relax, s_tir, tirx
    except ImportError as error:
        raise MissingTool(
            f"compiling needs TVM ({error})", remedy="pip install apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1"
        ) from None
    return SimpleNamespace(tvm=tvm, relax=relax, tirx=tirx, s_tir=s_tir, ir=ir)


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """A package that is installed and not in use yet cannot be imported: tvm_ffi would take seconds for torch, to exchange tensors."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def name_of(global_var) -> str:
    """The name of a GlobalVar."""
    return global_var.name_hint if hasattr(global_var, "name_hint") else global_var.name


def __getattr__(name: str):
    """tvm_api.te, .tirx and .topi, imported when first used."""
    if name not in ("te", "tirx", "topi"):
        raise AttributeError(f"tvm_api has no {name}")
    tvm_modules()
    return import_module(f"tvm.{name}")


def script_builder():
    """TVM's builder of scripts, and the type that collects what it builds: (tirx, IRBuilder)."""
    tvm_modules()
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as script

    return script, IRBuilder


@contextmanager
def whole(builder) -> Iterator[None]:
    """A builder of Relax whose blocks are ended where an error leaves them: it writes a warning when it goes otherwise."""
    try:
        yield
    except BaseException:
        with suppress(*TVM_ERRORS):
            while True:
                builder._end_block()
        raise


def finish(module, target, rules: dict, after: Callable[[Any], None] = lambda module: None):
    """Legalises, by `rules` where there is one, and fuses what has no kernel of ours: -> module of PrimFuncs and a flat main.

    `after` is told of the module after each of four stages: legalised, grouped, fused, and with its tensors allocated.
    """
    m = tvm_modules()
    t = m.relax.transform
    flat = [t.DeadCodeElimination(), t.RewriteDataflowReshape(), t.ToNonDataflow(), t.RemovePurityChecking()]
    stages = (
        [t.LegalizeOps(rules), t.AnnotateTIROpPattern(), t.FoldConstant()],
        [t.FuseOps()],
        [t.FuseTIR(), *flat],
        [t.CallTIRRewrite()],
    )
    with tvm_target(target):
        for steps in stages:
            module = m.tvm.transform.Sequential(steps)(module)
            after(module)
    return module


def tvm_target(target, scalable: bool = True):
    """TVM's target object of a row of codegen.target.

    Where TVM sees vectors of unknown length (RISC-V V, SVE), its vectoriser makes loops over them of code written for known
    lengths: slow, and it fails on some. Without `scalable` it does not see them; LLVM later does.
    """
    row = target.tvm_dict()
    if not scalable and "mattr" in row:
        row["mattr"] = [feature for feature in row["mattr"] if feature not in SCALABLE]
    return tvm_modules().tvm.target.Target(row)


@cache
def features(target) -> frozenset[str]:
    """LLVM's names of the features of a row of codegen.target: those of its CPU and those switched on by name."""
    found = tvm_modules().tvm.get_global_func("target.llvm_get_cpu_features")(tvm_target(target))
    return frozenset(str(name) for name in found)


def to_loops(module: Any, vectors: bool = True) -> Any:
    """The s_tir pipeline up to but without MakePackedAPI, with vectors or without.

    Only TVM's own schedules, which have blocks, allocate more than they need: our buffers stay as they are, where the search
    for what is read of them would take most of the time, and not see what called functions read.
    """
    m = tvm_modules()
    s, t = m.s_tir.transform, m.tirx.transform
    head = [
        s.CanonicalizeLoop(),
        s.LowerInitBlock(),
        s.PlanAndUpdateBufferAllocationLocation(),
        s.ConvertBlocksToOpaque(),
    ]
    body = [s.LowerMatchBuffer(), s.StmtSimplify(), s.AnnotateIrregularLoop(), s.LowerOpaqueBlock()]
    tail = [t.FlattenBuffer(), t.BF16ComputeLegalize()]
    tail += [t.NarrowDataType(32), s.LoopPartition(), t.VectorizeLoop(vectors), t.StorageRewrite()]
    tail += [s.HoistIfThenElse(), t.UnrollLoop(), s.RenormalizeSplitPattern(), t.StmtSimplify(), t.RemoveNoOp()]
    tail += [s.RewriteUnsafeSelect(), t.CommonSubexprElim()]
    run = m.tvm.transform.Sequential
    blocks = {var: isinstance(f.body, m.s_tir.SBlockRealize) for var, f in module.functions_items()}
    made = dict(run(head)(module).functions_items())
    compact = s.CompactBufferAllocation()(m.tvm.IRModule({var: f for var, f in made.items() if blocks[var]}))
    made |= dict(compact.functions_items())
    return run([*body, *tail])(m.tvm.IRModule(made))
