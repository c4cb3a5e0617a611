"""Tensors whose lengths data decide: held at the most that they can be, beside ONNX Runtime."""

import numpy as np
import pytest
from onnx import parser

from onnxc.codegen import compile as compiled
from onnxc.codegen.prepare.static import make_static
from onnxc.ir.errors import BadData, Unsupported

from .conftest import run_ort

RNG = np.random.default_rng(7)


def f(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype("f")


def some(share: float, *shape: int) -> np.ndarray:
    return RNG.random(shape) < share


MODELS = {
    # elements that are found, all the ways in which they are counted, summed, put in order and written back
    "found": (
        """g (float[5,4] x, bool[5,4] m, float[3,7] w) => (int64[2,N] at, float[N] v, float[A,B] e, float[4] back, float mean,
            int64[S] size, float most, int64 best, float[N] soft, float[3,3] gram, float[P] few,
            float[Q,4] kept, float[N,3] normal)
        <int64[1] first = {0}, int64[1] none = {0}, int64[1] end = {-1}, int64[1] one = {1}, float[4] zeros = {0, 0, 0, 0}, int64 col = {1},
         int64[1] flat = {-1}, float[1,3] wide = {1, 2, 3}, float[3] three = {1, 2, 3}, float half = {0.5}> {
        at = NonZero(m) t = Transpose<perm = [1, 0]>(at) v = GatherND(x, t)
        u = Unsqueeze(v, one) e0 = Mul(u, wide) e = Exp(e0) size = Shape(e)
        c = Gather(at, col) back = ScatterElements<axis = 0, reduction = "add">(zeros, c, v)
        mean = ReduceMean<keepdims = 0>(v) most = ReduceMax<keepdims = 0>(e) best0 = ReduceSum<keepdims = 0>(e, first)
        best = ArgMax<axis = 0, keepdims = 0>(best0) soft = Softmax<axis = 0>(v)
        turned = Transpose<perm = [1, 0]>(e) gram = MatMul(turned, e)
        ef = Reshape(e, flat) r = Relu(ef) g0 = Greater(r, half) k = NonZero(g0) k1 = Squeeze(k, first) few = Gather(r, k1)
        row = ReduceMax<axes = [1], keepdims = 0>(x) big = Greater(row, half) kept = Compress<axis = 0>(x, big)
        normal = LayerNormalization<axis = 1>(e, three) }""",
        [{"x": f(5, 4), "m": some(share, 5, 4), "w": f(3, 7)} for share in (0.5, 1.1, 0.1)],
    ),
    # numbers of rows that are inputs: cut, repeated, filled; an output whose rows are not the first axis
    "numbers": (
        """g (float[3,6] x, int64[1] k, int64 n) => (float[3,K] top, int64[3,K] i, float[3,A] head, float[B,2] rows, float[C] line,
            float[3,D] both)
        <int64[1] zero = {0}, int64[1] axis = {1}, int64[1] two = {2}, int64 nine = {9}, int64 null = {0}, int64 step = {1},
         int64[1] ones = {1}> {
        top, i = TopK<axis = 1>(x, k) head = Slice(x, zero, k, axis)
        shape = Concat<axis = 0>(k, two) rows = ConstantOfShape<value = float[1] {3.5}>(shape)
        bounded = Min(n, nine) r = Range(null, bounded, step) line0 = Cast<to = 1>(r) line = Sqrt(line0)
        col = Slice(x, zero, ones, axis) reps = Concat<axis = 0>(ones, k) tiled = Tile(col, reps) both = Add(tiled, top) }""",
        [{"x": f(3, 6), "k": np.array([k]), "n": np.array(n)} for k, n in ((1, 4), (6, 0), (3, 9))],
    ),
}  # fmt: skip


def model_of(text: str):
    return parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')


def agree(library, model, feeds: dict) -> None:
    found, wanted = library(**feeds), run_ort(model, feeds)
    assert list(found) == list(wanted)
    for key, array in wanted.items():
        assert found[key].shape == array.shape and found[key].dtype == array.dtype, key
        assert np.allclose(found[key], array, rtol=1e-5, atol=1e-6, equal_nan=True), key


def agreed(key: str):
    """The library of one of MODELS, which is right on all its cases, and these."""
    text, cases = MODELS[key]
    model = model_of(text)
    library = compiled(model)
    for feeds in cases:
        agree(library, model, feeds)
    return library, cases


def test_what_is_found():
    library, cases = agreed("found")
    assert library.lengths["v"] == "v.shape" and library.outputs["v"][0] == (20,)
    held = {key: np.zeros(shape, dtype) for key, (shape, dtype) in library.outputs.items()}
    library.run(cases[0], out=held)
    assert held["at.shape"].tolist() == [2, cases[0]["m"].sum()]


def test_numbers_of_rows():
    library, cases = agreed("numbers")
    for k in (7, -1):
        with pytest.raises(BadData, match="an index is out of range"):
            library(x=cases[0]["x"], k=np.array([k]), n=np.array(2))


def test_what_is_made_of_nothing():
    """Sums, means and products of no elements, and the tensors themselves."""
    model = model_of("""g (bool[4] m, float[4,3] x) => (float[N,3] k, float[3] a, float b, float[N] c, float[N,3] d)
        <int64[1] one = {1}> {
        k = Compress<axis = 0>(x, m) a = ReduceMean<axes = [0], keepdims = 0>(k) b = ReduceProd<keepdims = 0>(k)
        c = ReduceSum<keepdims = 0>(k, one) d = Softmax<axis = 0>(k) }""")
    library = compiled(model)
    for m in ([0, 0, 0, 0], [1, 0, 0, 1]):
        agree(library, model, {"m": np.array(m, bool), "x": f(4, 3)})


def test_what_is_said_of_lengths():
    """How long each can be, and which inputs decide that."""
    text = (
        "g (float[3,6] x, int64[1] k) => (float[3,K] v, int64[2,N] at) { v, i = TopK<axis = 1>(x, k) at = NonZero(v) }"
    )
    made = make_static(model_of(text))
    assert sorted(made.most.values()) == [6, 18] and made.lengths == {"v": "v.shape", "at": "at.shape"}
    assert made.shorter == "fix what decides it, a library for each value: --input k=..."


def test_a_number_is_only_bounded_by_what_is_computed():
    """k may be more than the branch that is not taken allows."""
    model = model_of("""g (float[2,3] x, int64[1] k, bool c) => (float[2] y, float[K] z)
        <int64[1] one = {1}, float[1] half = {0.5}, int64 nine = {9}> {
        y = If(c) <then_branch = yes () => (float[2] a) { v, i = TopK<axis = 1>(x, k) a = ReduceSum<keepdims = 0>(v, one) },
                   else_branch = no () => (float[2] b) { b = ReduceMax<axes = [1], keepdims = 0>(x) }>
        few = Min(k, nine) z = Expand(half, few) }""")  # fmt: skip
    library = compiled(model)
    for k, c in ((2, True), (3, False), (7, False)):
        agree(library, model, {"x": f(2, 3), "k": np.array([k]), "c": np.array(c)})


@pytest.mark.parametrize("centred, limits", [(0, "k, iou, low"), (1, "two, iou"), (0, "k")])
def test_boxes_that_no_better_one_covers(centred, limits):
    """As a detector goes on from them: the boxes themselves, behind the numbers of batch, class and place."""
    model = model_of(f"""g (float[2,40,4] b, float[2,3,40] s, int64 k) => (int64[N,3] picked, float[M,4] boxes) <float iou = {{0.3}},
          float low = {{0.4}}, int64 two = {{2}}, int64[2] places = {{0, 2}}> {{
        picked = NonMaxSuppression<center_point_box = {centred}>(b, s, {limits})
        at = Gather<axis = 1>(picked, places) boxes = GatherND(b, at) }}""")
    library = compiled(model)
    corners = np.sort(RNG.random((2, 40, 2, 2)).astype("f"), axis=2).reshape(2, 40, 4)
    scores = (RNG.integers(0, 12, (2, 3, 40)) / 12).astype("f")  # many are equal: the first counts
    for k in (0, 1, 5, 99):
        agree(library, model, {"b": corners, "s": scores, "k": np.array(k)})


def test_numbers_that_a_loop_counts():
    """x[:, i] of an i that goes up to where the condition ends it is one column each time; what it has filled comes out."""
    model = model_of("""g (float[2,5] x, float most) => (float[2,K] y, int64 n)
        <int64 zero = {0}, bool go = {1}, int64 last = {5}, float[2,5] blank = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
         float one = {1}, int64[1] axis = {1}, int64[1] first = {0}, int64[1] flat = {-1}> {
        n, all = Loop("", go, zero, blank) <body = b (int64 t, bool c, int64 i, float[2,5] s) => (bool d, int64 j, float[2,5] r) {
            f = Cast<to = 1>(i) g = Add(f, one) j = Cast<to = 7>(g)
            a = Reshape(i, flat) e0 = Reshape(j, flat) five = Constant<value = int64[1] {5}>() e = Min(e0, five)
            col = Slice(x, a, e, axis) v = Exp(col)
            p = Squeeze(a) q = Squeeze(e) unit = Constant<value = int64 {1}>() at = Range(p, q, unit)
            two = Constant<value = int64[2] {2, 1}>() grid = Constant<value = int64[2] {1, -1}>() at2 = Reshape(at, grid)
            at3 = Tile(at2, two)
            r = ScatterElements<axis = 1>(s, at3, v)
            m = ReduceMax<keepdims = 0>(v) low = Less(m, most) left = Less(j, last) d = And(left, low) }>
        k = Reshape(n, flat) y = Slice(all, first, k, axis) }""")  # fmt: skip
    library = compiled(model)
    x = np.sort(f(2, 5), axis=1)
    for most in (0.0, float(np.exp(x[:, 2].max())), 1e9):
        agree(library, model, {"x": x, "most": np.asarray(most, "f")})


@pytest.mark.parametrize(
    "nodes, why",
    [
        ("i = NonZero(x) y = Concat<axis = 1>(i, i)", "it joins tensors"),
        ("i = NonZero(x) y = Reshape(i, n)", "its shape is computed|lengths that data decide are parted"),
        ("k = Cast<to = 7>(x) s = ReduceSum<keepdims = 0>(k) t = Reshape(s, one) y = ConstantOfShape(t)", "has no bound"),
        ("i = NonZero(x) f = Cast<to = 1>(i) y = CumSum(f, axis)", "it reads a tensor whose length data decide"),
    ],
)  # fmt: skip
def test_what_has_no_bound_is_refused_with_the_reason(nodes, why):
    text = f"g (float[3] x, int64[2] n) => (float[K] y) <int64[1] one = {{1}}, int64 axis = {{1}}> {{ {nodes} }}"
    with pytest.raises(Unsupported, match=why):
        make_static(model_of(text))
