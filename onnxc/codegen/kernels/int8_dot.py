"""Instructions that multiply 8-bit integers and add into 32-bit lanes, by instruction set; each is exact.

| dot | machines | a step for one int32 lane |
|---|---|---|
| vpdpbusd | AVX-512 VNNI | 4 products of uint8 x int8 |
| sdot | AArch64 with +dotprod | 4 products of int8 x int8 |
| smlal, vmlal | other NEON | 2 sums of 2 products int8 x int8 in int16, then sadalp (vpadal) |
| pmaddwd, dot, smlad | SSE2 to AVX-512BW, WebAssembly, Arm DSP | 2 products of int16 x int16 |
| plain | everything else | 1 product of int32 |

vpmaddubsw is left out: its sum of two uint8 x int8 products saturates at 32767, and a sign trick that avoids it costs as
much as vpmaddwd. In smlal's int16 sum |2 x 128 x 127| = 32512 fits as long as no weight is -128: `narrow` weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
    registers hold no sums: they are for products and broadcasts.
    """

    depth: int
    x: str
    w: str
    widths: tuple[int, ...]
    multiply: Callable
    cycles: float
    pairs: bool = False
    spare: int = 0

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


def choose_dot(spec: KernelSpec, target: Target) -> Dot:
    """The best exact instruction of `target` for the weights and activations of `spec`."""
    has, lanes = features(target), target.lanes
    name = "plain"
    if target.arch == "x86_64":
        name = "vpdpbusd" if {"avx512vnni", "avx512vl"} <= has and lanes == 16 else "pmaddwd"
    elif target.arch == "aarch64" and lanes == 4:
        name = "sdot" if "dotprod" in has else "smlal"
    elif target.arch == "armv7" and "neon" in has and lanes == 4:
        name = "vmlal"
    elif target.arch == "wasm32" and lanes == 4:
        name = "dot"
    elif "dsp" in has and lanes == 1 and not target.portable:
        name = "smlad"
    dot = DOTS[name]
    if (dot.pairs and spec.weight.levels != "narrow") or spec.oc // spec.groups < min(dot.widths):
        return DOTS["plain"]
    return dot


def ramp(start, count: int):
    """The index of `count` neighbours from `start` on."""
    from tvm import tirx

    return start if count == 1 else tirx.Ramp(start, tirx.const(1, "int32"), count)


def loader(buffer, base) -> Callable:
    """A function (start, count) that loads `count` elements from linear offset `base` + start on."""

    def load(start: int, count: int):
        return buffer[[0] * (len(buffer.shape) - 1) + [ramp(base + start, count)]]

    return load


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
    return _call("llvm.aarch64.neon.sdot.v4i32.v16i8", "int32x4", acc, spread(x(0, 4), 4), w(0, 16))


def _sums_of_two(x, w):
    """x0 w0 + x1 w1 of four output channels, then x2 w2 + x3 w3 of the same added to it lane by lane, in int16x8.

    Lanes 2 i and 2 i + 1 hold products of channel i: the widening pairwise add that follows brings them together.
    """
    from tvm import tirx

    def products(i: int):
        return tirx.Cast("int16x8", spread(x(2 * i, 2), 4)) * tirx.Cast("int16x8", w(8 * i, 8))

    return products(0) + products(1)


def _saddlp(acc, x, w, lanes: int):
    return acc + _call("llvm.aarch64.neon.saddlp.v4i32.v8i16", "int32x4", _sums_of_two(x, w))


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
        Dot("sdot", 4, "int8", "int8", (4,), _sdot, 0.5, spare=8),
        Dot("smlal", 4, "int8", "int8", (4,), _saddlp, 3, pairs=True, spare=12),
        Dot("vmlal", 4, "int8", "int8", (4,), _vpadal, 6, pairs=True, spare=6),
        Dot("dot", 2, "int16", "int16", (4,), _wasm_dot, 1),
        Dot("smlad", 2, "int16", "int16", (1,), _smlad, 1),
        Dot("plain", 1, "", "int8", (16, 8, 4, 2, 1), _plain, 1.5),
    )
}
