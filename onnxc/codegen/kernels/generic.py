"""Schedule of what Relax legalises: elementwise chains become one loop, reductions run over vectors of the last axis.

t = a * s; u = t + b; y = max(u, 0)          ->   for i: for j (vector): y = max(a * s + b, 0)
for h, w, c: for r: y = max(y, x)            ->   for h, w: for r: for c (vector): y = max(y, x)
"""

from __future__ import annotations

from itertools import takewhile
from math import prod

from onnxc.codegen.kernels.lanes import lanes_agree
from onnxc.codegen.kernels.tile import TURNS
from onnxc.codegen.kernels.weight import weight
from onnxc.codegen.target import Target

STORE = 2.0  # cycles of a store with what it stores
MOST_PARTS = 1024  # of the value of a block after inlining
WORTH_SHARING = 16_384  # turns of all loops: some microseconds, what it takes to share them


def schedule(function, target: Target, threads: int = 1):
    """`function` (PrimFunc of s_tir) inlined and vectorised, its outer loops parallel for several threads; unchanged where
    a step does not apply."""
    from tvm import s_tir

    work = s_tir.Schedule(function, debug_mask="none")
    blocks = work.get_child_blocks(work.get_sblock("root"))
    for block in blocks[:-1]:
        _inline(work, block)
    for block in work.get_child_blocks(work.get_sblock("root")):
        outer = _loops(work, block, target)
        if threads > 1:
            _share(work, block, outer, threads)
    return work.mod["main"]


def _inline(work, block) -> None:
    """Inlines a producer into its readers, if it is elementwise, has readers, and they grow to MOST_PARTS at most."""
    from tvm import s_tir

    producer = work.get(block)
    heavy = {producer.writes[0].source: weight(producer.body, {}, MOST_PARTS)}
    readers = [work.get(reader).body for reader in work.get_consumers(block)]
    if any(weight(body, heavy, MOST_PARTS) >= MOST_PARTS for body in readers):
        return  # what a reader reads twice is there twice: x = x * x, forty times
    try:
        work.compute_inline(block)
    except s_tir.ScheduleError:
        return  # a reduction or an output: it keeps its loops


def _loops(work, block, target: Target) -> list:
    """Reductions outside the last spatial loop, that loop in vectors. Returns the loops over elements that stand outermost."""
    from tvm import tirx

    loops = work.get_loops(block)
    kinds = [var.iter_type for var in work.get(block).iter_vars]
    if len(loops) != len(kinds) or not loops:
        return []
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.DataPar]
    reductions = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.CommReduce]
    if not spatial or len(spatial) + len(reductions) != len(loops):
        return []
    leading = [loop for loop, _ in takewhile(lambda pair: pair[1] == tirx.IterVar.DataPar, zip(loops, kinds))]
    last = spatial[-1]
    extent = work.get(last).extent
    if not isinstance(extent, tirx.IntImm) or int(extent) < 2:
        return leading
    lanes = target.lanes
    while int(extent) % lanes:
        lanes //= 2
    if lanes < 2:
        return leading
    outer, inner = work.split(last, [None, lanes])
    if reductions:
        work.reorder(*spatial[:-1], outer, *reductions, inner)
    element = [var.var for var in work.get(block).iter_vars if var.iter_type == tirx.IterVar.DataPar][-1]
    if not lanes_agree(work.get(block), element):
        work.unroll(inner)
    else:
        work.vectorize(inner)
    if reductions:
        work.decompose_reduction(block, reductions[0])
    return [*spatial[:-1], outer]


def _share(work, block, outer: list, threads: int) -> None:
    """As many of the loops `outer` as give each thread some turns become one parallel loop, where there is enough to do."""
    from tvm import s_tir, tirx

    extents = [work.get(loop).extent for loop in work.get_loops(block)]
    if not outer or not all(isinstance(extent, tirx.IntImm) for extent in extents):
        return
    if prod(map(int, extents)) < WORTH_SHARING:
        return
    sizes = [int(work.get(loop).extent) for loop in outer]
    count = next((i for i in range(1, len(outer)) if prod(sizes[:i]) >= TURNS * threads), len(outer))
    try:
        work.parallel(work.fuse(*outer[:count]) if count > 1 else outer[0])
    except s_tir.ScheduleError:
        return  # what one turn writes another reads: it keeps its order


def cycles(function: object) -> float:
    """Predicted cycles of a function: two for each store of a vector or an element, as often as the loops around it turn."""
    from tvm import tirx

    total = 0.0

    def walk(stmt, turns: float) -> None:
        nonlocal total
        if isinstance(stmt, tirx.SeqStmt):
            for part in stmt.seq:
                walk(part, turns)
        elif isinstance(stmt, tirx.For):
            vectors = stmt.kind == tirx.ForKind.VECTORIZED
            extent = int(stmt.extent) if isinstance(stmt.extent, tirx.IntImm) else 1
            walk(stmt.body, turns if vectors else turns * extent)
        elif isinstance(stmt, tirx.IfThenElse):  # as often one as the other
            walk(stmt.then_case, turns if stmt.else_case is None else turns / 2)
            if stmt.else_case is not None:
                walk(stmt.else_case, turns / 2)
        elif isinstance(stmt, tirx.BufferStore):
            total += STORE * turns
        else:
            for name in ("body", "block"):
                inner = getattr(stmt, name, None)
                if inner is not None:
                    walk(inner, turns)

    walk(function.body, 1.0)  # type: ignore[attr-defined]
    return total
