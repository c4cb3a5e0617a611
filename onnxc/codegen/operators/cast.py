"""Changes of type: Cast, CastLike."""

from __future__ import annotations

import numpy as np
from onnx import helper

from onnxc.codegen.operators.narrow import ROUND_MODES, is_narrow, rounded
from onnxc.codegen.operators.node import Node, Refused, dtype_of, held
from onnxc.codegen.operators.table import row


@row("Cast")
def cast(n: Node, x):
    """x in another type."""
    return _cast(n, x, dtype_name(n.attribute("to")))


@row("CastLike")
def cast_like(n: Node, x, other):
    """x in the type of another tensor."""
    if n.results[0] is None:
        raise Refused("the model does not say its type")
    return _cast(n, x, n.results[0][1])


def _cast(n: Node, x, dtype: str):
    return to_type(n, x, dtype, bool(n.attribute("saturate", 1)), n.choice("round_mode", *ROUND_MODES))


def dtype_name(element: int) -> str:
    """The name of an ONNX element type."""
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(element)).name
    except (KeyError, TypeError):
        raise Refused(f"element type {element} is not known") from None


def to_type(n: Node, x, dtype: str, saturate: bool = True, round_mode: str = "up"):
    """x as `dtype`, in the type that holds it: floats are cut towards zero, all but 0 is true, integers lose their high bits.

    `saturate` and `round_mode` are those of Cast.
    """
    if dtype == "float16":
        return n.cast(n.cast(x, dtype), held(dtype))
    if is_narrow(dtype):
        return rounded(n, n.cast(x, "int8") if dtype_of(x) == "bool" else x, dtype, saturate, round_mode)
    if dtype == "bool" and dtype_of(x) != "bool":
        return n.do("not_equal", x, n.like(0, x))
    return n.cast(x, dtype)
