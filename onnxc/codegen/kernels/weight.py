"""How much code a value is, before any of it is made.

relu(t) = t < 0 ? 0 : t reads t twice, sigmoid(t) forty times: sigmoid(sigmoid(relu(t))) is some thousand operations
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from onnxc.codegen.kernels.elementary import ELEMENTARY, RULES

COPIES = {"leaky_relu": 2, "prelu": 2, "sigmoid": ELEMENTARY}
"""How often a step of an epilogue reads what comes before it, which then stands in the kernel as often."""
MOST_COPIES = 32


def copies(step: tuple) -> int:
    """How often a step of an epilogue reads its value."""
    return 1 + prod(map(copies, step[1])) if step[0] == "gate" else COPIES.get(step[0], 1)


def weight(body: Any, heavy: Mapping[Any, int], most: int) -> int:
    """Operations and operands of the value that `body` (of a block) stores, counted as far as `most`; 0 of other statements.

    `heavy`: weights of what stands for the loads from some buffers. Calls of elementary functions weigh as what becomes of them.
    """
    from tvm import tirx

    return min(_weight(body.value, heavy, most), most) if isinstance(body, tirx.BufferStore) else 0


def _weight(expr, heavy: Mapping[Any, int], most: int) -> int:
    from tvm import tirx

    if isinstance(expr, tirx.IntImm | tirx.FloatImm | str):
        return 1
    if hasattr(expr, "indices"):
        total = next((w for buffer, w in heavy.items() if buffer.same_as(expr.source)), 1)
    else:
        total = 1
    parts = [
        getattr(expr, name)
        for name in ("a", "b", "value", "condition", "true_value", "false_value")
        if hasattr(expr, name)
    ]
    for name in ("args", "indices"):
        parts += getattr(expr, name, ())
    times = ELEMENTARY if getattr(getattr(expr, "op", None), "name", "").removeprefix("tirx.") in RULES else 1
    for part in parts:
        if total >= most:
            return most
        total += times * _weight(part, heavy, most)
    return total
