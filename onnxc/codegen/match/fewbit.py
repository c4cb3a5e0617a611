"""Finds few-bit layers in the imported graph: activations that a quantiser made, weights that are scaled small integers.

    where(x >= 0, 1, -1), sign(x)                     ->   Quantised(x, 1-bit bipolar)
    clip(round(x / s), low, high) * s                 ->   Quantised(x, n bits, scale s)
    the planes of ResidualBinarize (residual.py)      ->   Quantised(x, residual planes, scales)
    max_pool, reshape, pad of one of these            ->   still its integers times its scale
    max_pool before or after binarising               ->   Quantised(x, 1-bit bipolar, pool)
    W[oc] = scale[oc] * integers                      ->   (encoding, integers, scale)

Sign gives 0 for 0 and is taken as +1 there, where its input is 0 by coincidence only; behind a ReLU, a sum of integers or an
input it stays a Sign. `quant.recognise` decides on data. Nothing else differs from what the model says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxc.codegen.kernels import residual as residual_planes
from onnxc.codegen.kernels.spec import BINARY, Encoding, KernelSpec, PackSpec, PoolSpec, Windows
from onnxc.codegen.match.constants import Constants
from onnxc.codegen.match.residual import Planes, Residuals
from onnxc.codegen.prepare.stored import Levels, Stored
from onnxc.codegen.tvm_api import tvm_modules

MOST_WEIGHT_BITS = 4
MOST_ACTIVATION_BITS = 8
WORTH_SHARING = 100_000  # numbers to pack: some microseconds, what a barrier between threads takes
CLOSE = 3e-7  # twice the rounding of scale * integer in float32
PART = 1 << 20  # weights that are looked at together
ZERO_KEEPERS = tuple(
    "relax." + name
    for name in (
        "multiply",
        "divide",
        "reshape",
        "permute_dims",
        "nn.prelu",
        "nn.leakyrelu",
        "nn.max_pool2d",
        "nn.avg_pool2d",
    )
)
KEEPERS = ("relax.nn.max_pool2d", "relax.reshape", "relax.flatten", "relax.permute_dims")


@dataclass(frozen=True)
class Quantised:
    """What a variable holds: `scale` times integers of `encoding` in [low, high], made from `source` by rounding.

    `scale` is None when binarised, else an array of one value or one a channel; `planes` have one each, and `pad_value` is
    then what padding stands for. Packing rounds `source` again: either
    what the quantiser reads, or the variable itself, whose numbers the quantiser does not change. With a `pool` what holds
    is the maximum over windows of the binarised source.
    """

    source: Any
    encoding: Encoding
    scale: np.ndarray | None = None
    low: int = -1
    high: int = 1
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    pad_value: float = 0
    pool: Windows | None = None
    planes: Planes | None = None


@dataclass(frozen=True)
class FewBit:
    """The few-bit form of a kernel: integer weights (oc, c/groups, kh, kw), and operands as in match.Match.

    `tables` are what the kernel reads besides packed weights where that is not what its family makes of the weights.
    `step` says which pixels of the source are packed for it.
    """

    spec: KernelSpec
    quantised: Quantised
    weight: np.ndarray
    operands: tuple
    tables: tuple = ()
    step: tuple[int, int] = (1, 1)

    def packing(self) -> PackSpec:
        """The kernel that packs the source: what this one reads, or what is pooled to that."""
        pool, pack = self.quantised.pool, self._packed()
        if pool is None:
            return pack
        h, w = pool.extents
        return replace(pack, h=h, w=w, pads=(0, 0, 0, 0), x_shape=(pack.n, h, w, pack.c), pad_value=0)

    def pooling(self) -> PoolSpec | None:
        """The kernel that pools the packed source, if there is one."""
        return None if self.quantised.pool is None else PoolSpec(**vars(self.quantised.pool), pack=self._packed())

    def _packed(self) -> PackSpec:
        s, q = self.spec, self.quantised
        scales = 0 if q.scale is None else q.scale.size
        threads = s.threads if s.n * s.h * s.w * s.c >= WORTH_SHARING else 1
        return PackSpec(
            s.n, s.h, s.w, s.c, s.groups, s.pads, s.activation, s.x_shape, s.pad_value, scales, q.low, q.high, threads,
            self.step,
        )  # fmt: skip

    def thinned(self) -> FewBit:
        """The same kernel on the pixels that it reads alone: a 1x1 convolution with strides becomes one without."""
        s = self.spec
        if (s.kh, s.kw) != (1, 1) or s.stride == (1, 1) or any(s.pads) or self.quantised.pool is not None:
            return self
        return replace(self, spec=replace(s, h=s.oh, w=s.ow, stride=(1, 1)), step=s.stride)


class Quantisers:
    """Variables that hold few-bit integers; `note` is told every binding in order. `inner` are the steps of quantisers.

    `uses` counts the readers of variables.
    """

    def __init__(self, constants: Constants, uses: Mapping):
        self.constants, self.uses = constants, uses
        self.known: dict = {}
        self.inner: set = set()
        self._residuals = Residuals(self._signs_of, self._scalar)
        self._calls: dict = {}

    def note(self, binding) -> None:
        """Looks whether the binding ends a quantiser or keeps the numbers of one."""
        relax = tvm_modules().relax
        var, value = binding.var, binding.value
        if isinstance(value, relax.Var) and value in self.known:
            self.known[var] = self.known[value]
        if not isinstance(value, relax.Call):
            return
        self._calls[var] = value
        name = getattr(value.op, "name", "")
        found = None
        if name == "relax.sign" and str(var.ty.dtype) == "float32" and self._hardly_zero(value.args[0]):
            found = self._binarised(value.args[0])
        elif name == "relax.where":
            found = self._where(value)
        elif name == "relax.multiply":
            found = self._scaled(value)
        elif name == "relax.nn.pad":
            found = self._padded(value)
        elif name in KEEPERS and value.args[0] in self.known:
            found = self._kept(var, value, self.known[value.args[0]])
        if found is None and name in ("relax.multiply", "relax.subtract", "relax.add"):
            found = self._planes(var, value)
        if found is not None:
            self.known[var] = found
            self.inner.add(var)

    def _signs_of(self, var):
        """What a variable is the signs of, number by number."""
        held = self.known.get(var)
        plain = held is not None and held.encoding == BINARY and held.scale is None and not any(held.pads)
        return held.source if plain and held.pool is None else None

    def _planes(self, var, call) -> Quantised | None:
        """Residual planes of a tensor, or of a padded one: then of what is padded."""
        made = self._residuals.note(var, call)
        if made is None:
            return None
        self.inner.update(made.steps)
        order = len(made.scales)
        found = Quantised(made.source, residual_planes.encoding(order), made.array, planes=made)
        pad = self._call(made.source, "relax.nn.pad")
        around = self._padding(pad) if pad is not None else None
        if around is None:
            return found
        self.inner.add(made.source)
        return replace(found, source=pad.args[0], pads=around, pad_value=made.value(float(pad.attrs.pad_value)))

    def _padding(self, call) -> tuple[int, int, int, int] | None:
        """(top, left, bottom, right) of a Pad of rows and columns with a constant."""
        widths = [int(width) for width in call.attrs.pad_width]
        if str(call.attrs.pad_mode) != "constant" or len(widths) != 8 or any(widths[:4]) or min(widths) < 0:
            return None
        return widths[4], widths[6], widths[5], widths[7]

    def _call(self, var, name: str) -> Any:
        call = self._calls.get(var) if isinstance(var, tvm_modules().relax.Var) else None
        return call if call is not None and getattr(call.op, "name", "") == name else None

    def _scalar(self, expr) -> float | None:
        value = self.constants.value(expr) if expr in self.constants else None
        return float(value.reshape(())) if value is not None and value.size == 1 else None

    def _hardly_zero(self, expr) -> bool:
        """Whether numbers are 0 only by coincidence: something uneven has been added, and nothing since has clipped them."""
        relax = tvm_modules().relax
        call: Any = self._calls.get(expr) if isinstance(expr, relax.Var) else None
        name = getattr(getattr(call, "op", None), "name", "")
        if name in ("relax.add", "relax.subtract"):
            known = [self.constants.value(arg) for arg in call.args if arg in self.constants]
            if not known or (known[0] != np.round(known[0])).all():
                return True
            return any(self._hardly_zero(arg) for arg in call.args)
        return name in ZERO_KEEPERS and any(self._hardly_zero(arg) for arg in call.args)

    def _where(self, call) -> Quantised | None:
        test = self._call(call.args[0], "relax.greater_equal")
        if test is None or self._scalar(test.args[1]) != 0:
            return None
        if (self._scalar(call.args[1]), self._scalar(call.args[2])) != (1, -1):
            return None
        self.inner.add(call.args[0])
        return self._binarised(test.args[0])

    def _binarised(self, source) -> Quantised:
        """Signs of `source`; if that is a MaxPool for them alone, the pooled signs of what it reads."""
        call = self._call(source, "relax.nn.max_pool2d")
        pool = _pool(call) if call is not None and self.uses[source] == 1 else None
        if pool is None:
            return Quantised(source, BINARY)
        self.inner.add(source)
        return Quantised(call.args[0], BINARY, pool=pool)

    def _scaled(self, call) -> Quantised | None:
        clip: Any = self._call(call.args[0], "relax.clip")
        rounded: Any = self._call(clip.args[0], "relax.round") if clip is not None else None
        divided = self._call(rounded.args[0], "relax.divide") if rounded is not None else None
        if divided is None or call.args[1] not in self.constants or divided.args[1] not in self.constants:
            return None
        scale = self.constants.value(call.args[1])
        if not np.array_equal(scale, self.constants.value(divided.args[1])) or not (scale > 0).all():
            return None
        low, high = (_number(arg) for arg in clip.args[1:3])
        if not (low <= 0 <= high and low == int(low) and high == int(high)):
            return None
        bits = max(int(high).bit_length(), int(-low - 1).bit_length() if low else 0) + (low < 0)
        if not 1 <= bits <= MOST_ACTIVATION_BITS or not _per_channel(scale, len(call.args[0].ty.shape.values)):
            return None
        self.inner.update((call.args[0], clip.args[0], rounded.args[0]))
        encoding = Encoding("bits", bits, "signed" if low < 0 else "unsigned")
        return Quantised(divided.args[0], encoding, scale.reshape(-1).astype(np.float32), int(low), int(high))

    def _padded(self, call) -> Quantised | None:
        """An explicit Pad of rows and columns of a quantiser, with an integer of its scale."""
        below, pads = self.known.get(call.args[0]), self._padding(call)
        if below is None or pads is None or any(below.pads):
            return None
        if below.planes is not None:
            return replace(below, pads=pads, pad_value=float(call.attrs.pad_value))
        scale = 1.0 if below.scale is None else float(below.scale[0])
        value = float(call.attrs.pad_value) / scale
        several = below.scale is not None and below.scale.size > 1
        if value != round(value) or (several and value):
            return None
        return replace(below, pads=pads, pad_value=round(value))

    def _kept(self, var, call, below: Quantised) -> Quantised | None:
        """What an operator leaves that only moves numbers, or takes the greatest of some."""
        pools = call.op.name == "relax.nn.max_pool2d"
        if below.planes is not None:
            return replace(below, source=var) if below.planes.apart and not any(below.pads) else None
        if any(below.pads) or (below.scale is not None and below.scale.size > 1 and not pools):
            return None
        pool = _pool(call) if pools and below.encoding == BINARY and below.pool is None else None
        return replace(below, pool=pool) if pool is not None else replace(below, source=var, pool=None)


def _pool(call) -> Windows | None:
    """The windows of a MaxPool of rows and columns."""
    a, shape = call.attrs, call.args[0].ty.shape.values
    if a.layout != "NCHW" or len(shape) != 4:
        return None
    kernel, stride, dilation, before = (
        (int(values[0]), int(values[1])) for values in (a.pool_size, a.strides, a.dilation, a.padding)
    )
    return Windows((int(shape[2]), int(shape[3])), kernel, stride, dilation, before)


def _number(arg) -> float:
    value = arg.value if hasattr(arg, "value") else arg
    return float(value.value if hasattr(value, "value") else value)


def _per_channel(scale: np.ndarray, dims: int) -> bool:
    """One value, or (c, 1, 1) values of a tensor of four axes."""
    if scale.size == 1:
        return True
    shape = (1,) * (4 - scale.ndim) + scale.shape
    return dims == 4 and scale.ndim <= 4 and shape[0] == shape[2] == shape[3] == 1


def few_bit(weights: np.ndarray) -> tuple[Encoding, np.ndarray, np.ndarray] | None:
    """Weights (oc, ...) as scale[oc] * integers: (encoding, integers, scale), or None.

    The integers of a channel have no common divisor, so the scale is the greatest possible. A channel of zeros has
    scale 0 and integers 1.
    """
    if isinstance(weights, Stored) and len(weights.codebook) in (1, len(weights)):
        part = _integers(weights.codebook)
        encoding = None if part is None else _encoding(part[0])
        if part is not None and encoding is not None:
            return encoding, Levels(weights, part[0]), np.broadcast_to(part[1], (len(weights),))
    weights = np.asarray(weights)
    rows = weights.reshape(len(weights), -1)
    if not rows.size or _distinct(rows[0]) > 1 << MOST_WEIGHT_BITS or _distinct(rows[-1]) > 1 << MOST_WEIGHT_BITS:
        return None
    integers, scale = np.empty(rows.shape, np.int8), np.empty(len(rows))
    step = max(1, PART // rows.shape[1])
    for start in range(0, len(rows), step):
        part = _integers(rows[start : start + step])
        if part is None:
            return None
        integers[start : start + step], scale[start : start + step] = part
    encoding = _encoding(integers)
    return None if encoding is None else (encoding, integers.reshape(weights.shape), scale)


def _integers(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """`few_bit` of some channels: (integers, scale)."""
    greatest = np.abs(rows).max(axis=1, keepdims=True).astype(np.float64)
    dead = greatest == 0
    greatest[dead] = 1
    integers = np.zeros(rows.shape, np.int8)
    scale = np.zeros(len(rows))
    left = ~dead[:, 0]
    for top in range(1, 1 << MOST_WEIGHT_BITS):  # the greatest integer of a channel
        if not left.any():
            break
        ratio = rows[left] * (top / greatest[left])
        whole = np.round(ratio)
        fits = (np.abs(ratio - whole) <= CLOSE * np.abs(whole)).all(axis=1)
        taken = np.flatnonzero(left)[fits]
        integers[taken] = whole[fits]
        scale[taken] = greatest[taken, 0] / top
        left[taken] = False
    if left.any():
        return None
    integers[dead[:, 0]] = 1
    return integers, scale


def _distinct(row: np.ndarray) -> int:
    held = np.sort(row[: 1 << 14])  # np.unique would import numpy.ma
    return int((held[1:] != held[:-1]).sum()) + min(held.size, 1)


def _encoding(integers: np.ndarray) -> Encoding | None:
    """The fewest planes that hold the integers."""
    low, high = int(integers.min()), int(integers.max())
    if (integers % 2 != 0).all():
        bits = max(abs(low), high).bit_length()
        return Encoding("bits", bits, "bipolar") if bits <= MOST_WEIGHT_BITS else None
    bits = max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0) + (low < 0)
    levels = "signed" if low < 0 else "unsigned"
    return Encoding("bits", bits, levels) if bits <= MOST_WEIGHT_BITS else None


def few_bit_form(spec: KernelSpec, quantised: Quantised, weights: np.ndarray, scale, operands: list) -> FewBit | None:
    """The few-bit form of a float kernel whose input is `quantised`, or None where its weights are no few integers.

    `scale` (oc,) or None is what the float kernel would multiply into the weights: here it is a step of the epilogue.
    """
    top, left, bottom, right = quantised.pads
    if any(quantised.pads):
        if any(spec.pads) and quantised.pad_value:
            return None
        above, before, below, behind = spec.pads
        pads = (above + top, before + left, below + bottom, behind + right)
        h, w = spec.h - top - bottom, spec.w - left - right
        spec = replace(spec, h=h, w=w, pads=pads, x_shape=(spec.n, h, w, spec.c))
    if quantised.scale is not None and quantised.planes is None:
        weights = weights * _input_scales(spec, quantised.scale)
    found = few_bit(weights)
    if found is None:
        return None
    encoding, integers, factor = found
    factor = (factor if scale is None else factor * scale).astype(np.float32)
    steps = spec.epilogue
    first: tuple[np.ndarray, ...] = ()
    if (factor != 1).any():
        steps, first = (("mul",), *steps), (factor,)
    form = replace(spec, activation=quantised.encoding, weight=encoding, epilogue=steps)
    if quantised.planes is None:
        return FewBit(replace(form, pad_value=int(quantised.pad_value)), quantised, integers, (*first, *operands))
    scales = quantised.planes.array
    tables = (residual_planes.table(form, integers, scales, quantised.pad_value), scales)
    return FewBit(form, quantised, integers, (*first, *operands), tables)


def few_weights(spec: KernelSpec, weights: np.ndarray, scale, operands: list):
    """(spec, integers, operands) of a float kernel whose weights are scaled few-bit integers, or None; as `few_bit_form`."""
    found = few_bit(weights)
    if found is None:
        return None
    encoding, integers, factor = found
    factor = (factor if scale is None else factor * scale).astype(np.float32)
    if (factor == 1).all():
        return replace(spec, weight=encoding), integers, list(operands)
    return replace(spec, weight=encoding, epilogue=(("mul",), *spec.epilogue)), integers, [factor, *operands]


def _input_scales(spec: KernelSpec, scale: np.ndarray) -> np.ndarray:
    """Scales of the input channels, shaped to multiply weights (oc, c/groups, kh, kw)."""
    if scale.size == 1:
        return scale.reshape(1, 1, 1, 1)
    per_group = scale.reshape(spec.groups, 1, -1, 1, 1)
    wide = np.broadcast_to(per_group, (spec.groups, spec.oc // spec.groups, spec.c // spec.groups, 1, 1))
    return wide.reshape(spec.oc, -1, 1, 1)
