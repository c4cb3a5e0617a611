"""Maximum pooling of binarised activations on their packed words.

b(v) = +1 where v >= 0, else -1, never falls, so b(max v_i) = max b(v_i), and the greatest of numbers that are -1 or +1 is
+1 where one of them is: the or of their bits. Padding of a MaxPool is below every number and so is what a window reads
beyond the tensor: bit 0, which changes no or. Hence the order of MaxPool and Binarize does not matter, and words hold 64
channels where floats would hold two.

x (1, n, h', w', words) -> y (1, n, top + h + bottom, left + w + right, words), padded as its reader wants it.
"""

from __future__ import annotations

import itertools

from onnxc.codegen.kernels import quantise
from onnxc.codegen.kernels.spec import WORD, PoolSpec
from onnxc.codegen.kernels.tile import at


def emit(spec: PoolSpec, name: str):
    """The kernel as TIR: operands x and y."""
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    pack = spec.pack
    line = pack.shape[-1]
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            x = T.arg("x", T.buffer((1, pack.n, *spec.extents, line), "uint64"))
            y = T.arg("y", T.buffer(pack.shape, "uint64"))
            T.func_attr({"tirx.noalias": True, "op_pattern": 8})
            with T.sblock("root"):  # Relax looks into it
                T.reads([])
                T.writes([])
                chunks = T.decl_buffer((*pack.shape[:-1], line * (WORD // quantise.CHUNK)), "uint16", data=y.data)
                quantise.borders(pack, chunks)
                with T.grid(pack.n, pack.h, pack.w, line) as (n, row, column, word):
                    _, _, rows, columns, _ = pack.shape
                    place = (n * rows + pack.pads[0] + row) * columns + pack.pads[1] + column
                    T.buffer_store(y, _window(spec, x, n, row, column, word), at(y, place * line + word))
    return builder.get()


def _window(spec: PoolSpec, x, n, row, column, word):
    """The or of a window's words; taps beyond the tensor read a word that is there, and count as 0."""
    from tvm import tirx

    result = None
    for tap in itertools.product(*(range(extent) for extent in spec.kernel)):
        place, inside = n, []
        for axis, position in enumerate((row, column)):
            extent = spec.extents[axis]
            found = position * spec.stride[axis] + (tap[axis] * spec.dilation[axis] - spec.before[axis])
            outputs = (spec.pack.h, spec.pack.w)[axis]
            last = (outputs - 1) * spec.stride[axis] + tap[axis] * spec.dilation[axis] - spec.before[axis]
            if tap[axis] * spec.dilation[axis] < spec.before[axis]:
                inside.append(found >= 0)
                found = tirx.max(found, 0)
            if last >= extent:
                inside.append(found < extent)
                found = tirx.min(found, extent - 1)
            place = place * extent + found
        value = x[at(x, place * spec.pack.shape[-1] + word)]
        if inside:
            value = tirx.Select(tirx.all(*inside), value, tirx.const(0, "uint64"))
        result = value if result is None else result | value
    return result
