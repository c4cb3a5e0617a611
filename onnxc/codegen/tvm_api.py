"""The one door to TVM: lazy import, the ONNX importer, the pass pipelines, and objects with plain C functions.

Importing tvm takes seconds and 200 MB, so it happens when something is compiled and not before.
"""

from __future__ import annotations

import re
from functools import cache
from types import SimpleNamespace

from onnxc.ir.errors import MissingTool

STACK_BYTES = 1024  # smaller buffers stay on the stack (registers, after LLVM); larger ones go to the workspace
ALIGN = 64
SCALABLE = ("+v", "+sve", "+sve2", "+sme")


@cache
def tvm_modules() -> SimpleNamespace:
    """tvm, relax, tirx, s_tir and ir. Raises MissingTool when TVM is not installed."""
    try:
        import tvm
        from tvm import ir, relax, s_tir, tirx
    except ImportError as error:
        raise MissingTool(
            f"compiling needs TVM ({error})", remedy="pip install apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1"
        ) from None
    return SimpleNamespace(tvm=tvm, relax=relax, tirx=tirx, s_tir=s_tir, ir=ir)


def name_of(global_var) -> str:
    """The name of a GlobalVar."""
    return global_var.name_hint if hasattr(global_var, "name_hint") else global_var.name


def onnx_frontend():
    """TVM's module of ONNX converters."""
    tvm_modules()
    from tvm.relax.frontend.onnx import onnx_frontend as frontend

    return frontend


def finish(module, target):
    """Legalises and fuses what has no kernel of ours: -> module of PrimFuncs and a flat main. `plan` places its tensors."""
    m = tvm_modules()
    t = m.relax.transform
    steps = [t.LegalizeOps(), t.AnnotateTIROpPattern(), t.FoldConstant(), t.FuseOps(), t.FuseTIR()]
    steps += [t.DeadCodeElimination(), t.RewriteDataflowReshape(), t.ToNonDataflow(), t.RemovePurityChecking()]
    steps += [t.CallTIRRewrite()]
    with tvm_target(target):
        return m.tvm.transform.Sequential(steps)(module)


def tvm_target(target, scalable: bool = True):
    """TVM's target object of a row of codegen.target.

    Where TVM sees vectors of unknown length (RISC-V V, SVE), its vectoriser makes loops over them of code written for known
    lengths: slow, and it fails on some. Without `scalable` it does not see them; LLVM later does.
    """
    row = target.tvm_dict()
    if not scalable and "mattr" in row:
        row["mattr"] = [feature for feature in row["mattr"] if feature not in SCALABLE]
    return tvm_modules().tvm.target.Target(row)


def compile_functions(functions: dict[str, object], target, path) -> dict[str, int]:
    """Compiles TIR functions into one object file at `path`; each takes bare pointers, and last a workspace if needed.

    Returns the workspace bytes of each. The object refers to libc and libm only. This is the s_tir pipeline up to but
    without MakePackedAPI; buffers become pointers, and allocations become views of the workspace.
    """
    m = tvm_modules()
    goal, plain = tvm_target(target), tvm_target(target, scalable=False)
    module = m.tvm.IRModule({m.ir.GlobalVar(name): f.with_attr("global_symbol", name) for name, f in functions.items()})
    module = m.tirx.transform.BindTarget(plain.with_host(plain))(module)
    with plain:
        module = m.tvm.ir.transform.Sequential(_lowering_passes())(module)
        module = m.tvm.IRModule({var: _to_c(f, name_of(var)) for var, f in module.functions_items()})
        t = m.tirx.transform
        last = [t.FP8StorageLegalize(), t.BF16StorageLegalize(), t.LowerTVMBuiltin(), t.LowerIntrin()]
        module = m.tvm.ir.transform.Sequential(last)(module)
    module = m.tvm.IRModule({var: f.with_attr("target", goal) for var, f in module.functions_items()})
    with goal:
        built = m.tvm.get_global_func("target.build." + goal.kind.name)(module, goal)
    built.write_to_file(str(path), "o")
    return {name_of(var): int(f.attrs["workspace_bytes"]) for var, f in module.functions_items()}


