"""Elementwise operators: every name once, and the forms of broadcasting."""

import numpy as np

from tests.ops.harness import Case, Data, flags, i8, i64

BINARY = [
    Case(f"y = {op}(a, b)", [2, 3, 4], a=Data(2, 3, 4, low=0.5, high=2), b=Data(2, 3, 4, low=0.5, high=2))
    for op in ("Add", "Sub", "Mul", "Div", "Pow", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
]
LOGIC = [Case(f"y = {op}(a, b)", [2, 3], a=flags(2, 3), b=flags(1, 3)) for op in ("And", "Or", "Xor")]
BITS = [
    Case(f"y = {op}(a, b)", [2, 3], opset=18, a=i64(2, 3), b=i64(3)) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")
]
VARIADIC = [
    Case(f"y = {op}({', '.join(shapes)})", free, **shapes)
    for op in ("Max", "Min", "Mean", "Sum")
    for shapes, free in (
        ({"a": (4, 1, 3), "b": (2, 3), "c": (4, 2, 1)}, [2, 3, 4]),
        ({"a": (4, 1, 3)}, [3, 4]),
        ({"a": (2, 3), "b": (4, 2, 1)}, [2, 3, 4]),
    )
]
BROADCAST = [
    Case("y = Add(a, b)", [2, 3, 4, 5], a=(2, 3, 4, 5), b=(3, 1, 1)),
    Case("y = Add(a, b)", [2, 3, 4, 5], a=(3, 1, 1), b=(2, 3, 4, 5)),
    Case("y = Mul(a, b)", [2, 3, 4], a=(2, 3, 1), b=(1, 3, 4)),
    Case("y = Mul(a, b)", [3, 4], a=(3, 1), b=(4,)),
    Case("y = Sub(a, b)", [3, 4], a=(3, 4), b=()),
    Case("y = Sub(a, b)", [3], a=(), b=(3,)),
    Case("y = Add(a, b)", [], a=(1, 1), b=(1,)),
    Case("y = Add(a, b)", [4], a=(1, 4), b=(1, 1, 1)),
    Case("y = Add(a, b)", [3, 4], a=(3, 4), b=(3, 4), opset=7),
    Case("y = Mul(a, a)", [3, 4], a=(3, 4)),
    Case("y = Mod(a, b)", [2, 3], a=i64(2, 3), b=i64(1, 3, low=1)),
    Case("y = Mod<fmod=1>(a, b)", [2, 3], a=(2, 3), b=Data(3, low=1, high=2)),
    Case(
        'y = BitShift<direction="LEFT">(a, b)',
        [2, 3],
        a=Data(2, 3, dtype=np.uint8, low=0, high=9),
        b=Data(1, 3, dtype=np.uint8, low=0, high=3),
    ),
    Case("y = Where(c, a, b)", [2, 3, 4], c=flags(2, 1, 4), a=(3, 1), b=(1,)),
    Case("y = Where(c, a, b)", [2, 3], c=flags(2, 3), a=(2, 3), b=(2, 3), opset=9),
    Case("y = PRelu(a, b)", [2, 3, 4], a=(2, 3, 4), b=(3, 1)),
    Case("y = PRelu(a, b)", [2, 3, 4], a=(2, 3, 4), b=(1,), opset=9),
    Case("y = PRelu(a, b)", [2, 3, 4], a=(2, 3, 4), b=(4,)),
    Case("y = Equal(a, b)", [2, 3], a=i64(2, 3), b=i64(3)),
]
UNARY = [
    Case(f"y = {op}(x)", [2, 3], opset=opset, x=Data(2, 3, low=low, high=high))
    for opset, low, high, ops in (
        (
            17,
            -0.9,
            0.9,
            "Abs Acos Asin Atan Atanh Ceil Celu Cos Cosh Elu Erf Exp Floor HardSigmoid HardSwish Identity IsInf IsNaN",
        ),
        (
            17,
            -0.9,
            0.9,
            "LeakyRelu Neg Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Tan Tanh ThresholdedRelu",
        ),
        (17, 1.1, 2.0, "Acosh Asinh Log Reciprocal Sqrt"),
        (18, -0.9, 0.9, "Mish"),
        (20, -0.9, 0.9, "Gelu"),
    )
    for op in ops.split()
]
OTHER = [
    Case("y = Swish<alpha=0.5>(x)", [2, 3], opset=24, runtime="onnx", x=(2, 3)),
    Case("y = BitwiseNot(x)", [2, 3], opset=18, x=i64(2, 3)),
    Case("y = Not(x)", [2, 3], x=flags(2, 3)),
    Case("y = Neg(x)", [], x=()),
    Case("y = Relu(x)", [], x=(1,)),
    Case("y = Cast<to=6>(x)", [2, 3], x=Data(2, 3, low=-9, high=9)),
    Case("y = CastLike(x, t)", [2, 3, 4], x=(2, 3), t=i64(4)),
    Case("y = Clip(x, a, b)", [2, 3], x=(2, 3), a=np.float32(-0.5), b=np.float32(0.5)),
    Case('y = Clip(x, "", b)', [2, 3], x=(2, 3), b=np.float32(0.5)),
    Case("y = Clip(x, a)", [2, 3], x=(2, 3), a=Data()),
    Case("y = Clip<min=-0.25, max=0.5>(x)", [2, 3], opset=10, x=(2, 3)),
    Case("y = Clip(x)", [2, 3], x=(2, 3)),
    Case("y = Dropout(x)", [2, 3], x=(2, 3)),
    Case("y, m = Dropout(x)", [2, 3], x=(2, 3)),
    Case("y = Dropout<ratio=0.25>(x)", [2, 3], opset=10, x=(2, 3)),
    Case("y = Dropout(x, r, t)", [2, 3], x=(2, 3), r=np.float32(0.5), t=np.bool_(False)),
    Case("y = Bernoulli<seed=1.0>(x)", [2, 3], x=Data(2, 3, low=1, high=1)),
    Case("y = CumSum(x, k)", [2, 4], x=(2, 3, 4), k=np.int64(1)),
    Case("y = CumSum<exclusive=1, reverse=1>(x, k)", [2, 3], x=(2, 3, 4), k=np.array([-1])),
    Case("y = CumSum(x, k)", [2, 4], x=(2, 3, 4), k=Data(dtype=np.int64, low=1, high=2)),
    Case("y = Trilu(x)", [2], x=(2, 3, 4)),
    Case("y = Trilu<upper=0>(x, k)", [2], x=(2, 3, 4), k=np.int64(1)),
    Case("y = Abs(x)", [2, 3], x=i8(2, 3)),
]
CASES = BINARY + LOGIC + BITS + VARIADIC + BROADCAST + UNARY + OTHER
CASES.append(Case("y = CumProd(x, k)", [2, 4], opset=26, runtime="onnx", x=(2, 3, 4), k=np.int64(1)))
