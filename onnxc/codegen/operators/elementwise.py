"""Arithmetic and activations, element by element, with NumPy's broadcasting. NaN in is NaN out, as in ONNX Runtime."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.logic import broadcast_with
from onnxc.codegen.operators.node import Node, dtype_of, is_float, shape_of
from onnxc.codegen.operators.table import row

UNARY = {
    "Abs": "abs", "Acos": "acos", "Acosh": "acosh", "Asin": "asin", "Asinh": "asinh", "Atan": "atan", "Atanh": "atanh",
    "Ceil": "ceil", "Cos": "cos", "Cosh": "cosh", "Erf": "erf", "Exp": "exp", "Floor": "floor", "Log": "log",
    "Neg": "negative", "Relu": "nn.relu", "Round": "round", "Sigmoid": "sigmoid", "Sign": "sign", "Sin": "sin",
    "Sinh": "sinh", "Sqrt": "sqrt", "Tan": "tan", "Tanh": "tanh",
}  # fmt: skip
BINARY = {"Add": "add", "Sub": "subtract", "Mul": "multiply", "Div": "divide"}
FOLDS = {"Sum": "add", "Max": "maximum", "Min": "minimum", "Mean": "add"}
LARGEST = 3.4e38


@row(*UNARY)
def unary(n: Node, x):
    """f(x), f a function of Relax; the rules of `legal` say what they do to NaN and integers."""
    return n.do(UNARY[n.op], x)


@row("Identity")
def identity(n: Node, x):
    """x."""
    return x


@row(*BINARY)
def binary(n: Node, a, b):
    """a + b, a - b, a * b, a / b; division of integers is towards zero."""
    return n.do(BINARY[n.op], a, b)


@row(*FOLDS)
def variadic(n: Node, *xs):
    """(x0 op x1) op x2 ...; Mean divides by their number."""
    made = reduce(lambda a, b: n.do(FOLDS[n.op], a, b), xs)
    return n.do("divide", made, n.like(len(xs), made)) if n.op == "Mean" and len(xs) > 1 else made


@row("Reciprocal")
def reciprocal(n: Node, x):
    """1 / x."""
    return n.do("divide", n.like(1, x), x)


@row("Pow")
def power(n: Node, x, e):
    """x to the e, in the type of x: products for whole constant e up to 4, integers by squaring, else libm's pow."""
    known = n.known(1)
    if (
        known is not None
        and known.size == 1
        and float(known.reshape(-1)[0]) in (1.0, 2.0, 3.0, 4.0)
        and known.ndim <= 1
    ):
        count = int(known.reshape(-1)[0])
        made = n.broadcast(x, np.broadcast_shapes(shape_of(x), known.shape))
        square = n.do("multiply", made, made) if count > 1 else made
        return n.do("multiply", square, made if count == 3 else square) if count > 2 else square
    kind = dtype_of(x)
    if known is not None and known.size == 1 and float(known.reshape(-1)[0]) == 0.5 and is_float(x) and known.ndim <= 1:
        return n.do("sqrt", n.broadcast(x, np.broadcast_shapes(shape_of(x), known.shape)))
    if is_float(x):
        return n.do("power", x, n.cast(e, kind))
    return n.cast(n.do("power", n.cast(x, "float64"), n.cast(e, "float64")), kind)


@row("Clip")
def clip(n: Node, x, *bounds):
    """min(max(x, low), high): all become `high` where low > high. Bounds are attributes before opset 11."""
    lows = _bound(n, 1, "min")
    highs = _bound(n, 2, "max")
    numbers = [part is None or isinstance(part, float) for part in (lows, highs)]
    if all(numbers) and is_float(x):
        low = -LARGEST if lows is None else float(np.clip(lows, -LARGEST, LARGEST))
        high = LARGEST if highs is None else float(np.clip(highs, -LARGEST, LARGEST))
        if low <= high and dtype_of(x) == "float32":
            return n.do("clip", x, low, high)
    for part, name in ((lows, "maximum"), (highs, "minimum")):
        if part is not None:
            x = n.do(name, x, n.like(part, x) if isinstance(part, float | int) else part)
    return x


