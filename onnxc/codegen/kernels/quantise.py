"""The kernel that quantises float activations and packs their bits: (n, h, w, c) -> padded planes of words.

    binarise: bit = x >= 0          residual planes: bit k = r >= 0, r = r - s_k if it is set, else r + s_k, from r = x
    quantise: code = clip(round_half_even(x / scale), low, high), bit i = code >> i & 1

16 channels are compared at a time; the mask of the comparison is the 16 bits to be stored. The layout is
`planes.packed_shape`; its borders hold the code of the padding.
"""

from __future__ import annotations

from collections.abc import Callable

from onnxc.codegen.kernels import planes
from onnxc.codegen.kernels.spec import WORD, Encoding, PackSpec, words
from onnxc.codegen.kernels.tile import at

CHUNK = 16
NEVER = 1 << 16


def emit(spec: PackSpec, name: str):
    """The kernel as TIR: operands x, the scales if any, the packed activations."""
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            x = T.arg("x", T.buffer(spec.x_shape, "float32"))
            scale = T.arg("scale", T.buffer((spec.scales,), "float32")) if spec.scales else None
            shape = (*spec.shape[:-1], spec.shape[-1] * (WORD // CHUNK))
            packed = T.arg("y", T.buffer(spec.shape, "uint64"))
            T.func_attr({"tirx.noalias": True, "op_pattern": 8})
            with T.sblock("root"):  # Relax looks into it
                T.reads([])
                T.writes([])
                y = T.decl_buffer(shape, f"uint{CHUNK}", data=packed.data)
                _rows(spec, x, scale, y)
    return builder.get()


def _rows(spec: PackSpec, x, scale, y) -> None:
    """All padded rows, any of them by any thread."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    top, left, bottom, right = spec.pads
    _, _, rows, columns, _ = spec.shape

    def inside(n, row, line) -> None:
        if left:
            fill(spec, y, line, left)
        row_of(spec, x, scale, y, n, row)
        if right:
            fill(spec, y, line + left + spec.w, right)

    with (T.parallel if spec.threads > 1 else T.serial)(0, spec.n * rows) as index:
        row = index % rows - top
        if not top and not bottom:
            inside(index // rows, row, index * columns)
            return
        with T.If(tirx.all(row >= 0, row < spec.h)):
            with T.Then():
                inside(index // rows, row, index * columns)
            with T.Else():
                fill(spec, y, index * columns, columns)


def row_of(spec: PackSpec, x, scale, y, n, row) -> None:
    """The pixels of one row, without its padding."""
    from tvm.script.ir_builder import tirx as T

    top, left, _, _ = spec.pads
    _, _, rows, columns, _ = spec.shape
    with T.serial(0, spec.w) as column:
        place = (n * rows + top + row) * columns + left + column
        _pixel(spec, x, scale, y, (source_of(spec, n, row, column), place))


def source_of(spec: PackSpec, n, row, column):
    """The pixel of x that a packed one is made of."""
    height, width = (spec.h, spec.w) if spec.step == (1, 1) else spec.x_shape[1:3]
    return (n * height + row * spec.step[0]) * width + column * spec.step[1]


def borders(spec: PackSpec, y) -> None:
    """The padding alone: rows above and below, columns left and right; y in chunks of 16 bits."""
    from tvm.script.ir_builder import tirx as T

    top, left, bottom, right = spec.pads
    _, _, rows, columns, _ = spec.shape
    with T.serial(0, spec.n) as n:
        if top:
            fill(spec, y, n * rows * columns, top * columns)
        if left or right:
            with T.serial(0, spec.h) as row:
                line = (n * rows + top + row) * columns
                if left:
                    fill(spec, y, line, left)
                if right:
                    fill(spec, y, line + left + spec.w, right)
        if bottom:
            fill(spec, y, (n * rows + top + spec.h) * columns, bottom * columns)


def _chunks(spec: PackSpec) -> tuple[int, int, int]:
    """Chunks of a pixel in one group, those that are whole, and the channels of the one after them."""
    channels = spec.c // spec.groups
    return words(channels) * (WORD // CHUNK), channels // CHUNK, channels % CHUNK


def fill(spec: PackSpec, y, pixel, count: int) -> None:
    """`count` padded pixels from `pixel` on: the bits of the pad code in every channel that exists."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    chunks, whole, rest = _chunks(spec)
    code = planes.pad_code(spec.encoding, spec.pad_value)
    size = plane_size(spec)
    for plane in range(spec.encoding.bits):
        ones = (code >> plane) & 1
        with T.serial(0, count * spec.groups) as i:
            for chunk in range(chunks):
                value = ones * (0xFFFF if chunk < whole else (1 << rest) - 1 if chunk == whole else 0)
                place = plane * size + (pixel * spec.groups + i) * chunks + chunk
                T.buffer_store(y, tirx.const(value, "uint16"), at(y, place))


def plane_size(spec: PackSpec) -> int:
    """How many CHUNKs of bits a plane of packed activations has, padding included."""
    _, n, rows, columns, line = spec.shape
    return n * rows * columns * line * (WORD // CHUNK)


def _pixel(spec: PackSpec, x, scale, y, where: tuple) -> None:
    """The bits of one pixel."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    source, place = where
    chunks, whole, rest = _chunks(spec)
    channels, bits, size = spec.c // spec.groups, spec.encoding.bits, plane_size(spec)

    def read(channel, lanes: int) -> list:
        index = tirx.Ramp(source * spec.c + channel, 1, lanes) if lanes > 1 else source * spec.c + channel
        value = x[at(x, index)]
        return bit_tests(value, factors(spec, scale, channel, lanes), spec.encoding, (spec.low, spec.high), lanes)

    def store(group, chunk, values: list) -> None:
        for plane in range(bits):
            offset = plane * size + (place * spec.groups + group) * chunks + chunk
            T.buffer_store(y, values[plane], at(y, offset))

    with T.serial(0, spec.groups) as group:
        if whole:
            with T.serial(0, whole) as chunk:
                store(group, chunk, [as_mask(test, CHUNK) for test in read(group * channels + chunk * CHUNK, CHUNK)])
        if rest:
            store(group, whole, _tail(read, group * channels, channels, rest, bits))
        for chunk in range(whole + bool(rest), chunks):
            store(group, chunk, [tirx.const(0, "uint16")] * bits)


def _tail(read: Callable, base, channels: int, rest: int, bits: int) -> list:
    """The last `rest` channels as masks of 16 bits; where they can, vectors start earlier and are shifted."""
    from tvm import tirx

    def const(value: int):
        return tirx.const(value, "uint16")

    if channels >= CHUNK:
        return [as_mask(test, CHUNK) >> const(CHUNK - rest) for test in read(base + channels - CHUNK, CHUNK)]
    half = CHUNK // 2
    if rest >= half:
        low, high = read(base, half), read(base + rest - half, half)
        parts = [(tirx.Cast("uint16", as_mask(test, half)) for test in tests) for tests in (low, high)]
        return [a | (b << const(rest - half)) for a, b in zip(*parts, strict=True)]
    masks = [const(0)] * bits
    for channel in range(rest):
        for plane, test in enumerate(read(base + channel, 1)):
            masks[plane] = masks[plane] | tirx.Select(test, const(1 << channel), const(0))
    return masks


def _wide(value, lanes: int):
    from tvm import tirx

    return tirx.Broadcast(value, lanes) if lanes > 1 else value


def factors(spec: PackSpec, scale, channel, lanes: int):
    """What `bit_tests` wants of the buffer of scales for a vector of channels: a vector, one for each plane, or None."""
    from tvm import tirx

    if scale is None:
        return None
    if spec.encoding.levels == "residual":
        return [_wide(scale[plane], lanes) for plane in range(spec.encoding.bits)]
    ramp = tirx.Ramp(channel, 1, lanes) if lanes > 1 else channel
    return scale[ramp] if spec.scales > 1 else _wide(scale[0], lanes)


def bit_tests(value, scale, encoding: Encoding, limits: tuple[int, int], lanes: int) -> list:
    """For each plane the comparison that is true where its bit is set; `value` and `scale` are vectors of `lanes`."""
    from tvm import tirx

    def const(number, dtype: str):
        return _wide(tirx.const(number, dtype), lanes)

    if scale is None:
        return [value >= const(0.0, "float32")]
    if encoding.levels == "residual":
        tests = []
        for factor in scale:
            tests.append(value >= const(0.0, "float32"))
            value = value - tirx.Select(tests[-1], factor, const(0.0, "float32") - factor)
        return tests
    low, high = (const(float(limit), "float32") for limit in limits)
    above = const(float(1 << encoding.bits), "float32")  # keeps the low bits and makes the number positive
    number = tirx.min(tirx.max(tirx.round(value / scale), low), high) + above
    code = tirx.Cast(f"int32x{lanes}" if lanes > 1 else "int32", number)
    # With bit 16, which is never set, no test is one of a sign: LLVM 22 makes movmskps of that and under AVX-512 gives
    # it registers that this instruction cannot name.
    return [tirx.NE(code & const(NEVER | 1 << i, "int32"), const(0, "int32")) for i in range(encoding.bits)]


def as_mask(test, lanes: int):
    """A vector of 8 or 16 comparisons as an unsigned integer of as many bits, the first lane lowest."""
    from tvm import ir

    return ir.Call(ir.Op.get("tirx.reinterpret"), [test], ret_ty=f"uint{lanes}")
