"""Kernels on rows, tiles and strips of memory: reductions, softmax, transpositions, pools, convolutions of any rank."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxc.codegen.kernels.transpose import Merged, merged
from onnxc.codegen.kernels.vectors import pieces
from onnxc.codegen.target import resolve, runs_here

from .conftest import run_ort
from .programs import Programs
from .test_operator_rows import Case, check, values


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded draws."""
    return np.random.default_rng(11)


TARGETS = ("native", "x86-64-v3")


def test_pieces_cover_each_element_once():
    for length, lanes in itertools.product((1, 3, 16, 31, 197), (1, 4, 16)):
        found = [s + i * w + j for s, w, count in pieces(length, lanes) for i in range(count) for j in range(w)]
        assert found == list(range(length))


def test_axes_that_stay_together_are_one():
    assert merged([1, 64, 8, 8], [0, 2, 3, 1]) == Merged((64, 64), (1, 0))
    assert merged([2, 3, 4, 5], [0, 1, 2, 3]) == Merged((120,), (0,))
    assert merged([2, 3, 4, 5], [2, 3, 0, 1]) == Merged((6, 20), (1, 0))
    assert merged([2, 3, 4, 5], [1, 0, 2, 3]) == Merged((2, 3, 20), (1, 0, 2))


@pytest.mark.parametrize("name", TARGETS)
def test_rows_and_tiles(name, rng, tmp_path):
    target = resolve(name)
    if not runs_here(target):
        pytest.skip("this machine has not its instructions")
    cases = []
    for extents, kind in itertools.product(
        ((3, 197), (2, 40, 17), (64, 70), (5, 3, 50), (50, 3), (1, 9, 8, 33), (20, 2, 16)), ("float32", "int8")
    ):
        order = rng.permutation(len(extents)).tolist()
        for perm in (order, list(range(len(extents)))[::-1]):
            cases.append(Case("Transpose", [values(rng, extents, kind)], perm=perm))
    for extents in ((3, 197), (4, 33), (2, 3, 70), (1, 1000)):
        x = values(rng, extents)
        cases += [Case(op, [x], opset=13, axis=-1) for op in ("Softmax", "LogSoftmax")]
        cases += [
            Case(f"Reduce{op}", [x], axes=[-1], keepdims=k) for op in ("Sum", "Mean", "Max", "Min") for k in (0, 1)
        ]
        cases += [
            Case("ReduceMax", [x]),
            Case("LayerNormalization", [x, values(rng, extents[-1:]), values(rng, extents[-1:])]),
        ]
    nan = values(rng, (3, 50))
    nan[1, 20], nan[2, 3] = np.nan, -np.inf
    cases.append(Case("Softmax", [nan], opset=13))
    check(cases, tmp_path, target=target, least=1.0)


@pytest.mark.parametrize("name", TARGETS)
def test_pools_of_any_window(name, rng, tmp_path):
    target = resolve(name)
    if not runs_here(target):
        pytest.skip("this machine has not its instructions")
    cases = []
    for op, rank in itertools.product(("MaxPool", "AveragePool"), (1, 2, 3)):
        for _ in range(4):
            kernel = rng.integers(1, (14, 9, 4)[rank - 1] + 1, rank).tolist()
            given = {
                "kernel_shape": kernel,
                "strides": rng.integers(1, 4, rank).tolist(),
                "pads": [int(rng.integers(0, k)) for k in kernel * 2],
            }
            if op == "MaxPool":
                given["dilations"] = rng.integers(1, 3, rank).tolist()
            else:
                given["count_include_pad"] = int(rng.integers(0, 2))
            x = values(rng, (2, int(rng.integers(1, 5)), *rng.integers(26, 40, rank).tolist()))
            kind = str(rng.choice(["float32", "uint8"])) if op == "MaxPool" else "float32"
            cases.append(Case(op, [x.astype(kind)], **given))
    cases.append(
        Case("MaxPool", [values(rng, (1, 2, 200, 100))], kernel_shape=[5, 5], strides=[1, 1])
    )  # several strips
    check(cases, tmp_path, target=target, least=1.0)


def chain(rng, rank: int, last: list, **attributes):
    """A convolution over `rank` axes, an activation, and other operators behind it."""
    sizes, channels = rng.integers(6, 11, rank).tolist(), 6
    weights = {
        "w": values(rng, (8, channels, *[3] * rank)),
        "b": values(rng, (8,)),
        "s": values(rng, (1, 8, *[1] * rank)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], pads=[1] * 2 * rank, **attributes),
        helper.make_node("Relu", ["a"], ["c"]),
        helper.make_node("Mul", ["c", "s"], ["d"]),
        *last,
    ]
    x = values(rng, (2, channels, *sizes))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, x.shape)], [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )  # fmt: skip
    made = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )
    return made, {"x": x}


def test_convolutions_of_any_rank_stay_channels_last(rng, tmp_path):
    programs, wanted = Programs(tmp_path), {}
    for rank in (1, 2, 3):
        ends = {
            "pool": [helper.make_node("MaxPool", ["d"], ["y"], kernel_shape=[3] * rank, strides=[2] * rank)],
            "mean": [helper.make_node("ReduceMean", ["d"], ["y"], axes=list(range(2, 2 + rank)), keepdims=0)],
            "softmax": [helper.make_node("Softmax", ["d"], ["y"], axis=1)],
            "join": [helper.make_node("Concat", ["d", "c"], ["y"], axis=1)],
            "turn": [helper.make_node("Transpose", ["d"], ["y"], perm=[0, *range(2, 2 + rank), 1])],
        }
        for name, last in ends.items():
            model, feeds = chain(rng, rank, last, strides=[int(rng.integers(1, 3))] * rank)
            key = f"{name}{rank}"
            assert programs.add(key, model) is None
            assert not any("conv" in row["function"] for row in programs.made[key].fallbacks)
            if name == "turn":
                assert sum("transpose" in row["function"] for row in programs.made[key].fallbacks) == 1  # of the input
            wanted[key] = (feeds, run_ort(model, feeds))
    programs.build()
    for key, (feeds, outputs) in wanted.items():
        for name, value in outputs.items():
            np.testing.assert_allclose(programs.run(key, feeds)[name], value, rtol=1e-4, atol=1e-5, err_msg=key)