def _lowering_passes() -> list:
    m = tvm_modules()
    s, t = m.s_tir.transform, m.tirx.transform
    head = [s.CanonicalizeLoop(), s.LowerInitBlock(), s.PlanAndUpdateBufferAllocationLocation()]
    head += [s.ConvertBlocksToOpaque(), s.CompactBufferAllocation(), s.LowerMatchBuffer(), s.StmtSimplify()]
    head += [s.AnnotateIrregularLoop(), s.LowerOpaqueBlock(), t.FlattenBuffer(), t.BF16ComputeLegalize()]
    head += [t.NarrowDataType(32), s.LoopPartition(), t.VectorizeLoop(True), t.StorageRewrite()]
    tail = [s.HoistIfThenElse(), t.UnrollLoop(), s.RenormalizeSplitPattern(), t.StmtSimplify(), t.RemoveNoOp()]
    return [*head, *tail, s.RewriteUnsafeSelect(), t.CommonSubexprElim()]


def _bytes(buffer) -> int:
    count = 1
    for extent in buffer.ty.shape:
        count *= int(extent)
    kind = buffer.ty.dtype
    kind = str(kind.dtype) if hasattr(kind, "dtype") else str(kind)
    match = re.match(r"([a-z]+?)(\d+)(x(\d+))?$", kind)
    return count if match is None else (count * int(match.group(2)) * int(match.group(4) or 1) + 7) // 8


def _hoist(stmt, workspace, offset: int = 0):
    """Large allocations -> views of `workspace` from byte `offset` on. Returns the statement and the bytes in use."""
    m = tvm_modules()
    tirx = m.tirx
    if isinstance(stmt, tirx.SeqStmt):
        out, high, here = [], offset, offset
        for part in stmt.seq:
            if isinstance(part, tirx.AllocBuffer) and _bytes(part.buffer) >= STACK_BYTES:
                at = tirx.handle_add_byte_offset(workspace, here)
                pointer = tirx.reinterpret(m.ir.PointerType(part.buffer.ty.dtype, "global"), at)
                out.append(tirx.DeclBuffer(part.buffer, data=pointer))
                here += -(-_bytes(part.buffer) // ALIGN) * ALIGN
            else:
                part, top = _hoist(part, workspace, here)
                high = max(high, top)
                out.append(part)
        return tirx.SeqStmt(out), max(high, here)
    if isinstance(stmt, tirx.For):
        body, top = _hoist(stmt.body, workspace, offset)
        if not body.same_as(stmt.body):
            stmt = tirx.For(
                stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body, stmt.thread_binding, stmt.annotations
            )
        return stmt, top
    if isinstance(stmt, tirx.AttrStmt):
        body, top = _hoist(stmt.body, workspace, offset)
        return tirx.AttrStmt(stmt.node, stmt.attr_key, stmt.value, body), top
    if isinstance(stmt, tirx.IfThenElse):
        yes, top = _hoist(stmt.then_case, workspace, offset)
        no, top2 = (None, offset) if stmt.else_case is None else _hoist(stmt.else_case, workspace, offset)
        return tirx.IfThenElse(stmt.condition, yes, no), max(top, top2)
    return stmt, offset


def _to_c(function, name: str):
    """PrimFunc over buffers -> PrimFunc over bare pointers."""
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
    workspace = tirx.Var("workspace", m.ir.PointerType(m.ir.PrimType("int8"), "global"))
    body, need = _hoist(function.body, workspace)
    if need:
        params.append(workspace)
    result = tirx.PrimFunc(params, tirx.SeqStmt([*views, body]), ret_type=None)
    for key in ("tirx.noalias", "target"):
        if key in function.attrs:
            result = result.with_attr(key, function.attrs[key])
    return result.with_attr("global_symbol", name).with_attr("workspace_bytes", need)
