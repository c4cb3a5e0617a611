"""Pad into the convolution or pooling that reads it, where the padding of the two means the same.

Conv: both pad with zeros. AveragePool: padded zeros are elements, so they count (count_include_pad=1). MaxPool pads
with minus infinity: so must Pad; or Pad writes a number that no maximum can be below (0 after Relu, say) and every
window holds an element of the input, which a window does on each side where it is longer than the padding there.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ..clean.identities import not_negative
from ..clean.merge import full_pads, pad_value
from ..editor import Editor


def fold_pad(e: Editor, node: gs.Node) -> bool:
    """Pad(x) read by Conv, AveragePool or MaxPool -> pads of the reader."""
    if node.op not in ("Conv", "AveragePool", "MaxPool"):
        return False
    pad = e.producer(node.inputs[0], "Pad")
    if pad is None:
        return False
    reason = _refusal(e, node, pad)
    if reason:
        return e.refuse(pad, f"it is not folded into {node.name}: {reason}")
    rank, more = e.rank(node.inputs[0]), full_pads(e, pad)
    if rank is None or more is None:
        return False
    n = rank - 2
    more = more[2:rank] + more[rank + 2 :]
    have = node.attrs.get("pads") or [0] * (2 * n)
    node.attrs["pads"] = [a + b for a, b in zip(have, more, strict=True)]
    node.attrs.pop("auto_pad", None)
    if node.op == "AveragePool":
        node.attrs["count_include_pad"] = 1
    e.set_input(node, 0, pad.inputs[0])
    name = pad.name
    e.kill(pad)
    e.edited(name, f"folded into {node.name}")
    return True


def _refusal(e: Editor, node: gs.Node, pad: gs.Node) -> str:
    """Why the pad must stay; empty where it need not."""
    x, rank = node.inputs[0], e.rank(node.inputs[0])
    if not e.alone(x):
        return "its output is a graph output" if e.is_output(x) else "its output has other readers"
    more, value = full_pads(e, pad), pad_value(pad)
    if more is None or rank is None or value is None:
        return "its pads, value or mode do not allow it"
    if min(more) < 0 or any(more[:2]) or any(more[rank : rank + 2]):
        return "it crops, or pads another axis than a spatial one"
    if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return "automatic padding sees the padded size"
    if node.op == "Conv":
        return "" if value == 0 else "a convolution pads with zeros"
    return _pool_refusal(e, node, pad, more[2:rank] + more[rank + 2 :], value)


def _pool_refusal(e: Editor, node: gs.Node, pad: gs.Node, more: list[int], value: float) -> str:
    kernel = node.attrs.get("kernel_shape", [])
    have = node.attrs.get("pads") or [0] * len(more)
    if node.attrs.get("ceil_mode", 0) or any(d != 1 for d in node.attrs.get("dilations", [])):
        return "windows with ceil_mode or dilations see the padded size"
    if len(have) != len(more) or any(a + b >= k for a, b, k in zip(have, more, (*kernel, *kernel), strict=True)):
        return "a window may lie in the padding alone"
    if node.op == "AveragePool":
        if value != 0:
            return "an average pads with zeros"
        return "its own padding is not counted" if any(have) and not node.attrs.get("count_include_pad", 0) else ""
    if len(node.outputs) > 1:
        return "indices count the padded elements"
    dtype = e.dtype(pad.inputs[0])
    lowest = value == -np.inf or (dtype is not None and dtype.kind == "f" and value <= float(np.finfo(dtype).min))
    if lowest or (value == 0 and not_negative(e, pad.inputs[0])):
        return ""
    return "its value may be above the maximum of a window"
