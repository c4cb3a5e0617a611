"""Resize and Upsample: every axis has its table of taps, which follows from shapes and attributes alone.

    y[i, j] = sum over a, b of wi[i, a] wj[j, b] x[ti[i, a], tj[j, b]]

Nearest has one tap with weight 1, linear two, cubic four, antialiased ones as many as the filter is wide. Coordinates as in
ONNX's definition of Resize; tables are formed in float32, as ONNX Runtime forms them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.node import Node, Refused, dtype_of, shape_of, within
from onnxc.codegen.operators.shape import wanted_shape
from onnxc.codegen.operators.table import row

COORDINATES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize",
    "tf_half_pixel_for_nn",
)  # fmt: skip


@dataclass(frozen=True)
class Taps:
    """For each place of the result: places to read (out, taps), their weights, and whether it lies outside of the tensor."""

    places: np.ndarray
    weights: np.ndarray
    outside: np.ndarray


@dataclass(frozen=True)
class Way:
    """The attributes of a Resize."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    exclude: bool
    antialias: bool


SIMPLE = "simple"
"""How opset 10 rounds in ONNX Runtime: up where an axis becomes shorter."""


@row("Resize", since=10)
def resize(n: Node, x, *_):
    """A tensor read at other coordinates, along each axis by its own table."""
    mode = n.choice("mode", "nearest", "linear", "cubic")
    way = Way(
        mode,
        n.choice("coordinate_transformation_mode", "half_pixel" if n.opset > 10 else "asymmetric", *COORDINATES),
        n.choice("nearest_mode", "round_prefer_floor" if n.opset > 10 else SIMPLE, "round_prefer_ceil", "floor", "ceil",
                 "round_prefer_floor"),
        n.attribute("cubic_coeff_a", -0.75), bool(n.attribute("exclude_outside", 0)), bool(n.attribute("antialias", 0)),
    )  # fmt: skip
    if way.exclude and way.antialias:
        raise Refused("exclude_outside = 1 together with antialias = 1 is not known")
    fill = n.attribute("extrapolation_value", 0.0)
    rank = len(shape_of(x))
    axes = [within(int(axis), rank, "axes") for axis in n.attribute("axes") or range(rank)]
    n.choice("keep_aspect_ratio_policy", "stretch", "not_larger", "not_smaller")
    out = wanted_shape(n)
    scales = n.array(1 if n.opset < 11 else 2, "scales")
    sizes = n.array(3, "sizes")
    roi = n.array(1, "region of interest") if way.coordinates == "tf_crop_and_resize" and n.opset > 10 else None
    if scales is not None and scales.size:
        factors = dict(zip(axes, (float(np.float32(s)) for s in scales), strict=True))
    elif n.attribute("keep_aspect_ratio_policy", "stretch") != "stretch" and sizes is not None:
        pick = min if n.attribute("keep_aspect_ratio_policy") == "not_larger" else max
        one = pick(int(size) / shape_of(x)[axis] for size, axis in zip(sizes, axes, strict=True))
        factors = dict.fromkeys(axes, one)
    else:
        factors = {axis: out[axis] / shape_of(x)[axis] for axis in axes}
    regions = {}
    if roi is not None and roi.size:
        regions = {axis: (float(roi[i]), float(roi[len(axes) + i])) for i, axis in enumerate(axes)}
    if _plain(n, x, out, factors, way):
        return _by_relax(n, x, out, way)
    tables = {
        axis: taps(way, shape_of(x)[axis], out[axis], factors[axis], regions.get(axis, (0.0, 1.0)))
        for axis in axes
        if out[axis] != shape_of(x)[axis] or factors[axis] != 1 or axis in regions
    }
    return resampled(n, x, tables, fill)


@row("Upsample", until=9)
def upsample(n: Node, x, *_):
    """A tensor read at floor(place / scale), or between those places."""
    mode = n.choice("mode", "nearest", "linear")
    scales = n.attribute("scales") if n.opset < 9 else n.numbers(1, "scales")
    out = wanted_shape(n)
    way = Way(mode, "asymmetric", "floor", -0.75, False, False)
    factors = {axis: float(np.float32(s)) for axis, s in enumerate(scales)}
    if _plain(n, x, out, factors, way):
        return _by_relax(n, x, out, way)
    shape = shape_of(x)
    tables = {a: taps(way, shape[a], out[a], s, (0.0, 1.0)) for a, s in factors.items() if s != 1}
    return resampled(n, x, tables, 0.0)


def _plain(n: Node, x, out: tuple[int, ...], factors: dict[int, float], way: Way) -> bool:
    """Whether Relax's resize2d computes it: rows and columns of whole multiples, by nearest with floor, or linear."""
    shape = shape_of(x)
    if len(shape) != 4 or dtype_of(x) != "float32" or way.antialias or out[:2] != shape[:2]:
        return False
    whole = all(out[a] == shape[a] * factors.get(a, 1.0) and factors.get(a, 1.0) % 1 == 0 for a in (2, 3))
    nearest = way.mode == "nearest" and way.coordinates == "asymmetric" and way.nearest in ("floor", SIMPLE)
    linear = way.mode == "linear" and way.coordinates in ("half_pixel", "asymmetric")
    return whole and (nearest or linear)


def _by_relax(n: Node, x, out: tuple[int, ...], way: Way):
    method = {"nearest": "nearest_neighbor"}.get(way.mode, way.mode)
    how = {"coordinate_transformation_mode": way.coordinates, "rounding_method": "floor", "layout": "NCHW"}
    return n.do("image.resize2d", x, tuple(out[2:]), method=method, **how)


