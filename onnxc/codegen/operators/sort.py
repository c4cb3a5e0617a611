"""What goes along an axis in order: running sums and products, the greatest few, reversals."""

from __future__ import annotations

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.loops import grid, loops, picked
from onnxc.codegen.operators.node import Node, dtype_of, shape_of, within
from onnxc.codegen.operators.table import row


@row("CumSum", "CumProd")
def running(n: Node, x, *_):
    """y[i] = y[i - 1] op x[i] along an axis; exclusive leaves x[i] itself out, reverse begins at the end."""
    shape, kind = shape_of(x), dtype_of(x)
    axis = within(int(n.number(1, "axis")), len(shape))
    exclusive, reverse = bool(n.attribute("exclusive", 0)), bool(n.attribute("reverse", 0))
    if 0 in shape:
        return x
    sums, size = n.op == "CumSum", shape[axis]

    def body(T, t, made):
        outer = [1 if d == axis else e for d, e in enumerate(shape)]
        with grid(T, outer) as index:
            index = list(picked(index, outer))
            total = T.alloc_buffer((1,), kind)
            T.buffer_store(total, tvm.tirx.const(0 if sums else 1, kind), (0,))
            with T.serial(0, size) as turn:
                at = list(index)
                at[axis] = size - 1 - turn if reverse else turn
                if exclusive:
                    T.buffer_store(made, total[0], at)
                T.buffer_store(total, total[0] + t[tuple(at)] if sums else total[0] * t[tuple(at)], (0,))
                if not exclusive:
                    T.buffer_store(made, total[0], at)

    return loops(n, [x], [(shape, kind)], body)


@row("TopK")
def top_k(n: Node, x, *_):
    """The k greatest or least along an axis in order, and their places; of equals the first stands ahead."""
    shape, kind = shape_of(x), dtype_of(x)
    axis = n.axis("axis", -1, len(shape))
    k = int(n.attribute("k")) if n.opset < 10 else int(n.number(1, "k"))
    largest = bool(n.attribute("largest", 1))
    n.attribute("sorted", 1)
    result = tuple(k if d == axis else e for d, e in enumerate(shape))

    def body(T, t, values, places):
        outer = [1 if d == axis else e for d, e in enumerate(shape)]
        with grid(T, outer) as index:
            index = list(picked(index, outer))
            place = T.alloc_buffer((1,), "int32")

            def at(i) -> tuple:
                return (*index[:axis], i, *index[axis + 1 :])

            with T.serial(0, shape[axis]) as turn:
                new = t[at(turn)]
                T.buffer_store(place, tvm.tirx.const(k, "int32"), (0,))
                with T.serial(0, k) as back:
                    slot = k - 1 - back
                    old = values[at(slot)]
                    ahead = new > old if largest else new < old
                    with T.If(tvm.tirx.any(slot >= turn, ahead)), T.Then():
                        with T.If(slot + 1 < k), T.Then():
                            T.buffer_store(values, values[at(slot)], at(tvm.tirx.min(slot + 1, k - 1)))
                            T.buffer_store(places, places[at(slot)], at(tvm.tirx.min(slot + 1, k - 1)))
                        T.buffer_store(place, tvm.tirx.Cast("int32", slot), (0,))
                with T.If(place[0] < k), T.Then():
                    T.buffer_store(values, new, at(tvm.tirx.min(place[0], k - 1)))
                    T.buffer_store(places, tvm.tirx.Cast("int64", turn), at(tvm.tirx.min(place[0], k - 1)))

    return loops(n, [x], [(result, kind), (result, "int64")], body)


@row("ReverseSequence")
def reverse_sequence(n: Node, x, lengths):
    """The first lengths[b] entries of sample b in reverse along the time axis, the rest as they are."""
    shape = shape_of(x)
    batch, time = int(n.attribute("batch_axis", 1)), int(n.attribute("time_axis", 0))

    def compute(t, count):
        def element(*index):
            i, length = index[time], tvm.tirx.Cast("int64", count(index[batch]))
            back = tvm.tirx.Select(i < length, length - 1 - i, tvm.tirx.Cast("int64", i))
            at = list(index)
            at[time] = tvm.tirx.min(tvm.tirx.max(back, 0), shape[time] - 1)
            return t(*at)

        return tvm.te.compute(shape, element, name="reverse")

    return n.te(compute, x, lengths)
