"""QuantizeLinear outside of kernels: round half to even without a library call, and no conversion from float to integer.

saturate(round(x / s) + z)   ->   low bits of clip(x / s, low - z, high - z) + 1.5 * 2^23, plus z
"""

from __future__ import annotations

from onnxc.codegen.kernels.requantise import MAGIC, MAGIC_BITS


def legalise(builder, call):
    """relax.quantize to 8 bits with one constant scale and zero point; everything else as TVM has it."""
    import numpy as np
    from tvm import te, tirx
    from tvm.ir import GenericConst

    x, scale, zero = call.args
    kind = str(call.attrs.out_dtype)
    constant = all(isinstance(part, GenericConst) and part.value.numpy().size == 1 for part in (scale, zero))
    if kind not in ("int8", "uint8") or not constant or str(x.ty.dtype) != "float32":
        return call.op.get_attr("FLegalize")(builder, call)
    z = int(zero.value.numpy().reshape(()))
    limits = np.iinfo(kind)
    s, low, high = (tirx.const(float(v), "float32") for v in (scale.value.numpy(), limits.min - z, limits.max - z))

    def quantised(data):
        def element(*index):
            value = tirx.min(tirx.max(data[index] / s, low), high) + tirx.const(MAGIC, "float32")
            return tirx.Cast(kind, tirx.reinterpret("int32", value) - tirx.const(MAGIC_BITS - z, "int32"))

        return te.compute(data.shape, element, name="quantized")

    return builder.call_te(quantised, x, primfunc_name_hint="quantize")
