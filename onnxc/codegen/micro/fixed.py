"""How sums become 8 bits: the numbers that `runtime/c/micro.h` reads.

Where the processor multiplies floats: saturate(round(m float32(sum)) + z), halves to even, as all other kernels do. Else

    y = saturate((z 2^s + 2^(s-1) + floor(sum M / 2^32)) >> s),   M = m 2^(32+s) to the nearest integer

As floor(floor(a) / 2^s) = floor(a / 2^s), this is m' sum + z rounded once, halves up, with m' = M / 2^(32+s). s is the largest
for which neither M nor the shifted result leaves 32 bits. m is a float32 of 24 bits, so M is m exactly as long as it is 2^23 or
more; below, |m' - m| <= 2^-(33+s), which moves a result by |sum| 2^-(33+s) of a step. Floats round twice, and halves to
even: where both differ it is by one step.

Where floats are at hand, s is 5 and a channel's M is chosen so that the integers are those of the floats for every sum that can
be: both are steps of the sum, so they are equal if their thresholds are, the least sums that reach each integer, and each
threshold bounds M from both sides. Channels without such an M (one in twenty) keep -m, a float below 0, whose sums floats make
8 bits.

Inside, uint8 is int8 with the sign bit flipped and a zero point 128 lower.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from onnxc.codegen.kernels.spec import Detail, KernelSpec
from onnxc.codegen.target import Target

FLOATS, INTEGERS = Detail("floats"), Detail("integers")  # how sums become 8 bits
HELIUM = Detail("helium")  # by floats alone, and weights lie as vectors of bytes read them
SHIFT = 5  # s where floats are at hand
MOST_SHIFT = 24
RESIDUAL_BITS = 20


def arithmetic(target: Target) -> Detail:
    """How a processor's sums become 8 bits."""
    return HELIUM if target.helium else FLOATS if target.fpu else INTEGERS


def flip(kind: str) -> int:
    """What turns bytes of an 8-bit type into int8 by exclusive or."""
    return 0x80 if kind == "uint8" else 0


def inside(zero: int, kind: str) -> int:
    """A zero point of an 8-bit type as that of the flipped integers."""
    return zero - 128 if kind == "uint8" else zero


@dataclass(frozen=True)
class Ends:
    """What follows a sum: `z` is its zero point, `residual` whether a tensor is added, `more` whether there is anything but z;
    the other fields are those of onnxc_ends.

    `a` and `b` are in units of a step of the result.
    """

    z: int
    residual: bool = False
    more: bool = False
    a: float = 0.0
    b: float = 0.0
    inner: int = 0
    other: int = 0
    zero: int = 0
    low: int = -128
    high: int = 127
    least: int = -128
    most: int = 127
    flip: int = 0
    rflip: int = 0

    def c(self, floats: bool) -> str:
        """The initialiser of an onnxc_ends, for processors with floats or without."""
        reach = 255 * (abs(self.a) + abs(self.b)) + 256
        rs = max(1, min(RESIDUAL_BITS, 30 - int(np.ceil(np.log2(reach)))))
        factors = [c_float(v) if floats else str(round(v * 2**rs)) for v in (self.a, self.b)]
        rest = (self.inner, self.other, self.zero, self.low, self.high, self.least, self.most, self.flip, self.rflip)
        return "{" + ", ".join([*factors, str(rs), *map(str, (*rest, *(self.whole(floats, rs) or (0, 0, 0))))]) + "}"

    def whole(self, floats: bool, rs: int) -> tuple[int, int, int] | None:
        """Integers (u, v, start) with y = saturate((u own + v r + start) >> 20) for all bytes `own` and r, or None.

        All 65,536 pairs are compared. The sum is that of `floats` (or of integers of 2^-rs) but where it lies within 2^-12 of a half; for
        given u and v each pair bounds `start` from both sides, and u and v next to the nearest are tried until the bounds meet.
        """
        if not self.residual or rs < RESIDUAL_BITS:
            return None
        byte = np.arange(-128, 128)
        own, r = np.clip(byte, self.low, self.high) - self.inner, byte - self.other
        if floats:
            total = own.astype("f")[:, None] * np.float32(self.a) + r.astype("f") * np.float32(self.b)
            y = np.rint(total).astype(np.int64) + self.zero
        else:
            u, v = round(self.a * 2**rs), round(self.b * 2**rs)
            y = (own[:, None] * u + r * v + (self.zero << rs) + (1 << (rs - 1))) >> rs
        y = np.clip(np.clip(y, -128, 127), self.least, self.most)
        for u, v in product(*(near(factor * 2**RESIDUAL_BITS) for factor in (self.a, self.b))):
            rest = (y << RESIDUAL_BITS) - (byte[:, None] * u + byte * v)
            start = int(rest[y > -128].max(initial=-(2**31)))
            most = int(rest[y < 127].min(initial=2**31)) + (1 << RESIDUAL_BITS)
            if start < most and max(abs(start), abs(start) + 128 * (abs(u) + abs(v))) < 2**31:
                return u, v, start
        return None


