"""Functions of domain ai.onnxc: what ONNX has no operator for, with a body of standard operators for a given opset.

Each stands in the model beside its graph; a runtime inlines it, folds it over constants and is left with a plain
weight, while the file and our own tools keep the short form.

    UnpackBits(packed, shape)          -> int32, the numbers
    Lookup(packed, codebook, shape)    -> codebook[row, number]: shared weights
    ProductLookup(packed, codebook, shape) -> a weight of sub-vectors: product quantisation (Gong 2014)
    HashedLookup(codebook, shape)      -> codebook at hashed places: HashedNets (Chen 2015)

packed: uint8 [groups, bits]. Eight numbers of `bits` bits, 1 to 8, make one row: a stream of bits, lowest first, so
number j of a row begins at bit 8·(j·bits // 8) + j·bits % 8. The width stands in the extent, so one body serves all.
codebook: [rows, values]; the weight is cut into as many equal runs (leading axis first), each with a row of its own.
HashedLookup takes [values], ProductLookup [books, centroids, length]: its codes [outputs, parts, *kernel] stand for runs of
`length` along the weight's second axis, those of part m from book m mod books. shape: int64, of the result; numbers beyond it are padding.

Functions that quantise activations stand in `quantisers`.
"""

from __future__ import annotations

import functools
from math import prod

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from . import quantisers
from .errors import Unsupported
from .model import DOMAIN, Model
from .qtype import sub_vectors

OPSET = 11
"""The first standard opset that has BitShift and GatherElements."""
VERSION = 1
CHUNK = 1 << 20
HASH = (1_181_783_497, 276_091_943, 1_610_612_741, 805_306_457)
PRIME = (1 << 31) - 1

