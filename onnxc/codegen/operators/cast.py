"""Changes of type: Cast, CastLike."""

from __future__ import annotations

import numpy as np
from onnx import helper

from onnxc.codegen.operators.node import Node, Refused, dtype_of, held
from onnxc.codegen.operators.table import row


@row("Cast")
def cast(n: Node, x):
    """x in another type."""
    n.attribute("saturate", 1)
    n.only("round_mode", "up")
    return to_type(n, x, dtype_name(n.attribute("to")))


@row("CastLike")
def cast_like(n: Node, x, other):
    """x in the type of another tensor."""
    n.attribute("saturate", 1)
    n.only("round_mode", "up")
    if n.results[0] is None:
        raise Refused("the model does not say its type")
    return to_type(n, x, n.results[0][1])


def dtype_name(element: int) -> str:
    """The name of an ONNX element type."""
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(element)).name
    except (KeyError, TypeError):
        raise Refused(f"element type {element} is not known") from None


def to_type(n: Node, x, dtype: str):
    """x as `dtype`, in the type that holds it: floats are cut towards zero, all but 0 is true."""
    if dtype in ("float16", "bfloat16"):
        return n.cast(n.cast(x, dtype), held(dtype))
    if held(dtype) != dtype:
        raise Refused(f"casts to {dtype} are not known")
    if dtype == "bool" and dtype_of(x) != "bool":
        return n.do("not_equal", x, n.like(0, x))
    return n.cast(x, dtype)
