"""Convolutions and pools: windows that move over the axes after the channels.

    ConvTranspose(x, w), stride s   ->   pixels of Conv(x, w'), s times as many channels for each axis, put side by side
    AveragePool(x)                  ->   avg_pool(x) * (window / elements that count)

The first: output pixel s m + t reads input pixel m + u through tap k where s u + k = t + pad, for every m alike. So
pixels of one phase t are a convolution over the u that occur for it, and all t together one with s times the channels: their
windows have the same number of taps, but begin at different u, and what is put side by side begins as much later.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from math import prod

import numpy as np

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.kernels import interleave
from onnxc.codegen.operators.node import Node, Refused, dtype_of, is_float, shape_of
from onnxc.codegen.operators.shape import cut, wanted_shape
from onnxc.codegen.operators.table import row

MOST_APART = 8  # phases of a transposed convolution that may be a convolution each
WASTE = 1.5  # taps that are zeros, as a multiple of those that are not, from which on they are
LAYOUTS = {1: ("NCW", "OIW"), 2: ("NCHW", "OIHW"), 3: ("NCDHW", "OIDHW")}


class Window:
    """The window of a node on input extents `sizes`: kernel, strides, dilations, and pads before and after each axis."""

    def __init__(self, n: Node, sizes: tuple[int, ...], kernel: tuple[int, ...], ceil: bool = False):
        rank = len(sizes)
        self.sizes, self.kernel = sizes, kernel
        self.strides = _numbers(n, "strides", rank, 1)
        self.dilations = _numbers(n, "dilations", rank, 1)
        how = n.choice("auto_pad", "NOTSET", "", "SAME_UPPER", "SAME_LOWER", "VALID")
        pads = n.attribute("pads") or [0] * (2 * rank)
        self.reach = [(k - 1) * d + 1 for k, d in zip(kernel, self.dilations, strict=True)]
        if how.startswith("SAME"):
            self.out = [-(-x // s) for x, s in zip(sizes, self.strides, strict=True)]
            total = [max((o - 1) * s + r - x, 0) for o, s, r, x in zip(self.out, self.strides, self.reach, sizes)]
            self.before = [t // 2 if how == "SAME_UPPER" else t - t // 2 for t in total]
            self.after = [t - b for t, b in zip(total, self.before, strict=True)]
        else:
            pads = [0] * (2 * rank) if how == "VALID" else pads
            self.before, self.after = list(pads[:rank]), list(pads[rank:])
            self.out = [self._extent(d, ceil) for d in range(rank)]
        if min(self.out, default=1) < 1:
            raise Refused("its window is larger than the tensor with its padding")

    def _extent(self, d: int, ceil: bool) -> int:
        """How often the window fits; with `ceil` it may stand out at the end, if it begins before the end padding."""
        room = self.sizes[d] + self.before[d] + self.after[d] - self.reach[d]
        if not ceil:
            return room // self.strides[d] + 1
        count = -(-room // self.strides[d]) + 1
        return count - ((count - 1) * self.strides[d] >= self.sizes[d] + self.before[d])

    @property
    def ends(self) -> list[int]:
        """Padding after each axis with which whole windows alone fit, as many as there are."""
        each = zip(self.out, self.strides, self.reach, self.sizes, self.before, strict=True)
        return [max((o - 1) * s + r - x - b, 0) for o, s, r, x, b in each]

    def counts(self, padding: bool) -> np.ndarray:
        """How many elements each window holds, an axis for each; with `padding` the model's own counts too."""
        parts = []
        for d, size in enumerate(self.sizes):
            at = np.arange(self.out[d])[:, None] * self.strides[d] + np.arange(self.kernel[d]) * self.dilations[d]
            at -= self.before[d]
            low, high = (-self.before[d], size + self.after[d]) if padding else (0, size)
            parts.append(((at >= low) & (at < high)).sum(1))
        return np.asarray(prod(np.ix_(*parts))) if len(parts) > 1 else parts[0]


def _numbers(n: Node, name: str, rank: int, default: int) -> list[int]:
    values = n.attribute(name)
    return [int(v) for v in values] if values else [default] * rank


