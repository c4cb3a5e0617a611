"""Loops and Ifs that stay such: loops and branches of C around the programs of their bodies, beside ONNX Runtime."""

import ctypes
import subprocess

import numpy as np
import pytest
from onnx import helper, parser

from onnxc.codegen import compile as compiled
from onnxc.codegen import compile_model
from onnxc.ir.errors import Unsupported

from .conftest import run_ort

MODELS = {
    # a limit and a condition from outside, an early end, states that change places, floats of 16 bits
    "stops": (
        """g (float[2,4] x, int64 n, bool c, float16[2] h) => (float[2,4] y, int64 t, float[2,4] z, float16[2] k)
        <int64 zero = {0}, float most = {30}> {
        y, t, z, k = Loop(n, c, x, zero, x, h) <body = b (int64 i, bool go, float[2,4] s, int64 q, float[2,4] p, float16[2] e)
            => (bool on, float[2,4] s2, int64 q2, float[2,4] p2, float16[2] e2) {
            m = Mul(p, s) p2 = Identity(s) s2 = Add(m, x) r = ReduceSum<keepdims = 0>(s2) on = Less(r, most)
            q2 = Add(q, i) e2 = Add(e, e) }> }""",
        [{"n": n, "c": c} for n, c in ((0, True), (1, True), (2, True), (3, False), (99, True))],
    ),
    # a loop and a branch in a loop, which read what the outside and their own loop make; a state that is a condition
    "nested": (
        """g (float[2,3] x, int64 n, int64[4] ids, float[3,3] w) => (float[2,3] y, bool d)
        <int64 one = {1}, float least = {0.2}, bool go = {1}> {
        r = Relu(x)
        y, d = Loop(n, "", x, go) <body = q (int64 i, bool g1, float[2,3] s, bool p) => (bool o1, float[2,3] s2, bool p2) {
            o1 = Identity(g1) k = Gather(ids, i)
            s1 = Loop(k, g1, s) <body = z (int64 j, bool g2, float[2,3] v) => (bool o2, float[2,3] v2) {
                m = MatMul(v, w) a = Add(m, r) t = Tanh(a) u = ReduceSum<keepdims = 0>(t) o2 = Greater(u, least) v2 = Mul(t, r) }>
            e = Equal(i, one)
            s2 = If(e) <then_branch = yes () => (float[2,3] t0) { t0 = MatMul(s1, w) },
                        else_branch = no () => (float[2,3] t1) { t1 = Add(s1, x) }>
            p2 = Not(p) }> }""",
        [{"n": n, "ids": [3, 0, 2, 1]} for n in (0, 1, 4)],
    ),
    # an index out of range in the branch that is not taken is none; a result that is what the body was given
    "branch": (
        """g (float[4,3] x, bool c, int64 at, float[3,3] w) => (float[3] y, float[4,3] z) <int64[1] first = {0}> {
        y, z = If(c) <then_branch = yes () => (float[3] t0, float[4,3] t2) { t0 = Gather(x, at) t2 = Identity(x) },
                      else_branch = no () => (float[3] t1, float[4,3] t3) {
                          t3 = MatMul(x, w) t1 = ReduceSum<keepdims = 0>(t3, first) }> }""",
        [{"c": True, "at": 2}, {"c": False, "at": 99}],
    ),
    # rows of as many rounds as there are, none at all too; how many there can be says the condition
    "gathers": (
        """g (float[3] x, int64 n, float most) => (float[3] y, float[A,3] rows, int64[B] numbers, float total)
        <int64 five = {5}> {
        y, rows, numbers = Loop(n, "", x) <body = b (int64 i, bool go, float[3] v) => (bool on, float[3] w, float[3] row, int64 at) {
            w = Add(v, x) row = Exp(w) at = Identity(i) m = ReduceMax<keepdims = 0>(row) low = Less(m, most)
            left = Less(i, five) on = And(low, left) }>
        total = ReduceSum<keepdims = 0>(rows) }""",
        [{"n": n, "most": most} for n, most in ((0, 9), (2, 1e9), (100, 1e9), (100, 4))],
    ),
    # too many rounds to write out, with a row of each; a one by one state that comes out with another rank
    "rows": (
        """g (float[3] x, float s) => (float[3] y, float z, float[r,3] all) <int64 n = {3000}, bool go = {1}, float[1] half = {0.5}> {
        y, z, all = Loop (n, go, x, s) <body = b (int64 i, bool c, float[3] v, float q) => (bool d, float[3] m, float[1] q2, float[3] o) {
            d = Identity(c) f = Cast<to = 1>(i) h = Sin(f) m = Sub(h, v) o = Mul(m, x) q2 = Mul(q, half) }> }""",
        [{}],
    ),
}  # fmt: skip


def model_of(text: str):
    return parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')


def feeds_of(model, given: dict) -> dict:
    rng, feeds = np.random.default_rng(5), {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        dtype, extents = helper.tensor_dtype_to_np_dtype(kind.elem_type), [d.dim_value for d in kind.shape.dim]
        feeds[value.name] = np.asarray(given.get(value.name, rng.random(extents)), dtype)
    return feeds


@pytest.mark.parametrize("name", MODELS)
def test_loops_and_branches(name):
    text, cases = MODELS[name]
    model = model_of(text)
    library = compiled(model)
    for given in cases:
        feeds = feeds_of(model, given)
        found, wanted = library(**feeds), run_ort(model, feeds)
        for key, array in wanted.items():
            assert found[key].dtype == array.dtype and np.allclose(found[key], array, rtol=1e-6), (given, key)


def test_a_loop_in_sources(tmp_path):
    """`--emit c`: the strictest compiler has nothing to say, and the program computes the same."""
    text, cases = MODELS["nested"]
    model = model_of(text)
    report = compile_model(model, tmp_path, name="net", target="cortex-m3", emit="c", check="shapes")
    strict = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic", "-shared", "-fPIC", "-ffp-contract=off"]
    subprocess.run(["gcc", *strict, "c/net.c", "-lm", "-o", "net.so"], cwd=tmp_path, check=True)
    library, arena = ctypes.CDLL(str(tmp_path / "net.so")), np.zeros(report.arena_bytes + 64, np.uint8)
    handle = ctypes.c_void_p(-(-arena.ctypes.data // 64) * 64)
    assert library.net_init(handle, 1) == 0
    for given in cases:
        feeds = feeds_of(model, given)
        wanted = run_ort(model, feeds)
        found = {key: np.zeros_like(array) for key, array in wanted.items()}
        sides = [(ctypes.c_void_p * len(side))(*(a.ctypes.data for a in side.values())) for side in (feeds, found)]
        assert library.net_run(handle, *sides) == 0
        assert all(np.allclose(found[key], wanted[key], rtol=1e-6) for key in wanted)


@pytest.mark.parametrize(
    "body, found",
    [
        ("(float[2] v) => (bool d, float[m] o) { d = Identity(c) o = Concat<axis = 0>(v, v) }", "float .2., found float .4."),
        ("(float[2] v) => (bool d, float[2] o, float[2] s) { d = Identity(c) o = Neg(v) s = Abs(v) }", "is computed and has no bound"),
    ],
)  # fmt: skip
def test_what_has_no_bounded_shape_is_refused(body, found):
    more = ", all" if "float[2] s" in body else ""
    head, rest = body.split(")", 1)
    text = f'g (float[2] x, int64 n) => (float[k] y) {{ y{more} = Loop(n, "", x) <body = b (int64 i, bool c, {head[1:]}){rest}> }}'
    with pytest.raises(Unsupported, match=found):
        compile_model(model_of(text), "nowhere", name="net", check="shapes")