def taps(way: Way, extent: int, out: int, scale: float, region: tuple[float, float]) -> Taps:
    """The table of one axis. `scale` is the model's own, which need not be out / extent."""
    at = _coordinates(way, extent, out, scale, region)
    outside = (at < 0) | (at > extent - 1) if way.coordinates == "tf_crop_and_resize" else np.zeros(out, bool)
    if way.mode == "nearest":
        rounding: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "round_prefer_floor": lambda v: np.ceil(v - 0.5), "round_prefer_ceil": lambda v: np.floor(v + 0.5),
            "floor": np.floor, "ceil": np.ceil, SIMPLE: np.ceil if scale < 1 else np.floor,
        }  # fmt: skip
        places = np.clip(rounding[way.nearest](at), 0, extent - 1).astype(np.int64)[:, None]
        return Taps(places, np.ones((out, 1)), outside)
    stretch = min(scale, 1.0) if way.antialias else 1.0
    support = (2.0 if way.mode == "cubic" else 1.0) / stretch
    if way.mode == "linear" and not way.antialias:
        at = np.clip(at, 0, extent - 1)
    first = np.floor(at - support).astype(np.int64) + 1
    count = int(np.ceil(2 * support)) + (1 if stretch < 1 else 0)
    places = first[:, None] + np.arange(count)
    weights = _filter(way, np.abs((places - at[:, None]) * stretch))
    if way.exclude:
        weights = np.where((places < 0) | (places >= extent), 0, weights)
    if way.exclude or way.antialias:
        weights = weights / np.maximum(weights.sum(1, keepdims=True), 1e-30)
    return Taps(np.clip(places, 0, extent - 1), weights, outside)


def _coordinates(way: Way, extent: int, out: int, scale: float, region: tuple[float, float]) -> np.ndarray:
    """Where each place of the result lies in the tensor."""
    place = np.arange(out, dtype=np.float64)
    match way.coordinates:
        case "half_pixel":
            return (place + 0.5) / scale - 0.5
        case "half_pixel_symmetric":
            adjusted = out / (extent * scale)
            centre = extent / 2
            return centre * (1 - adjusted) + (place + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (place + 0.5) / scale - 0.5 if out > 1 else np.zeros(out)
        case "align_corners":
            return place * (extent - 1) / (out - 1) if out > 1 else np.zeros(out)
        case "asymmetric":
            return place / scale
        case "tf_half_pixel_for_nn":
            return (place + 0.5) / scale
    start, end = region
    if out > 1:
        return start * (extent - 1) + place * (end - start) * (extent - 1) / (out - 1)
    return np.full(out, 0.5 * (start + end) * (extent - 1))


def _filter(way: Way, distance: np.ndarray) -> np.ndarray:
    """The weight of a tap at a distance: a triangle, or Keys' cubic with its coefficient a."""
    if way.mode == "linear":
        return np.maximum(1 - distance, 0)
    a, d = way.cubic, distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def resampled(n: Node, x, tables: dict[int, Taps], fill: float):
    """x read by tables; where a place lies outside, the `fill`."""
    if not tables:
        return x
    kind = dtype_of(x)
    floats = kind if kind.startswith("float") else "float32"
    nearest = all(table.places.shape[1] == 1 for table in tables.values())
    fills = any(table.outside.any() for table in tables.values())
    for axis, table in tables.items():  # an axis at a time: fewer products, and every table small
        x = _along(n, x, axis, table, nearest, floats)
    if fills:
        x = _filled(n, x, tables, fill)
    return x if dtype_of(x) == kind else n.cast(x, kind)


def _along(n: Node, x, axis: int, table: Taps, nearest: bool, floats: str):
    places = n.weight(table.places.astype(np.int32))
    if nearest:
        return n.te(lambda t, at: _reader(t, axis, at), x, places, name="resize")
    weights = n.weight(table.weights.astype(floats))

    def compute(t, at, w):
        shape = [*t.shape[:axis], table.places.shape[0], *t.shape[axis + 1 :]]

        def element(*index):
            total = None
            for k in range(table.places.shape[1]):
                value = t(*index[:axis], at(index[axis], k), *index[axis + 1 :])
                value = (value if t.dtype == floats else tvm.tirx.Cast(floats, value)) * w(index[axis], k)
                total = value if total is None else total + value
            return total

        return tvm.te.compute(shape, element, name="resize")

    return n.te(compute, x, places, weights, name="resize")


def _reader(t, axis: int, at):
    shape = [*t.shape[:axis], at.shape[0], *t.shape[axis + 1 :]]
    return tvm.te.compute(shape, lambda *index: t(*index[:axis], at(index[axis], 0), *index[axis + 1 :]), name="resize")


def _filled(n: Node, x, tables: dict[int, Taps], fill: float):
    masks = {axis: n.weight(table.outside.astype(np.int8)) for axis, table in tables.items() if table.outside.any()}
    axes = list(masks)

    def compute(t, *outside):
        def element(*index):
            found = tvm.tirx.any(*(mask(index[axis]) != 0 for axis, mask in zip(axes, outside, strict=True)))
            return tvm.tirx.Select(found, tvm.tirx.const(fill, t.dtype), t(*index))

        return tvm.te.compute(t.shape, element, name="outside")

    return n.te(compute, x, *masks.values(), name="resize")
