"""Operators of com.microsoft: ONNX's inference does not know them, so a run of ONNX Runtime alone judges."""

import numpy as np
from onnx import TensorProto

from tests.ops.harness import Case, i8, u8

S, T, Z, Y = np.float32(0.02), np.float32(0.05), np.uint8(120), np.uint8(3)
M = "com.microsoft."


def case(text: str, free: list[int], **rest) -> Case:
    made = TensorProto.UINT8 if f"{M}Q" in text and f"{M}Quick" not in text else TensorProto.FLOAT
    return Case(text, free, symbolic=False, made=made, **rest)


CASES = [
    case(f"y = {M}Gelu(x)", [2, 3], x=(2, 3)),
    case(f"y = {M}QuickGelu(x)", [2, 3], x=(2, 3)),
    case(f"y = {M}FastGelu(x, b)", [2, 3], x=(2, 3), b=(3,)),
    case(f"y = {M}BiasGelu(x, b)", [2, 3], x=(2, 3), b=(3,)),
    case(
        f'y = {M}FusedConv<activation="Relu", kernel_shape=[3,3], pads=[1,1,1,1]>(x, k, b, z)',
        [2, 3, 4],
        x=(2, 3, 5, 5),
        k=(4, 3, 3, 3),
        b=(4,),
        z=(2, 4, 5, 5),
    ),
    case(f"y = {M}FusedMatMul<transA=1, alpha=0.5>(a, b)", [2, 3, 4, 5], a=(2, 5, 3), b=(2, 5, 4)),
    case(f"y = {M}FusedMatMul<transB=1>(a, b)", [3, 4, 5], a=(3, 5), b=(4, 5)),
    case(
        f"y = {M}MatMulNBits<K=32, N=6, bits=4, block_size=16>(x, q, s_)",
        [2, 3],
        x=(2, 3, 32),
        q=np.arange(6 * 2 * 8, dtype=np.uint8).reshape(6, 2, 8),
        s_=np.linspace(0.1, 1, 12, dtype="f"),
    ),
    case(f"y = {M}DynamicQuantizeMatMul(x, k, s, z, b)", [4], x=(3, 5), k=i8(5, 4), s=S, z=np.int8(0), b=(4,)),
    case(
        f"y = {M}QGemm<transB=1>(a, s, z, b, t, o, , s, y_)",
        [3, 4, 5],
        a=u8(3, 5),
        s=S,
        z=Z,
        b=i8(4, 5),
        t=T,
        o=np.int8(0),
        y_=Y,
    ),
    case(f"y = {M}QLinearAdd(a, s, z, b, t, y_, s, z)", [2, 3, 4], a=u8(2, 3, 4), s=S, z=Z, b=u8(3, 4), t=T, y_=Y),
    case(f"y = {M}QLinearMul(a, s, z, b, t, y_, s, z)", [2, 3], a=u8(2, 3), s=S, z=Z, b=u8(2, 3), t=T, y_=Y),
    case(f"y = {M}QLinearSigmoid(x, s, z, t, y_)", [2, 3], x=u8(2, 3), s=S, z=Z, t=T, y_=Y),
    case(f"y = {M}QLinearLeakyRelu<alpha=0.1>(x, s, z, t, y_)", [2, 3], x=u8(2, 3), s=S, z=Z, t=T, y_=Y),
    case(f"y = {M}QLinearSoftmax<axis=1, opset=13>(x, s, z, t, y_)", [2], x=u8(2, 3), s=S, z=Z, t=T, y_=Y),
    case(f"y = {M}QLinearGlobalAveragePool(x, s, z, t, y_)", [2, 3], x=u8(2, 3, 4, 4), s=S, z=Z, t=T, y_=Y),
    case(
        f"y = {M}QLinearGlobalAveragePool<channels_last=1>(x, s, z, t, y_)",
        [2, 3],
        x=u8(2, 4, 4, 3),
        s=S,
        z=Z,
        t=T,
        y_=Y,
    ),
    case(
        f"y = {M}QLinearConcat<axis=1>(s, z, a, s, z, b, t, y_)", [2, 3, 4], s=S, z=Z, a=u8(2, 3), b=u8(2, 4), t=T, y_=Y
    ),
    case(f"y = {M}SkipLayerNormalization<epsilon=0.001>(x, k, g, b)", [2, 3], x=(2, 3, 4), k=(2, 3, 4), g=(4,), b=(4,)),
    case(f"y, , , t = {M}SkipSimplifiedLayerNormalization(x, k, g)", [2, 3], x=(2, 3, 4), k=(2, 3, 4), g=(4,)),
    case(f"y = {M}Attention<num_heads=2>(x, k, b)", [2, 6], x=(2, 3, 6), k=(6, 24), b=(24,)),
    case(
        f"y = {M}DynamicQuantizeLSTM<hidden_size=5>(x, k, r, , , , , , s, z, s, z)",
        [],
        x=(3, 2, 4),
        k=np.arange(80, dtype=np.int8).reshape(1, 4, 20),
        r=np.arange(100, dtype=np.int8).reshape(1, 5, 20),
        s=np.array([0.01], "f"),
        z=np.array([0], np.int8),
    ),
]
