"""Folding bombs: a few bytes that ask for gigabytes or hours are left alone, whatever operator asks."""

import resource
import time

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

from onnxc.ir import sizes
from onnxc.ir.files import load
from onnxc.ir.model import Model
from onnxc.passes.base import apply
from onnxc.passes.editor import FILL, ROOM
from onnxc.passes.registry import make

BIG = 1 << 31
# node text -> contents of its constant inputs; opset 20 where none is said
BOMBS = {
    "y = HannWindow(n)": {"n": BIG},
    "y = HammingWindow(n)": {"n": BIG},
    "y = BlackmanWindow<output_datatype=11>(n)": {"n": BIG},
    "y = Range(a, n, b)": {"a": 0, "n": BIG, "b": 1},
    "y = Expand(v, s)": {"v": np.ones(2, "f"), "s": [BIG, 2]},
    "y = Tile(v, s)": {"v": np.ones(2, "f"), "s": [BIG]},
    "y = ConstantOfShape(s)": {"s": [BIG]},
    "y = OneHot(i, n, o)": {"i": [1, 2], "n": BIG, "o": np.array([0, 1], "f")},
    "y = EyeLike(z)": {"z": np.broadcast_to(np.float32(0), (46341, 46341))},
    "y = AffineGrid(t, s)": {"t": np.ones((1, 2, 3), "f"), "s": [1, 1, 1 << 16, 1 << 15]},
    "y = CenterCropPad(v, s)": {"v": np.ones(2, "f"), "s": [BIG]},
    "y = DFT(f, n, d)": {"d": 0, "f": np.ones((1, 2, 1), "f"), "n": BIG},
    "y = MelWeightMatrix(m, n, r, a, b)": {"m": 64, "n": BIG, "r": 8000, "a": np.float32(0), "b": np.float32(4000)},
    "y = Pad(v, p)": {"v": np.ones(2, "f"), "p": [BIG, 0]},
    'y = Einsum<equation="i,j,k->ijk">(e, e, e)': {"e": np.ones(2000, "f")},
    'y = Einsum<equation="i,j,k->">(e, e, e)': {"e": np.ones(20000, "f")},
    "y = Gather(v, i)": {"v": np.ones((1, 3000), "f"), "i": np.zeros(300000, "i8")},
    "y = Add(r, c)": {"r": np.ones((1, 50000), "f"), "c": np.ones((50000, 1), "f")},
    "y = Where(o, r, c)": {"o": np.array([True]), "r": np.ones((1, 50000), "f"), "c": np.ones((50000, 1), "f")},
    "y = Concat<axis=0>(w, w, w)": {"w": np.broadcast_to(np.float32(1), (1 << 28,))},
    "y = MatMul(c, r)": {"r": np.ones((1, 50000), "f"), "c": np.ones((50000, 1), "f")},
    "y = Trilu(z)": {"z": np.broadcast_to(np.float32(0), (46341, 46341))},
    "y = NonZero(z)": {"z": np.broadcast_to(np.float32(1), (46341, 46341))},
}  # fmt: skip


def bomb(text: str, constants: dict, opset: int = 20) -> Model:
    """The node with its constants, its result read by an Identity so that it may be folded."""
    node = parser.parse_node(text)
    arrays = {k: v if isinstance(v, (np.ndarray, np.generic)) else np.array(v, np.int64) for k, v in constants.items()}
    real = {k: v for k, v in arrays.items() if v.nbytes < 1 << 24}
    graph = helper.make_graph(
        [node, helper.make_node("Shape", ["y"], ["z_"])],
        "g",
        [],
        [helper.make_tensor_value_info("z_", onnx.TensorProto.INT64, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in real.items()],
    )
    for k, v in arrays.items():
        if k not in real:
            graph.node.insert(
                0,
                helper.make_node(
                    "ConstantOfShape",
                    [f"{k}_s"],
                    [k],
                    value=numpy_helper.from_array(v[(slice(0, 1),) * v.ndim].reshape(1)),
                ),
            )
            graph.initializer.append(numpy_helper.from_array(np.array(v.shape, np.int64), f"{k}_s"))
    return load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10))


@pytest.mark.parametrize("text", BOMBS)
def test_a_folding_bomb_is_left_alone(text):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    model = bomb(text, BOMBS[text])
    report = make("clean").run(work := model.copy(), context(work))
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    assert any("y" in [t.name for t in n.outputs] for n in work.nodes) or not work.constants().get("y"), report.edits


def context(model: Model):
    from onnxc.ir.verify import verify
    from onnxc.passes.base import Context

    return Context(verify(model))


def test_growth_adds_up():
    """Each Concat(x, x) may double its input; thirty in a row may not."""
    nodes = [helper.make_node("Concat", [f"x{k}"] * 2, [f"x{k + 1}"], axis=0) for k in range(30)]
    nodes.append(helper.make_node("Gather", ["x30", "at"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("at", onnx.TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.arange(1000, dtype="f"), "x0")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    after, _ = apply(make("clean"), load(proto))
    assert sum(t.values.nbytes for t in after.constants().values()) <= 2 * ROOM


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_what_is_said_beforehand_is_what_it_takes(data):
    """`written` is at least the bytes of the results, for random operators, shapes and repeated elements."""
    from onnxc.ir.evaluate import CannotFold, evaluate

    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    x = rng.standard_normal(shape).astype("f") if draw(st.booleans()) else np.broadcast_to(np.float32(2), shape)
    op, attrs, more = draw(
        st.sampled_from(
            [
                ("Add", {}, [np.ones((5, *(1,) * len(shape)), "f")]), ("Transpose", {}, []), ("NonZero", {}, []),
                ("Flatten", {}, []), ("Tile", {}, [np.array([2] * len(shape))]), ("Concat", {"axis": 0}, [x]),
                ("Gather", {}, [np.zeros((2, 3), np.int64)]), ("Expand", {}, [np.array([3, *shape])]),
                ("ReduceMean", {}, []), ("Cast", {"to": 11}, []), ("CumSum", {}, [np.array(0)]), ("Shape", {}, []),
                ("Trilu", {}, []), ("Split", {"num_outputs": 1}, []), ("Pad", {}, [np.array([1] * 2 * len(shape))]),
            ]
        )
    )  # fmt: skip
    constants = {"x": x} | {f"i{k}": np.asarray(v) for k, v in enumerate(more)}
    text = f"y = {op}({', '.join(constants)})"
    model = bomb(text, {k: np.ascontiguousarray(v) for k, v in constants.items()})
    node = model.nodes[0]
    node.attrs.update(attrs)
    try:
        results = evaluate(node, list(constants.values()), model.opset)
    except CannotFold:
        return
    said = sizes.written(node, list(constants.values()), model.opset, {t.name: (None, 8) for t in node.outputs})
    assert said is not None and said >= sum(r.nbytes for r in results)
    new = sum(r.nbytes for r in results if r.base is None and not np.shares_memory(r, x))
    assert sizes.held(node, list(constants.values()), said) >= min(new, said) or new <= x.nbytes


def test_the_bounds_are_what_they_are_called():
    assert FILL == 1 << 30 and ROOM == 1 << 26