def near(value: float) -> list[int]:
    """The five integers nearest to the rounded value, nearest first."""
    return [round(value) + step for step in (0, 1, -1, 2, -2)]


def c_float(value) -> str:
    """A float32 as C has it, every bit."""
    return f"{float(np.float32(value)).hex()}f"


def read_ends(spec: KernelSpec) -> Ends | str:
    """The end of a kernel whose epilogue is one of these, in whole numbers; else why it is none of them.

    int_bias mul [relu | clip]* quantize
    int_bias mul [relu | clip]* rounded [mul_scalar] int_residual [relu | clip]* quantize
    """
    steps = list(spec.epilogue)
    if [step[0] for step in steps[:2]] != ["int_bias", "mul"]:
        return "needs a bias and a factor for each channel first"
    low, high, rest = _bounds(steps[2:])
    if not rest:
        return "needs a result of 8 bits"
    out = spec.output.kind
    if rest[0][0] == "quantize":
        zero = inside(int(rest[0][3]), out)
        return _plain(zero, max(low, rest[0][1]) + zero, min(high, rest[0][2]) + zero, flip(out))
    if rest[0][0] != "rounded":
        return f"does not know the step {rest[0][0]}"
    low, high = max(low, rest[0][1]), min(high, rest[0][2])
    if high - low > 255:
        return "has an inner result of more than 8 bits"
    rest, factor = rest[1:], 1.0
    if rest and rest[0][0] == "mul_scalar":
        factor, rest = rest[0][1], rest[1:]
    if not rest or rest[0][0] != "int_residual":
        return "rounds within and adds nothing"
    _, r_zero, r_scale, kind = rest[0]
    least, most, rest = _bounds(rest[1:])
    if len(rest) != 1 or rest[0][0] != "quantize":
        return "goes on after a sum of tensors"
    zero, inner = inside(int(rest[0][3]), out), -128 - int(low)
    least, most = max(least, rest[0][1]) + zero, min(most, rest[0][2]) + zero
    return residual_ends(
        (int(low) + inner, int(high) + inner, inner, factor), (inside(r_zero, kind), r_scale, flip(kind)),
        (zero, max(-128, int(least)), min(127, int(most)), flip(out)),
    )  # fmt: skip


def residual_ends(own: tuple, other: tuple, made: tuple) -> Ends:
    """y = factor (own - own zero) + scale (other - other zero) + zero, rounded.

    `own` is (low, high, zero, factor), `other` (zero, scale, flip), `made` (zero, least, most, flip).
    """
    low, high, inner, factor = own
    r_zero, r_scale, rflip = other
    zero, least, most, out = made
    return Ends(
        inner, True, True, factor, r_scale, inner, r_zero, zero, low, high, least, most, out, rflip
    )  # fmt: skip


def _bounds(steps: list) -> tuple[float, float, list]:
    """What the clips at the start of `steps` leave, rounded: they may as well follow the rounding; and the steps after them."""
    low, high = -np.inf, np.inf
    for i, step in enumerate(steps):
        match step[0]:
            case "relu":
                low, high = max(low, 0.0), max(high, 0.0)
            case "clip":
                first, last = float(np.rint(step[1])), float(np.rint(step[2]))
                low, high = min(max(low, first), last), min(max(high, first), last)
            case _:
                return low, high, steps[i:]
    return low, high, []


def _plain(zero: int, least: float, most: float, out: int) -> Ends:
    least, most = int(max(-128, least)), int(min(127, most))
    more = (least, most, out) != (-128, 127, 0)
    return Ends(zero, more=more, least=least, most=most, flip=out)


