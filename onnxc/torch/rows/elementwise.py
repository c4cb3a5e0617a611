"""Elementwise operators: one value for each value, with NumPy's broadcasting."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import onnx
import torch
import torch.nn.functional as F

from ..steps import torch_type
from ..table import Call, row, sign_through, simple

simple(
    {
        "Abs": torch.abs, "Neg": torch.neg, "Exp": torch.exp, "Log": torch.log, "Sqrt": torch.sqrt,
        "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh,
        "Erf": torch.erf, "Sin": torch.sin, "Cos": torch.cos, "Tan": torch.tan, "Asin": torch.asin, "Acos": torch.acos,
        "Atan": torch.atan, "Sinh": torch.sinh, "Cosh": torch.cosh, "Asinh": torch.asinh, "Acosh": torch.acosh,
        "Atanh": torch.atanh, "Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round, "Not": torch.logical_not,
        "Identity": lambda x: x, "Softplus": lambda x: F.softplus(x, threshold=1e9), "Softsign": F.softsign,
        "HardSwish": F.hardswish, "Mish": F.mish, "IsNaN": torch.isnan, "BitwiseNot": torch.bitwise_not,
        "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor, "Equal": torch.eq,
        "Greater": torch.gt, "Less": torch.lt, "GreaterOrEqual": torch.ge, "LessOrEqual": torch.le,
        "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor,
        "Where": torch.where,
        "Sum": lambda *x: functools.reduce(torch.add, x),
        "Mean": lambda *x: functools.reduce(torch.add, x) / len(x),
        "Min": lambda *x: functools.reduce(torch.minimum, x),
        "Max": lambda *x: functools.reduce(torch.maximum, x),
    }
)  # fmt: skip

_OLD_BROADCAST = 7
_ARITHMETIC: dict[str, Callable[..., torch.Tensor]] = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul}


@row("Add", "Sub", "Mul")
def arithmetic(call: Call, a, b):
    if call.opset < _OLD_BROADCAST and a.shape != b.shape:
        raise call.refuse("broadcasting before opset 7", found=f"opset {call.opset}")
    return _ARITHMETIC[call.op](a, b)


@row("Div")
def divide(call: Call, a, b):
    whole = not (a.is_floating_point() or b.is_floating_point())
    return torch.div(a, b, rounding_mode="trunc") if whole else a / b


@row("Mod")
def modulo(call: Call, a, b):
    return torch.fmod(a, b) if call.get("fmod", 0) else torch.remainder(a, b)


@row("Pow")
def power(call: Call, a, b):
    if b.numel() == 1 and not b.requires_grad:
        b = b.item() if b.ndim <= a.ndim else b
    return torch.pow(a, b).to(a.dtype)


@row("BitShift")
def shift(call: Call, a, b):
    # torch shifts the signed types alone
    wide, by = a.to(torch.int64), b.to(torch.int64)
    bits = torch.iinfo(a.dtype).bits
    if call.get("direction") in ("LEFT", b"LEFT"):
        return (torch.bitwise_left_shift(wide, by) & ((1 << min(bits, 63)) - 1)).to(a.dtype)
    return torch.bitwise_right_shift(wide, by).to(a.dtype)


@row("IsInf")
def is_inf(call: Call, x):
    above, below = call.get("detect_positive", 1), call.get("detect_negative", 1)
    return torch.isinf(x) & (((x > 0) & bool(above)) | ((x < 0) & bool(below)))


@row("Sign")
def sign(call: Call, x):
    return sign_through(x, 0.0) if x.is_floating_point() else torch.sign(x)


@row("LeakyRelu")
def leaky_relu(call: Call, x):
    return F.leaky_relu(x, call.get("alpha", 0.01))


@row("Elu")
def elu(call: Call, x):
    return F.elu(x, call.get("alpha", 1.0))


@row("Celu")
def celu(call: Call, x):
    return F.celu(x, call.get("alpha", 1.0))


@row("Selu")
def selu(call: Call, x):
    alpha, gamma = call.get("alpha", 1.6732631921768188), call.get("gamma", 1.0507010221481323)
    return gamma * F.elu(x, alpha)


@row("ThresholdedRelu")
def thresholded_relu(call: Call, x):
    return torch.where(x > call.get("alpha", 1.0), x, torch.zeros_like(x))


@row("HardSigmoid")
def hard_sigmoid(call: Call, x):
    return (call.get("alpha", 0.2) * x + call.get("beta", 0.5)).clamp(0, 1)


@row("Shrink")
def shrink(call: Call, x):
    lambd, bias = call.get("lambd", 0.5), call.get("bias", 0.0)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))


@row("Gelu")
def gelu(call: Call, x):
    approximate = call.get("approximate", "none")
    return F.gelu(x, approximate=approximate.decode() if isinstance(approximate, bytes) else approximate)


@row("PRelu")
def prelu(call: Call, x, slope):
    return torch.where(x < 0, slope * x, x)


@row("Clip")
def clip(call: Call, x, low=None, high=None):
    low = call.get("min") if low is None else low
    high = call.get("max") if high is None else high
    still = not any(isinstance(b, torch.Tensor) and b.requires_grad for b in (low, high))
    if still and x.is_floating_point():
        least, most = (end if b is None else float(b) for b, end in ((low, -math.inf), (high, math.inf)))
        if least <= most:
            return F.hardtanh(x, least, most)  # one operator forwards, one backwards
    for bound, by in ((low, torch.maximum), (high, torch.minimum)):
        if bound is not None:
            x = by(x, bound if isinstance(bound, torch.Tensor) else torch.tensor(bound, dtype=x.dtype, device=x.device))
    return x


@row("Cast")
def cast(call: Call, x):
    return to_type(call, x, call.get("to"))


def to_type(call: Call, x: torch.Tensor, kind: int) -> torch.Tensor:
    """`x` as an ONNX element type; floats to integers cut off the fraction."""
    dtype = torch_type(kind)
    if dtype is None:
        raise call.refuse("this element type", found=onnx.TensorProto.DataType.Name(kind))
    return x != 0 if dtype == torch.bool and x.dtype != torch.bool else x.to(dtype)


@row("CastLike")
def cast_like(call: Call, x, like):
    return x.to(like.dtype)


@row("Dropout")
def dropout(call: Call, x, ratio=None, training=None):
    if training is not None and bool(training):
        raise call.refuse("a dropout exported in training mode")
    if call.outputs > 1:
        return x, torch.ones_like(x, dtype=torch.bool)
    return x