# A window of two bytes holds any number: bits + 7 <= 15. The byte after a row's last is its first, and is shifted out.
_UNPACK = """
  zero = Constant<value = int64[1] {0}>()
  one = Constant<value = int64[1] {1}>()
  eight = Constant<value = int64[1] {8}>()
  word = Constant<value = int64[1] {32}>()
  flat = Constant<value = int64[1] {-1}>()
  numbers = Constant<value = int64[8] {0, 1, 2, 3, 4, 5, 6, 7}>()
  after = Constant<value = int64[8] {1, 2, 3, 4, 5, 6, 7, 8}>()
  high = Constant<value = int32[1] {256}>()
  extents = Shape(packed)
  bits = Gather(extents, one)
  places = Mul(numbers, bits)
  bytes = Div(places, eight)
  whole = Mul(bytes, eight)
  shifts = Sub(places, whole)
  following = Slice(after, zero, bits)
  next = Mod(following, bits)
  here = Cast<to = 6>(packed)
  there = Gather<axis = 1>(here, next)
  upper = Mul(there, high)
  pairs = Add(here, upper)
  windows = Cast<to = 12>(pairs)
  spread = Gather<axis = 1>(windows, bytes)
  unused = Sub(word, bits)
  above = Sub(unused, shifts)
  left = Cast<to = 12>(above)
  right = Cast<to = 12>(unused)
  raised = BitShift<direction = "LEFT">(spread, left)
  lowered = BitShift<direction = "RIGHT">(raised, right)
  wide = Cast<to = 6>(lowered)
  stream = Reshape(wide, flat)
"""
_USED = f"{_UNPACK} count = ReduceProd<keepdims = 1>(shape) used = Slice(stream, zero, count)"
_BODIES = {
    "UnpackBits": f"UnpackBits (packed, shape) => (y) {{ {_USED} y = Reshape(used, shape) }}",
    "Lookup": f"""Lookup (packed, codebook, shape) => (y) {{ {_USED}
  table = Shape(codebook)
  rows = Slice(table, zero, one)
  runs = Concat<axis = 0>(rows, flat)
  byrow = Reshape(used, runs)
  values = GatherElements<axis = 1>(codebook, byrow)
  y = Reshape(values, shape) }}""",
    "ProductLookup": f"""ProductLookup (packed, codebook, shape) => (y) {{ {_UNPACK}
  nought = Constant<value = int64 {{0}}>()
  step = Constant<value = int64 {{1}}>()
  two = Constant<value = int64[1] {{2}}>()
  three = Constant<value = int64[1] {{3}}>()
  column = Constant<value = int64[2] {{-1, 1}}>()
  dims = Shape(codebook)
  books = Slice(dims, zero, one)
  centroids = Slice(dims, one, two)
  length = Slice(dims, two, three)
  outputs = Slice(shape, zero, one)
  inputs = Slice(shape, one, two)
  parts = Div(inputs, length)
  size = ReduceProd<keepdims = 1>(shape)
  count = Div(size, length)
  used = Slice(stream, zero, count)
  grid = Concat<axis = 0>(outputs, parts, flat)
  codes = Reshape(used, grid)
  many = ReduceProd<keepdims = 0>(parts)
  part = Range(nought, many, step)
  book = Mod(part, books)
  starts = Mul(book, centroids)
  offsets = Reshape(starts, column)
  numbered = Cast<to = 7>(codes)
  entries = Add(numbered, offsets)
  rows = Concat<axis = 0>(flat, length)
  table = Reshape(codebook, rows)
  found = Gather<axis = 0>(table, entries)
  turned = Transpose<perm = [0, 1, 3, 2]>(found)
  y = Reshape(turned, shape) }}""",
    # A polynomial of degree 3 over a prime field: any four places are independent (Wegman and Carter 1981).
    "HashedLookup": f"""HashedLookup (codebook, shape) => (y) {{
  nought = Constant<value = int64 {{0}}>()
  step = Constant<value = int64 {{1}}>()
  two = Constant<value = int64[1] {{2}}>()
  prime = Constant<value = int64[1] {{{PRIME}}}>()
  a = Constant<value = int64[1] {{{HASH[0]}}}>()
  b = Constant<value = int64[1] {{{HASH[1]}}}>()
  c = Constant<value = int64[1] {{{HASH[2]}}}>()
  d = Constant<value = int64[1] {{{HASH[3]}}}>()
  count = ReduceProd<keepdims = 0>(shape)
  x = Range(nought, count, step)
  ax = Mul(x, a)
  axb = Add(ax, b)
  p = Mod(axb, prime)
  px = Mul(p, x)
  pxc = Add(px, c)
  q = Mod(pxc, prime)
  qx = Mul(q, x)
  qxd = Add(qx, d)
  h = Mod(qxd, prime)
  values = Shape(codebook)
  both = Mul(values, two)
  place = Mod(h, both)
  minus = Neg(codebook)
  signed = Concat<axis = 0>(codebook, minus)
  picked = Gather(signed, place)
  y = Reshape(picked, shape) }}""",
}
NAMES = (*_BODIES, *quantisers.INPUTS)


@functools.cache
def _parsed(name: str, opset: int) -> bytes:
    head = f'<opset_import: ["" : {opset}], domain: "{DOMAIN}">'
    text = _BODIES[name] if name in _BODIES else quantisers.body(name, opset)
    return onnx.parser.parse_function(f"{head} {text}").SerializeToString()


def function(name: str, opset: int) -> onnx.FunctionProto:
    """The function `name` with a body of standard opset `opset`: that of the model, as runtimes refuse a mix.

    Raises Unsupported below opset 11.
    """
    if opset < OPSET:
        raise Unsupported(
            f"{DOMAIN}.{name} has no body there", expected=f"opset {OPSET} or newer", found=f"opset {opset}",
            remedy="raise the model's opset first",
        )  # fmt: skip
    return onnx.FunctionProto.FromString(_parsed(name, opset))


