"""What models are fed: random inputs that ONNX Runtime accepts, ragged samples, states, wishes."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxc.ir.errors import BadData, BadOption, VerificationError
from onnxc.runtime.data import open_data
from onnxc.runtime.feeding import Wishes, feed
from onnxc.runtime.reference import Session
from onnxc.runtime.specs import input_specs

from .graphs import model


def runs(proto: onnx.ModelProto, data) -> int:
    """Samples of all batches, each of which ONNX Runtime runs."""
    session = Session(proto, optimise=False)
    count = 0
    for batch in data.batches(3):
        session.run(batch)
        count += batch.samples
    return count


PICKERS = {
    "gather": (
        "g (int64[N,T] i) => (float[N,T,3] y) { y = Gather(table, i) }",
        {"table": np.zeros((7, 3), np.float32)},
        ("i", 0, 7),
    ),
    "shifted": (
        "g (int32[N,T] i) => (float[N,T,3] y) <int32 five = {5}> { j = Add(i, five) y = Gather(table, j) }",
        {"table": np.zeros((9, 3), np.float32)},
        ("i", 0, 4),
    ),
    "through": (
        "g (int64[N,T] i) => (float[N,T,1,3] y) <int64[1] two = {2}> { u = Unsqueeze(i, two) j = Cast<to = 6>(u) y = Gather(table, j) }",
        {"table": np.zeros((40, 3), np.float32)},
        ("i", 0, 40),
    ),
    "one_hot": (
        "g (int64[N] i) => (float[N,D] y) <int64 depth = {10}, float[2] onoff = {0, 1}> { y = OneHot(i, depth, onoff) }",
        {},
        ("i", 0, 10),
    ),
    "divides": ("g (int32[N,4] i, int32[N,4] x) => (int32[N,4] y) { y = Div(x, i) }", {}, ("i", 1, 2**31)),
    "elements": (
        "g (float[N,6] x, int64[N,2] i) => (float[N,2] y) { y = GatherElements<axis = 1>(x, i) }",
        {},
        ("i", 0, 6),
    ),
    "positions": (
        "g (float[N,2,3,8] x, int64[N,3] i) => (float[N,2,3,8] y) { y = RotaryEmbedding(x, cos, sin, i) }",
        {"cos": np.ones((9, 4), np.float32), "sin": np.zeros((9, 4), np.float32)},
        ("i", 0, 9),
    ),
}


@pytest.mark.parametrize("name", PICKERS)
def test_drawn_integers_are_within_what_they_pick_from(name):
    text, weights, (tensor, low, below) = PICKERS[name]
    proto = model(text, **weights)
    proto.opset_import[0].version = 23
    proto.ir_version = 10
    data = feed(proto, samples=6)
    assert runs(proto, data) == 6
    values = np.concatenate([batch[tensor].ravel() for batch in data.batches(4)])
    assert values.min() >= low and values.max() < below
    if below <= 10:
        assert len(set(values.tolist())) > 2


def test_an_index_is_below_the_symbol_of_another_input():
    proto = model("g (float[nodes,3] feat, int64[2,edges] at) => (float[2,edges,3] y) { y = Gather(feat, at) }")
    data = feed(proto, wishes=Wishes(shapes={"nodes": (5,), "edges": (30,)}), samples=3)
    batches = list(data.batches(8))
    assert len(batches) == 3 and all(b["feat"].shape == (5, 3) and b["at"].shape == (2, 30) for b in batches)
    assert max(int(b["at"].max()) for b in batches) == 4
    assert any("at 0 to 4" in text for text in data.remarks)


def test_names_tell_masks_lengths_and_rates():
    proto = model(
        "g (float[N,T] x, int64[N,T] attention_mask, int64[N] x_lengths, int64 sr) => (float[N,T] y)"
        "{ m = Cast<to = 1>(attention_mask) l = Cast<to = 1>(x_lengths) r = Cast<to = 1>(sr) s = ReduceSum<keepdims = 0>(l)"
        "  a = Mul(x, m) b = Mul(a, s) y = Mul(b, r) }"
    )
    batch = next(feed(proto).batches(4))
    assert (batch["attention_mask"] == 1).all() and (batch["x_lengths"] == 16).all() and batch["sr"] == 16000


def test_values_that_an_if_asks_for():
    text = """g (float[N,4] x, int64 mode) => (float[N,4] y) <int64 eight = {8}> {
      c = Equal(mode, eight)
      y = If (c) <then_branch = a () => (float[N,4] t) { t = Relu(x) }, else_branch = b () => (float[N,4] e) { e = Neg(x) }>
    }"""
    assert next(feed(model(text)).batches(2))["mode"] == 8


@given(
    window=st.integers(17, 300), stride=st.integers(1, 50), fixed=st.sampled_from([None, 5, 7, 12])
)  # extents that the usual ones are not, either
@settings(max_examples=10, deadline=None)
def test_extents_are_tried_until_the_model_runs(window, stride, fixed):
    nodes = [
        helper.make_node("Unsqueeze", ["x", "one"], ["u"]),
        helper.make_node("Conv", ["u", "w"], ["y"], strides=[stride]),
    ]
    weights = [
        numpy_helper.from_array(np.array([1]), "one"),
        numpy_helper.from_array(np.ones((2, 1, window), np.float32), "w"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "time"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    if fixed:
        inputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", "L", 4]))
        nodes.append(helper.make_node("Reshape", ["z", "t"], ["r"]))
        weights.append(numpy_helper.from_array(np.array([-1, fixed, 2, 2]), "t"))
        outputs.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert runs(proto, feed(proto, samples=2)) == 2


def test_what_no_inputs_serve_is_asked_for():
    proto = model(
        "g (float[N,T] x, float[N,T] y) => (float[N,T] z) <int64[1] s = {65537}> { a = Reshape(x, s) z = Add(a, y) }"
    )
    with pytest.raises(VerificationError, match="several sizes were tried: give --data") as refusal:
        feed(proto)
    assert refusal.value.exit_status == 2


def test_a_model_that_takes_one_sample_gets_one_at_a_time():
    proto = model("g (float[N,4] x) => (float[1,2,2] y) <int64[3] s = {1,2,2}> { y = Reshape(x, s) }")
    for source in (None, {"x": np.ones((5, 4), np.float32)}):
        data = feed(proto, source, samples=5)
        assert runs(proto, data) == 5
        assert any("one sample at a time" in text for text in data.remarks)


def test_states_have_their_samples_on_the_second_axis():
    proto = model(
        "g (float[batch,T,3] x, float[2,batch,3] h) => (float[batch,T,3] y, float[2,batch,3] hn)"
        "{ y = Relu(x) hn = Relu(h) }"
    )
    x, h = np.arange(30, dtype=np.float32).reshape(5, 2, 3), np.arange(30, dtype=np.float32).reshape(2, 5, 3)
    batches = list(open_data({"x": x, "h": h}, input_specs(proto)).batches(2))
    assert [b["h"].shape for b in batches] == [(2, 2, 3), (2, 2, 3), (2, 1, 3)]
    np.testing.assert_array_equal(np.concatenate([b["h"] for b in batches], 1), h)
    assert runs(proto, feed(proto, samples=4)) == 4
    with pytest.raises(BadData, match=r"h\[1\]: as many samples as in x are needed, expected 5, found 4"):
        open_data({"x": x, "h": h[:, :4]}, input_specs(proto))


GRAPH = "g (float[n,3] feat, int64[2,e] edges) => (float[2,e,3] y) { y = Gather(feat, edges) }"


def ragged(counts):
    rng = np.random.default_rng(0)
    feats = [rng.standard_normal((n, 3)).astype(np.float32) for n in counts]
    return feats, [rng.integers(0, n, (2, n + 1)) for n in counts]


@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=5))
@settings(deadline=None, max_examples=25)
def test_a_model_without_an_axis_of_samples_takes_them_one_by_one(counts):
    proto = model(GRAPH)
    feats, edges = ragged(counts)
    numbered = {f"feat[{i}]": f for i, f in enumerate(feats)} | {f"edges[{i}]": e for i, e in enumerate(edges)}

    def function():
        yield from ({"feat": f, "edges": e} for f, e in zip(feats, edges))

    for source in (numbered | {"labels": np.arange(len(counts))}, function):
        data = open_data(source, input_specs(proto))
        batches = list(data.batches(4))
        assert [len(b["feat"]) for b in batches] == counts
        for batch, feat, edge in zip(batches, feats, edges):
            np.testing.assert_array_equal(batch["feat"], feat)
            np.testing.assert_array_equal(batch["edges"], edge)
    assert data.samples is None


def test_ragged_samples_stand_in_files(tmp_path):
    feats, edges = ragged([3, 1, 4])
    numbered = {f"feat[{i}]": f for i, f in enumerate(feats)} | {f"edges[{i}]": e for i, e in enumerate(edges)}
    np.savez(tmp_path / "d.npz", **numbered, labels=np.arange(3), other=np.ones(2))
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, array in numbered.items():
        np.save(folder / f"{name}.npy", array)
    specs = input_specs(model(GRAPH))
    for source in (tmp_path / "d.npz", folder):
        data = open_data(source, specs)
        assert data.samples == 3
        assert [len(b["feat"]) for b in data.batches()] == [3, 1, 4]
    del numbered["edges[1]"]
    np.savez(tmp_path / "short.npz", **numbered)
    with pytest.raises(BadData, match=r"edges\[1\]: no array for this sample, expected 3 samples, as in feat"):
        open_data(tmp_path / "short.npz", specs)


def test_sequences_of_several_lengths_come_in_batches_that_fit():
    specs = input_specs(model("g (float[N,T] x) => (float[N,T] y) { y = Relu(x) }"))
    lengths = [3, 3, 5, 3]
    arrays = {f"x[{i}]": np.full((1, n) if i else (n,), i, np.float32) for i, n in enumerate(lengths)}
    batches = list(open_data(arrays, specs).batches(8))
    assert [b["x"].shape for b in batches] == [(2, 3), (1, 5), (1, 3)]


def test_wishes_are_held_or_refused():
    proto = model("g (float[N,3,H,W] x, float[N,H] z) => (float[N,3,H,W] y, float[N,H] q) { y = Relu(x) q = Relu(z) }")
    batch = next(feed(proto, wishes=Wishes(shapes={"x": (2, 3, 9, 8)})).batches(2))
    assert batch["x"].shape == (2, 3, 9, 8) and batch["z"].shape == (2, 9)
    given = np.ones((1, 3, 5, 6), np.float32)
    batch = next(feed(proto, wishes=Wishes(arrays={"x": given})).batches(4))
    assert batch["x"] is not None and (batch["x"] == 1).all() and batch["z"].shape == (1, 5)
    for wishes, said in [
        (Wishes(shapes={"q": (1,)}), "names no input and no symbol, expected x, z, H, N, W, found q"),
        (Wishes(shapes={"x": (1, 4, 9, 8)}), r"x\[1\]: the model does not take this shape, expected 3, found 4"),
        (Wishes(shapes={"x": (1, 3, 9)}), "does not take this shape"),
        (Wishes(shapes={"x": (1, 3, 9, 8), "H": (7,)}), "gives H two extents, expected 9, found 7"),
        (Wishes(samples="Q"), "no axis of an input has this name"),
        (Wishes(arrays={"w": given}), "w: there is no such input, expected x, z"),
    ]:
        with pytest.raises(BadOption, match=said):
            feed(proto, wishes=wishes)
    with pytest.raises(BadData, match="wrong extent"):
        feed(proto, wishes=Wishes(arrays={"x": given[:, :2]}))
    data = {"x": given, "z": given[0, :1, :, 0]}
    with pytest.raises(BadOption, match="--input stands in for data, and there are data, found x"):
        feed(proto, data, Wishes(arrays={"x": given}))


SETTLED = {
    "channels": ("g (float[N,C,H,W] x) => (float[a,b,c,d] y) { s = Mul(x, f) y = Conv(s, w) }",
                 {"w": np.ones((2, 3, 3, 3), np.float32), "f": np.float32(2)}, {1: 3}),
    "turned": ("g (float[N,P,Q] x) => (float[a,b,c] y) { t = Transpose<perm = [0, 2, 1]>(x) y = MatMul(t, w) }",
               {"w": np.ones((5, 2), np.float32)}, {1: 5}),
    "gates": ("g (float[T,N,I] x) => (float[a,b,c,d] y) { y = RNN<hidden_size = 4>(x, w, r) }",
              {"w": np.ones((1, 4, 7), np.float32), "r": np.ones((1, 4, 4), np.float32)}, {2: 7}),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTLED)
def test_an_axis_called_open_that_weights_settle(name):
    text, weights, wanted = SETTLED[name]
    proto = model(text, **weights)
    data = feed(proto)
    assert runs(proto, data)
    shape = next(data.batches(1))["x"].shape
    assert all(shape[axis] == extent for axis, extent in wanted.items())


def test_a_target_that_is_an_input_is_as_declared():
    for text in (
        "g (float[N,4] x, int64[3] s) => (float[N,2,2] y) { y = Reshape(x, s) }",
        "g (float[N,4] x, int64[2] s) => (float[A,B] y) { y = Reshape(x, s) }",
    ):
        proto = model(text)
        assert runs(proto, feed(proto))


def test_a_reshape_by_an_input_of_unknown_length():
    proto = model(
        "g (float[a,b] x, int64[k] shape) => (float[n] y) { r = Reshape(x, shape) y = MatMul(r, w) }",
        w=np.ones(16, np.float32),
    )
    assert "k = 1" in feed(proto).remarks and "shape -1 (Reshape)" in feed(proto).remarks


def test_boxes_and_sizes_that_regions_and_resizes_take():
    region = "y = RoiAlign<output_height = 2, output_width = 2>(x, r, b)"
    proto = model("g (float[2,3,9,9] x, float[k,4] r, int64[k] b) => (float[k,3,2,2] y) { " + region + " }")
    data = feed(proto, samples=2)
    runs(proto, data)
    batch = next(data.batches(1))
    boxes = batch["r"].reshape(-1, 4)
    assert (boxes[:, 2:] > boxes[:, :2]).all() and set(batch["b"].ravel().tolist()) <= {0, 1}
    proto = model("g (float[N,3,4,5] x, int64[4] s) => (float[A,B,C,D] y) { y = Resize<mode = \"linear\">(x, \"\", \"\", s) }")  # fmt: skip
    assert next(feed(proto, samples=1).batches(1))["s"].ravel().tolist() == [1, 3, 8, 10]
    runs(proto, feed(proto, samples=1))
