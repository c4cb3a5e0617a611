"""QuantizeLinear outside of kernels: round half to even without a library call, and no conversion from float to integer.

saturate(round(x / s) + z)   ->   low bits of clip(x / s, low - z, high - z) + 1.5 * 2^23, plus z
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxc.codegen.kernels.requantise import MAGIC, MAGIC_BITS

KINDS = ("int8", "uint8", "int16", "uint16")


def division(divisor: float, kind: str) -> Callable[[Any], Any]:
    """x -> x / divisor of floats. By 0 that is x times infinity, which is NaN for 0 too: TVM forms no quotient by a constant 0."""
    from math import copysign, inf

    from tvm import tirx

    if divisor == 0:
        return lambda x: x * tirx.const(copysign(inf, divisor), kind)
    return lambda x: x / tirx.const(divisor, kind)


def legalise(builder, call):
    """relax.quantize of float32 to 8 and 16 bits, NaN to the least; everything else as TVM has it."""
    import numpy as np
    from tvm import te, tirx
    from tvm.ir import GenericConst

    x, scale, zero = call.args
    kind, axis = str(call.attrs.out_dtype), int(call.attrs.axis)
    if kind not in KINDS or str(x.ty.dtype) != "float32":
        return call.op.get_attr("FLegalize")(builder, call)
    limits = np.iinfo(kind)

    def number(part):
        """The value of a constant that is one number, or None."""
        constant = isinstance(part, GenericConst) and part.value.numpy().size == 1
        return part.value.numpy().item() if constant else None

    s, z = number(scale), number(zero)

    def quantised(data, *tensors):
        parts = iter(tensors)
        scales, zeros = next(parts) if s is None else None, next(parts) if z is None else None

        def at(tensor, index):
            own = [int(extent) for extent in tensor.shape]
            return tensor(*([0] * len(own) if own in ([], [1]) else [index[axis]]))

        def element(*index):
            ratio = data[index] / at(scales, index) if s is None else division(s, "float32")(data[index])
            if z is None:
                own = tirx.Cast("int32", at(zeros, index))
                low, high = (tirx.Cast("float32", tirx.const(int(v), "int32") - own) for v in (limits.min, limits.max))
                back = tirx.const(MAGIC_BITS, "int32") - own
            else:
                low, high = (tirx.const(float(v - z), "float32") for v in (limits.min, limits.max))
                back = tirx.const(MAGIC_BITS - z, "int32")
            value = tirx.min(tirx.max(ratio, low), high) + tirx.const(MAGIC, "float32")
            return tirx.Cast(kind, tirx.reinterpret("int32", value) - back)

        return te.compute(data.shape, element, name="quantized")

    tensors = [part for part, value in ((scale, s), (zero, z)) if value is None]
    return builder.call_te(quantised, x, *tensors, primfunc_name_hint="quantize")