def declare(model: Model, name: str) -> None:
    """See to it that `model` has the function. Raises Unsupported below opset 11, or where another has its name."""
    ours = function(name, model.opset)
    theirs = model.functions.get((DOMAIN, name))
    if theirs is not None and list(theirs.node) != list(ours.node):
        raise Unsupported(f"the model has another function {DOMAIN}.{name}", remedy="rename that function")
    model.functions[DOMAIN, name] = ours
    model.opsets[DOMAIN] = VERSION


def call(
    model: Model, name: str, inputs: list, outputs: list | None = None, *, stem: str = "", before: gs.Node | None = None
) -> gs.Node:
    """A node that calls the function `name`, declared where the model has it not yet; arrays become initialisers."""
    declare(model, name)
    given = [
        t if isinstance(t, gs.Tensor) else model.constant(f"{stem or name}_in{i}", np.asarray(t))
        for i, t in enumerate(inputs)
    ]
    return model.node(name, given, outputs, name=stem or name, domain=DOMAIN, before=before)


def calls(node: gs.Node, *names: str) -> bool:
    """Whether `node` calls one of these functions (any of ours, where none is named)."""
    return node.domain == DOMAIN and node.op in (names or NAMES)


def lookup(model: Model, stem: str, indices: np.ndarray, codebook: np.ndarray | gs.Constant, bits: int) -> gs.Variable:
    """A weight that stands as indices into a codebook; returns the tensor that holds it.

    indices: unsigned integers, of the weight's shape, each below 2^bits and the codebook's values; codebook: float
    [rows, values], or an initialiser that holds such, to share it.
    """
    return _packed(model, "Lookup", stem, indices, codebook, bits, indices.shape)


def product_lookup(
    model: Model, stem: str, codes: np.ndarray, codebook: np.ndarray, bits: int, shape: tuple[int, ...]
) -> gs.Variable:
    """A weight of `shape` that stands as codes of sub-vectors of its second axis; returns the tensor that holds it.

    codes: unsigned integers [outputs, parts, *kernel]; codebook: float [1 or parts, centroids, length].
    """
    return _packed(model, "ProductLookup", stem, codes, codebook, bits, shape)


def _packed(
    model: Model,
    name: str,
    stem: str,
    numbers: np.ndarray,
    codebook: np.ndarray | gs.Constant,
    bits: int,
    extents: tuple,
) -> gs.Variable:
    declare(model, name)
    if not isinstance(codebook, gs.Constant):
        codebook = model.constant(f"{stem}_codebook", codebook)
    packed = model.constant(f"{stem}_packed", pack_bits(numbers, bits))
    shape = model.constant(f"{stem}_shape", np.array(extents, np.int64))
    first = model.nodes[0] if model.nodes else None
    return model.node(
        name, [packed, codebook, shape], [model.variable(f"{stem}_shared")], name=f"{stem}_lookup", domain=DOMAIN,
        before=first,
    ).outputs[0]  # fmt: skip


def hashed(model: Model, stem: str, codebook: np.ndarray, shape: tuple[int, ...]) -> gs.Variable:
    """A weight of `shape` whose elements stand at hashed places of `codebook`, float [values]; returns its tensor."""
    declare(model, "HashedLookup")
    inputs = [model.constant(f"{stem}_codebook", codebook), model.constant(f"{stem}_shape", np.array(shape, np.int64))]
    first = model.nodes[0] if model.nodes else None
    made = [model.variable(f"{stem}_shared")]
    return model.node("HashedLookup", inputs, made, name=f"{stem}_lookup", domain=DOMAIN, before=first).outputs[0]


# the same in NumPy


