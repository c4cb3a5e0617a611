"""NonMaxSuppression: of each class the boxes with the highest scores that no chosen one covers."""

from __future__ import annotations

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.extents import DOMAIN
from onnxc.codegen.operators.loops import loops, when
from onnxc.codegen.operators.narrow import Steps
from onnxc.codegen.operators.node import Node, shape_of
from onnxc.codegen.operators.table import row

LOWEST = -3.4e38  # of float32: only what stands for no limit is less


def _edges(box, centred: bool, let: Steps) -> list:
    """[least, most] of a box (a function of the place among its four numbers) in y and in x."""
    x = tvm.tirx
    if centred:  # x, y, width, height
        half = [let(box(3) / x.const(2, "float32")), let(box(2) / x.const(2, "float32"))]
        return [(let(box(at) - h), let(box(at) + h)) for at, h in zip((1, 0), half)]
    return [(let(x.min(box(a), box(a + 2))), let(x.max(box(a), box(a + 2)))) for a in (0, 1)]


def _covers(one: list, two: list, least, let: Steps):
    """Whether the intersection of two boxes is more than `least` of their union, as ONNX Runtime computes it."""
    x, zero = tvm.tirx, tvm.tirx.const(0, "float32")
    spans = [(let(x.max(a[0], b[0])), let(x.min(a[1], b[1]))) for a, b in zip(one, two)]
    apart = x.any(*(high <= low for low, high in spans))
    common = let((spans[1][1] - spans[1][0]) * (spans[0][1] - spans[0][0]))
    areas = [let((box[1][1] - box[1][0]) * (box[0][1] - box[0][0])) for box in (one, two)]
    union = let(areas[0] + areas[1] - common)
    none = x.any(apart, common <= zero, areas[0] <= zero, areas[1] <= zero, union <= zero)
    share = let(common / x.Select(union > zero, union, x.const(1, "float32")))
    return x.all(x.Not(none), share > least)


@row(*(f"NonMaxSuppression{form}" for form in ("", "Centred")), domain=DOMAIN)
def non_max_suppression(n: Node, boxes, scores, most, covered, low, many):
    """(rows, 3): batch, class and number of the chosen boxes, then zeros; (1,): how many they are.

    boxes (batches, places, 4), scores (batches, classes, places); (1,) each: `most` of a class, the share of the union that is
    too much, the score that is too low (-infinity: none is), and how many places count.
    """
    n.attribute("types")
    (batches, classes, places), x = shape_of(scores), tvm.tirx
    assert n.results[0] is not None
    rows = n.results[0][0][0]
    top = rows // max(batches * classes, 1)

    def body(T, boxes, scores, most, covered, low, many, made, count):
        spots, alive = T.alloc_buffer((places,), "int32"), T.alloc_buffer((places,), "int32")
        number, best, picked, good, total = (T.alloc_buffer((1,), "int32") for _ in range(5))
        with T.grid(rows, 3) as (i, j):
            T.buffer_store(made, x.const(0, "int64"), (i, j))
        T.buffer_store(total, 0, (0,))
        with T.serial(0, batches) as b, T.serial(0, classes) as c:
            T.buffer_store(number, 0, (0,))
            with T.serial(0, places) as i:
                enough = x.any(scores[b, c, i] > low[0], low[0] < x.const(LOWEST, "float32"))
                with when(T, x.all(x.Cast("int64", i) < many[0], enough)):
                    T.buffer_store(spots, i, (number[0],))
                    T.buffer_store(alive, 1, (number[0],))
                    T.buffer_store(number, number[0] + 1, (0,))
            let = Steps(T)
            limit = let(x.Cast("int32", x.max(x.min(most[0], x.const(top, "int64")), x.const(0, "int64"))))
            start, candidates = let(total[0]), let(number[0])
            T.buffer_store(picked, 0, (0,))
            with T.serial(0, candidates), when(T, picked[0] < limit):
                T.buffer_store(best, -1, (0,))
                with T.serial(0, candidates) as j, when(T, alive[j] != 0):
                    other = scores[b, c, spots[x.max(best[0], 0)]]
                    with when(T, x.any(best[0] < 0, scores[b, c, spots[j]] > other)):
                        T.buffer_store(best, j, (0,))
                inner = Steps(T)
                chosen = inner(x.max(best[0], 0))
                place = inner(spots[chosen])
                T.buffer_store(alive, 0, (chosen,))
                T.buffer_store(good, 1, (0,))
                mine = _edges(lambda a: boxes[b, place, a], n.op.endswith("Centred"), inner)
                before = inner(picked[0])
                with T.serial(0, before) as s:
                    deep = Steps(T)
                    kept = deep(x.Cast("int32", made[start + s, 2]))
                    theirs = _edges(lambda a: boxes[b, kept, a], n.op.endswith("Centred"), deep)
                    with when(T, _covers(mine, theirs, covered[0], deep)):
                        T.buffer_store(good, 0, (0,))
                with when(T, good[0] == 1):
                    for j, value in enumerate((b, c, place)):
                        T.buffer_store(made, x.Cast("int64", value), (start + picked[0], j))
                    T.buffer_store(picked, picked[0] + 1, (0,))
            T.buffer_store(total, start + picked[0], (0,))
        T.buffer_store(count, x.Cast("int64", total[0]), (0,))

    return loops(n, [boxes, scores, most, covered, low, many], [((rows, 3), "int64"), ((1,), "int64")], body)
