"""Pools of any window, an axis after the other, on a strip of the tensor with its padding in the workspace.

    max over 13 x 13   ->   max over 13 rows, then over 13 columns: of 2, of 4, then 4 of those

A strip lies in one row of elements, so that a step along an axis is the same distance everywhere: strip[i] = max(strip[i],
strip[i + distance]) over all of it in vectors. What is computed for places where no window begins is not used. With
doubling a maximum over k needs log2(k) steps (van Herk's and Gil and Werman's algorithms need three, but none of them
in vectors). Sums are added one by one, as sums of sums would need as many steps for odd k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from onnxc.codegen.kernels.transpose import shuffled
from onnxc.codegen.kernels.vectors import flat, function, shared, span, splat, sweep
from onnxc.codegen.tvm_api import script_builder, tvm_modules

STRIP_BYTES = 1 << 15
DIRECT = 6  # operands of one step
FEW_TAPS = 4  # so many are read one by one


@dataclass(frozen=True)
class Pool:
    """A pool of x (outer, *sizes, inner) -> (outer, *out, inner)."""

    most: bool
    outer: int
    inner: int
    sizes: tuple[int, ...]
    out: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    kind: str


def legalise(lanes: int, instead: Callable, builder, call):
    """max_pool or avg_pool (its padding counted); `instead` where there are few taps, which are best read one by one."""
    name = call.op.name.rsplit(".", 1)[1]
    x, a = call.args[0], call.attrs
    shape, result = ([int(e) for e in t.shape.values] for t in (x.ty, call.ty))
    rank, last = len(shape) - 2, not str(a.layout).startswith("NC")
    spatial = slice(1, -1) if last else slice(2, None)
    kernel, strides, dilations, pads = (
        tuple(int(v) for v in part) for part in (a.pool_size, a.strides, a.dilation, a.padding)
    )
    outer, inner = (shape[0], shape[-1]) if last else (shape[0] * shape[1], 1)
    spec = Pool(
        name.startswith("max"), outer, inner, tuple(shape[spatial]), tuple(result[spatial]), kernel, strides, dilations,
        pads[:rank], str(x.ty.dtype),
    )  # fmt: skip
    taps = prod(spec.kernel)
    few = FEW_TAPS if spec.inner == 1 else 9
    counted = spec.most or (bool(a.count_include_pad) and spec.kind == "float32")
    if taps <= few or not counted or lanes < 2 or 0 in shape or spec.kind in ("bool", "float64") or rank > 3:
        return instead(builder, call)
    return function(builder, [x], (result, spec.kind), name, lambda a, b: _Strips(spec, lanes).emit(a, b))


class _Strips:
    """The loops of one pool. A strip is `rows` outputs of the first axis, and `block` of the inner elements."""

    def __init__(self, spec: Pool, lanes: int):
        self.spec, self.lanes = spec, lanes
        self.block = min(spec.inner, lanes)
        reach = [(k - 1) * d + 1 for k, d in zip(spec.kernel, spec.dilations, strict=True)]
        self.wide = [(o - 1) * s + r for o, s, r in zip(spec.out, spec.strides, reach, strict=True)]
        self.line = prod(self.wide[1:]) * self.block
        most = max(1, STRIP_BYTES // (4 * self.line))
        self.rows = spec.out[0]
        while self.rows > 1 and (self.rows - 1) * spec.strides[0] + reach[0] > most:
            self.rows = -(-self.rows // 2)
        self.wide[0] = (self.rows - 1) * spec.strides[0] + reach[0]
        self.steps = [prod(self.wide[d + 1 :]) * self.block for d in range(len(self.wide))]
        self.held = self.wide[0] * self.line
        self.slack = max((r - 1) * step for r, step in zip(reach, self.steps)) + lanes

    def emit(self, x, y) -> None:
        """All strips."""
        tirx = tvm_modules().tirx
        T, _ = script_builder()
        spec = self.spec
        blocks, strips = -(-spec.inner // self.block), -(-spec.out[0] // self.rows)
        with shared(spec.outer * blocks * strips, spec.outer * spec.inner * prod(spec.sizes)) as turn:
            at = tirx.indexdiv(turn, blocks * strips)
            inner = tirx.min(tirx.indexmod(tirx.indexdiv(turn, strips), blocks) * self.block, spec.inner - self.block)
            first = tirx.min(tirx.indexmod(turn, strips) * self.rows, spec.out[0] - self.rows)
            strip = T.alloc_buffer((self.held + self.slack,), spec.kind)
            self._fill(x, strip, at, inner, first)
            for d, (k, step) in enumerate(zip(spec.kernel, self.steps, strict=True)):
                self._slide(strip, k, step * spec.dilations[d])
            self._store(y, strip, at, inner, first)

    def _fill(self, x, strip, at, inner, first) -> None:
        """The tensor's elements of a strip, and what changes nothing around them."""
        tirx = tvm_modules().tirx
        T, _ = script_builder()
        spec, kind = self.spec, self.spec.kind
        nothing = tirx.const(0, kind) if not spec.most else tirx.min_value(kind)
        if spec.most and "float" in kind:
            nothing = tirx.const(float("-inf"), kind)
        sweep(
            self.held + self.slack, self.lanes,
            lambda place, width: T.buffer_store(strip, splat(nothing, width), [span(place, width)]),
        )  # fmt: skip
        joined = self.block == spec.inner  # a line of the last axis lies side by side
        size, begin = spec.sizes[-1], spec.before[-1]
        begin, length = (begin, min(size, self.wide[-1] - begin)) if len(self.wide) > 1 else (begin, size)
        middle = spec.sizes[1:-1]

        def line(source, target) -> None:
            """A line of the last axis from element `source` of x on."""
            if joined:
                sweep(
                    length * self.block, self.lanes,
                    lambda place, width: T.buffer_store(
                        strip, x[tuple(flat(x, span(source + place, width)))], [span(target + place, width)]
                    ),
                )  # fmt: skip
                return
            with T.serial(0, length) as i:
                here = x[tuple(flat(x, span(source + i * spec.inner, self.block)))]
                T.buffer_store(strip, here, [span(target + i * self.block, self.block)])

        if len(self.wide) == 1:
            with T.serial(0, self.wide[0]) as i:
                place = first * spec.strides[0] + i - spec.before[0]
                with T.If(tirx.all(place >= 0, place < size)), T.Then():
                    here = x[tuple(flat(x, span((at * size + place) * spec.inner + inner, self.block)))]
                    T.buffer_store(strip, here, [span(i * self.block, self.block)])
            return
        with T.serial(0, self.wide[0]) as i:
            place = first * spec.strides[0] + i - spec.before[0]
            with T.If(tirx.all(place >= 0, place < spec.sizes[0])), T.Then():
                counts = [min(s, w - b) for s, w, b in zip(middle, self.wide[1:-1], spec.before[1:-1])]
                with T.grid(1, *counts, 1) as (_, *inside, _):
                    source, target = at * spec.sizes[0] + place, i * self.steps[0]
                    for d, j in enumerate(inside, start=1):
                        source = source * spec.sizes[d] + j
                        target = target + (j + spec.before[d]) * self.steps[d]
                    line(source * size * spec.inner + inner, target + begin * self.block)

    def _slide(self, strip, k: int, apart: int) -> None:
        """strip[i] over k elements that stand `apart`, for all i."""
        tirx = tvm_modules().tirx
        T, _ = script_builder()
        most = self.spec.most

        def step(shifts: list[int]) -> None:
            def one(place, width) -> None:
                value = None
                for shift in shifts:
                    other = strip[span(place + shift * apart, width)]
                    value = other if value is None else tirx.max(value, other) if most else value + other
                T.buffer_store(strip, value, [span(place, width)])

            sweep(-(-self.held // self.lanes) * self.lanes, self.lanes, one)

        if k == 1:
            return
        held = 1
        while most and -(-k // held) > DIRECT:
            step([0, held])
            held *= 2
        step([min(i * held, k - held) for i in range(-(-k // held))])

    def _store(self, y, strip, at, inner, first) -> None:
        """What stands where windows begin."""
        tirx = tvm_modules().tirx
        T, _ = script_builder()
        spec, rank = self.spec, len(self.wide)
        factor = None if spec.most else tirx.const(1 / prod(spec.kernel), spec.kind)

        def put(source, target, width: int, stride: int = 1) -> None:
            if stride > 1 and width > 1:
                vectors = [T.bind(strip[span(source + i * width, width)]) for i in range(stride)]
                value = shuffled(vectors, [i * stride for i in range(width)])
            else:
                value = strip[span(source, width)]
            T.buffer_store(y, value if factor is None else value * splat(factor, width), flat(y, span(target, width)))

        loops = [self.rows, *spec.out[1:]]
        if spec.inner == 1:
            loops.pop()
        with T.grid(1, *loops, 1) as (_, *index, _):
            source, target = 0, at
            for d, i in enumerate(index):
                source = source + i * spec.strides[d] * self.steps[d]
                target = target * spec.out[d] + (i + first if d == 0 else i)
            if spec.inner > 1:
                put(source, target * spec.inner + inner, self.block)
                return
            length, stride = (spec.out[-1] if rank > 1 else self.rows), spec.strides[-1]
            target = target * spec.out[-1] + (0 if rank > 1 else first)
            sweep(length, self.lanes, lambda place, width: put(source + place * stride, target + place, width, stride))
