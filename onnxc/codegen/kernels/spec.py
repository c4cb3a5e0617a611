"""What a kernel computes (KernelSpec), how it is tiled (Schedule), and why a rule declined (Refusal). No tvm here."""

from __future__ import annotations

from dataclasses import dataclass

# ("bias",) ("mul",) ("add",) ("prelu",) ("residual",) ("relu",) ("sigmoid",) ("clip", lo, hi) ("leaky_relu", slope)
# ("add_scalar", k) ("mul_scalar", k), and ("gate", steps): the value times what the steps make of it
Step = tuple

CHANNEL_STEPS = ("bias", "mul", "add", "prelu")  # steps that read one value per output channel


@dataclass(frozen=True)
class Encoding:
    """How a tensor's numbers are held. `kind` is float32, bfloat16, float16, int8, uint8, bits, codes or blocks; bits are planes of
    packed words.

    With planes b_0 ... b_(n-1) the integer at an element is, by `levels`: "unsigned" sum 2^i b_i; "signed" the same with
    the highest plane negative (two's complement); "bipolar" sum 2^i (2 b_i - 1), the odd numbers: n = 1 is -1 and +1.
    "residual" planes stand for sum s_i (2 b_i - 1), with floats s_i that the kernel reads (`residual.py`). Codes of `bits`
    bits stand for `length` weights each, one of `centroids` sub-vectors of one of `books` codebooks (`sums.py`). Blocks are `length`
    integers of `bits` bits with a scale and, where `levels` is "zeros", a zero point for each output (`narrow.py`).
    """

    kind: str = "float32"
    bits: int = 32
    levels: str = ""
    length: int = 1
    centroids: int = 0
    books: int = 0

    @property
    def low(self) -> int:
        """The least integer of a `bits` encoding."""
        return {"unsigned": 0, "signed": -(1 << (self.bits - 1)), "bipolar": 1 - (1 << self.bits)}[self.levels]

    @property
    def high(self) -> int:
        """The greatest integer of a `bits` encoding."""
        return (1 << (self.bits - 1)) - 1 if self.levels == "signed" else (1 << self.bits) - 1

    def text(self) -> str:
        """A word for reports."""
        if self.kind == "codes":
            return f"{self.bits}-bit codes of {self.length}"
        if self.kind == "blocks":
            return f"{self.bits}-bit blocks of {self.length}" + (" with zero points" if self.levels else "")
        return f"{self.bits}-bit {self.levels}" if self.kind == "bits" else self.kind


FLOAT32 = Encoding()
INT8 = Encoding("int8", 8, "signed")
UINT8 = Encoding("uint8", 8, "unsigned")
BINARY = Encoding("bits", 1, "bipolar")

WORD = 64  # bits of a word of packed channels


