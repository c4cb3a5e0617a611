"""Activation quantisers as functions of domain ai.onnxc: few values for each number, one operator to a code generator.

    Binarize(x)                         -> +1 where x >= 0, else -1 (NaN gives -1). Sign differs: it keeps 0
    Quantize(x, scale, low, high)       -> scale * clip(round(x / scale), low, high), halves to even
    ResidualBinarize(x, scales)         -> sum_k scales[k] B_k with B_k = Binarize(r_k), r_0 = x, r_k+1 = r_k - scales[k] B_k
    DynamicResidualBinarize(x, gains)   -> the same with scales[k] = gains[k] * mean |r_k| of each sample

All float32. scale: a scalar, or one that broadcasts to x ([c, 1, 1]); low, high: scalars, whole numbers. scales, gains:
[order], at most MAX_ORDER; the residual form is HORQ's (Li 2017), whose optimal scale is the mean magnitude of what is
left (`residual`). The bodies are straight lines for MAX_ORDER planes: absent scales are zeros, which change nothing.
"""

from __future__ import annotations

import numpy as np

MAX_ORDER = 4
"""Planes that a body has."""

_CONSTANTS = """
  zero = Constant<value = float {0.0}>()
  plus = Constant<value = float {1.0}>()
  minus = Constant<value = float {-1.0}>()
"""
_PADDED = f"""
  begin = Constant<value = int64[1] {{0}}>()
  first = Constant<value = int64[1] {{1}}>()
  flat = Constant<value = int64[1] {{-1}}>()
  most = Constant<value = int64[1] {{{MAX_ORDER}}}>()
  none = Constant<value = float[{MAX_ORDER}] {{{", ".join(["0.0"] * MAX_ORDER)}}}>()
"""
INPUTS = {"Binarize": 1, "Quantize": 4, "ResidualBinarize": 2, "DynamicResidualBinarize": 2}
"""Function -> number of its inputs."""


def body(name: str, opset: int) -> str:
    """The text of a function's body for a standard opset, 11 or newer."""
    if name == "Binarize":
        return f"Binarize (x) => (y) {{ {_CONSTANTS} {_sign('x', 'y', opset)} }}"
    if name == "Quantize":
        return """Quantize (x, scale, low, high) => (y) {
  steps = Div(x, scale)
  whole = Round(steps)
  inside = Clip(whole, low, high)
  y = Mul(inside, scale) }"""
    if name == "ResidualBinarize":
        start = f"{_CONSTANTS} {_PADDED} padded = Concat<axis = 0>(scales, none) r0 = Identity(x)"
        planes = "".join(_plane(k, "", opset) for k in range(MAX_ORDER))
        return f"ResidualBinarize (x, scales) => (y) {{ {start} {planes} y = Identity(s{MAX_ORDER - 1}) }}"
    start = f"""{_CONSTANTS} {_PADDED} padded = Concat<axis = 0>(gains, none)
  extents = Shape(x)
  r0 = Flatten<axis = 1>(x)"""
    mean = "ReduceMean<keepdims = 1>(m{k}, first)" if opset >= 18 else "ReduceMean<axes = [1], keepdims = 1>(m{k})"
    measured = "m{k} = Abs(r{k}) a{k} = " + mean + " c{k} = Mul(g{k}, a{k})"
    planes = "".join(_plane(k, measured, opset) for k in range(MAX_ORDER))
    return f"DynamicResidualBinarize (x, gains) => (y) {{ {start} {planes} y = Reshape(s{MAX_ORDER - 1}, extents) }}"


def _sign(x: str, y: str, opset: int) -> str:
    if opset >= 12:
        return f"{y}_up = GreaterOrEqual({x}, zero) {y} = Where({y}_up, plus, minus)"
    return (
        f"{y}_over = Greater({x}, zero) {y}_at = Equal({x}, zero) {y}_up = Or({y}_over, {y}_at) "
        f"{y} = Where({y}_up, plus, minus)"
    )


def _plane(k: int, scale: str, opset: int) -> str:
    """Plane `k`: its scale c, its part p, what is left, the sum so far."""
    text = f"""
  from{k} = Constant<value = int64[1] {{{k}}}>() to{k} = Constant<value = int64[1] {{{k + 1}}}>()
  g{k} = Slice(padded, from{k}, to{k}) {scale.format(k=k) if scale else f"c{k} = Identity(g{k})"}
  {_sign(f"r{k}", f"b{k}", opset)} p{k} = Mul(b{k}, c{k})
"""
    text += f"s{k} = Identity(p{k})" if k == 0 else f"s{k} = Add(s{k - 1}, p{k})"
    return text if k == MAX_ORDER - 1 else f"{text} r{k + 1} = Sub(r{k}, p{k})"


# the same in NumPy


def binarize(x: np.ndarray) -> np.ndarray:
    """Binarize, float32."""
    return np.where(x >= 0, np.float32(1), np.float32(-1))


def quantize(x: np.ndarray, scale: np.ndarray | float, low: float, high: float) -> np.ndarray:
    """Quantize, float32."""
    scale = np.asarray(scale, np.float32)
    return np.clip(np.rint(np.asarray(x, np.float32) / scale), np.float32(low), np.float32(high)) * scale


def residual_binarize(x: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """ResidualBinarize, float32."""
    left = np.asarray(x, np.float32)
    y = np.zeros_like(left)
    for scale in np.asarray(scales, np.float32):
        part = binarize(left) * scale
        y, left = y + part, left - part
    return y


def dynamic_residual_binarize(x: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """DynamicResidualBinarize, float32; sample axis first."""
    x = np.asarray(x, np.float32)
    left = x.reshape(len(x), -1)
    y = np.zeros_like(left)
    for gain in np.asarray(gains, np.float32):
        part = binarize(left) * (gain * np.abs(left).mean(1, keepdims=True))
        y, left = y + part, left - part
    return y.reshape(x.shape)


def residual(x: np.ndarray, order: int, *, fitted: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(scales [..., order], planes [..., order, n] of +-1) of vectors x [..., n], float64.

    Each scale is the mean magnitude of what is left: with b = sign(r), |r - a b|^2 = |r|^2 - 2 a |r|_1 + n a^2 is least
    at a = |r|_1 / n, the new residual is orthogonal to b, and its square is smaller by n a^2.

    fitted: all scales are made anew by least squares after each plane (Guo 2017, Network Sketching). What is left is
    then orthogonal to every plane so far; while it is not zero its own sign pattern has the product |r|_1 > 0 with it,
    so lies outside their span, and n values need at most n planes.
    """
    x = np.asarray(x, np.float64)
    left = x
    scales = np.zeros((*x.shape[:-1], order))
    planes = np.zeros((*x.shape[:-1], order, x.shape[-1]))
    for k in range(order):
        planes[..., k, :] = np.where(left >= 0, 1.0, -1.0)
        if fitted:
            seen = planes[..., : k + 1, :]
            # the planes of a vector that is exact already repeat: the pseudo-inverse shares their weight out
            scales[..., : k + 1] = np.einsum("...nk,...n->...k", np.linalg.pinv(seen), x)
            left = x - np.einsum("...k,...kn->...n", scales[..., : k + 1], seen)
        else:
            scales[..., k] = np.abs(left).mean(-1)
            left = left - scales[..., k, None] * planes[..., k, :]
    return scales, planes
