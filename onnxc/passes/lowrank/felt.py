"""Errors of a layer's choices in the unit of the outputs' noise: one of them is tried on the model itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..layers.felt import Felt
from ..layers.linear import Linear
from .fit import Whitened
from .moments import Fit
from .rank import Choice

EXPECTED = 0.03
"""The error, as a share of the layer's power, of the choice that is tried: the nearest to it."""
LEAST = 1e-6


def as_felt(felt: Felt, layer: Linear, w: np.ndarray, moment: Fit, choices: list[Choice]) -> list[Choice]:
    """The choices, their errors multiplied by what the outputs have of noise for the error of the one that is tried.

    Of several forms the plain one, a product of two matrices, is tried where it is among them: it takes no iteration.
    """
    plain = [c for c in choices if c.form.name == "channel"] or choices
    tried = min(plain, key=lambda c: (abs(np.log(max(c.error, 1e-12) / EXPECTED)), c.macs))
    if not tried.error > 0:
        return choices
    factors = Whitened(tried.form, w, moment.h).factors(tried.rank)
    matrix = tried.form.compose(factors).reshape(layer.matrix().shape)
    factor = max(felt([(layer, matrix, moment.x)]), LEAST) / tried.error
    return [replace(c, error=c.error * factor) for c in choices]
