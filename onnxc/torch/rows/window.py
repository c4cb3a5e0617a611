"""Operators that see a window of the input: pooling, resizing, sampling at a grid."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from ..steps import tensor
from ..table import Call, ints, row
from .linear import pad_list, paddings

MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
MEAN = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@row("GlobalAveragePool")
def global_average(call: Call, x):
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@row("GlobalMaxPool")
def global_max(call: Call, x):
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


@row("GlobalLpPool")
def global_lp(call: Call, x):
    p = call.get("p", 2)
    return (x.abs() ** p).sum(tuple(range(2, x.ndim)), keepdim=True) ** (1 / p)


class _Windows:
    """The geometry of a pooling: pads before, pads after, and what is added so that the last window is whole."""

    def __init__(self, call: Call, x: torch.Tensor):
        kernel = list(call.get("kernel_shape"))
        n = len(kernel)
        self.kernel = kernel
        self.strides = list(call.get("strides") or [1] * n)
        self.dilations = list(call.get("dilations") or [1] * n)
        before, after = paddings(call, x.shape[2:], kernel, self.strides, self.dilations)
        self.before, self.after, self.extra = before, after, [0] * n
        if call.get("ceil_mode", 0):
            for i, size in enumerate(x.shape[2:]):
                wide = (kernel[i] - 1) * self.dilations[i] + 1
                room = size + before[i] + after[i] - wide
                out = math.ceil(room / self.strides[i]) + 1
                if (out - 1) * self.strides[i] >= size + before[i]:
                    out -= 1  # a window may not begin in the pads
                self.extra[i] = max(0, (out - 1) * self.strides[i] - room)

    @property
    def even(self) -> bool:
        """Whether torch's own pooling has this geometry: pads alike on both sides, at most half a window, and no window beyond them."""
        return (
            self.before == self.after
            and not any(self.extra)
            and all(2 * p <= k for p, k in zip(self.before, self.kernel))
        )

    def pad(self, x: torch.Tensor, value: float, extra_value: float | None = None) -> torch.Tensor:
        x = F.pad(x, pad_list(self.before, self.after), value=value)
        return F.pad(
            x, pad_list([0] * len(self.extra), self.extra), value=value if extra_value is None else extra_value
        )

    def sums(self, x: torch.Tensor) -> torch.Tensor:
        """The sum over each window of a padded input."""
        for i, (k, s, d) in enumerate(zip(self.kernel, self.strides, self.dilations)):
            x = x.unfold(2 + i, (k - 1) * d + 1, s)[..., ::d].sum(-1)
        return x


@row("MaxPool")
def max_pool(call: Call, x):
    if call.outputs > 1:
        raise call.refuse("the second output of a max pooling")
    w = _Windows(call, x)
    if len(w.kernel) not in MAX:
        raise call.refuse("a pooling of this rank", found=len(w.kernel))
    y, pads = x if x.is_floating_point() else x.to(torch.float32), w.before
    if not w.even:
        y, pads = w.pad(y, -math.inf), [0] * len(w.kernel)
    return MAX[len(w.kernel)](y, w.kernel, w.strides, pads, w.dilations).to(x.dtype)


@row("AveragePool")
def average_pool(call: Call, x):
    w = _Windows(call, x)
    if w.even and set(w.dilations) == {1} and len(w.kernel) in MEAN:
        return MEAN[len(w.kernel)](x, w.kernel, w.strides, w.before, False, bool(call.get("count_include_pad", 0)))
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    counts = w.sums(w.pad(ones, float(call.get("count_include_pad", 0)), 0.0))
    return w.sums(w.pad(x, 0.0)) / counts


@row("LpPool")
def lp_pool(call: Call, x):
    p = call.get("p", 2)
    w = _Windows(call, x)
    return w.sums(w.pad(x.abs() ** p, 0.0)) ** (1 / p)


@row("Upsample")
def upsample(call: Call, x, scales=None):
    factors = [float(s) for s in (scales.tolist() if scales is not None else call.get("scales"))]
    sizes = [math.floor(n * f) for n, f in zip(x.shape, factors)]
    rule = ("asymmetric", "floor", -0.75, 0)
    return _resized(x, range(x.ndim), sizes, factors, call.get("mode", "nearest"), rule)