def words(channels: int) -> int:
    """Words for one plane of `channels` bits."""
    return -(-channels // WORD)


@dataclass(frozen=True)
class PackSpec:
    """x (n, h, w, c) float32, row-major as `x_shape` -> packed activations of `encoding`; the cache key of the kernel.

    `scales` counts the quantiser's scales: 0 to binarise, 1, or c; of residual planes one each. `low` and `high` clip the
    integers. With a `step` other than (1, 1) pixel (i, j) is that of row i step[0] and column j step[1] of `x_shape`
    (n, h', w', c). As a part of a KernelSpec it says what the kernel packs of its own result.
    """

    n: int
    h: int
    w: int
    c: int
    groups: int
    pads: tuple[int, int, int, int]
    encoding: Encoding
    x_shape: tuple[int, ...]
    pad_value: int = 0
    scales: int = 0
    low: int = 0
    high: int = 0
    threads: int = 1
    step: tuple[int, int] = (1, 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the packed activations, 64-bit words."""
        top, left, bottom, right = self.pads
        line = self.groups * words(self.c // self.groups)
        return (self.encoding.bits, self.n, self.h + top + bottom, self.w + left + right, line)


@dataclass(frozen=True)
class Windows:
    """Windows of a MaxPool on (rows, columns) of `extents`; `before` is the padding above and left of the first one. What lies
    beyond the last follows from the extents."""

    extents: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]


@dataclass(frozen=True)
class PoolSpec(Windows):
    """Maximum pooling of packed bits without padding -> `pack.shape`; the key of the kernel."""

    pack: PackSpec


@dataclass(frozen=True)
class KernelSpec:
    """Loop extents and roles of one convolution or matrix product: the cache key of its kernel.

    `x (n, h, w, c)` channels-last, weights `groups x oc/groups x kh x kw x c/groups`, `y (n, oh, ow, oc)`. A matrix
    product (m, k) x (k, n) is the 1x1 convolution with w = m, c = k, oc = n. With a
    `w_shape` the right-hand side is a run-time operand (n, c, oc), row-major, declared as `w_shape`. `x_shape` and
    `y_shape` are the declared shapes of the other operands; of all of them only the row-major order of elements
    matters. `pads` is (top, left, bottom, right), filled with `pad_value`, an integer of the activations' encoding.
    `activation`, `weight` and `output` say how x, the weights and y are held; `dtype` is the type of what is not
    encoded. With `packed` the kernel also writes its result quantised and packed, last of its operands; if `output` is bits,
    that alone. With a `source` x is float32 and the kernel packs it as that says. With `threads` above 1 the outermost
    loop may run in parallel.
    """

    n: int
    h: int
    w: int
    c: int
    oc: int
    kh: int
    kw: int
    stride: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    epilogue: tuple[Step, ...] = ()
    dtype: str = "float32"
    activation: Encoding = FLOAT32
    weight: Encoding = FLOAT32
    output: Encoding = FLOAT32
    pad_value: int = 0
    packed: PackSpec | None = None
    source: PackSpec | None = None
    w_shape: tuple[int, ...] | None = None
    threads: int = 1

    @property
    def weight_constant(self) -> bool:
        """Whether the weights are known at compile time, and so packed."""
        return self.w_shape is None

    @property
    def oh(self) -> int:
        """Output rows."""
        return (self.h + self.pads[0] + self.pads[2] - self.dilation[0] * (self.kh - 1) - 1) // self.stride[0] + 1

    @property
    def ow(self) -> int:
        """Output columns."""
        return (self.w + self.pads[1] + self.pads[3] - self.dilation[1] * (self.kw - 1) - 1) // self.stride[1] + 1

    @property
    def depthwise(self) -> bool:
        """Whether each output channel reads the one input channel of the same number."""
        return self.groups > 1 and self.groups == self.c == self.oc

    @property
    def row(self) -> int:
        """Pixels that tiles are cut from: a row of the result, all of them where they are rows of one matrix."""
        return self.n * self.h * self.w if self.pointwise else self.ow

    @property
    def pointwise(self) -> bool:
        """Whether pixels are independent rows of one matrix: a 1x1 kernel without stride, padding or groups.

        One that packs its own input does so row by row.
        """
        unit = (self.kh, self.kw, self.groups) == (1, 1, 1) and self.stride == (1, 1)
        return unit and self.pads == (0, 0, 0, 0) and self.weight_constant and self.source is None

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.n * self.oh * self.ow * self.oc * self.kh * self.kw * (self.c // self.groups)

    def text(self) -> str:
        """One line for reports."""
        kind = "matmul" if self.h == self.kh == self.kw == 1 and self.groups == 1 else "conv"
        steps = "+".join(step[0] for step in self.epilogue) or "none"
        return (
            f"{kind} {self.n}x{self.h}x{self.w}x{self.c} -> {self.oh}x{self.ow}x{self.oc} kernel {self.kh}x{self.kw}"
            f" stride {self.stride[0]}x{self.stride[1]} groups {self.groups} {self._held()} epilogue {steps}"
        )

    def figures(self) -> dict:
        """What reports say of a layer: `spec` in a line, `macs`, `bits` of activations and weights, and `channels`: in, out, groups."""
        bits = (self.activation.bits, self.weight.bits)
        return {"spec": self.text(), "macs": self.macs, "bits": bits, "channels": (self.c, self.oc, self.groups)}

    def _held(self) -> str:
        """The encodings, or the element type where nothing is encoded."""
        both = "" if self.packed is None or self.output != FLOAT32 else f" and {self.packed.encoding.text()}"
        if self.activation == self.weight == self.output == FLOAT32 and not both:
            return self.dtype
        given = "" if self.source is None else "float32 as "
        return f"{given}{self.activation.text()} x {self.weight.text()} -> {self.output.text()}{both}"


@dataclass(frozen=True)
class Detail:
    """What a family decides beyond the tile, such as an instruction; each family has a type of its own. `name` is for reports."""

    name: str


@dataclass(frozen=True)
class Schedule:
    """A register tile, `pixels` x `vectors` x `lanes` accumulators, of the family of that name, and what else it decided.

    Each accumulator is `fold` neighbouring lanes of a register, which are added up at the end (`folded.py`).
    """

    family: str
    pixels: int
    vectors: int
    lanes: int
    detail: Detail | None = None
    fold: int = 1

    @property
    def rule(self) -> str:
        """The name of family and detail, for reports."""
        return self.family if self.detail is None else f"{self.family}.{self.detail.name}"

    @property
    def tile(self) -> int:
        """Vectors of accumulators."""
        return self.pixels * self.vectors

    @property
    def block(self) -> int:
        """Output channels of one tile."""
        return self.vectors * self.lanes

    @property
    def width(self) -> int:
        """Lanes of a register that a vector takes."""
        return self.lanes * self.fold

    def text(self) -> str:
        """One line for reports."""
        folded = f" folded by {self.fold}" if self.fold > 1 else ""
        return f"{self.rule}: tile {self.pixels} pixels x {self.vectors} vectors x {self.lanes} lanes{folded}"


@dataclass(frozen=True)
class Refusal:
    """A rule that does not take a spec, and why."""

    rule: str
    reason: str
