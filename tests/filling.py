"""Random weights for models whose files hold one number for each (the light models)."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

import onnxc

PERIOD = 1_000_003
"""Of the numbers, a prime, so that no two rows or kernels are equal: drawing 140 million would take most of a test's time."""


def fill(model: onnxc.Model, seed: int = 0) -> onnxc.Model:
    """The model with normal matrices and kernels of variance 1 / fan-in, for each use its own where they were shared."""
    drawn = np.random.default_rng(seed).standard_normal(PERIOD, np.float32)
    at = 0
    for node in model.nodes:
        for i, t in enumerate(node.inputs):
            if isinstance(t, gs.Constant) and t.values.dtype == np.float32 and t.values.ndim > 1:
                shape = t.values.shape
                scale = np.float32(np.sqrt(1 / max(np.prod(shape[1:]), 1)))
                size = int(np.prod(shape))
                model.set_weight(node, i, np.resize(np.roll(drawn, -at) * scale, shape))
                at += size
    return model
