"""Operators that contract."""

import numpy as np

from tests.ops.harness import Case, Data, i8, u8

SCALES = {"s": np.float32(0.02), "z": np.uint8(120), "t": np.float32(0.05), "o": np.uint8(100)}
CONV = [
    Case("y = Conv(x, w)", [2, 4, 6], x=(2, 4, 9), w=(6, 4, 3)),
    Case("y = Conv<pads=[1, 1, 1, 1]>(x, w, b)", [4, 6], x=(1, 4, 5, 6), w=(6, 4, 3, 3), b=(6,)),
    Case("y = Conv<strides=[2, 1, 2], pads=[0, 1, 0, 1, 0, 1]>(x, w)", [2, 3], x=(1, 2, 5, 4, 6), w=(3, 2, 3, 2, 3)),
    Case("y = Conv<group=2>(x, w, b)", [2, 2, 3, 3], x=(1, 6, 5, 5), w=(4, 3, 3, 3), b=(4,)),
    Case("y = Conv<group=6>(x, w)", [6], x=(1, 6, 5, 5), w=(6, 1, 3, 3)),
    Case("y = Conv<group=3>(x, w)", [2, 3], x=(1, 3, 5, 5), w=(6, 1, 3, 3)),
    Case("y = Conv<group=4, dilations=[2]>(x, w)", [2, 2, 2, 2, 2], x=(2, 8, 9), w=(4, 2, 3)),
    Case("y = Conv<dilations=[2, 3], pads=[2, 0, 1, 4]>(x, w)", [2, 3], x=(1, 2, 7, 8), w=(3, 2, 3, 2)),
    Case('y = Conv<auto_pad="SAME_UPPER", strides=[2, 3]>(x, w)', [2, 3], x=(1, 2, 7, 8), w=(3, 2, 3, 4)),
    Case('y = Conv<auto_pad="SAME_LOWER", strides=[2, 2]>(x, w)', [2, 3], x=(1, 2, 7, 8), w=(3, 2, 2, 3)),
    Case('y = Conv<auto_pad="VALID", strides=[2, 2]>(x, w)', [2, 3], x=(1, 2, 7, 8), w=(3, 2, 3, 3)),
    Case("y = Conv<kernel_shape=[1, 1], strides=[2, 2]>(x, w)", [2, 3], x=(1, 2, 5, 5), w=(3, 2, 1, 1)),
    Case("y = Conv(x, v)", [2, 3], x=(1, 2, 5, 5), v=(3, 2, 1, 1)),
    Case('y = Conv(x, w, "")', [2], opset=11, x=(1, 2, 5, 5), w=(1, 2, 3, 3)),
    Case("y = ConvInteger(x, w)", [3, 5], x=u8(1, 3, 4, 4), w=u8(5, 3, 2, 2)),
    Case("y = ConvInteger<pads=[1, 1, 1, 1]>(x, w, z)", [3, 5], x=u8(1, 3, 4, 4), w=u8(5, 3, 2, 2), z=np.uint8(128)),
    Case("y = ConvInteger<group=2>(x, w, z, v)", [2, 2, 3, 3], x=u8(1, 4, 4, 4), w=u8(6, 2, 2, 2), z=np.uint8(7), v=np.uint8(9)),
    Case('y = ConvInteger(x, w, "", v)', [3, 5], x=u8(1, 3, 4, 4), w=u8(5, 3, 2, 2), v=np.uint8(3)),
    Case("y = QLinearConv(x, s, z, w, s, z, t, o)", [3, 5], x=u8(1, 3, 4, 4), w=u8(5, 3, 2, 2), **SCALES),
    Case(
        "y = QLinearConv<pads=[1, 0, 0, 1]>(x, s, z, w, ws, wz, t, o, b)", [3, 5], x=u8(1, 3, 4, 4), w=i8(5, 3, 2, 2), ws=Data(5, low=0.01, high=0.02),
        wz=np.zeros(5, np.int8), b=Data(5, dtype=np.int32, low=-99, high=99), **SCALES,
    ),
    Case("y = QLinearConv<group=3>(x, s, z, w, s, z, t, o)", [3], x=u8(1, 3, 4, 4), w=u8(3, 1, 2, 2), **SCALES),
]  # fmt: skip
TRANSPOSED = [
    Case("y = ConvTranspose(x, w)", [3, 4], x=(1, 4, 5), w=(4, 3, 3)),
    Case("y = ConvTranspose<strides=[2, 2]>(x, w, b)", [3, 4], x=(1, 4, 3, 4), w=(4, 3, 2, 2), b=(3,)),
    Case("y = ConvTranspose<strides=[2, 3], pads=[1, 0, 1, 2], output_padding=[1, 2], dilations=[2, 1]>(x, w)", [2, 3], x=(1, 2, 3, 4), w=(2, 3, 3, 3)),
    Case("y = ConvTranspose<group=2, strides=[2, 2]>(x, w, b)", [2, 2, 3, 3], x=(1, 4, 3, 3), w=(4, 3, 2, 2), b=(6,)),
    Case("y = ConvTranspose<group=4>(x, w)", [4], x=(1, 4, 3, 3), w=(4, 1, 2, 2)),
    Case("y = ConvTranspose<group=4>(x, w)", [2, 4], x=(1, 4, 3, 3), w=(4, 2, 2, 2)),
    Case("y = ConvTranspose<strides=[2, 2], output_shape=[7, 8]>(x, w)", [2, 3], x=(1, 2, 3, 4), w=(2, 3, 3, 3)),
    Case('y = ConvTranspose<auto_pad="SAME_UPPER", strides=[2, 2]>(x, w)', [2, 3], x=(1, 2, 3, 4), w=(2, 3, 3, 3)),
    Case('y = ConvTranspose<auto_pad="SAME_LOWER", strides=[3, 2]>(x, w)', [2, 3], x=(1, 2, 3, 4), w=(2, 3, 3, 3)),
    Case('y = ConvTranspose<auto_pad="VALID", strides=[3, 2]>(x, w)', [2, 3], x=(1, 2, 3, 4), w=(2, 3, 3, 3)),
    Case("y = ConvTranspose<strides=[2, 1, 2]>(x, w)", [2, 3], x=(1, 2, 3, 2, 2), w=(2, 3, 2, 2, 3)),
    Case("y = DeformConv<pads=[1, 1, 1, 1]>(x, w, f, b)", [2, 3], opset=19, runtime="onnx", x=(1, 2, 4, 4), w=(3, 2, 3, 3), f=(1, 18, 4, 4), b=(3,)),
    Case("y = DeformConv<group=2, offset_group=2>(x, w, f, \"\", m)", [3, 3], opset=19, runtime="onnx", x=(1, 4, 4, 4), w=(6, 2, 2, 2), f=(1, 16, 3, 3), m=(1, 8, 3, 3)),
]
PRODUCT = [
    Case("y = Gemm(a, w)", [2, 3, 4], a=(2, 3), w=(3, 4)),
    Case("y = Gemm<transB=1, alpha=0.5, beta=2.0>(a, w, c)", [2, 3, 4], a=(2, 3), w=(4, 3), c=(4,)),
    Case("y = Gemm<transA=1>(a, w, c)", [2, 3, 4], a=(3, 2), w=(3, 4), c=(2, 4)),
    Case("y = Gemm<transA=1, transB=1>(a, w, c)", [2, 3, 4], a=(3, 2), w=(4, 3), c=(2, 1)),
    Case("y = Gemm(a, w, c)", [2, 3, 4], a=(2, 3), w=(3, 4), c=()),
    Case("y = Gemm(a, w, c)", [2, 3, 4], opset=9, a=(2, 3), w=(3, 4), c=(1, 4)),
    Case("y = MatMul(a, b)", [2, 3, 4], a=(2, 3), b=(3, 4)),
    Case("y = MatMul(a, b)", [2, 3, 4, 5], a=(5, 2, 3), b=(3, 4)),
    Case("y = MatMul(a, b)", [2, 3, 4, 5], a=(5, 2, 3), b=(5, 3, 4)),
    Case("y = MatMul(a, b)", [2, 3, 4, 5, 6], a=(6, 1, 2, 3), b=(5, 3, 4)),
    Case("y = MatMul(a, b)", [3], a=(3,), b=(3,)),
    Case("y = MatMul(a, b)", [3, 4, 5], a=(3,), b=(5, 3, 4)),
    Case("y = MatMul(a, b)", [2, 3, 5], a=(5, 2, 3), b=(3,)),
    Case("y = MatMulInteger(a, b)", [2, 3, 4], a=u8(2, 3), b=u8(3, 4)),
    Case("y = MatMulInteger(a, b, z, zero)", [2, 3, 4, 5], a=u8(5, 2, 3), b=i8(3, 4), z=np.uint8(128), zero=Data(4, dtype=np.int8, low=-3, high=3)),
    Case('y = MatMulInteger(a, b, "", z)', [2, 3, 4], a=u8(2, 3), b=i8(3, 4), z=np.int8(3)),
    Case("y = QLinearMatMul(a, s, z, b, s, z, t, o)", [2, 3, 4], a=u8(2, 3), b=u8(3, 4), **SCALES),
    Case("y = QLinearMatMul(a, s, z, b, scale, zero, t, o)", [2, 3, 4, 5], a=u8(5, 2, 3), b=i8(3, 4), scale=Data(4, low=0.01, high=0.03), zero=np.zeros(4, np.int8), **SCALES),
]
EINSUM = [
    Case('y = Einsum<equation="ij,jk->ik">(a, b)', [2, 3, 4], a=(2, 3), b=(3, 4)),
    Case('y = Einsum<equation="ij,jk">(a, b)', [2, 3, 4], a=(2, 3), b=(3, 4)),
    Case('y = Einsum<equation="bhqd, bhkd -> bhqk">(a, b)', [2, 3, 4, 5, 6], a=(2, 3, 4, 5), b=(2, 3, 6, 5)),
    Case('y = Einsum<equation="bnc,hcd->bhnd">(a, b)', [2, 3, 4, 5, 6], a=(2, 3, 4), b=(5, 4, 6)),
    Case('y = Einsum<equation="i,j->ij">(a, b)', [2, 3], a=(2,), b=(3,)),
    Case('y = Einsum<equation="ij->ji">(a)', [2, 3], a=(2, 3)),
    Case('y = Einsum<equation="ij->i">(a)', [2, 3], a=(2, 3)),
    Case('y = Einsum<equation="ij,ij->">(a, b)', [2, 3], a=(2, 3), b=(2, 3)),
    Case('y = Einsum<equation="ij,jk,kl->il">(a, b, c)', [2, 3, 4, 5], a=(2, 3), b=(3, 4), c=(4, 5)),
    Case('y = Einsum<equation="ij,ik->jk">(a, b)', [2, 3, 4], a=(2, 3), b=(2, 4)),
    Case('y = Einsum<equation="...ij,...jk->...ik">(a, b)', [], a=(6, 2, 3), b=(6, 3, 4)),
    Case('y = Einsum<equation="ii->i">(a)', [], symbolic=False, a=(3, 3)),
]
CASES = CONV + TRANSPOSED + PRODUCT + EINSUM
