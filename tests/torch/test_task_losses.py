"""Training on labels of pixels and of boxes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxc
from onnxc.ir.errors import BadData, BadOption
from onnxc.runtime.reference import Session

torch = pytest.importorskip("torch")


def net(out: int, stride: int) -> onnx.ModelProto:
    """A convolution of 3 x 3, Relu, one of `stride` x `stride` [N, 1, 32, 32] -> [N, out, 32 / stride, ...]; a detector's ends."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(0, 0.4, (6, 1, 3, 3)),
        "w2": rng.normal(0, 0.05, (out, 6, stride, stride)),
        "b": np.zeros(out),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], "c", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], "r"),
        helper.make_node("Conv", ["r", "w2", "b"], ["y"], "y", strides=[stride] * 2),
    ]
    if stride > 1:
        split = numpy_helper.from_array(np.array([1, 4, out - 5]), "parts")
        nodes[-1].output[0] = "raw"
        nodes += [
            helper.make_node("Split", ["raw", "parts"], ["o", "t", "k"], "split", axis=1),
            helper.make_node("Sigmoid", ["o"], ["po"], "po"),
            helper.make_node("Softmax", ["k"], ["pk"], "pk", axis=1),
            helper.make_node("Concat", ["po", "t", "pk"], ["y"], "cat", axis=1),
        ]
    made = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()]
    side = 32 // stride
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", out, side, side])],
        [*made, split] if stride > 1 else made,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def squares(n: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bright squares (class 0) and dark ones (class 1) of 12 pixels; their masks and boxes."""
    rng = np.random.default_rng(1)
    x, mask, boxes = (
        np.zeros((n, 1, 32, 32), np.float32),
        np.zeros((n, 32, 32), np.uint8),
        np.full((n, 2, 5), -1.0, np.float32),
    )
    for k in range(n):
        kind, (top, left) = int(rng.integers(2)), rng.integers(0, 20, 2)
        x[k, 0, top : top + 12, left : left + 12] = 1 - 2 * kind
        mask[k, top : top + 12, left : left + 12] = kind + 1
        boxes[k, 0] = (kind, left, top, left + 12, top + 12)
    return x, mask, boxes


def test_pixels_are_learnt_and_some_do_not_count():
    x, mask, _ = squares()
    mask[:, :4] = 255
    done = onnxc.run_passes(
        net(3, 1), "train.finetune(epochs=6, batch=8, rate=0.02)", data={"x": x, "labels": mask}, task="segmentation"
    )
    assert done.report.rows[-1].error["miou"] > done.report.metrics["miou"] + 0.3
    with pytest.raises(BadOption, match="a label names no class, expected 0 to 2, found 7"):
        onnxc.run_passes(net(3, 1), "train.finetune", data={"x": x, "labels": np.full_like(mask, 7)}, check="shapes")


def test_boxes_are_learnt():
    x, _, boxes = squares()
    done = onnxc.run_passes(
        net(7, 16), "train.finetune(epochs=40, batch=8, rate=0.03)", data={"x": x, "labels": boxes}, check="shapes"
    )
    note = next(n for n in done.report.rows[-1].notes if "held loss" in n)
    start, end = (float(v) for v in note.split("held loss ")[1].split(" (")[0].split(" -> "))
    assert end < 0.6 * start


def test_the_loss_of_boxes_is_least_where_they_fit():
    from onnxc.torch.boxes import detected

    label = torch.tensor(
        [[[1.0, 4, 6, 20, 26], [-1, 0, 0, 0, 0]]]
    )  # centre (12, 16): cell (0, 1), with (1, 1) and (0, 0)
    right = torch.zeros(1, 7, 2, 2)
    right[:, 6] = 1
    for row, column in ((1, 0), (0, 0), (1, 1)):
        right[0, 0, row, column] = 1
        right[0, 1, row, column] = np.arctanh(12 / 16 - column)
        right[0, 2, row, column] = np.arctanh(np.clip(16 / 16 - row, -0.9999, 0.9999))
        right[0, 3, row, column] = 0.0  # half of 32 pixels
        right[0, 4, row, column] = np.log((20 / 32) / (1 - 20 / 32))
    least = float(detected(right, label))
    assert least < 0.05
    for channel, by in ((0, -0.5), (1, 0.3), (3, 1.0), (6, -0.9)):
        worse = right.clone()
        worse[0, channel, 1, 0] += by
        assert float(detected(worse, label)) > least + 0.02
    empty = torch.full((1, 2, 5), -1.0)
    assert float(detected(torch.zeros(1, 7, 2, 2), empty)) < 1e-4 < float(detected(right, empty))


def test_labels_that_fit_no_output_are_told():
    x, _, boxes = squares(16)
    with pytest.raises(BadOption, match=r"no output fits the labels, .* found labels float32 \[\d, 2, 5\]"):
        onnxc.run_passes(net(3, 1), "train.finetune(batch=8)", data={"x": x, "labels": boxes}, check="shapes")


def dense(end: str, out: int) -> onnx.ModelProto:
    """Gemm, Relu, Gemm and `end`: 4 numbers to `out`."""
    rng = np.random.default_rng(0)
    weights = {"w1": rng.normal(0, 0.5, (4, 16)), "w2": rng.normal(0, 0.5, (16, out))}
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,{out}] y)
        {{ a = Gemm(x, w1)  r = Relu(a)  b = Gemm(r, w2)  y = {end}(b) }}"""
    )
    proto.graph.initializer.extend(numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items())
    return proto


