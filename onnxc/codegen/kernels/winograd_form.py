"""Minimal filtering F(m x m, 3 x 3): m^2 outputs of a 3 x 3 convolution from (m + 2)^2 products a channel, not 9 m^2.

    y = A' [(G w G') * (B' d B)] A      (Winograd 1980; for networks Lavin and Gray, arXiv:1509.09308)

The product of two polynomials is known from its values at m + 1 points and at infinity: G evaluates the kernel there, A' the
outputs (transposed), and B' interpolates. With points 0 and pairs +p, -p, M(x) = x prod (x^2 - q^2), and E the even part
R_p(x^2) = prod over q != p of (x^2 - q^2):

    rows of B'   0: prod (x^2 - q^2)      +-p: x (x +- p) R_p(x^2) = x^2 R_p +- p x R_p      infinity: M(x)
    rows of G    [1, p, p^2] / M'(p), infinity [0, 0, 1]
    columns of A'  [1, p, p^2, ...], infinity [0, ..., 0, 1]

so that a pair shares its even and its odd half. Errors grow with m and with points far from 1: sqrt(1/2) and sqrt(2) are
better than the usual 1 and 2 (Barabasz et al., arXiv:1803.10986, study the choice).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod, sqrt

import numpy as np

TAPS = 3


@dataclass(frozen=True)
class Form:
    """F(m x m, 3 x 3) at 0, infinity and the points +-p of `pairs`."""

    pairs: tuple[float, ...]

    @property
    def outputs(self) -> int:
        """m: rows and columns of outputs of a tile."""
        return 2 * len(self.pairs)

    @property
    def reads(self) -> int:
        """m + 2: rows and columns of inputs of a tile, and of its products."""
        return self.outputs + TAPS - 1

    @property
    def products(self) -> int:
        """Products of a tile for each input channel."""
        return self.reads**2

    def kernel(self) -> np.ndarray:
        """G (m + 2, 3) in float64; rows 0, +p, -p, ..., infinity."""
        rows = [np.array([1.0, 0, 0]) / prod(-q * q for q in self.pairs)]
        for p in self.pairs:
            slope = 2 * p * p * prod(p * p - q * q for q in self.pairs if q != p)
            rows += [np.array([1.0, sign * p, p * p]) / slope for sign in (1, -1)]
        return np.stack([*rows, np.array([0.0, 0, 1])])

    def analyse(self, d: list, keep: Callable) -> list:
        """B' d for m + 2 values, in the order of the rows of G; `keep` names an intermediate result."""
        whole = _even(self.pairs)
        made = [_sum(whole, d[0::2])]
        for p in self.pairs:
            rest = _even(tuple(q for q in self.pairs if q != p))
            even, odd = keep(_sum(rest, d[2::2])), keep(_sum(rest, d[1::2]))
            made += [even + _times(odd, p), even - _times(odd, p)]
        return [*made, _sum(whole, d[1::2])]

    def combine(self, v: list, keep: Callable) -> list:
        """A' v: m outputs of m + 2 products."""
        sums, differences = [], []
        for i in range(len(self.pairs)):
            plus, minus = v[1 + 2 * i], v[2 + 2 * i]
            sums.append(keep(plus + minus))
            differences.append(keep(plus - minus))
        made = []
        for power in range(self.outputs):
            halves = differences if power % 2 else sums
            value = v[0] if power == 0 else v[-1] if power == self.outputs - 1 else None
            for p, half in zip(self.pairs, halves):
                term = _times(half, p**power)
                value = term if value is None else value + term
            made.append(value)
        return made


def _even(points: tuple[float, ...]) -> list[float]:
    """Coefficients of prod (z - q^2), lowest first."""
    found = np.array([1.0])
    for q in points:
        found = np.convolve(found, [-q * q, 1.0])
    return [float(c) for c in found]


def _times(value, factor: float):
    factor = round(factor, 12)
    return value if factor == 1 else value * _like(value, factor)


def _sum(coefficients: list[float], values: list):
    """The sum of products, the coefficient 1 of the highest without a product."""
    total = values[len(coefficients) - 1]
    for c, value in zip(coefficients[:-1], values):
        total = total + _times(value, c)
    return total


def _like(value, factor: float):
    """A factor of the type of `value`, an array or a TIR expression."""
    if isinstance(value, np.ndarray):
        return np.float32(factor)
    from onnxc.codegen.kernels.result import wide
    from onnxc.codegen.tvm_api import tvm_modules

    kind, _, lanes = str(value.ty.dtype).partition("x")
    return wide(tvm_modules().tirx.const(factor, kind), int(lanes or 1))


F2, F4 = Form((1.0,)), Form((sqrt(0.5), sqrt(2.0)))
F6 = Form((0.5, 1.0, 2.0))