def _kernel(n: Node, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The window's extents, which a weight has; an attribute that says otherwise is an error."""
    given = n.attribute("kernel_shape")
    if given and tuple(given) != tuple(sizes):
        raise Refused(f"attribute kernel_shape = {list(given)} disagrees with the weights, {list(sizes)}")
    return tuple(sizes)


@row("Conv")
def conv(n: Node, x, w, b=None):
    """Sums over channels of a group and a window; a bias for each output channel."""
    window = Window(n, shape_of(x)[2:], _kernel(n, shape_of(w)[2:]))
    return convolution(n, x, w, b, window, int(n.attribute("group", 1)))


def convolution(n: Node, x, w, b, window: Window, groups: int):
    """The convolution of x (n, c, ...) with w (oc, c / groups, ...), and its bias."""
    rank = len(window.sizes)
    if rank not in LAYOUTS:
        raise Refused(f"there is no convolution over {rank} axes")
    pads = [*window.before, *window.after]
    if min(pads) < 0:
        parts = {}
        for d, (before, after) in enumerate(zip(pads[:rank], pads[rank:], strict=True)):
            parts[2 + d] = (max(-before, 0), 1, shape_of(x)[2 + d] + min(before, 0) + min(after, 0))
        x, pads = cut(n, x, parts), [max(pad, 0) for pad in pads]
    names = LAYOUTS[rank]
    options = {"strides": window.strides, "padding": pads, "dilation": window.dilations, "groups": groups}
    made = n.do(f"nn.conv{rank}d", x, w, data_layout=names[0], kernel_layout=names[1], **options)
    return made if b is None else n.do("add", made, n.reshape(b, (1, shape_of(b)[0], *[1] * rank)))


@row("ConvInteger")
def conv_integer(n: Node, x, w, zero_x=None, zero_w=None):
    """The convolution of x - zero and w - zero, summed in int32; the padding holds the zero point."""
    whole = [n.cast(part, "int32") for part in (x, w)]
    for i, zero in enumerate((zero_x, zero_w)):
        if zero is not None:
            count = prod(shape_of(zero))
            shape = (count, *[1] * (len(shape_of(w)) - 1)) if count > 1 and i else ()
            whole[i] = n.do("subtract", whole[i], n.reshape(n.cast(zero, "int32"), shape))
    return conv(n, *whole)


@row("ConvTranspose")
def conv_transpose(n: Node, x, w, b=None):
    """The transposed convolution, w (c, oc / groups, ...): see the head of this file."""
    shape, weights = shape_of(x), shape_of(w)
    kernel, groups = _kernel(n, weights[2:]), int(n.attribute("group", 1))
    rank = len(kernel)
    strides, dilations = (_numbers(n, name, rank, 1) for name in ("strides", "dilations"))
    extra, goal = _numbers(n, "output_padding", rank, 0), n.attribute("output_shape")
    how = n.choice("auto_pad", "NOTSET", "", "SAME_UPPER", "SAME_LOWER", "VALID")
    pads = n.attribute("pads") or [0] * (2 * rank)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    whole = [s * (e - 1) + o + r for s, e, o, r in zip(strides, shape[2:], extra, reach, strict=True)]
    if goal or how.startswith("SAME"):
        out = list(goal[-rank:]) if goal else [e * s for e, s in zip(shape[2:], strides, strict=True)]
        total = [max(full - o, 0) for full, o in zip(whole, out, strict=True)]
        before = [t // 2 if how == "SAME_UPPER" else t - t // 2 for t in total]
    else:
        before, after = ([0] * rank, [0] * rank) if how == "VALID" else (pads[:rank], pads[rank:])
        out = [full - p - q for full, p, q in zip(whole, before, after, strict=True)]
    steps = [
        _Steps(e, k, s, d, p, o)
        for e, k, s, d, p, o in zip(shape[2:], kernel, strides, dilations, before, out, strict=True)
    ]
    return _Transposed(n, (x, w, b), steps, groups, out).run()


class _Steps:
    """How one axis of a transposed convolution is a convolution. Of each phase: `taps` (place in its window, tap) and
    `low`, where the window begins. Windows of a phase begin `shift` further on than the first does; there are `count` of them."""

    def __init__(self, extent: int, kernel: int, stride: int, dilation: int, before: int, out: int):
        self.extent, self.stride = extent, stride
        found: list[list[tuple[int, int]]] = [[] for _ in range(stride)]
        for phase, tap in itertools.product(range(stride), range(kernel)):
            offset = phase + before - tap * dilation
            if offset % stride == 0:
                found[phase].append((offset // stride, tap))
        self.low = [min((offset for offset, _ in own), default=0) for own in found]
        self.taps = [[(offset - low, tap) for offset, tap in own] for own, low in zip(found, self.low, strict=True)]
        self.widths = [max([place + 1 for place, _ in own], default=1) for own in self.taps]
        self.width = max(self.widths)
        self.shift = [low - min(self.low) for low in self.low]
        self.counts = [max(-(-(out - phase) // stride), 0) for phase in range(stride)]

    def window(self, phase: int | None) -> tuple[int, int, int]:
        """(padding before, after, windows) of one phase, or of all of them together."""
        if phase is not None:
            low, count, width = self.low[phase], self.counts[phase], self.widths[phase]
        else:
            low, count, width = min(self.low), max(c + s for c, s in zip(self.counts, self.shift)), self.width
        return -low, count - 1 + low + width - self.extent, count


class _Transposed:
    """A transposed convolution as a convolution with a channel for each phase, or for depthwise ones a convolution a phase."""

    def __init__(self, n: Node, operands: tuple, steps: list[_Steps], groups: int, out: list[int]):
        self.n, self.steps, self.groups = n, steps, groups
        self.x, self.w, self.b = operands
        self.shape, self.weights = shape_of(self.x), shape_of(self.w)
        self.strides = tuple(step.stride for step in steps)
        self.oc = self.weights[1] * groups
        self.result = (self.shape[0], self.oc, *out)

    def run(self):
        """The result."""
        phases, taps = list(itertools.product(*(range(s) for s in self.strides))), self.n.known(1)
        if taps is not None and self._apart(phases):
            kernels = [self._kernel(taps, [phase]) for phase in phases]
            parts = [self._convolved(kernel, self.b, phase) for kernel, phase in zip(kernels, phases, strict=True)]
            shifts = [(0,) * len(self.steps)] * len(phases)
        else:
            kernel = self._spread_at_run_time() if taps is None else self._kernel(taps, phases)
            parts = [self._convolved(kernel, self._bias(len(phases)), None)]
            shifts = [tuple(step.shift[a] for step, a in zip(self.steps, phase, strict=True)) for phase in phases]
        if len(phases) == 1:
            return parts[0]
        placed = interleave.Phases(self.result, self.strides, self.groups, tuple(shifts))
        return self.n.emit(interleave.call(self.n.builder, parts, placed, last=False))

    def _apart(self, phases: list) -> bool:
        """Whether a convolution a phase is better: depthwise ones have a kernel, and others may need far fewer taps."""
        if not 1 < len(phases) <= MOST_APART or not all(min(step.counts) for step in self.steps):
            return False
        own = sum(prod(step.widths[a] for step, a in zip(self.steps, phase, strict=True)) for phase in phases)
        together = len(phases) * prod(step.width for step in self.steps)
        return self.groups == self.shape[1] == self.oc or together > WASTE * own

    def _convolved(self, kernel, bias, phase: tuple[int, ...] | None):
        window = Window.__new__(Window)
        rank = len(self.steps)
        window.sizes, window.strides, window.dilations = self.shape[2:], [1] * rank, [1] * rank
        sides = [step.window(None if phase is None else phase[d]) for d, step in enumerate(self.steps)]
        window.before, window.after, window.out = ([side[i] for side in sides] for i in range(3))
        return convolution(self.n, self.x, kernel, bias, window, self.groups)

    def _kernel(self, taps: np.ndarray, phases: list[tuple[int, ...]]):
        """The weights of a convolution, and the integers that they are made of, where there is a scale for each output."""
        integers, each = self.n.integers(1), self.weights[1]
        if integers is not None:
            scale = np.broadcast_to(integers.scale, taps.shape).swapaxes(0, 1).reshape(each, -1)
            own = np.tile(scale[:, 0], self.groups * len(phases)).reshape(-1, *[1] * (taps.ndim - 1))
            plain = (scale == scale[:, :1]).all()
            integers = replace(integers, values=self._spread(integers.values, phases), scale=own) if plain else None
        return self.n.weight(self._spread(taps, phases), integers)

    def _spread(self, taps: np.ndarray, phases: list[tuple[int, ...]]) -> np.ndarray:
        """(groups, phases, oc / groups, c / groups, ...), the first three joined."""
        groups, inner, each = self.groups, self.shape[1] // self.groups, self.weights[1]
        small = taps.reshape(groups, inner, each, *self.weights[2:]).swapaxes(1, 2)
        widths = [
            step.width if len(phases) > 1 else step.widths[a] for step, a in zip(self.steps, phases[0], strict=True)
        ]
        spread = np.zeros((groups, len(phases), each, inner, *widths), taps.dtype)
        for number, phase in enumerate(phases):
            for at in itertools.product(*(step.taps[a] for step, a in zip(self.steps, phase, strict=True))):
                place, tap = zip(*at, strict=True)
                spread[(slice(None), number, slice(None), slice(None), *place)] = small[(..., *tap)]
        return spread.reshape(-1, *spread.shape[3:])

    def _bias(self, count: int):
        """The bias of each group's phases, one after the other."""
        if self.b is None:
            return None
        n, groups, each = self.n, self.groups, self.weights[1]
        known = n.known(2)
        if known is not None:
            return n.weight(np.repeat(known.reshape(groups, 1, each), count, axis=1).reshape(-1))
        wide = n.broadcast(n.reshape(self.b, (groups, 1, each)), (groups, count, each))
        return n.reshape(wide, (self.oc * count,))

    def _spread_at_run_time(self):
        """The same weights from weights that are computed."""
        each, inner, count = self.weights[1], self.shape[1] // self.groups, prod(self.strides)
        tables = []
        for step in self.steps:
            table = np.full((step.stride, step.width), -1, np.int32)
            for phase, own in enumerate(step.taps):
                for place, tap in own:
                    table[phase, place] = tap
            tables.append(self.n.weight(table))
        strides, tirx = self.strides, tvm.tirx

        def compute(t, *maps):
            def element(o, channel, *place):
                phases, rest = [], tirx.indexmod(tirx.indexdiv(o, each), count)
                for stride in reversed(strides):
                    phases.insert(0, tirx.indexmod(rest, stride))
                    rest = tirx.indexdiv(rest, stride)
                found = [m(phase, at) for m, phase, at in zip(maps, phases, place, strict=True)]
                source = tirx.indexdiv(o, each * count) * inner + channel
                value = t(source, tirx.indexmod(o, each), *(tirx.max(tap, 0) for tap in found))
                return tirx.Select(tirx.all(*(tap >= 0 for tap in found)), value, tirx.const(0, t.dtype))

            shape = (self.oc * count, inner, *(step.width for step in self.steps))
            return tvm.te.compute(shape, element, name="spread")

        return self.n.te(compute, self.w, *tables)


def _pool(n: Node, x, name: str, window: Window):
    """max or avg of whole windows, padding left out by max and counted by avg."""
    rank = len(window.sizes)
    if rank not in LAYOUTS:
        raise Refused(f"there is no pool over {rank} axes")
    pads, layout = [*window.before, *window.ends], LAYOUTS[rank][0]
    op = f"nn.{name}_pool{rank}d"
    return n.do(op, x, list(window.kernel), window.strides, pads, window.dilations, False, True, layout)


def _pool_window(n: Node, x) -> Window:
    kernel = n.attribute("kernel_shape")
    return Window(n, shape_of(x)[2:], tuple(int(k) for k in kernel), n.attribute("ceil_mode", 0) == 1)


@row("MaxPool")
def max_pool(n: Node, x):
    """The maximum of each window, and where it stands in the tensor."""
    window = _pool_window(n, x)
    order = n.attribute("storage_order", 0)
    made = _pool(n, x, "max", window)
    if len(n.outputs) < 2 or not n.outputs[1]:
        return made
    return made, _places(n, x, window, order)


def _places(n: Node, x, window: Window, columns_first: int):
    """The place of each window's first maximum in the tensor as a row of elements."""
    shape, rank, tirx = shape_of(x), len(window.sizes), tvm.tirx

    def better(a, b):
        first = tirx.any(a[1] > b[1], tirx.all(a[1] == b[1], a[0] < b[0]))
        return tirx.Select(first, a[0], b[0]), tirx.Select(first, a[1], b[1])

    reducer = tvm.te.comm_reducer(
        better, lambda index, value: (tirx.const(2**62, index), tirx.min_value(value)), name="place"
    )

    def compute(t):
        taps = [tvm.te.reduce_axis((0, k)) for k in window.kernel]

        def element(*index):
            each = zip(index[2:], taps, window.strides, window.dilations, window.before, strict=True)
            at = [i * s + k * d - b for i, k, s, d, b in each]
            inside = [test for a, size in zip(at, window.sizes, strict=True) for test in (a >= 0, a < size)]
            safe = [tirx.min(tirx.max(a, 0), size - 1) for a, size in zip(at, window.sizes, strict=True)]
            place = tirx.Cast("int64", index[0] * shape[1] + index[1])
            spatial = list(zip(safe, window.sizes, strict=True))
            inner = tirx.const(0, "int64")
            for a, size in spatial[::-1] if columns_first else spatial:
                inner = inner * size + tirx.Cast("int64", a)
            place = place * prod(window.sizes) + inner
            value = tirx.Select(tirx.all(*inside), t(*index[:2], *safe), tirx.min_value(t.dtype))
            place = tirx.Select(tirx.all(*inside), place, tirx.const(2**62, "int64"))
            return reducer((place, value), axis=taps)

        return tvm.te.compute((*shape[:2], *window.out), element, name="place")[0]

    return n.te(compute, x) if rank else None


@row("AveragePool")
def average_pool(n: Node, x):
    """The mean of each window, over the elements of the tensor in it, or those of its padding too."""
    window, padded = _pool_window(n, x), bool(n.attribute("count_include_pad", 0))
    made = _pool(n, x, "avg", window)
    factor = prod(window.kernel) / window.counts(padded)
    if (factor == 1).all():
        return made
    return n.do("multiply", made, n.weight(factor.astype(dtype_of(x)).reshape(1, 1, *window.out)))


@row("LpPool")
def lp_pool(n: Node, x):
    """The p-norm of each window."""
    window, p = _pool_window(n, x), int(n.attribute("p", 2))
    total = _pool(n, _powered(n, x, p), "avg", window)
    return _rooted(n, n.do("multiply", total, n.like(prod(window.kernel), x)), p)


def _powered(n: Node, x, p: int):
    x = n.do("abs", x)
    return x if p == 1 else n.do("multiply", x, x) if p == 2 else n.do("power", x, n.like(p, x))


def _rooted(n: Node, x, p: int):
    return x if p == 1 else n.do("sqrt", x) if p == 2 else n.do("power", x, n.like(1 / p, x))


@row("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(n: Node, x):
    """The mean, maximum or p-norm of each channel."""
    axes = list(range(2, len(shape_of(x))))
    if n.op == "GlobalLpPool":
        p = int(n.attribute("p", 2))
        return _rooted(n, n.do("sum", _powered(n, x, p), axes, True), p)
    return n.do("mean" if n.op == "GlobalAveragePool" else "max", x, axes, True)


@row("LRN")
def local_response(n: Node, x):
    """x / (bias + alpha / size * sum over `size` channels of x^2) ^ beta."""
    size, bias = int(n.attribute("size")), n.attribute("bias", 1.0)
    alpha, beta = n.attribute("alpha", 0.0001), n.attribute("beta", 0.75)
    if not is_float(x):
        raise Refused("it takes floats")
    before, channels, kind = (size - 1) // 2, shape_of(x)[1], dtype_of(x)

    def sums(t):
        run = tvm.te.reduce_axis((0, size))

        def element(batch, c, *rest):
            at = c + run - before
            value = t(batch, tvm.tirx.min(tvm.tirx.max(at, 0), channels - 1), *rest)
            inside = tvm.tirx.all(at >= 0, at < channels)
            return tvm.te.sum(tvm.tirx.Select(inside, value * value, tvm.tirx.const(0, kind)), axis=run)

        return tvm.te.compute(t.shape, element, name="squares")

    scale = n.do("add", n.do("multiply", n.te(sums, x), n.like(alpha / size, x)), n.like(bias, x))
    if beta == 0.75:
        root = n.do("sqrt", scale)
        return n.do("divide", x, n.do("multiply", root, n.do("sqrt", root)))
    return n.do("divide", x, n.do("power", scale, n.like(beta, x)))


@row("MaxUnpool")
def max_unpool(n: Node, x, places, *_):
    """Values put to the places that MaxPool has named, 0 elsewhere; a larger output shape has more zeros at its ends."""
    from onnxc.codegen.operators.scatter import scattered

    shape, inside = wanted_shape(n), _unpooled(n, shape_of(x))
    zeros = n.const(np.zeros((prod(inside),)), dtype_of(x))
    flat = n.reshape(x, (prod(shape_of(x)),))
    made = scattered(n, zeros, n.reshape(places, (prod(shape_of(x)), 1)), flat, 1, "none")
    made = n.reshape(made, inside)
    if inside == shape:
        return made
    if any(a > b for a, b in zip(inside, shape)):
        raise Refused(f"its output shape {list(shape)} is smaller than {list(inside)}, where its places are counted")
    return n.do("nn.pad", made, [v for a, b in zip(inside, shape) for v in (0, b - a)])


def _unpooled(n: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The tensor that places are counted in: what a pool with these attributes has read."""
    kernel = n.attribute("kernel_shape")
    rank = len(kernel)
    strides, pads = n.attribute("strides") or [1] * rank, n.attribute("pads") or [0] * 2 * rank
    each = zip(shape[2:], kernel, strides, pads[:rank], pads[rank:], strict=True)
    return (*shape[:2], *((x - 1) * s + k - before - after for x, k, s, before, after in each))
