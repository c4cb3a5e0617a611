"""Few-bit convolution by lookup: four input channels and a 4-bit code of weights give a sum from a table of 16 bytes.

    T[v] = sum_i 2^i popcount(X_i ^ v)      for the four bits X_i of each plane of x, every v of 0 .. 15 (& for and)
    S = sum of T[code of the weights] over the groups of four channels and the taps

which is the S of `planes`, so constants, epilogues and packed activations are those of bits.direct. A shuffle of bytes
(vpshufb, tbl) looks up as many output channels as a vector has bytes; what it costs does not depend on the bits of x.
Tables are built once for each pixel, in the workspace. Bytes take `steps_of` sums before they are added to 16 bits: two neighbours
as one number, low + 256 high, and high alone, of which low is left in the end. Where these sums find registers beside the bytes,
tiles are smaller; else they lie in memory.
Planes of weights are separate passes over the same tables, doubled between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from onnxc.codegen.kernels import bits, cost, planes
from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.int8_dot import ramp
from onnxc.codegen.kernels.result import packable
from onnxc.codegen.kernels.spec import Detail, KernelSpec, Refusal, Schedule
from onnxc.codegen.kernels.tile import ACCUMULATOR_BYTES, at, shared_grid
from onnxc.codegen.target import Target
from onnxc.codegen.tvm_api import features

NAME = "bits.lookup"
ENTRIES = 16
FLOATS = 16  # lanes of the epilogue
TABLE_BYTES = 1 << 21
LOOKED_UP = 11  # cycles of a vector of results
LOOSE = 16  # registers that a turn, unrolled, takes beside its sums
SHORT = 9  # sums of a byte up to which a turn is short, and sums of 16 bits are worth registers
FEW = 2  # times of emptying bytes up to which low is masked each time, not once
TABLE = 1.2  # cycles for a plane of four channels of a pixel


@dataclass(frozen=True)
class Shuffle(Detail):
    """A shuffle of bytes: LLVM's name of it by bytes of a vector, and the cycles of looking one vector up, of its codes, and of
    adding a vector of bytes to sums in memory, and in registers."""

    names: tuple[tuple[int, str], ...]
    cycles: float
    codes: float
    emptied: tuple[float, float]


SHUFFLES = {
    "x86_64": Shuffle(
        "x86_64", ((32, "llvm.x86.avx2.pshuf.b"), (16, "llvm.x86.ssse3.pshuf.b.128")), 0.65, 0.65, (2, 2)
    ),
    "aarch64": Shuffle("aarch64", ((16, "llvm.aarch64.neon.tbl1.v16i8"),), 1.0, 0.6, (3.6, 1)),
}  # with 512 bits vpshufb was slower on Zen 4
SLOW = {"cortex-a57", "cortex-a72", "cortex-a73"}  # where a tbl of 16 bytes takes a pipe for three cycles
SLOW_CYCLES = 2.0


def schedule(spec: KernelSpec, target: Target) -> Schedule | Refusal:
    """Takes packed activations of one to four unsigned or bipolar planes where looking up beats counting."""
    refusal = _refusal(spec, target)
    if refusal:
        return Refusal(NAME, refusal)
    plan = min(_tiles(spec, target), key=lambda plan: cycles(spec, plan, target))
    answer = packable(spec, replace(plan, lanes=FLOATS))
    return answer if isinstance(answer, Refusal) else plan


def _tiles(spec: KernelSpec, target: Target) -> Iterator[Schedule]:
    """The tiles that fit the registers."""
    channels = spec.oc // spec.groups
    width = max(n for n in _widths(target) if n <= channels)
    for vectors in range(1, min(4, channels // width) + 1):
        for height in range(1, min(12, spec.row) + 1):
            registers = height * vectors + 2 * vectors + 3
            if registers <= target.registers and height * vectors * width <= ACCUMULATOR_BYTES:
                yield Schedule(NAME, height, vectors, width, _shuffle_of(target))


def _shuffle_of(target: Target) -> Shuffle:
    how = SHUFFLES[target.arch]
    return replace(how, cycles=SLOW_CYCLES) if dict(target.tvm).get("mcpu") in SLOW else how


def cycles(spec: KernelSpec, plan: Schedule, target: Target) -> float:
    """Predicted cycles. A vector's bytes are emptied into 16 bits before they overflow, for each plane of weights."""
    held = 3 * plan.tile + 2 * plan.vectors + LOOSE <= target.registers and steps_of(spec) <= SHORT
    emptied = _how(plan).emptied[held]
    four = -(-(spec.c // spec.groups) // 4)
    _, images, rows, columns, _ = planes.packed_shape(spec)
    return cost.tiled(
        spec, plan, steps=spec.kh * spec.kw * four * spec.weight.bits, groups=spec.groups,
        step=plan.tile * _how(plan).cycles + plan.vectors * _how(plan).codes,
        finish=LOOKED_UP + emptied * spec.weight.bits * -(-spec.kh * spec.kw * four // steps_of(spec)),
        before=images * rows * columns * spec.groups * four * TABLE * spec.activation.bits, looks_up=True,
    )  # fmt: skip


def _how(plan: Schedule) -> Shuffle:
    assert isinstance(plan.detail, Shuffle)
    return plan.detail


def _refusal(spec: KernelSpec, target: Target) -> str:
    a = spec.activation
    if a.kind != "bits" or spec.weight.kind != "bits":
        return f"takes packed bits only, not {a.text()} x {spec.weight.text()}"
    if a.levels not in ("unsigned", "bipolar") or a.bits > 4:
        return f"takes up to four unsigned or bipolar planes, not {a.text()}"
    if not spec.macs:
        return "has an extent of zero"
    depth = spec.kh * spec.kw * (spec.c // spec.groups)
    if depth * ((1 << a.bits) - 1) >= 1 << 15:
        return f"sums in 16 bits, which {depth} products of {a.bits} bits exceed"
    widths = _widths(target)
    if not widths:
        return f"needs a shuffle of bytes, which {target.name} lacks"
    if spec.oc // spec.groups < min(widths):
        return f"needs {min(widths)} output channels, found {spec.oc // spec.groups}"
    if table_bytes(spec) > TABLE_BYTES:
        return f"its tables would take {table_bytes(spec)} bytes, more than the {TABLE_BYTES} that caches keep at hand"
    return ""


def _widths(target: Target) -> list[int]:
    has = features(target)
    if target.arch == "x86_64":
        return [width for width, feature in ((32, "avx2"), (16, "ssse3")) if feature in has]
    return [16] if target.arch == "aarch64" and "neon" in has and target.lanes == 4 else []


def table_bytes(spec: KernelSpec) -> int:
    """Bytes of the tables of all pixels."""
    _, images, rows, columns, _ = planes.packed_shape(spec)
    return images * rows * columns * spec.groups * -(-(spec.c // spec.groups) // 4) * ENTRIES


def _groups(spec: KernelSpec) -> tuple[int, int]:
    """Taps in a row that are loops of their own, and groups of four channels in one turn of that loop."""
    four = -(-(spec.c // spec.groups) // 4)
    joined = spec.groups == 1 and spec.dilation[1] == 1
    return (1, spec.kw * four) if joined else (spec.kw, four)


def steps_of(spec: KernelSpec) -> int:
    """Sums that a byte can hold."""
    return 255 // (4 * ((1 << spec.activation.bits) - 1))


def pack(spec: KernelSpec, plan: Schedule, weights: np.ndarray) -> np.ndarray:
    """Integers (oc, c/groups, kh, kw) -> codes of four channels, two to a byte, and the table of counts, as uint8.

    Codes stand as (groups, blocks, planes, kh, taps, pairs of steps, vectors, lanes), the first step of a pair low. Lanes
    hold a channel of the first half of a vector and one of the second half in turns.
    """
    oc, c = spec.oc // spec.groups, spec.c // spec.groups
    taps, steps = _groups(spec)
    codes = planes.codes_of(spec.weight, weights).transpose(0, 2, 3, 1)  # oc, kh, kw, c
    codes = np.pad(codes, [(0, 0)] * 3 + [(0, -c % 4)]).reshape(spec.oc, spec.kh, spec.kw, -1, 4)
    shifts = np.arange(4, dtype=np.uint8)
    fours = np.stack([(((codes >> j) & 1) << shifts).sum(-1, dtype=np.uint8) for j in range(spec.weight.bits)])
    fours = fours.reshape(spec.weight.bits, spec.groups, oc, spec.kh, taps, steps)
    fours = np.pad(fours, [(0, 0)] * 5 + [(0, steps % 2)])
    pairs = fours[..., 0::2] | fours[..., 1::2] << 4
    starts = np.minimum(np.arange(-(-oc // plan.block)) * plan.block, oc - plan.block)
    lane = np.arange(plan.block).reshape(plan.vectors, 2, -1).swapaxes(1, 2).reshape(-1)  # see _widen
    rows = starts[:, None] + lane
    blocks = pairs[:, :, rows].transpose(1, 2, 0, 4, 5, 6, 3)
    return np.concatenate([blocks.reshape(-1), counts(spec).reshape(-1)])


def counts(spec: KernelSpec) -> np.ndarray:
    """(16, 16) uint8: the bits of u ^ v, or of u & v, at [u, v]."""
    u, v = np.indices((ENTRIES, ENTRIES))
    met = u ^ v if planes.counts_xor(spec) else u & v
    return np.bitwise_count(met.astype(np.uint8))


def packed_size(spec: KernelSpec, plan: Schedule) -> int:
    """Bytes of codes, ahead of the table of counts."""
    taps, steps = _groups(spec)
    blocks = -(-spec.oc // spec.groups // plan.block)
    return spec.groups * blocks * spec.weight.bits * spec.kh * taps * -(-steps // 2) * plan.block


def pack_key(spec: KernelSpec, plan: Schedule) -> tuple:
    """What `pack` depends on; the table of counts depends on the levels, and pairs of steps on the dilation."""
    return (spec.groups, spec.weight, planes.counts_xor(spec), _groups(spec), plan.block, plan.vectors)


def emit(spec: KernelSpec, plan: Schedule, name: str):
    """The kernel as TIR: operands x, weights, constants, the epilogue's operands, y, the packed result."""
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            x = T.arg("x", T.buffer(planes.packed_shape(spec), "uint64"))
            w = T.arg("w", T.buffer((packed_size(spec, plan) + ENTRIES * ENTRIES,), "uint8"))
            read, out = bits.declare_rest(spec, FLOATS)
            table = _build(spec, plan, x, w)
            _loops(spec, plan, table, w, read, out)
    return builder.get()


def _build(spec: KernelSpec, plan: Schedule, x, w):
    """The tables of all pixels: (pixels, groups, groups of four channels, 16) uint8."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    _, images, rows, columns, line = planes.packed_shape(spec)
    four = -(-(spec.c // spec.groups) // 4)
    depth = line // spec.groups
    pixels, size = images * rows * columns, packed_size(spec, plan)
    table = T.alloc_buffer((table_bytes(spec),), "uint8")
    with shared_grid(spec.threads, pixels, spec.groups) as (pixel, g):
        for word in range(depth):
            with T.serial(0, min(16, four - 16 * word)) as k:
                total = None
                for plane in reversed(range(spec.activation.bits)):
                    bits_ = x[at(x, (plane * pixels + pixel) * line + g * depth + word)]
                    code = (bits_ >> tirx.Cast("uint64", k * 4)) & tirx.const(15, "uint64")
                    found = w[[ramp(size + tirx.Cast("int32", code) * ENTRIES, ENTRIES)]]
                    total = found if total is None else total + total + found
                to = ((pixel * spec.groups + g) * four + 16 * word + k) * ENTRIES
                T.buffer_store(table, total, [ramp(to, ENTRIES)])
    return table


def _loops(spec: KernelSpec, plan: Schedule, table, w, read: tuple, out) -> None:
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    flat = spec.pointwise and not out.padded
    images, oh, ow = (1, 1, spec.n * spec.h * spec.w) if flat else (spec.n, spec.oh, spec.ow)
    oc, planes_ = spec.oc // spec.groups, spec.weight.bits
    blocks, tiles = -(-oc // plan.block), -(-ow // plan.pixels)
    height = min(plan.pixels, ow)
    plan = replace(plan, pixels=height)
    with shared_grid(spec.threads, spec.groups, blocks, images, oh, tiles) as (g, block, n, row, tile):
        sums = T.alloc_buffer((plan.pixels * plan.block,), "int16")
        direct = planes_ == 1 and not planes.negative(spec.weight, 0)
        total = sums if direct else T.alloc_buffer((plan.pixels * plan.block,), "int32")
        first = tirx.min(tile * plan.pixels, ow - plan.pixels)
        channel0 = g * oc + tirx.min(block * plan.block, oc - plan.block)
        for number, plane in enumerate(reversed(range(planes_))):
            _fill(plan, sums, "int16")
            _plane(spec, plan, sums, table, w, (g, (g * blocks + block) * planes_ + plane, n, row, first, flat))
            if not direct:
                _add_plane(plan, total, sums, number == 0, planes.negative(spec.weight, plane))
        lanes = replace(plan, vectors=plan.block // FLOATS, lanes=FLOATS)
        where = (n, row, first, channel0, oh, ow)
        bits.store_tile(spec, lanes, lambda index: tirx.Cast("int32x16", total[index]), read, out, where)


def _fill(plan: Schedule, buffer, kind: str) -> None:
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    for i in range(plan.pixels * plan.vectors):
        T.buffer_store(buffer, tirx.Broadcast(tirx.const(0, kind), plan.lanes), [ramp(i * plan.lanes, plan.lanes)])


def _add_plane(plan: Schedule, total, sums, fresh: bool, negative: bool) -> None:
    """total = 2 total +- sums."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    for i in range(plan.pixels * plan.block // FLOATS):
        here = [ramp(i * FLOATS, FLOATS)]
        value = tirx.Cast(f"int32x{FLOATS}", sums[here])
        if fresh:
            value = tirx.Broadcast(tirx.const(0, "int32"), FLOATS) - value if negative else value
        else:
            value = total[here] + total[here] - value if negative else total[here] + total[here] + value
        T.buffer_store(total, value, here)


def _plane(spec: KernelSpec, plan: Schedule, sums, table, w, where: tuple) -> None:
    """sums += T[codes] over kh, taps and steps for one plane of weights."""
    from tvm.script.ir_builder import tirx as T

    g, packed, n, row, first, flat = where
    _, images, rows, columns, _ = planes.packed_shape(spec)
    four = -(-(spec.c // spec.groups) // 4)
    taps, steps = _groups(spec)
    if flat:
        rows, columns = 1, images * rows * columns
    pairs = -(-steps // 2)
    most = max(steps_of(spec) // 2, 1)
    parts = -(-(steps // 2) // most) if steps > 1 else 0
    size = -(-(steps // 2) // parts) if parts else 0
    whole, rest = divmod(steps // 2, size) if size else (0, 0)
    often = spec.kh * taps * (whole + bool(rest) + steps % 2) > FEW
    acc = T.alloc_buffer((plan.pixels * plan.block,), "uint8")
    with T.grid(spec.kh, taps) as (kh, kw):
        line = (n * rows + row * spec.stride[0] + kh * spec.dilation[0]) * columns
        base = ((packed * spec.kh + kh) * taps + kw) * pairs

        def source(pixel: int):
            column = (first + pixel) * spec.stride[1] + kw * spec.dilation[1]
            return ((line + column) * spec.groups + g) * four * ENTRIES

        def chunk(start, count: int, odd: bool = False) -> None:
            _fill(plan, acc, "uint8")
            with T.serial(0, count) as k:
                _pair(plan, acc, table, w, (source, base + start + k, (start + k) * 2), odd)
            _widen(plan, sums, acc, often)

        if whole:
            with T.serial(0, whole) as part:
                chunk(part * size, size)
        if rest:
            chunk(whole * size, rest)
        if steps % 2:
            chunk(steps // 2, 1, odd=True)
    if often:
        _leave_low(plan, sums)


def _pair(plan: Schedule, acc, table, w, where: tuple, odd: bool) -> None:
    """Two steps, whose codes share bytes; the first alone if `odd`."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    source, pair, step = where
    mask = tirx.Broadcast(tirx.const(15, "uint8"), plan.lanes)
    four = tirx.Broadcast(tirx.const(4, "uint8"), plan.lanes)
    shuffle = _shuffle(plan)
    for pixel in range(plan.pixels):
        for vector in range(plan.vectors):
            codes = w[[ramp((pair * plan.vectors + vector) * plan.lanes, plan.lanes)]]
            found = None
            for half in range(1 if odd else 2):
                row = _repeated(table[[ramp(source(pixel) + (step + half) * ENTRIES, ENTRIES)]], plan.lanes)
                one = shuffle(row, (codes >> four) if half else (codes & mask))
                found = one if found is None else found + one
            here = [ramp((pixel * plan.vectors + vector) * plan.lanes, plan.lanes)]
            T.buffer_store(acc, acc[here] + found, here)


def _repeated(row, lanes: int):
    """16 bytes in every 128 bits of a vector."""
    from tvm import tirx

    if lanes == ENTRIES:
        return row
    return tirx.Shuffle([row] * (lanes // ENTRIES), [tirx.const(i, "int32") for i in range(lanes)])


def _shuffle(plan: Schedule) -> Callable:
    from tvm import tirx

    kind, name = f"uint8x{plan.lanes}", dict(_how(plan).names)[plan.lanes]
    return lambda row, code: tirx.call_llvm_pure_intrin(kind, name, row, code)


def _widen(plan: Schedule, sums, acc, often: bool) -> None:
    """sums += acc, bytes to 16 bits: those of even and those of odd lanes, whose channels `pack` has told apart.

    With `often` sums of even lanes have 256 times those of odd ones in them, modulo 2^16, until `_leave_low`.
    """
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    half = plan.lanes // 2

    def const(value: int):
        return tirx.Broadcast(tirx.const(value, "uint16"), half)

    for i in range(plan.pixels * plan.vectors):
        pairs = tirx.reinterpret(f"uint16x{half}", acc[[ramp(i * plan.lanes, plan.lanes)]])
        for k, part in enumerate((pairs if often else pairs & const(255), pairs >> const(8))):
            here = [ramp(i * plan.lanes + k * half, half)]
            T.buffer_store(sums, sums[here] + tirx.Cast(f"int16x{half}", part), here)


def _leave_low(plan: Schedule, sums) -> None:
    """sums of even lanes -= 256 times those of odd ones."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    half = plan.lanes // 2
    for i in range(plan.pixels * plan.vectors):
        low, high = ([ramp(i * plan.lanes + k * half, half)] for k in range(2))
        T.buffer_store(sums, sums[low] - (sums[high] << tirx.Broadcast(tirx.const(8, "int16"), half)), low)


FAMILY = Family(NAME, schedule, emit, pack, cycles, pack_key, bits.tables, packs=True)
