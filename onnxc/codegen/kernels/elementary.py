"""exp, sigmoid, tanh and erf of float32 as polynomials that LLVM vectorises, instead of one call of libm per element.

    exp(x) = 2^n exp(r),  n = round(x / ln 2),  r = x - n ln 2,  |r| <= ln 2 / 2     (Cephes, expf; ln 2 in two parts)
    sigmoid(x) = 1 / (1 + exp(-x))
    tanh(x), erf(x): x P(x^2) / Q(x^2), with x bounded to where float32 is saturated  (the rationals of Eigen)

Relative errors: 2e-7 for exp, 4e-7 for the others. Results below 2^-125.5 become zero. The rules take effect while TVM lowers
intrinsics, on scalars and vectors alike; other types keep TVM's own rules.
"""

from __future__ import annotations

from functools import cache

LOG2E = 1.44269504088896341
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
EXP_LEAST, EXP_MOST = -87.3, 89.0  # a little more than 2^-126, and more than the greatest float32
TANH_BOUND, ERF_BOUND = 7.90531110763549805, 3.925
TANH = (
    (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08, 1.48572235717979e-05,
     6.37261928875436e-04, 4.89352455891786e-03),
    (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03),
)  # fmt: skip
ERF = (
    (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05, -7.34990630326855e-04,
     -2.95459980854025e-03, -1.60960333262415e-02),
    (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03, -1.42647390514189e-02),
)  # fmt: skip


def _horner(x, coefficients):
    value = coefficients[0]
    for c in coefficients[1:]:
        value = value * x + c
    return value


def _splat(x, value: float):
    """A float32 constant with as many lanes as `x`."""
    from tvm import tirx

    lanes = str(x.ty.dtype).partition("x")[2]
    one = tirx.const(value, "float32")
    return tirx.Broadcast(one, int(lanes)) if lanes else one


def _exp(x):
    from tvm import tirx

    dtype = str(x.ty.dtype)
    # beyond these n is 128, where the product overflows, or -126, where the factor is zero; no comparison holds of NaN
    bounded = tirx.Select(x > _splat(x, EXP_MOST), _splat(x, EXP_MOST), x)
    bounded = tirx.Select(x < _splat(x, EXP_LEAST), _splat(x, EXP_LEAST), bounded)
    # beyond 2^23 a float32 has no fraction: the sum is rounded, and its low bits are n with the exponent's bias. A
    # conversion to integers would do the same, but has no vectors on some machines
    shift = _splat(x, 1.5 * 2**23 + 127)
    shifted = bounded * _splat(x, LOG2E) + shift
    n = shifted - shift
    biased = tirx.reinterpret(dtype.replace("float", "int"), shifted)
    r = bounded - n * _splat(x, LN2_HIGH) - n * _splat(x, LN2_LOW)
    value = _horner(r, [_splat(x, c) for c in EXP]) * r * r + r + _splat(x, 1.0)
    # twice 2^(n - 1), for 2^128 is no float32
    return value * tirx.reinterpret(dtype, (biased - 1) << 23) * _splat(x, 2.0)


def _sigmoid(x):
    one = _splat(x, 1.0)
    return one / (one + _exp(_splat(x, 0.0) - x))


def _rational(x, bound: float, over: tuple, under: tuple):
    from tvm import tirx

    most = _splat(x, bound)
    bounded = tirx.max(tirx.min(x, most), _splat(x, -bound))
    square = bounded * bounded
    p, q = (_horner(square, [_splat(x, c) for c in row]) for row in (over, under))
    # exactly 1 and -1: what is quantised by its own range would else be rounded otherwise at either end
    within = tirx.Select(x < _splat(x, -bound), _splat(x, -1.0), bounded * p / q)
    return tirx.Select(x <= most, within, tirx.Select(x > most, _splat(x, 1.0), x))


ELEMENTARY = 10
"""How much heavier a rule makes its argument: it reads it often, in operations that are soon compiled."""
RULES = {
    "exp": _exp,
    "sigmoid": _sigmoid,
    "tanh": lambda x: _rational(x, TANH_BOUND, *TANH),
    "erf": lambda x: _rational(x, ERF_BOUND, *ERF),
}


CALLS = ("sinh", "cosh", "asinh", "acosh", "atanh", "atan", "asin", "acos", "tan", "log1p", "erf")
"""Functions that libm has for one element alone: vectors of them are computed lane by lane."""


def _by_lane(call, one):
    """one(element) for each lane of a vector."""
    from tvm import tirx

    element, lanes = str(call.ty.dtype).split("x")
    held = tirx.Var("v", call.args[0].ty)
    parts = [one(tirx.call_intrin(element, call.op, tirx.Shuffle([held], [i]))) for i in range(int(lanes))]
    return tirx.Let(held, call.args[0], tirx.Shuffle(parts, list(range(int(lanes)))))


@cache
def register() -> None:
    """Enter the rules into TVM's table for its CPU target, once in a process."""
    import tvm
    from tvm.tirx.op import register_intrin_lowering

    for name in dict.fromkeys([*RULES, *CALLS]):
        op, rule = tvm.ir.Op.get(f"tirx.{name}"), RULES.get(name)
        keys = ("llvm.FLowerIntrinsic", "llvm.FLegalize", "default.FLowerIntrinsic", "default.FLegalize")
        before = next(f for f in map(op.get_attr, keys) if f is not None)

        def lower(call, rule=rule, before=before):
            kind = str(call.ty.dtype)
            if rule is not None and kind.startswith("float32"):
                return rule(call.args[0])
            return _by_lane(call, before) if "x" in kind else before(call)

        register_intrin_lowering(f"tirx.{name}", target="llvm", f=lower, level=99)