def pack_bits(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned integers below 2^bits, of any shape, as uint8 [ceil(size / 8), bits]."""
    flat = np.ravel(numbers)
    rows = -(-flat.size // 8)
    packed = np.zeros((rows, bits), np.uint8)
    step = CHUNK // 8
    for row in range(0, rows, step):
        part = flat[8 * row : 8 * (row + step)].astype(np.uint8, copy=False)
        got = np.packbits(np.unpackbits(part[:, None], axis=1, count=bits, bitorder="little"), bitorder="little")
        packed.reshape(-1)[row * bits : row * bits + got.size] = got
    return packed


def unpack_bits(packed: np.ndarray, count: int) -> np.ndarray:
    """The first `count` numbers of uint8 [rows, bits], as uint8 [count]."""
    rows, bits = packed.shape
    out = np.empty((rows, 8), np.uint8)
    for row in range(0, rows, CHUNK // 8):
        part = packed[row : row + CHUNK // 8]
        spread = np.unpackbits(part, axis=1, bitorder="little").reshape(-1, bits)
        out[row : row + len(part)] = np.packbits(spread, axis=1, bitorder="little").reshape(-1, 8)
    return out.reshape(-1)[:count]


def hash_places(count: int, values: int) -> tuple[np.ndarray, np.ndarray]:
    """Where HashedLookup finds elements 0 to count - 1: places in the codebook, int64, and signs, +1 or -1, float32."""
    x = np.arange(count, dtype=np.int64)
    h = np.zeros(count, np.int64)
    for a in HASH:
        h = (h * x + a) % PRIME
    place = h % (2 * values)
    return place % values, np.where(place < values, np.float32(1), np.float32(-1))


def is_lookup(node: gs.Node) -> bool:
    """Whether `node` makes a weight out of stored initialisers by Lookup, ProductLookup or HashedLookup."""
    return (
        node.domain == DOMAIN
        and node.op in ("Lookup", "ProductLookup", "HashedLookup")
        and all(isinstance(t, gs.Constant) for t in node.inputs)
    )


def packed_sizes(model: Model) -> dict[str, int]:
    """How many numbers each packed initialiser of a Lookup or ProductLookup holds, by its name."""
    return {
        n.inputs[0].name: prod(code_shape(n))
        for n in model.nodes
        if n.op in ("Lookup", "ProductLookup") and is_lookup(n)
    }


def weight_shape(node: gs.Node) -> tuple[int, ...]:
    """The shape of the weight that a Lookup, ProductLookup or HashedLookup makes."""
    return tuple(int(n) for n in node.inputs[-1].values)


def code_shape(node: gs.Node) -> tuple[int, ...]:
    """The shape of a Lookup's indices, its weight's; of a ProductLookup's codes [outputs, parts, *kernel]."""
    outputs, *rest = weight_shape(node)
    if node.op != "ProductLookup":
        return (outputs, *rest)
    return (outputs, rest[0] // node.inputs[1].values.shape[2], *rest[1:])


def indices(node: gs.Node) -> np.ndarray:
    """The stored numbers of a Lookup or ProductLookup, uint8, of `code_shape`."""
    shape = code_shape(node)
    return unpack_bits(node.inputs[0].values, prod(shape)).reshape(shape)


def weight(node: gs.Node) -> np.ndarray:
    """The weight that a Lookup, ProductLookup or HashedLookup makes, in the codebook's dtype."""
    shape = weight_shape(node)
    if node.op == "ProductLookup":
        return sub_vectors(indices(node), node.inputs[1].values)
    if node.op == "HashedLookup":
        codebook = node.inputs[0].values
        place, sign = hash_places(int(np.prod(shape)), len(codebook))
        return (codebook[place] * sign.astype(codebook.dtype)).reshape(shape)
    codebook = node.inputs[1].values
    return np.take_along_axis(codebook, indices(node).reshape(len(codebook), -1), 1).reshape(shape)


def weight_bits(node: gs.Node) -> int:
    """Bits of one stored number of a Lookup or ProductLookup; of the codebook's own numbers for HashedLookup, which stores no others."""
    if node.op == "HashedLookup":
        return node.inputs[0].values.dtype.itemsize * 8
    return node.inputs[0].values.shape[1]