def _bound(n: Node, i: int, name: str):
    """A bound of Clip: None, a number, or an expression. NaN means none, as in ONNX Runtime."""
    if n.opset < 11:
        value = n.attribute(name)
    elif not n.given(i):
        return None
    elif (known := n.known(i)) is None:
        return n.args[i]
    else:
        value = known.reshape(-1)[0].item()
        if isinstance(value, int):
            return value
    return None if value is None or np.isnan(value) else float(value)


@row("LeakyRelu")
def leaky_relu(n: Node, x):
    """x where x >= 0, else alpha x."""
    alpha = float(n.attribute("alpha", 0.01))
    if alpha == 0:  # -inf becomes no number
        return n.do("where", n.do("greater_equal", x, n.like(0, x)), x, n.do("multiply", x, n.like(0, x)))
    return n.do("nn.leakyrelu", x, alpha)


@row("PRelu")
def prelu(n: Node, x, slope):
    """x where x >= 0, else slope x, with the slope broadcast to x."""
    shape = (1,) * (len(shape_of(x)) - len(shape_of(slope))) + shape_of(slope)
    if is_float(x) and len(shape) > 1 and all(extent == 1 for i, extent in enumerate(shape) if i != 1):
        flat = n.reshape(slope, (shape[1],))
        if shape[1] != shape_of(x)[1]:
            flat = n.broadcast(flat, (shape_of(x)[1],))
        return n.do("nn.prelu", x, flat, 1)
    return n.do("where", n.do("less", x, n.like(0, x)), n.do("multiply", x, slope), x)


@row("ThresholdedRelu")
def thresholded_relu(n: Node, x):
    """x where x > alpha, else 0."""
    return n.do("where", n.do("greater", x, n.like(n.attribute("alpha", 1.0), x)), x, n.like(0, x))


def _negative_exp(n: Node, x):
    """exp(x) - 1 for x below 0, 0 elsewhere: exp never overflows."""
    return n.do("subtract", n.do("exp", n.do("minimum", x, n.like(0, x))), n.like(1, x))


@row("Elu")
def elu(n: Node, x):
    """x where x > 0, else alpha (exp(x) - 1)."""
    low = n.do("multiply", _negative_exp(n, x), n.like(n.attribute("alpha", 1.0), x))
    return n.do("where", n.do("greater", x, n.like(0, x)), x, low)


@row("Celu")
def celu(n: Node, x):
    """max(x, 0) + min(alpha (exp(x / alpha) - 1), 0): with alpha = 0 not a number from 0 on, and 0 below."""
    alpha, nothing = n.attribute("alpha", 1.0), n.like(0, x)
    if alpha == 0:
        return n.do("where", n.do("less", x, nothing), nothing, n.like(math.nan, x))
    ratio = n.do("divide", n.do("minimum", x, nothing), n.like(alpha, x))  # above 0 where alpha is below
    low = n.do("multiply", n.do("subtract", n.do("exp", ratio), n.like(1, x)), n.like(alpha, x))
    return n.do("where", n.do("greater", x, nothing), x, low)


@row("Selu")
def selu(n: Node, x):
    """gamma x where x > 0, else gamma alpha (exp(x) - 1)."""
    alpha, gamma = n.attribute("alpha", 1.67326319217681884765625), n.attribute("gamma", 1.05070102214813232421875)
    low = n.do("multiply", _negative_exp(n, x), n.like(alpha, x))
    return n.do("multiply", n.do("where", n.do("greater", x, n.like(0, x)), x, low), n.like(gamma, x))


@row("HardSigmoid")
def hard_sigmoid(n: Node, x):
    """clip(alpha x + beta, 0, 1)."""
    line = n.do("multiply", x, n.like(n.attribute("alpha", 0.2), x))
    return _between(n, n.do("add", line, n.like(n.attribute("beta", 0.5), x)), 0.0, 1.0)