def scales(
    bias: np.ndarray, factor: np.ndarray, reach: np.ndarray, zero: int, how: Detail, pad: int = 1
) -> np.ndarray | None:
    """The table of a layer, int32: z 2^s + 2^(s-1), s, then bias and M of each channel, and zeros for channels up to a multiple
    of `pad`; for HELIUM z and 0, biases, and the bits of m; for FLOATS s is 5, and M or, in all
    `pad` channels together, the bits of -m. None where no s fits.

    `bias` (oc,) int64, `factor` (oc,) float32 is m, `reach` (oc,) the largest |sum|, 0 for a channel whose sum is always its bias.
    """
    if (np.abs(bias) >= 2**31).any() or (reach >= 2**31).any():
        return None
    rows = np.zeros((1 + -(-len(bias) // pad) * pad, 2), np.int32)
    if how != INTEGERS:
        if (np.abs(factor) * np.maximum(reach, np.abs(bias)) >= 2**30).any():
            return None
        m = factor.astype(np.float32)
        rows[0] = (zero, 0) if how == HELIUM else ((zero << SHIFT) + (1 << (SHIFT - 1)), SHIFT)
        made = m.view(np.int32) if how == HELIUM else _whole_or_float(m, bias, reach, zero, pad)
        rows[1 : 1 + len(bias)] = np.stack([bias.astype(np.int32), made], 1)
        return rows.reshape(-1)
    m, still = factor.astype(np.float64), reach == 0  # without weights there is a bias alone, whatever it stands for
    constant = np.clip(np.rint(bias * m), -256, 255).astype(np.int64)
    m = np.where(still, 0.0, m)
    for s in range(MOST_SHIFT, 0, -1):
        big = np.rint(m * 2.0 ** (32 + s))
        if (np.abs(constant[still]) << (s + 2) >= 2**31).any():
            continue
        if (np.abs(big) < 2**31).all() and ((np.abs(m) * reach + 257) * 2.0**s < 2**31).all():
            break
    else:
        return None
    bias, big = np.where(still, constant << (s + 2), bias), np.where(still, 2**30, big)
    rows[0] = ((zero << s) + (1 << (s - 1)), s)
    rows[1 : 1 + len(bias)] = np.stack([bias, big.astype(np.int64)], 1)
    return rows.reshape(-1)


def _whole_or_float(m: np.ndarray, bias: np.ndarray, reach: np.ndarray, zero: int, group: int) -> np.ndarray:
    """M of each channel (oc,) as int32, or the bits of -m where no M gives round(m float32(sum)) for all sums within `reach`, in one of
    `group` channels.

    With Q(y) = (y - z) 2^s - 2^(s-1) the integer y is reached where floor(sum M / 2^32) >= Q, so where sum M >= Q 2^32: a threshold T
    of the floats asks for T M >= Q 2^32 > (T - 1) M. Integers beyond 8 bits are all the same.
    """
    least, most = np.where(reach > 0, -reach, bias)[:, None], np.where(reach > 0, reach, bias)[:, None]
    steps = np.arange(-127, 128) - zero
    goal = ((steps << SHIFT) - (1 << (SHIFT - 1))) << 32
    start = np.ceil(np.clip((steps - 0.5) / np.where(m > 0, m, 1)[:, None].astype(np.float64), -(2.0**40), 2.0**40))
    near = start.astype(np.int64)[:, :, None] + np.arange(-3, 4)
    reached = np.rint(near.astype(np.float32) * m[:, None, None]) >= steps[:, None]
    found = reached.argmax(2)
    threshold = np.take_along_axis(near, found[:, :, None], 2)[:, :, 0]
    low, high = np.zeros(len(m), np.int64), np.full(len(m), 2**31 - 1)
    for at, above in ((np.maximum(threshold, least), True), (np.minimum(threshold - 1, most), False)):
        counts = (threshold <= most) if above else (threshold > least)
        by = np.where(at == 0, 1, at)
        up, down = -(-goal // by), goal // by  # rounded up and down
        atleast = counts & ((at > 0) if above else (at < 0))
        bound = up if above else down + 1
        low = np.maximum(low, np.where(atleast, bound, 0).max(1))
        atmost = counts & ((at < 0) if above else (at > 0))
        bound = down if above else up - 1
        high = np.minimum(high, np.where(atmost, bound, 2**31 - 1).min(1))
        never = counts & (at == 0) & ((goal > 0) if above else (goal <= 0))
        high[never.any(1)] = -1
    sure = reached.any(2).all(1) & (found > 0).all(1) & (m > 0) & (low <= high)
    whole = np.clip(np.rint(m.astype(np.float64) * 2.0 ** (32 + SHIFT)), low, high).astype(np.int64)
    sure = np.pad(sure, (0, -len(m) % group), constant_values=True).reshape(-1, group).all(1).repeat(group)[: len(m)]
    return np.where(sure, whole, (-m).view(np.int32)).astype(np.int32)
