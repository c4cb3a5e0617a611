"""Products with residual planes (HORQ): activations x = sum_k s_k B_k, B_k = +-1, scales s_k any floats, known when compiling.

    sum x w = sum_k s_k (multiplier * S_k + constant) = multiplier * sum_k s_k S_k + constant * sum_k s_k

S_k counts plane k against the weights as for one bipolar plane (`planes`). It is an integer; sums over k are float32. Padding
is stored as -1 in every plane, which stands for -sum_k s_k; the table of constants makes it `pad`, whatever that is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxc.codegen.kernels import planes
from onnxc.codegen.kernels.spec import BINARY, Encoding, KernelSpec

LEVELS = "residual"


def encoding(order: int) -> Encoding:
    """`order` planes of +-1 whose scales the kernel reads."""
    return Encoding("bits", order, LEVELS)


def is_residual(spec: KernelSpec) -> bool:
    """Whether the activations are residual planes."""
    return spec.activation.levels == LEVELS


def plane_of(spec: KernelSpec) -> KernelSpec:
    """The product of one plane, padded with what is stored there."""
    return replace(spec, activation=BINARY, pad_value=-1)


def table(spec: KernelSpec, weights: np.ndarray, scales: np.ndarray, pad: float) -> np.ndarray:
    """The constants to be added to multiplier * sum_k s_k S_k: float32 (row classes, column classes, oc).

    weights: integers (oc, c/groups, kh, kw). scales: (order,) float32. pad: what padding stands for.
    """
    total = float(np.sum(scales, dtype=np.float64))
    constant = planes.table(plane_of(spec), weights) * total  # one class
    outside = planes.outside_sums(spec, np.asarray(weights).astype(np.int64).sum(axis=1))
    return (constant + (pad + total) * outside).astype(np.float32)


def pack_activations(spec: KernelSpec, x: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """x (n, h, w, c) float32 -> what the kernel reads; the twin of the packing kernel."""
    one = plane_of(spec)
    left, packed = np.asarray(x, np.float32), []
    for scale in np.asarray(scales, np.float32):
        signs = np.where(left >= 0, np.float32(1), np.float32(-1))
        packed.append(planes.pack_activations(one, signs))
        left = left - signs * scale
    return np.concatenate(packed)
