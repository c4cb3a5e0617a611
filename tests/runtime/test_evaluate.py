"""Tasks and their metrics, against their definitions; labels of every form; agreement with a reference."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxc
from onnxc.ir.errors import BadData, BadOption
from onnxc.runtime.data import open_data
from onnxc.runtime.evaluate import TASKS, Comparison, Judge, Score, accuracy, find_task, is_share, recognise
from onnxc.runtime.reference import Runner
from onnxc.runtime.specs import input_specs

RNG = np.random.default_rng(0)


def of_batches(task, outputs, labels, cut):
    """The metrics of `outputs` in two batches."""
    score = Score(task)
    for part in (slice(None, cut), slice(cut, None)):
        if len(labels[part]):
            score.add({"y": outputs[part]}, labels[part])
    return score.values()


@given(st.integers(1, 30), st.integers(2, 9), st.integers(0, 30), st.integers(0, 99))
def test_top_k_are_shares_of_samples(samples, classes, cut, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-3, 3, (samples, classes)).astype(np.float32)  # with ties
    labels = rng.integers(0, classes, samples)
    found = of_batches(TASKS["classification"], scores, labels, cut)
    assert found["accuracy"] == pytest.approx(np.mean(scores.argmax(1) == labels)) == accuracy(scores, labels)
    rank = [sum(s > row[y] for s in row) + sum(row[:y] == row[y]) for row, y in zip(scores, labels)]
    assert found["top5"] == pytest.approx(np.mean(np.array(rank) < 5))


@given(st.integers(2, 30), st.integers(0, 30), st.integers(0, 99), st.floats(-1e6, 1e6))
def test_regression_is_that_of_the_definition(samples, cut, seed, offset):
    rng = np.random.default_rng(seed)
    labels = rng.standard_normal((samples, 3)) + offset
    outputs = (labels + rng.standard_normal(labels.shape) / 2).astype(np.float32)
    found = of_batches(TASKS["regression"], outputs, labels, cut)
    gap = labels - outputs
    assert found["mae"] == pytest.approx(np.abs(gap).mean())
    spread = np.square(labels - labels.mean()).sum()
    assert found["r2"] == pytest.approx(1 - np.square(gap).sum() / spread, rel=1e-6, abs=1e-6)


def test_cosines_are_those_of_whole_samples():
    a, b = RNG.standard_normal((2, 4, 3, 2)).astype(np.float32)
    b[0], a[1], b[1] = a[0] * 3, 0, 1
    found = of_batches(TASKS["embeddings"], a, b, 1)["cosine"]
    wanted = [1, 0, *(np.vdot(x, y) / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a[2:], b[2:]))]
    assert found == pytest.approx(np.mean(wanted), rel=1e-6)


def test_a_function_sees_all_samples_together(tmp_path, monkeypatch):
    (tmp_path / "their_metric.py").write_text(
        "def words(outputs, labels):\n"
        "    assert outputs['y'].shape == (5, 2) and len(labels) == 5\n"
        "    return sum(len(one) for one in labels)\n"
        "def wrong(outputs, labels):\n    return 'good'\n"
        "def fails(outputs, labels):\n    return outputs['z']\n"
        "def ends(outputs, labels):\n    raise SystemExit(3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    task = find_task("their_metric:words")
    ragged = np.empty(5, object)
    ragged[:] = ["a", "bc", "", "d", "efg"]
    assert task.metric == "words"
    assert of_batches(task, np.zeros((5, 2), np.float32), ragged, 2) == {"words": 7}
    with pytest.raises(BadData, match="metric their_metric:wrong gave no number, found str"):
        of_batches(find_task("their_metric:wrong"), np.zeros((5, 2), np.float32), ragged, 2)
    for name, said in (("fails", "KeyError: 'z'"), ("ends", "SystemExit: 3")):
        with pytest.raises(BadData, match=f"their_metric:{name} fails: {said}"):
            of_batches(find_task(f"their_metric:{name}"), np.zeros((5, 2), np.float32), ragged, 2)
    with pytest.raises(BadData, match="module their_metric has no function none"):
        find_task("their_metric:none")


def test_a_task_is_one_entry():
    assert find_task("regression") is TASKS["regression"] and find_task(None) is None
    with pytest.raises(BadOption, match=r"no such task, expected classification, .* or module:function, found chess"):
        find_task("chess")
    assert is_share("accuracy") and not is_share("mae") and not is_share("their_metric:words")
    for task in TASKS.values():
        assert task.metric in task.metrics and all(not np.isfinite(make().value()) for make in task.metrics.values())


@pytest.mark.parametrize(
    "labels, name",
    [
        (np.arange(4) % 3, "classification"),
        (np.zeros((4, 3)), "regression"),
        (np.zeros((4, 3), int), None),
        (np.eye(3)[[0, 2, 2, 1]], "classification"),
        (np.eye(3, dtype=int)[[0, 2, 2, 1]], "classification"),
        (np.ones((4, 3)) - np.eye(4, 3), "regression"),
        (np.array([[0], [2], [1], [0]]), "classification"),
        (np.array([0.0, 2.0, 1.0, 0.0]), "classification"),
        (np.array([0.5, 2.0, 1.0, 0.0]), None),
        (np.zeros((4, 2)), None),
        (np.array(["a"] * 4), None),
        (np.array([{}] * 4), None),
    ],
)
def test_labels_give_the_task_away(labels, name):
    outputs = {"index": np.zeros(4, np.int64), "y": np.zeros((4, 3), np.float32)}
    found = recognise(outputs, labels)
    assert (found.name if found else None) == name
    score = Score()
    score.add(outputs, labels)
    assert bool(score.values()) == (name is not None)


def test_every_form_of_the_same_labels_is_worth_the_same():
    classes, y = np.array([0, 2, 2, 1]), RNG.standard_normal((4, 3)).astype(np.float32)
    wanted = of_batches(None, y, classes, 2)
    for labels in (classes[:, None], classes.astype(float), np.eye(3)[classes], np.eye(3, dtype=int)[classes]):
        assert of_batches(None, y, labels, 2) == wanted
        assert of_batches(TASKS["classification"], y, labels, 2) == wanted
    numbers = RNG.standard_normal(4)
    wanted = of_batches(None, y[:, :1], numbers[:, None], 2)
    assert wanted["mae"] == pytest.approx(np.abs(y[:, 0] - numbers).mean()) and list(wanted) == ["r2", "mae"]
    for outputs, labels in ((y[:, :1], numbers), (y[:, 0], numbers[:, None]), (y[:, 0], numbers)):
        assert of_batches(None, outputs, labels, 2) == pytest.approx(wanted)


def test_integers_are_classes_already():
    scores, labels = RNG.standard_normal((6, 4)).astype(np.float32), np.array([0, 3, 1, 1, 2, 0])
    wanted = of_batches(None, scores, labels, 3)["accuracy"]
    for chosen in (scores.argmax(1), scores.argmax(1)[:, None].astype(np.int32)):
        assert of_batches(None, chosen, labels, 3) == {"accuracy": wanted, "top5": wanted}
    both = Comparison(task=TASKS["classification"])
    both.add({"y": labels}, {"y": np.where(labels == 3, 0, labels)})
    assert both.before["accuracy"] == 1 and both.metrics["accuracy"] == pytest.approx(5 / 6)
    with pytest.raises(BadData, match=r"a label stands for no class, expected 0 to .*, found -1"):
        of_batches(None, labels, labels - 1, 3)


def test_labels_of_pixels_and_of_one_number_give_the_task_away():
    pixels = RNG.integers(0, 3, (2, 5, 6))
    y = np.eye(3, dtype=np.float32)[pixels]
    for outputs in (y, y.transpose(0, 3, 1, 2)):
        assert recognise({"y": outputs}, pixels).name == "segmentation"
        assert of_batches(None, outputs, pixels, 1)["miou"] == 1
    assert recognise({"y": y[:, :4]}, pixels) is None
    assert recognise({"y": np.zeros((4, 1), np.float32)}, np.arange(4)).name == "regression"


def test_samples_without_labels_or_of_another_form_leave_no_metric():
    y = {"y": np.zeros((2, 3), np.float32)}
    score = Score()
    for labels in (np.arange(2), None, np.arange(2)):
        score.add(y, labels)
    assert score.values() == {}
    with pytest.raises(BadData, match=r"task regression cannot judge these outputs, found y float32\[2, 3\], labels"):
        Score(TASKS["regression"]).add(y, np.arange(2))


@pytest.mark.parametrize("wild", [-1, 3, 255, -(2**63)])
def test_labels_of_no_class_are_refused(wild):
    scores, labels = {"y": np.eye(3, dtype=np.float32)}, np.array([0, wild, 2])
    with pytest.raises(BadData, match=f"labels: a label stands for no class, expected 0 to 2, found {wild}"):
        Score().add(scores, labels)


def test_without_labels_a_task_that_is_given_counts_agreement():
    a = RNG.standard_normal((6, 4)).astype(np.float32)
    b = a.copy()
    b[0] = -b[0]
    both = Comparison(task=TASKS["classification"])
    both.add({"y": a}, {"y": b})
    assert both.before["accuracy"] == 1 and both.metrics["accuracy"] == pytest.approx(5 / 6)
    assert Comparison().metrics == {}
    with pytest.raises(BadData, match="the task classification cannot judge"):
        Comparison(task=TASKS["classification"]).add({"y": a[0]}, {"y": a[0]})


def test_of_several_outputs_the_worst_counts():
    a = {"p": np.ones((2, 2), np.float32), "q": np.ones(3, np.float32), "text": np.array(["x"], object)}
    b = {"p": a["p"], "q": np.float32([1, 1, 2]), "text": a["text"]}
    both = Comparison(scores=frozenset("pq"))
    both.add(a, b)
    assert both.noise == pytest.approx(1 / 3) and list(both.outputs) == ["p", "q"]
    assert both.to_dict()["max_abs"] == 1 and both.to_dict()["top1"] == 1


def test_every_caller_judges_by_the_task(resnet20_path):
    data = {"image": RNG.random((6, 1, 28, 28)).astype(np.float32), "labels": RNG.standard_normal((6, 10))}
    report = onnxc.run_passes(resnet20_path, "quant", data=data).report
    found = onnxc.compare(resnet20_path, resnet20_path, data)
    assert report.metric == found.task.metric == "r2" and found.accuracy is None and report.accuracy is None
    assert report.metrics == pytest.approx(found.metrics[0]) and report.rows[-1].error["r2"] != report.metrics["r2"]
    assert " r2 " in str(report)
    agreed = onnxc.run_passes(resnet20_path, "quant", data={"image": data["image"]}, task="embeddings").report
    assert agreed.metrics == pytest.approx({"cosine": 1, "rank": 1}) and 0.9 < agreed.rows[-1].error["cosine"] < 1


@pytest.mark.parametrize("label", ["text", [[1, 2]], {}, [["a"] * 5]])
def test_labels_that_are_no_boxes_or_symbols(label):
    labels = np.empty(1, object)
    labels[0] = label
    detections = {"boxes": np.zeros((1, 3, 4), np.float32), "scores": np.zeros((1, 3, 2), np.float32)}
    for name, outputs in (("detection", detections), ("sequences", {"y": np.zeros((1, 4, 3), np.float32)})):
        try:
            Score(TASKS[name]).add(outputs, labels)
        except BadData as e:
            assert str(e).isprintable()


def test_agreement_is_with_what_the_reference_says():
    """Whatever the labels say: of the first metric, where one can be held to a reference at all."""
    weights = RNG.standard_normal((3, 4)).astype(np.float32)
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(n, 1, ["n", k]) for n, k in (("x", 3), ("y", 4))]

    def model(w: np.ndarray) -> onnx.ModelProto:
        graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [onnx.numpy_helper.from_array(w, "w")])
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)

    x = RNG.standard_normal((40, 3)).astype(np.float32)
    turned = weights[:, ::-1].copy()
    same = float(np.mean((x @ weights).argmax(1) == (x @ turned).argmax(1)))
    runner, specs = Runner(optimise=False), input_specs(model(weights))
    for task, metric, labels in (
        (None, same, RNG.integers(0, 4, 40)),
        (find_task("classification"), same, None),
        (find_task("regression", "mae"), float(np.abs(x @ weights - x @ turned).mean()), RNG.standard_normal((40, 4))),
    ):
        data = open_data({"x": x} | ({} if labels is None else {"labels": labels}), specs)
        judge = Judge(runner, data, model(weights), task=task, room=16)
        assert judge.agreement(judge.outputs) == (1 if metric == same else 0)
        assert judge.agreement(judge.run(model(turned))) == pytest.approx(metric, rel=1e-5)
    data = open_data({"x": x}, specs)
    assert Judge(runner, data, model(weights)).agreement([]) is None