def learnt(model, passes="train.finetune(epochs=12, batch=16, rate=0.02)", task=None, **data):
    """(metric as given, metric after training), of the first one."""
    report = onnxc.run_passes(model, passes, data=data, task=task).report
    return report.metrics[report.metric], report.rows[-1].error[report.metric]


X = np.random.default_rng(3).normal(size=(128, 4)).astype(np.float32)


@pytest.mark.parametrize("shape", [(128,), (128, 1), (128, 1, 1)])
def test_numbers_are_learnt(shape):
    before, after = learnt(dense("Identity", 1), x=X, labels=(X[:, :1] * 2 + np.abs(X[:, 1:2])).reshape(shape))
    assert before < 0.5 < 0.9 < after
    with pytest.raises(BadOption, match=r"no output fits the labels.*found labels int64 \[\d+\]"):
        learnt(dense("Identity", 1), x=X, labels=np.arange(128))


def test_two_classes_of_one_number_are_learnt():
    odd = (X[:, 0] * X[:, 1] > 0).astype(np.int64)
    before, after = learnt(dense("Sigmoid", 1), x=X, labels=odd, task="anomaly")
    assert before < 0.7 < 0.85 < after


def test_every_form_of_classes_is_learnt_alike():
    kind = (X[:, 0] > 0) + (X[:, 1] > 0).astype(np.int64)
    forms = [
        kind,
        kind[:, None],
        kind.astype(np.float64),
        np.eye(3, dtype=np.float32)[kind],
        np.eye(3, dtype=int)[kind],
    ]
    found = [learnt(dense("Identity", 3), x=X, labels=labels) for labels in forms]
    assert found[0][1] > max(found[0][0], 0.8) and all(pair == found[0] for pair in found)


def stepwise() -> onnx.ModelProto:
    """One Gemm for each step: [N, steps, 4] to scores of 4 symbols."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,T,4] x) => (float[N,T,4] y)
        { a = MatMul(x, w1)  c = Add(a, b1)  r = Relu(c)  y = MatMul(r, w2) }"""
    )
    for name, shape in (("w1", (4, 24)), ("b1", (24,)), ("w2", (24, 4))):
        w = np.random.default_rng(len(name) + shape[0]).normal(0, 0.4, shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(w, name))
    return proto


def test_symbols_are_learnt_whenever_they_come():
    """Of 8 steps some show a symbol; the labels say which and in what order, not when (CTC)."""
    rng = np.random.default_rng(5)
    x, labels = rng.normal(0, 0.1, (96, 8, 4)).astype(np.float32), np.full((96, 3), -1)
    for n in range(96):
        at = np.sort(rng.permutation(8)[: rng.integers(1, 4)])
        labels[n, : len(at)] = rng.integers(1, 4, len(at))
        x[n, at, labels[n, : len(at)]] += 2
    before, after = learnt(
        stepwise(), "train.finetune(epochs=30, batch=16, rate=0.02)", "sequences", x=x, labels=labels
    )
    assert after < 0.3 < before
    with pytest.raises(BadOption, match="a label names no class, expected 0 to 3, found 9"):
        learnt(stepwise(), task="sequences", x=x, labels=np.where(labels < 0, labels, 9))


def test_a_class_of_each_step_is_learnt():
    x = np.random.default_rng(6).normal(size=(64, 7, 4)).astype(np.float32)
    kind = x.argmax(2)
    data = {"x": x, "labels": np.where(np.arange(7) == 3, -1, kind)}
    done = onnxc.run_passes(
        stepwise(), "train.finetune(epochs=20, batch=16, rate=0.02)", data=data, check="shapes"
    ).model
    (y,) = Session(done.to_proto()).run({"x": x}).values()
    assert np.mean(y.argmax(2) == kind) > 0.9


def test_steps_may_stand_ahead_of_samples():
    """[T, N, 4]: batches are cut along the second axis, and a last one has fewer samples."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[T,N,4] x) => (float[N,3] y)
        { m = ReduceMean<axes=[0], keepdims=0>(x)  y = MatMul(m, w) }"""
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.full((4, 3), 0.1, np.float32), "w"))
    x = np.random.default_rng(8).normal(size=(5, 90, 4)).astype(np.float32)
    before, after = learnt(proto, x=x, labels=x.mean(0)[:, :3].argmax(1))
    assert before < 0.6 < 0.85 < after


def test_samples_of_other_extents_are_told():
    data = {f"x[{k}]": np.zeros((5 + k % 2, 4), np.float32) for k in range(40)} | {"labels": np.zeros((40, 3), int)}
    with pytest.raises(BadData, match="samples of different extents cannot be mixed in batches; pad them"):
        onnxc.run_passes(stepwise(), "train.finetune(batch=4)", data=data, check="shapes")


def test_numbers_are_those_of_the_tasks():
    from onnxc.runtime.tasks import heads, segmentation
    from onnxc.torch import boxes, losses

    assert boxes.STRIDE == heads.STRIDE and losses.IGNORED == segmentation.IGNORED
