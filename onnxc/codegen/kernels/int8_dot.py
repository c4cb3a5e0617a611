"""Instructions that multiply 8-bit integers and add into 32-bit lanes, by instruction set; each is exact.

| dot | machines | a step for one int32 lane |
|---|---|---|
| vpdpbusd | AVX-512 VNNI | 4 products of uint8 x int8 |
| sdot | AArch64 with +dotprod | 4 products of int8 x int8 |
| smlal | other AArch64 | 2 products of int8 x int8 summed in int16 for each of 8 lanes, then sadalp into 4 |
| smull | the same | 1 product for each of 8 lanes, then sadalp |
| vmlal | NEON of 32 bits | 2 sums of 2 products int8 x int8 in int16, then vpadal |
| pmaddwd, dot, smlad | SSE2 to AVX-512BW, WebAssembly, Arm DSP | 2 products of int16 x int16 |
| plain | everything else | 1 product of int32 |

vpmaddubsw is left out: its sum of two uint8 x int8 products saturates at 32767, and a sign trick that avoids it costs as
much as vpmaddwd. In smlal's int16 sum |2 x 128 x 127| = 32512 fits as long as no weight is -128: `narrow` weights.

smlal and smull take neighbouring channels of x as they lie, 16 or 8, and those of one output channel: no broadcast, which on
Cortex-A72 takes one of the pipes that multiply. Each sum is then 4 lanes that are added up behind all products. sdot takes its 4
channels from a register of 16 that is loaded once, as loads that broadcast take a pipe of products too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxc.codegen.kernels.spec import Detail, KernelSpec
from onnxc.codegen.target import Target
from onnxc.codegen.tvm_api import features

PMADD = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd", 4: "llvm.x86.sse2.pmadd.wd"}


@dataclass(frozen=True)
class Dot(Detail):
    """One step `acc[lane] += sum of depth products`.

    The kernel holds activations as `x` and weights as `w` (element types; x may be empty: as they come); `depth`
    channels go into one step, for `widths` lanes. `multiply(acc, x, w, lanes)` makes the TIR expression from acc (int32
    lanes) and two functions (start, count) that load from the `depth` activations and the `lanes` x `depth` weights of the
    step, which takes `cycles` for a vector. These lie as (lanes, depth), or with `pairs` as (depth / 2, lanes, 2). `spare`
    registers hold no sums: they are for products and broadcasts. A sum is `fold` lanes; `narrow` weights are never -128; the
    activations of `run` steps are loaded at once.
    """

    depth: int
    x: str
    w: str
    widths: tuple[int, ...]
    multiply: Callable
    cycles: float
    pairs: bool = False
    spare: int = 0
    fold: int = 1
    narrow: bool = False
    run: int = 1

    def held(self, spec: KernelSpec) -> str:
        """Element type of the activations as the kernel reads them."""
        return self.x or spec.activation.kind

    def shift(self, spec: KernelSpec) -> int:
        """What is added to an activation so that it fits: x + 128 makes int8 uint8."""
        if self.x not in ("int8", "uint8") or self.x == spec.activation.kind:
            return 0
        return 128 if self.x == "uint8" else -128

    def packed(self, blocks: np.ndarray) -> np.ndarray:
        """Weights (..., depth, lanes) -> (..., lanes x depth) as `multiply` reads them."""
        *lead, depth, lanes = blocks.shape
        if self.pairs:
            split = blocks.reshape(*lead, depth // 2, 2, lanes)
            return np.ascontiguousarray(np.swapaxes(split, -1, -2).reshape(*lead, depth * lanes))
        return np.ascontiguousarray(np.swapaxes(blocks, -1, -2).reshape(*lead, depth * lanes))


def dots_for(spec: KernelSpec, target: Target) -> list[Dot]:
    """The exact instructions of `target` for the weights and activations of `spec`."""
    has, lanes = features(target), target.lanes
    names = ["plain"]
    if target.arch == "x86_64":
        names = ["vpdpbusd" if {"avx512vnni", "avx512vl"} <= has and lanes == 16 else "pmaddwd"]
    elif target.arch == "aarch64" and lanes == 4:
        names = ["sdot"] if "dotprod" in has else ["smlal", "smull"]
    elif target.arch == "armv7" and "neon" in has and lanes == 4:
        names = ["vmlal"]
    elif target.arch == "wasm32" and lanes == 4:
        names = ["dot"]
    elif "dsp" in has and lanes == 1 and not target.portable:
        names = ["smlad"]
    fit = [
        dot
        for dot in (DOTS[name] for name in names)
        if spec.oc // spec.groups >= min(dot.widths) and (not dot.narrow or spec.weight.levels == "narrow")
    ]
    return fit or [DOTS["plain"]]


def ramp(start, count: int):
    """The index of `count` neighbours from `start` on."""
    from tvm import tirx

    return start if count == 1 else tirx.Ramp(start, tirx.const(1, "int32"), count)


def loader(buffer, base) -> Callable:
    """A function (start, count) that loads `count` elements from linear offset `base` + start on."""

    def load(start: int, count: int):
        return buffer[[0] * (len(buffer.shape) - 1) + [ramp(base + start, count)]]

    return load


def part_of(load: Callable, part: int, count: int, depth: int) -> Callable:
    """`load` for step `part` of `count`, whose activations it loads at once."""
    from tvm import tirx

    if count == 1:
        return load
    whole = load(0, count * depth)
    first = part * depth
    return lambda start, wanted: tirx.Shuffle([whole], [tirx.const(first + start + i, "int32") for i in range(wanted)])


def spread(x, lanes: int):
    """The elements of a short vector as one word, repeated for each of `lanes` lanes."""
    from tvm import tirx

    kind = x.ty.dtype
    word = tirx.reinterpret(f"int{kind.bits * kind.lanes}", x)
    if lanes == 1:
        return word
    name = "uint" if str(kind).startswith("uint") else "int"
    return tirx.reinterpret(f"{name}{kind.bits}x{kind.lanes * lanes}", tirx.Broadcast(word, lanes))


def _call(name: str, kind: str, *args):
    from tvm import tirx

    return tirx.call_llvm_pure_intrin(kind, name, *args)


def _vpdpbusd(acc, x, w, lanes: int):
    name = f"llvm.x86.avx512.vpdpbusd.{lanes * 32}"
    return _call(name, f"int32x{lanes}", acc, spread(x(0, 4), lanes), w(0, 4 * lanes))


def _pmadd(acc, x, w, lanes: int):
    return acc + _call(PMADD[lanes], f"int32x{lanes}", spread(x(0, 2), lanes), w(0, 2 * lanes))


def _wasm_dot(acc, x, w, lanes: int):
    return acc + _call("llvm.wasm.dot", "int32x4", spread(x(0, 2), 4), w(0, 8))


def _smlad(acc, x, w, lanes: int):
    return _call("llvm.arm.smlad", "int32", spread(x(0, 2), 1), spread(w(0, 2), 1), acc)


def _sdot(acc, x, w, lanes: int):
    return _call("llvm.aarch64.neon.sdot.v4i32.v16i8", "int32x4", acc, w(0, 16), spread(x(0, 4), 4))


def _sums_of_two(x, w):
    """x0 w0 + x1 w1 of four output channels, then x2 w2 + x3 w3 of the same added to it lane by lane, in int16x8.

    Lanes 2 i and 2 i + 1 hold products of channel i: the widening pairwise add that follows brings them together.
    """
    from tvm import tirx

    def products(i: int):
        return tirx.Cast("int16x8", spread(x(2 * i, 2), 4)) * tirx.Cast("int16x8", w(8 * i, 8))

    return products(0) + products(1)


def _saddlp(acc, products):
    return acc + _call("llvm.aarch64.neon.saddlp.v4i32.v8i16", "int32x4", products)


def _smull(acc, x, w, lanes: int):
    from tvm import tirx

    return _saddlp(acc, tirx.Cast("int16x8", x(0, 8)) * tirx.Cast("int16x8", w(0, 8)))


def _smlal(acc, x, w, lanes: int):
    """Channels 0 to 7, and 8 to 15 added to them lane by lane."""
    from tvm import tirx

    def products(first: int):
        part = [tirx.const(first + i, "int32") for i in range(8)]
        return tirx.Cast("int16x8", tirx.Shuffle([x(0, 16)], part)) * tirx.Cast(
            "int16x8", tirx.Shuffle([w(0, 16)], part)
        )

    return _saddlp(acc, products(0) + products(8))


def added_up(sums: list[Any]) -> Any:
    """The four sums of four lanes each, from the vectors of smlal or smull."""

    def pairs(a, b):
        return _call("llvm.aarch64.neon.addp.v4i32", "int32x4", a, b)

    return pairs(pairs(sums[0], sums[1]), pairs(sums[2], sums[3]))


def _vpadal(acc, x, w, lanes: int):
    return _call("llvm.arm.neon.vpadals.v4i32.v8i16", "int32x4", acc, _sums_of_two(x, w))


def _plain(acc, x, w, lanes: int):
    from tvm import tirx

    wide = tirx.Cast("int32", x(0, 1))
    if lanes == 1:
        return acc + wide * tirx.Cast("int32", w(0, 1))
    return acc + tirx.Broadcast(wide, lanes) * tirx.Cast(f"int32x{lanes}", w(0, lanes))


DOTS = {
    dot.name: dot
    for dot in (
        Dot("vpdpbusd", 4, "uint8", "int8", (16, 8, 4), _vpdpbusd, 0.5),
        Dot("pmaddwd", 2, "int16", "int16", (16, 8, 4), _pmadd, 0.67),
        Dot("sdot", 4, "int8", "int8", (4,), _sdot, 0.5, spare=8, run=4),
        Dot("smlal", 16, "int8", "int8", (4,), _smlal, 2, spare=7, fold=4, narrow=True),
        Dot("smull", 8, "int8", "int8", (4,), _smull, 1.05, spare=7, fold=4),
        Dot("vmlal", 4, "int8", "int8", (4,), _vpadal, 6, pairs=True, spare=6, narrow=True),
        Dot("dot", 2, "int16", "int16", (4,), _wasm_dot, 1),
        Dot("smlad", 2, "int16", "int16", (1,), _smlad, 1),
        Dot("plain", 1, "", "int8", (16, 8, 4, 2, 1), _plain, 1.5),
    )
}
