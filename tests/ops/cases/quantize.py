"""Quantisation by tensor, by axis and by block."""

import numpy as np

from tests.ops.harness import Case, Data, i8, u8

S, Z = np.float32(0.02), np.uint8(120)


def scales(*shape: int) -> Data:
    return Data(*shape, low=0.01, high=0.03)


def zeros(*shape: int, dtype=np.int8) -> Data:
    return Data(*shape, dtype=dtype, low=0 if dtype == np.uint8 else -5, high=5)


CASES = [
    Case("y = QuantizeLinear(x, s, z)", [2, 3, 4], x=(2, 3, 4), s=S, z=Z),
    Case("y = QuantizeLinear(x, s)", [2, 3, 4], x=(2, 3, 4), s=S),
    Case("y = QuantizeLinear(x, scale, zero)", [2, 3, 4], opset=13, x=(2, 3, 4), scale=scales(3), zero=zeros(3)),
    Case(
        "y = QuantizeLinear<axis=-1>(x, scale, zero)",
        [2, 3, 4],
        opset=13,
        x=(2, 3, 4),
        scale=scales(4),
        zero=zeros(4, dtype=np.uint8),
    ),
    Case("y = QuantizeLinear(x, s, z)", [2, 3], opset=10, x=(2, 3), s=S, z=Z),
    Case(
        "y = QuantizeLinear(x, s, z)",
        [2, 3],
        opset=13,
        x=(2, 3),
        s=np.array([0.02], np.float32),
        z=np.array([7], np.uint8),
    ),
    Case("y = QuantizeLinear<axis=0>(x, scale, zero)", [3], opset=13, x=(3,), scale=scales(3), zero=zeros(3)),
    Case(
        "y = QuantizeLinear<axis=1, block_size=2>(x, scale, zero)",
        [2, 2, 3],
        opset=21,
        x=(3, 4, 2),
        scale=scales(3, 2, 2),
        zero=zeros(3, 2, 2),
    ),
    Case(
        "y = QuantizeLinear<axis=1, block_size=2>(x, scale, zero)",
        [],
        opset=21,
        runtime="onnx",
        symbolic=False,
        x=(3, 5),
        scale=scales(3, 3),
        zero=zeros(3, 3),
    ),
    Case("y = QuantizeLinear<output_dtype=3>(x, s)", [2, 3], opset=21, x=(2, 3), s=S),
    Case("y = DequantizeLinear(x, s, z)", [2, 3, 4], x=u8(2, 3, 4), s=S, z=Z),
    Case("y = DequantizeLinear(x, s)", [2, 3, 4], x=i8(2, 3, 4), s=S),
    Case("y = DequantizeLinear(x, scale, zero)", [2, 3, 4], opset=13, x=i8(2, 3, 4), scale=scales(3), zero=zeros(3)),
    Case("y = DequantizeLinear<axis=-3>(x, scale)", [2, 3, 4], opset=13, x=i8(2, 3, 4), scale=scales(2)),
    Case("y = DequantizeLinear<axis=0, block_size=3>(x, scale)", [2, 4], opset=21, x=i8(6, 4), scale=scales(2, 4)),
    Case(
        "y = DequantizeLinear<axis=-1, block_size=4>(x, scale, zero)",
        [2, 3],
        opset=21,
        x=i8(3, 8),
        scale=scales(3, 2),
        zero=zeros(3, 2),
    ),
    Case("y, s, z = DynamicQuantizeLinear(x)", [], x=(2, 3)),
]