def test_convolutions_over_three_axes(rng, tmp_path):
    cases = []
    for groups, kernel, stride, dilation, pads in (
        (1, (3, 3, 3), 1, 1, [1] * 6), (1, (2, 1, 3), 2, 1, [1, 0, 0, 0, 0, 1]), (2, (3, 2, 2), 1, 2, [2, 0, 1, 0, 1, 1]),
        (1, (1, 3, 3), 1, 1, [0] * 6), (1, (1, 1, 1), 2, 1, [0] * 6), (4, (3, 3, 3), 1, 1, [1] * 6), (1, (1, 1, 1), 1, 1, [0] * 6),
    ):  # fmt: skip
        x, w = values(rng, (2, 4, 6, 7, 8)), values(rng, (8 if groups < 4 else 4, 4 // groups, *kernel))
        more = {"strides": [stride] * 3, "dilations": [dilation] * 3, "pads": pads, "group": groups}
        cases.append(Case("Conv", [x, ("const", w), ("const", values(rng, w.shape[:1]))], **more))
    check(cases, tmp_path, least=1.0)


@pytest.mark.parametrize("op", ["Sinh", "Cosh", "Asinh", "Atan", "Tan", "Asin", "Tanh", "Erf"])
def test_functions_of_vectors_and_of_what_is_left(op, rng, tmp_path):
    check([Case(op, [values(rng, (n,)) * 0.3], opset=13) for n in (4, 16, 35)], tmp_path, least=1.0)


@pytest.mark.parametrize("op, more", [("Div", {}), ("Mod", {}), ("Mod", {"fmod": 1})])
def test_no_divisor_traps(op, more, tmp_path):
    """Quotients and remainders of integers are 0 where the divisor is 0, and what wraps round for the least integer by -1."""
    programs, wanted = Programs(tmp_path), {}
    for kind in ("int32", "int64", "uint8"):
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
        a, b = np.meshgrid(np.array([low, high, 0, 5, 7], kind), np.array([0, -1 if low else 1, 1, 3, high], kind))
        with np.errstate(all="ignore"):
            floor, least = (np.fmod(a, b) if more else a % b), (b == 0) | ((low < 0) & (b == -1))
        quotient = [
            0 if y == 0 else abs(int(x)) // abs(int(y)) * (1 if (x < 0) == (y < 0) else -1)
            for x, y in zip(a.flat, b.flat)
        ]
        wrapped = [(q - low) % (high - int(low) + 1) + low for q in quotient]
        right = np.array(wrapped, kind) if op == "Div" else np.where(least, 0, floor).astype(kind).ravel()
        case = Case(op, [a.ravel(), b.ravel()], opset=14, **more)
        assert programs.add(kind, case.model) is None
        wanted[kind] = case.feeds, right
    programs.build()
    for kind, (feeds, right) in wanted.items():
        np.testing.assert_array_equal(programs.run(kind, feeds)["y0"], right)


def test_products_of_any_ranks_have_a_kernel(rng, tmp_path):
    cases = []
    shapes = (
        ((4, 6, 5), (5, 7)),
        ((5,), (5, 7)),
        ((6, 5), (5,)),
        ((2, 1, 6, 5), (3, 5, 7)),
        ((6, 5), (3, 5, 7)),
        ((5,), (5,)),
    )
    for left, right in shapes:
        for fixed in (None, 0, 1):
            given = [values(rng, left), values(rng, right)]
            cases.append(Case("MatMul", [("const", v) if i == fixed else v for i, v in enumerate(given)]))
    check(cases, tmp_path, least=1.0)


def test_parts_that_are_joined_between_reshapes(tmp_path):
    """The halves of heads, turned by positions of their own, as RotaryEmbedding has them: each element reads its own row."""
    rng, programs, cases = np.random.default_rng(3), Programs(tmp_path), {}
    for n, (heads, half, more) in enumerate(itertools.product((2, 4), (2, 4, 8), (0, 3))):
        width = 2 * half + more
        nodes = [
            helper.make_node("Reshape", ["u", "r"], ["w"]),
            helper.make_node("Mul", ["x0", "w"], ["a"]),
            helper.make_node("Sub", ["x1", "w"], ["b"]),
            helper.make_node("Concat", ["a", "b", *["x2"] * bool(more)], ["c"], axis=3),
            helper.make_node("Reshape", ["c", "s"], ["y"]),
        ]
        shapes = {f"x{i}": (2, 3, heads, e) for i, e in enumerate((half, half, more)) if e} | {"u": (2, 3, half)}
        constants = {"r": [2, 3, 1, half], "s": [2, 3, heads * width]}
        graph = helper.make_graph(
            nodes, "g",
            [helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items()],
            [helper.make_tensor_value_info("y", 1, constants["s"])],
            [numpy_helper.from_array(np.array(v), name) for name, v in constants.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        feeds = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        assert programs.add(f"case{n}", model) is None
        cases[f"case{n}"] = feeds, run_ort(model, feeds)
    programs.build()
    for name, (feeds, wanted) in cases.items():
        found = programs.run(name, feeds)["y"]
        np.testing.assert_allclose(found, wanted["y"], rtol=1e-6, atol=1e-6)
