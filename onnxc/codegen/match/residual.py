"""Finds residual planes in the imported graph: the body of `ResidualBinarize`, HORQ with known scales.

    B_k = where(r_k >= 0, 1, -1), p_k = B_k s_k, r_(k+1) = r_k - p_k, y = ((p_0 + p_1) + ...)   ->   Planes(r_0, scales)

Planes of scale 0 are left out. Every step is matched as the body writes it, so the bits of a plane are those of
the model for all numbers; only the order in which a product sums its planes differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Planes:
    """What a sum of planes holds: `scales` of the planes made from `source`; `rest` is (the last r, the last p)."""

    source: object
    scales: tuple[float, ...]
    rest: tuple
    steps: tuple = ()

    @property
    def array(self) -> np.ndarray:
        """The scales, float32."""
        return np.asarray(self.scales, np.float32)

    @property
    def apart(self) -> bool:
        """Whether the sum has the signs that it was made with: each scale exceeds those after it together."""
        numbers = np.asarray(self.scales)
        return all(numbers[k] > 1.0001 * numbers[k + 1 :].sum() for k in range(len(numbers)))

    def value(self, number: float) -> float:
        """What the planes make of one number."""
        left, total = np.float32(number), np.float32(0)
        for scale in self.array:
            part = scale if left >= 0 else -scale
            total, left = total + part, left - part
        return float(total)


class Residuals:
    """Sums of planes by variable; `note` is told products, differences and sums in order.

    `signs(var)` is what `var` is the signs of, or None; `scalar(expr)` the number of a constant, or None.
    """

    def __init__(self, signs: Callable, scalar: Callable):
        self.signs, self.scalar = signs, scalar
        self.sums: dict = {}
        self._left: dict = {}  # r_(k+1) -> (r_k, p_k)

    def note(self, var, call) -> Planes | None:
        """The planes whose sum `var` is, if it is one of several operands that the body adds."""
        name, (a, b) = call.op.name, call.args
        if name == "relax.multiply":
            source, scale = self.signs(a), self.scalar(b)
            if source is not None and scale is not None and scale >= 0:
                self.sums[var] = Planes(source, (scale,), (source, var), (a, var))
        elif name == "relax.subtract":
            if b in self.sums and len(self.sums[b].scales) == 1 and a.same_as(self.sums[b].source):
                self._left[var] = (a, b)
        elif name == "relax.add" and a in self.sums and b in self.sums:
            return self._sum(var, self.sums[a], self.sums[b])
        return None

    def _sum(self, var, before: Planes, plane: Planes) -> Planes | None:
        left = self._left.get(plane.source)
        if left is None or len(plane.scales) != 1:
            return None
        if not all(one.same_as(other) for one, other in zip(left, before.rest, strict=True)):
            return None
        steps = (*before.steps, plane.source, *plane.steps, var)
        self.sums[var] = Planes(before.source, before.scales + plane.scales, plane.rest, steps)
        kept = tuple(scale for scale in self.sums[var].scales if scale)
        return Planes(before.source, kept, plane.rest, steps) if kept else None