@row("HardSwish")
def hard_swish(n: Node, x):
    """x clip(x + 3, 0, 6) / 6."""
    gate = _between(n, n.do("add", x, n.like(3, x)), 0.0, 6.0)
    return n.do("multiply", x, n.do("divide", gate, n.like(6, x)))


def _between(n: Node, x, low: float, high: float):
    if dtype_of(x) == "float32":
        return n.do("clip", x, low, high)
    return n.do("minimum", n.do("maximum", x, n.like(low, x)), n.like(high, x))


@row("Softplus")
def softplus(n: Node, x):
    """ln(1 + exp(x)) = max(x, 0) + ln(1 + exp(-|x|))."""
    tail = n.do("log", n.do("add", n.like(1, x), n.do("exp", n.do("negative", n.do("abs", x)))))
    return n.do("add", n.do("maximum", x, n.like(0, x)), tail)


@row("Softsign")
def softsign(n: Node, x):
    """x / (1 + |x|)."""
    return n.do("divide", x, n.do("add", n.like(1, x), n.do("abs", x)))


@row("Mish")
def mish(n: Node, x):
    """x tanh(ln(1 + exp(x)))."""
    return n.do("multiply", x, n.do("tanh", softplus(n, x)))


@row("Swish")
def swish(n: Node, x):
    """x sigmoid(alpha x)."""
    alpha = n.attribute("alpha", 1.0)
    return n.do("multiply", x, n.do("sigmoid", x if alpha == 1 else n.do("multiply", x, n.like(alpha, x))))


@row("Gelu")
def gelu(n: Node, x):
    """x / 2 (1 + erf(x / sqrt 2)), or with tanh(sqrt(2 / pi) (x + 0.044715 x^3)) in the place of erf."""
    how = n.choice("approximate", "none", "tanh")
    return n.do("nn.gelu" if how == "none" else "nn.gelu_tanh", x)


@row("Shrink")
def shrink(n: Node, x):
    """x + bias below -lambd, x - bias above lambd, else 0; integers are computed with in floats, and cut."""
    if not is_float(x):
        return n.cast(shrink(n, n.cast(x, "float64")), dtype_of(x))
    bias, lambd = n.like(n.attribute("bias", 0.0), x), n.attribute("lambd", 0.5)
    low = n.do("where", n.do("less", x, n.like(-lambd, x)), n.do("add", x, bias), n.like(0, x))
    return n.do("where", n.do("greater", x, n.like(lambd, x)), n.do("subtract", x, bias), low)


@row("Mod")
def modulo(n: Node, a, b):
    """The remainder with the sign of the divisor, or with fmod = 1 that of the dividend; of integers 0 where the divisor is."""
    cut, kind, x_ = bool(n.attribute("fmod", 0)), dtype_of(a), tvm.tirx

    def whole(x, y):
        trap = y == x_.const(0, kind)
        if not kind.startswith("uint"):
            trap = x_.any(trap, y == x_.const(-1, kind))
        safe = x_.Select(trap, x_.const(1, kind), y)  # what is left by 1 and by -1 is 0
        return (x_.truncmod if cut else x_.floormod)(x, safe)

    if not is_float(a):
        return broadcast_with(n, whole, a, b)
    libm = "fmodf" if kind == "float32" else "fmod"
    rest = broadcast_with(n, lambda x, y: x_.call_pure_extern(kind, libm, x, y), a, b)
    if cut:
        return rest

    def turned(r, y):
        zero = x_.const(0, kind)
        other = x_.any(x_.all(r < zero, y > zero), x_.all(r > zero, y < zero))
        nothing = x_.Select(y < zero, x_.const(-0.0, kind), zero)
        return x_.Select(r == zero, nothing, x_.Select(other, r + y, r))

    return broadcast_with(n, turned, rest, b)


@row("Where")
def where(n: Node, condition, a, b):
    """a where the condition holds, else b."""
    return n.do("where", condition, a, b)
