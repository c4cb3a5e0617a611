"""Schedule of what Relax legalises: elementwise chains become one loop, reductions run over vectors of the last axis.

t = a * s; u = t + b; y = max(u, 0)          ->   for i: for j (vector): y = max(a * s + b, 0)
for h, w, c: for r: y = max(y, x)            ->   for h, w: for r: for c (vector): y = max(y, x)
"""

from __future__ import annotations

from onnxc.codegen.target import Target


def schedule(function, target: Target):
    """`function` (PrimFunc of s_tir) inlined and vectorised; unchanged where a step does not apply."""
    from tvm import s_tir

    work = s_tir.Schedule(function, debug_mask="none")
    blocks = work.get_child_blocks(work.get_sblock("root"))
    for block in blocks[:-1]:
        _inline(work, block)
    for block in work.get_child_blocks(work.get_sblock("root")):
        _loops(work, block, target)
    return work.mod["main"]


def _inline(work, block) -> None:
    """Inlines a producer into its readers, if it is elementwise and has readers."""
    from tvm import s_tir

    try:
        work.compute_inline(block)
    except s_tir.ScheduleError:
        return  # a reduction or an output: it keeps its loops


def _loops(work, block, target: Target) -> None:
    """Reductions outside the last spatial loop, that loop in vectors."""
    from tvm import tirx

    loops = work.get_loops(block)
    kinds = [var.iter_type for var in work.get(block).iter_vars]
    if len(loops) != len(kinds) or not loops:
        return
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.DataPar]
    reductions = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.CommReduce]
    if not spatial or len(spatial) + len(reductions) != len(loops):
        return
    last = spatial[-1]
    extent = work.get(last).extent
    if not isinstance(extent, tirx.IntImm) or int(extent) < 2:
        return
    lanes = target.lanes
    while int(extent) % lanes:
        lanes //= 2
    if lanes < 2:
        return
    outer, inner = work.split(last, [None, lanes])
    if reductions:
        work.reorder(*spatial[:-1], outer, *reductions, inner)
    work.vectorize(inner)
    if reductions:
        work.decompose_reduction(block, reductions[0])
