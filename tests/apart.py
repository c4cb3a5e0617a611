"""How far the outputs of two models are apart, for tests."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxc.ir.difference import Difference


def differences(reference: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, Difference]:
    """The `Difference` of each output of `reference`; `other` has all of them."""
    return {name: Difference().add(array, other[name]) for name, array in reference.items()}
