"""Convolutions and pools: windows that move over the axes after the channels.

    ConvTranspose(x, w), stride s   ->   pixels of Conv(x, w'), s times as many channels for each axis, put side by side
    AveragePool(x)                  ->   avg_pool(x) * (window / elements that count)

The first: output pixel s m + t reads input pixel m + u through tap k where s u + k = t + pad, for every m alike. So
pixels of one t are a convolution, and all t together one with s times the channels, whose window holds every u that occurs.
"""

from __future__ import annotations

import itertools
from math import prod

import numpy as np

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.node import Node, Refused, dtype_of, is_float, shape_of
from onnxc.codegen.operators.shape import cut, wanted_shape
from onnxc.codegen.operators.table import row

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
    taps = n.known(1)
    oc = weights[1] * groups
    steps = [
        _phases(e, k, s, d, p, o)
        for e, k, s, d, p, o in zip(shape[2:], kernel, strides, dilations, before, out, strict=True)
    ]
    if taps is None:
        kernels = _spread_at_run_time(n, w, steps, groups)
    else:
        small = taps.reshape(groups, shape[1] // groups, weights[1], *kernel).swapaxes(1, 2)
        places = [len(step.places) for step in steps]
        spread = np.zeros((groups, weights[1], *strides, shape[1] // groups, *places), taps.dtype)
        for at in itertools.product(*(step.taps for step in steps)):
            phase, place, tap = zip(*at, strict=True)
            spread[(slice(None), slice(None), *phase, slice(None), *place)] = small[(..., *tap)]
        kernels = n.weight(spread.reshape(oc * prod(strides), shape[1] // groups, *places))
    window = Window.__new__(Window)
    window.sizes, window.kernel, window.strides, window.dilations = shape[2:], kernel, [1] * rank, [1] * rank
    window.before, window.after = [s.before for s in steps], [s.after for s in steps]
    window.out = [s.count for s in steps]
    bias = None
    if b is not None:
        known = n.known(2)
        if known is not None:
            bias = n.weight(np.repeat(known, prod(strides)))
        else:
            bias = n.reshape(n.broadcast(n.reshape(b, (oc, 1)), (oc, prod(strides))), (oc * prod(strides),))
    made = convolution(n, x, kernels, bias, window, groups)
    if prod(strides) > 1:
        made = n.reshape(made, (shape[0], oc, *strides, *window.out))
        order = [0, 1, *(axis for d in range(rank) for axis in (2 + rank + d, 2 + d))]
        made = n.do("permute_dims", made, order)
        made = n.reshape(made, (shape[0], oc, *(s * o for s, o in zip(strides, window.out, strict=True))))
    return cut(n, made, {2 + d: (0, 1, extent) for d, extent in enumerate(out)})


def _spread_at_run_time(n: Node, w, steps: list, groups: int):
    """The weights of the convolution from weights that are computed."""
    c, each, *_ = shape_of(w)
    tables = []
    for step in steps:
        table = np.full((step.stride, len(step.places)), -1, np.int32)
        for phase, place, tap in step.taps:
            table[phase, place] = tap
        tables.append(n.weight(table))
    strides, places = [step.stride for step in steps], [len(step.places) for step in steps]

    def compute(t, *maps):
        def element(o, channel, *place):
            phases, rest = [], o
            for stride in reversed(strides):
                phases.insert(0, tvm.tirx.indexmod(rest, stride))
                rest = tvm.tirx.indexdiv(rest, stride)
            found = [m(phase, at) for m, phase, at in zip(maps, phases, place, strict=True)]
            source = tvm.tirx.indexdiv(rest, each) * (c // groups) + channel
            value = t(source, tvm.tirx.indexmod(rest, each), *(tvm.tirx.max(tap, 0) for tap in found))
            return tvm.tirx.Select(tvm.tirx.all(*(tap >= 0 for tap in found)), value, tvm.tirx.const(0, t.dtype))

        return tvm.te.compute((each * groups * prod(strides), c // groups, *places), element, name="spread")

    return n.te(compute, w, *tables)


class _phases:
    """How one axis of a transposed convolution is a convolution: which (phase, place in the window, tap) belong together,
    the window's places, the padding, and how many windows there are."""

    def __init__(self, extent: int, kernel: int, stride: int, dilation: int, before: int, out: int):
        self.stride, self.count = stride, -(-out // stride)
        found = []
        for phase, tap in itertools.product(range(stride), range(kernel)):
            offset = phase + before - tap * dilation
            if offset % stride == 0:
                found.append((phase, offset // stride, tap))
        offsets = [offset for _, offset, _ in found] or [0]
        low, high = min(offsets), max(offsets)
        self.places = range(low, high + 1)
        self.taps = [(phase, offset - low, tap) for phase, offset, tap in found]
        self.before, self.after = -low, self.count - 1 + high - (extent - 1)


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
    return Window(n, shape_of(x)[2:], tuple(int(k) for k in kernel), bool(n.attribute("ceil_mode", 0)))


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
    """Values put to the places that MaxPool has named, 0 elsewhere."""
    for name in ("kernel_shape", "pads", "strides"):
        n.attribute(name)
    from onnxc.codegen.operators.scatter import scattered

    shape = wanted_shape(n)
    zeros = n.const(np.zeros((prod(shape),)), dtype_of(x))
    flat = n.reshape(x, (prod(shape_of(x)),))
    made = scattered(n, zeros, n.reshape(places, (prod(shape_of(x)), 1)), flat, 1, "none")
    return n.reshape(made, shape)
