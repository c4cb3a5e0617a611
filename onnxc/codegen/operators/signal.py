"""Patches put together again."""

from __future__ import annotations

from math import prod
from typing import cast

import numpy as np

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.node import Node, dtype_of, shape_of
from onnxc.codegen.operators.table import row


@row("Col2Im")
def col_to_im(n: Node, x, *_):
    """Patches (n, channels * places of a block, blocks) summed where they overlap."""
    sizes, block = (
        [int(v) for v in cast(np.ndarray, n.array(i, what))] for i, what in ((1, "image shape"), (2, "block shape"))
    )
    rank, kind = len(sizes), dtype_of(x)
    strides, dilations = (list(n.attribute(name) or [1] * rank) for name in ("strides", "dilations"))
    pads = list(n.attribute("pads") or [0] * 2 * rank)
    counts = [
        (s + pads[d] + pads[rank + d] - (block[d] - 1) * dilations[d] - 1) // strides[d] + 1
        for d, s in enumerate(sizes)
    ]
    batch, channels = shape_of(x)[0], shape_of(x)[1] // prod(block)

    def compute(t):
        runs = [tvm.te.reduce_axis((0, b)) for b in block]

        def element(b, c, *index):
            tests, place, tap = [], 0, 0
            for d, i in enumerate(index):
                at = i + pads[d] - runs[d] * dilations[d]
                step = tvm.tirx.indexdiv(tvm.tirx.max(at, 0), strides[d])
                tests += [at >= 0, tvm.tirx.indexmod(tvm.tirx.max(at, 0), strides[d]) == 0, step < counts[d]]
                place = place * counts[d] + tvm.tirx.min(step, counts[d] - 1)
                tap = tap * block[d] + runs[d]
            value = tvm.tirx.Select(tvm.tirx.all(*tests), t(b, c * prod(block) + tap, place), tvm.tirx.const(0, kind))
            return tvm.te.sum(value, axis=runs)

        return tvm.te.compute((batch, channels, *sizes), element, name="image")

    return n.te(compute, x)
