"""What a tiled kernel does with a vector of finished numbers: store it, quantise and pack it for its reader, or both.

    y[pixel, c : c + lanes] = v;   packed[plane, padded pixel, bits c : c + lanes] = mask of v's bit `plane`

The mask of a comparison of 8 or 16 lanes is a byte or two of the packed tensor, so a tile needs no word of its neighbour.
"""

from __future__ import annotations

from onnxc.codegen.kernels import quantise
from onnxc.codegen.kernels.spec import WORD, KernelSpec, Refusal, Schedule
from onnxc.codegen.kernels.tile import at


def packable(spec: KernelSpec, plan: Schedule) -> Schedule | Refusal:
    """`plan`, or why a kernel so tiled cannot pack its own result if it is to."""
    pack, lanes, channels = spec.packed, plan.lanes, spec.oc // spec.groups
    reason = ""
    if pack is None:
        return plan
    if lanes not in (8, 16):
        reason = f"packs its result in vectors of 8 or 16 only, not {lanes}"
    elif channels % lanes:
        reason = f"packs multiples of {lanes} channels only, not {channels}"
    elif pack.groups > 1 and pack.c // pack.groups % WORD:
        reason = f"packs for groups of whole words only, not of {pack.c // pack.groups} channels"
    return Refusal(plan.rule, reason) if reason else plan


def vector_of(start, lanes: int):
    """The indices start, start + 1, ... of a vector."""
    from tvm import tirx

    return tirx.Ramp(start, 1, lanes) if lanes > 1 else start


def wide(value, lanes: int):
    """`value` in every lane."""
    from tvm import tirx

    return tirx.Broadcast(value, lanes) if lanes > 1 else value


def wide_type(dtype: str, lanes: int) -> str:
    """The type of a vector."""
    return f"{dtype}x{lanes}" if lanes > 1 else dtype


class Results:
    """The destinations of a kernel, declared here as its last operands: scales of a quantiser, y, the packed tensor."""

    def __init__(self, spec: KernelSpec, lanes: int):
        from tvm.script.ir_builder import tirx as T

        self.pack, self.lanes = spec.packed, lanes
        scales = self.pack.scales if self.pack is not None else 0
        self.scale = T.arg("scale", T.buffer((scales,), "float32")) if scales else None
        self.y = None if spec.output.kind == "bits" else T.arg("y", T.buffer(spec.y_shape, spec.dtype))
        self.words = None if self.pack is None else T.arg("packed", T.buffer(self.pack.shape, "uint64"))

    @property
    def padded(self) -> bool:
        """Whether rows of the packed tensor do not follow each other as those of y do."""
        return self.pack is not None and any(self.pack.pads)

    def start(self) -> None:
        """The padding of the packed tensor, and the unused bits of its pixels."""
        from tvm import tirx
        from tvm.script.ir_builder import tirx as T

        pack, words = self.pack, self.words
        if pack is None or words is None:
            return

        def view(bits: int):
            shape = (*pack.shape[:-1], pack.shape[-1] * (WORD // bits))
            return T.decl_buffer(shape, f"uint{bits}", data=words.data)

        self.bits = view(self.lanes)
        if self.padded:
            quantise.borders(pack, view(quantise.CHUNK))
        used, line = pack.c // self.lanes, self.bits.shape[-1]
        if used < int(line):
            count = 1
            for extent in pack.shape[:-1]:
                count *= extent
            with T.serial(0, count) as pixel:
                for rest in range(used, int(line)):
                    T.buffer_store(self.bits, tirx.const(0, f"uint{self.lanes}"), at(self.bits, pixel * line + rest))

    def store(self, value, offset, pixel: tuple, channel) -> None:
        """A vector of results: `offset` into y; `pixel` (n, row, column) and the first `channel` for packing."""
        from tvm.script.ir_builder import tirx as T

        if self.y is not None:
            T.buffer_store(self.y, value, at(self.y, offset))
        if self.pack is not None:
            scale = quantise.factors(self.pack, self.scale, channel, self.lanes)
            limits = (self.pack.low, self.pack.high)
            tests = quantise.bit_tests(value, scale, self.pack.encoding, limits, self.lanes)
            self.store_tests(tests, pixel, channel)

    def store_tests(self, tests: list, pixel: tuple, channel) -> None:
        """The masks of a comparison for each plane."""
        from tvm import tirx
        from tvm.script.ir_builder import tirx as T

        assert self.pack is not None  # `store` asks for masks only where a result is packed
        _, images, rows, columns, line = self.pack.shape
        n, row, column = pixel
        top, left, _, _ = self.pack.pads
        place = ((n * rows + top + row) * columns + left + column) * (line * WORD // self.lanes)
        place = place + tirx.floordiv(channel, self.lanes)
        size = images * rows * columns * line * WORD // self.lanes
        for plane, test in enumerate(tests):
            T.buffer_store(self.bits, quantise.as_mask(test, self.lanes), at(self.bits, plane * size + place))