@row("Resize")
def resize(call: Call, x, roi=None, scales=None, sizes=None):
    if call.opset == 10:
        roi, scales = None, roi
    over = [a % x.ndim for a in (call.get("axes") or range(x.ndim))]
    transform = call.get("coordinate_transformation_mode", "half_pixel" if call.opset >= 11 else "asymmetric")
    antialias = call.get("antialias", 0)
    if transform == "tf_crop_and_resize" or antialias or call.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise call.refuse("this way of resizing", found="antialias" if antialias else transform)
    if sizes is not None and sizes.numel():
        wanted = ints(sizes)
        factors = [o / x.shape[a] for o, a in zip(wanted, over)]
    else:
        factors = [float(s) for s in scales.tolist()]
        wanted = [math.floor(x.shape[a] * f) for a, f in zip(over, factors)]
    nearest = call.get("nearest_mode", "round_prefer_floor" if call.opset >= 11 else "floor")
    rule = (transform, nearest, call.get("cubic_coeff_a", -0.75), call.get("exclude_outside", 0))
    return _resized(x, over, wanted, factors, call.get("mode", "nearest"), rule)


def _resized(x, over, sizes, factors, mode: str, rule: tuple) -> torch.Tensor:
    """Resizing is a matrix for each axis: every mode is separable, and so is its gradient."""
    for axis, size, factor in zip(over, sizes, factors):
        if factor == 1 and size == x.shape[axis]:
            continue
        matrix = tensor(_matrix(x.shape[axis], size, factor, mode, *rule)).to(x.dtype)
        x = torch.tensordot(x, matrix, ([axis], [1])).movedim(-1, axis)
    return x


def _matrix(n, out, scale, mode, transform, nearest, a, exclude) -> np.ndarray:
    """[out, n]: how each output place is made of the input's."""
    at = np.arange(out)
    where = {
        "half_pixel": lambda: (at + 0.5) / scale - 0.5,
        "pytorch_half_pixel": lambda: (at + 0.5) / scale - 0.5 if out > 1 else at * 0.0,
        "asymmetric": lambda: at / scale,
        "align_corners": lambda: at * (n - 1) / (out - 1) if out > 1 else at * 0.0,
        "tf_half_pixel_for_nn": lambda: (at + 0.5) / scale,
        "half_pixel_symmetric": lambda: n / 2 * (1 - out / (scale * n)) + (at + 0.5) / scale - 0.5,
    }[transform]()
    matrix = np.zeros((out, n))
    if mode == "nearest":
        pick = {
            "round_prefer_floor": lambda: np.ceil(where - 0.5),
            "round_prefer_ceil": lambda: np.floor(where + 0.5),
            "floor": lambda: np.floor(where),
            "ceil": lambda: np.ceil(where),
        }[nearest]()
        matrix[at, pick.clip(0, n - 1).astype(int)] = 1
        return matrix
    reach = 1 if mode == "linear" else 2
    base = np.floor(where).astype(int)
    offsets = np.arange(-reach + 1, reach + 1)
    places = base[:, None] + offsets
    weights = _kernel(where[:, None] - places, mode, a)
    if exclude:
        weights = np.where((places < 0) | (places >= n), 0, weights)
    total = weights.sum(1, keepdims=True)
    weights = weights / np.where(total == 0, 1, total)
    np.add.at(matrix, (np.repeat(at, len(offsets)), places.clip(0, n - 1).ravel()), weights.ravel())
    return matrix


def _kernel(d: np.ndarray, mode: str, a: float) -> np.ndarray:
    """Weight by distance: a triangle, or Keys' cubic with coefficient `a`."""
    d = np.abs(d)
    if mode == "linear":
        return np.maximum(0, 1 - d)
    inner = ((a + 2) * d - (a + 3)) * d * d + 1
    outer = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, inner, np.where(d < 2, outer, 0))


@row("GridSample")
def grid_sample(call: Call, x, grid):
    mode = {"linear": "bilinear", "bilinear": "bilinear", "cubic": "bicubic", "bicubic": "bicubic"}
    return F.grid_sample(
        x, grid, mode.get(call.get("mode", "linear"), "nearest"), call.get("padding_mode", "zeros"),
        bool(call.get("align_corners", 0)),
    )  # fmt: skip
