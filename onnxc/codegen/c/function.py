"""A TIR function over buffers becomes a C function over bare pointers, and for several threads one of phases.

    f(x, y): t = alloc; parallel i: t[i] = ...; parallel i: y[i] = ...
 -> f(x, y, workspace, phase, task, tasks, worker): phase 0: i of this task: t[i] = ...; phase 1: i of this task: y[i] = ...

Large allocations become views of the workspace. A phase that is a parallel loop is called once for each `task` of `tasks`,
in any order, by any thread; a task has a contiguous share of the turns. Allocations inside the loop are there once for
each `worker`. What stands outside parallel loops is a serial phase, called once. Each element is computed by the same
instructions whoever computes it, so the bytes that come out do not depend on the number of threads.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxc.codegen.kernels import elementary
from onnxc.codegen.kernels.winograd_parts import parts_of
from onnxc.codegen.later import all_written
from onnxc.codegen.memory.arena import aligned
from onnxc.codegen.target import Target
from onnxc.codegen.tvm_api import name_of, to_loops, tvm_modules, tvm_target
from onnxc.ir import temporary

STACK_BYTES = 1024  # smaller buffers stay on the stack (registers, after LLVM); larger ones go to the workspace


@dataclass(frozen=True)
class CFunction:
    """How C calls a kernel: bytes of its workspace, and whether each phase is parallel; () for a function without phases."""

    workspace: int
    phases: tuple[bool, ...] = ()


def compile_functions(
    functions: Mapping[str, Any], target: Target, threads: int, path: str | os.PathLike
) -> dict[str, CFunction]:
    """Compiles TIR functions into one object file at `path`; each takes bare pointers, and last a workspace if needed.

    The object refers to libc and libm only. This is the s_tir pipeline up to but without MakePackedAPI; buffers become
    pointers, and allocations become views of the workspace.
    """
    m, goal = tvm_modules(), tvm_target(target)
    module, made = lowered(functions, target, threads)
    module = m.tvm.IRModule({var: f.with_attr("target", goal) for var, f in module.functions_items()})
    with goal:
        built = m.tvm.get_global_func("target.build." + goal.kind.name)(module, goal)
    Path(path).write_bytes(_object(built))
    return {name_of(var): how for var, how in made.items() if name_of(var) in functions}


def _object(built: Any) -> bytes:
    """The object file of a module: LLVM ends the process where the disk is full, so that it writes into memory if it can."""
    with temporary.in_memory() as file:
        place = Path(f"/proc/self/fd/{file.fileno()}")
        if place.exists():
            built.write_to_file(str(place), "o")
            file.seek(0)
            return file.read()
    with temporary.folder(Path(tempfile.gettempdir()), "object") as folder:
        built.write_to_file(str(folder / "k.o"), "o")
        return (folder / "k.o").read_bytes()


def with_parts(functions: Mapping[str, Any]) -> dict[str, Any]:
    """`functions` and those that they call, each once, by name."""
    written = all_written(functions)
    found = dict(written)
    for function in written.values():
        found |= parts_of(function)
    return dict(sorted(found.items()))


def lowered(
    functions: Mapping[str, Any], target: Target, threads: int, vectors: bool = True
) -> tuple[Any, dict[Any, CFunction]]:
    """A module of functions over bare pointers for a code generator, with vectors or without, and how C calls each."""
    m = tvm_modules()
    elementary.register()
    plain = tvm_target(target, scalable=False)
    own = plain if vectors else m.tvm.target.Target({"kind": "c"})  # whose intrinsics there are
    named = {name: f.with_attr("global_symbol", name) for name, f in with_parts(functions).items()}
    module = m.tvm.IRModule({m.ir.GlobalVar(name): f for name, f in named.items()})
    module = m.tirx.transform.BindTarget(plain.with_host(plain))(module)
    with plain:
        module = to_loops(module, vectors)
        made = {var: to_c(f, name_of(var), threads) for var, f in module.functions_items()}
        module = m.tvm.IRModule({var: function.with_attr("target", own) for var, (function, _) in made.items()})
        t = m.tirx.transform
        last = [t.FP8StorageLegalize(), t.BF16StorageLegalize(), t.LowerTVMBuiltin(), t.LowerIntrin()]
        module = m.tvm.ir.transform.Sequential(last)(module)
    return module, {var: how for var, (_, how) in made.items()}


def to_c(function, name: str, threads: int):
    """PrimFunc over buffers -> (PrimFunc over bare pointers, CFunction), for at most `threads` workers."""
    m = tvm_modules()
    tirx = m.tirx
    params, views = [], []
    for param in function.params:
        if tirx.is_buffer_var(param):
            pointer = tirx.Var(param.name + "_ptr", m.ir.PointerType(param.ty.dtype, "global"))
            params.append(pointer)
            views.append(tirx.DeclBuffer(param, data=pointer))
        else:
            params.append(param)
    made = _Body(threads)
    body = made.build(function.body)
    if made.need:
        params.append(made.workspace)
    if made.phases:
        params += [made.phase, made.task, made.tasks, made.worker]
    result = tirx.PrimFunc(params, tirx.SeqStmt([*views, body]), ret_type=None)
    for key in ("tirx.noalias", "target"):
        if key in function.attrs:
            result = result.with_attr(key, function.attrs[key])
    return result.with_attr("global_symbol", name), CFunction(made.need, tuple(made.phases))


class _Body:
    """The rewriting of one body: `need` bytes of `workspace`, `phases` found."""

    def __init__(self, threads: int):
        m = tvm_modules()
        self.m, self.tirx, self.threads = m, m.tirx, threads
        self.workspace = m.tirx.Var("workspace", m.ir.PointerType(m.ir.PrimType("int8"), "global"))
        scalars = ("phase", "task", "tasks", "worker")
        self.phase, self.task, self.tasks, self.worker = (m.tirx.Var(name, "int32") for name in scalars)
        self.need = 0
        self.phases: list[bool] = []

    def build(self, body):
        """The new body."""
        tirx = self.tirx
        parts = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
        if self.threads == 1 or not any(self._parallel(part) for part in parts):
            body, self.need = self._hoist(body, 0)
            return body
        out, here = [], 0
        for part in parts:
            if isinstance(part, tirx.AllocBuffer):  # every task sees what another phase has left there
                out.append(self._view(part.buffer, here))
                here += aligned(_bytes(part.buffer))
            elif isinstance(part, tirx.DeclBuffer | tirx.Bind):
                out.append(part)
            else:
                out.append(self._phase(part, here))
        self.need = max(self.need, here)
        return tirx.SeqStmt(out)

    def _parallel(self, stmt) -> bool:
        return isinstance(stmt, self.tirx.For) and stmt.kind == self.tirx.ForKind.PARALLEL

    def _phase(self, stmt, here: int):
        """`stmt` under the condition of its phase, with its workspace from byte `here` on."""
        tirx = self.tirx
        parallel = self._parallel(stmt)
        if parallel or not self.phases or self.phases[-1]:
            self.phases.append(parallel)
        if parallel:
            body, top = self._hoist(stmt.body, 0)
            if top:  # a piece of workspace for each worker
                body, _ = self._hoist(stmt.body, here + self.worker * aligned(top))
                top = self.threads * aligned(top)
            first = tirx.truncdiv(stmt.extent * self.task, self.tasks)
            count = tirx.truncdiv(stmt.extent * (self.task + 1), self.tasks) - first
            start = stmt.min + first
            stmt = tirx.For(stmt.loop_var, start, count, tirx.ForKind.SERIAL, body, None, stmt.annotations)
            top += here
        else:
            stmt, top = self._hoist(stmt, here)
        self.need = max(self.need, top)
        return tirx.IfThenElse(self.phase == len(self.phases) - 1, stmt, None)

    def _view(self, buffer, offset):
        tirx = self.tirx
        at = tirx.handle_add_byte_offset(self.workspace, offset)
        pointer = tirx.reinterpret(self.m.ir.PointerType(buffer.ty.dtype, "global"), at)
        return tirx.DeclBuffer(buffer, data=pointer)

    def _hoist(self, stmt, offset):
        """Large allocations as views of the workspace from byte `offset` on: the statement, and the end of its bytes.

        `offset` is a number, or an expression; then the end is of no use. Parallel loops inside become serial.
        """
        tirx = self.tirx
        if isinstance(stmt, tirx.SeqStmt):
            out, high, here = [], offset, offset
            for part in stmt.seq:
                if isinstance(part, tirx.AllocBuffer) and _bytes(part.buffer) >= STACK_BYTES:
                    out.append(self._view(part.buffer, here))
                    here = here + aligned(_bytes(part.buffer))
                else:
                    part, top = self._hoist(part, here)
                    high = _later(high, top)
                    out.append(part)
            return tirx.SeqStmt(out), _later(high, here)
        if isinstance(stmt, tirx.For):
            body, top = self._hoist(stmt.body, offset)
            kind = tirx.ForKind.SERIAL if self._parallel(stmt) else stmt.kind
            if not body.same_as(stmt.body) or kind != stmt.kind:
                stmt = tirx.For(stmt.loop_var, stmt.min, stmt.extent, kind, body, stmt.thread_binding, stmt.annotations)
            return stmt, top
        if isinstance(stmt, tirx.AttrStmt):
            body, top = self._hoist(stmt.body, offset)
            return tirx.AttrStmt(stmt.node, stmt.attr_key, stmt.value, body), top
        if isinstance(stmt, tirx.IfThenElse):
            yes, top = self._hoist(stmt.then_case, offset)
            no, top2 = (None, offset) if stmt.else_case is None else self._hoist(stmt.else_case, offset)
            return tirx.IfThenElse(stmt.condition, yes, no), _later(top, top2)
        return stmt, offset


def _later(a, b):
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else a


def _bytes(buffer) -> int:
    count = 1
    for extent in buffer.ty.shape:
        count *= int(extent)
    kind = buffer.ty.dtype
    kind = str(kind.dtype) if hasattr(kind, "dtype") else str(kind)
    match = re.match(r"([a-z]+?)(\d+)(x(\d+))?$", kind)
    return count if match is None else (count * int(match.group(2)) * int(match.group(4) or 1) + 7) // 8
