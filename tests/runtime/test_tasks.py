"""Metrics of detection, segmentation, sequences, embeddings and anomalies against their definitions; heads; decoders."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxc
from onnxc.ir.errors import BadData, BadOption
from onnxc.runtime.tasks import TASKS, find_task, heads
from onnxc.runtime.tasks.detection import coco
from onnxc.runtime.tasks.sequences import edit_distance

RNG = np.random.default_rng(0)


def judged(task, outputs, labels, **kwargs):
    task = find_task(task, **kwargs)
    made = {name: make() for name, make in task.metrics.items()}
    predicted = task.decode(outputs, labels)
    for metric in made.values():
        metric.add(predicted, labels)
    return {name: metric.value() for name, metric in made.items()}


def test_segmentation_counts_pixels():
    labels = RNG.integers(0, 3, (4, 6, 5))
    guess = RNG.integers(0, 3, labels.shape)
    labels[0, 0] = 255
    scores = np.moveaxis(np.eye(4, dtype=np.float32)[guess], -1, 1)
    counts = labels != 255
    hit = [np.sum(counts & (labels == c) & (guess == c)) for c in range(3)]
    union = [np.sum(counts & ((labels == c) | (guess == c))) for c in range(3)]
    wanted = {"miou": np.mean(np.divide(hit, union)), "pixel_accuracy": np.sum(hit) / counts.sum()}
    for y in (scores, np.moveaxis(scores, 1, -1), guess):
        assert judged("segmentation", {"y": y}, labels) == pytest.approx(wanted)
    one = judged("segmentation", {"y": (labels == 1)[:, None].astype(np.float32)}, (labels == 1).astype(int))
    assert one == {"miou": 1, "pixel_accuracy": 1}
    assert TASKS["segmentation"].decode({"y": scores}, None).tolist() == guess.tolist()
    assert TASKS["segmentation"].decode({"y": scores[:, :, :2]}, labels) is None


def test_sequences_collapse_runs_and_blanks():
    classes = [[1, 1, 0, 1, 2, 0], [0, 3, 3, 3, 0, 0]]
    scores = np.eye(4, dtype=np.float32)[classes]
    assert TASKS["sequences"].decode({"y": scores}, None) == [(1, 1, 2), (3,)]
    labels = np.array([[1, 1, 2, -1], [3, 2, -1, -1]])
    for y in (scores, scores.swapaxes(0, 1)):
        if len(y) == 2 or y.shape[1] == 2:
            assert judged("sequences", {"y": y}, labels) == {"cer": 1 / 5, "wer": 1 / 2}


def test_edit_distances_are_least():
    def slow(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    for a, b in itertools.product(["", "ab", "abca", "bcb"], ["", "a", "cab", "bbcc"]):
        assert edit_distance(a, b) == slow(a, b)


def test_anomaly_scores_are_ranked():
    scores, odd = RNG.integers(0, 6, 40).astype(np.float32), RNG.integers(0, 2, 40)
    pairs = [(a > b) + (a == b) / 2 for a in scores[odd == 1] for b in scores[odd == 0]]
    for labels in (odd, odd[:, None]):
        assert judged("anomaly", {"y": scores[:, None]}, labels) == {"auc": pytest.approx(np.mean(pairs))}
    assert np.isnan(judged("anomaly", {"y": scores}, np.ones(40, int))["auc"])


def test_rank_correlation_is_of_pairs_and_not_of_lengths():
    a = RNG.standard_normal((9, 5)).astype(np.float32)
    turn = np.linalg.qr(RNG.standard_normal((5, 5)))[0].astype(np.float32)
    assert judged("embeddings", {"y": a @ turn * 3}, a)["rank"] == pytest.approx(1, abs=1e-4)
    other = judged("embeddings", {"y": RNG.standard_normal(a.shape).astype(np.float32)}, a)
    assert abs(other["rank"]) < 0.6 and abs(other["cosine"]) < 0.6
    assert np.isnan(judged("embeddings", {"y": a[:2]}, a[:2])["rank"])


def fastest(boxes, classes=3, cells=8):
    """The map of FastestDet that decodes to `boxes` [(class, score, x0, y0, x1, y1)] in pixels."""
    y = np.zeros((1, 5 + classes, cells, cells), np.float32)
    y[:, 3:5] = -4
    for kind, score, x0, y0, x1, y1 in boxes:
        x, top = (x0 + x1) / 32, (y0 + y1) / 32
        at = (0, slice(None), int(top), int(x))
        share = np.array([(x1 - x0), (y1 - y0)]) / (16 * cells)
        y[at][:5] = [score, np.arctanh(x - int(x)), np.arctanh(top - int(top)), *np.log(share / (1 - share))]
        y[at][5 + kind] = score
    return y


def yolo(form, boxes, classes=3, side=64):
    """The same for YOLO's forms: v8 [1, 4 + classes, cells], v5 [1, 3 cells, 5 + classes], x [1, cells, 5 + classes]."""
    cells = 21 * (side // 32) ** 2
    y = np.zeros((1, cells * (3 if form == "v5" else 1), 5 + classes), np.float32)
    if form == "x":
        y[..., 2:4] = -9
    for kind, score, x0, y0, x1, y1 in boxes:
        x, top, size = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0, y1 - y0)
        row = int(top) // 8 * (side // 8) + int(x) // 8
        box = [x, top, *size]
        if form == "x":
            box = [x / 8 - int(x) // 8, top / 8 - int(top) // 8, *np.log(np.divide(size, 8))]
        y[0, row] = [*box, 1, *(score * (k == kind) for k in range(classes))]
    return np.delete(y, 4, 2).swapaxes(1, 2) if form == "v8" else y


BOXES = [(2, 0.9, 4.0, 6.0, 30.0, 40.0), (0, 0.75, 33.0, 20.0, 60.0, 61.0)]


@pytest.mark.parametrize("head", ["fastest", "v5", "v8", "x", "nms", "ssd"])
def test_heads_are_recognised(head):
    rows = np.float32(BOXES)[None]
    if head == "fastest":
        outputs = {"output": fastest(BOXES)}
    elif head == "nms":
        outputs = {"out": np.concatenate([rows[..., 2:], rows[..., 1:2], rows[..., :1]], 2)}
    elif head == "ssd":
        outputs = {"b": rows[..., [3, 2, 5, 4]], "c": rows[..., 0], "s": rows[..., 1]}
    else:
        outputs = {"output": yolo(head, BOXES)}
    (found,) = TASKS["detection"].decode(outputs, None)
    np.testing.assert_allclose(found[:2], BOXES, rtol=1e-4, atol=1e-3)
    assert (found[2:, 1] < 0.1).all()


def test_doubles_of_a_class_go_and_others_stay():
    box = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10], [20, 0, 30, 10]], float)
    scores = np.array([[0.9, 0], [0.8, 0], [0, 0.7], [0.6, 0]])
    assert heads.suppressed(box, scores)[:, :2].tolist() == [[0, 0.9], [1, 0.7], [0, 0.6]]


def test_average_precision_is_cocos():
    pytest.importorskip("faster_coco_eval")
    label = np.array([[2, 4, 6, 30, 40], [0, 33, 20, 60, 61], [-1, 0, 0, 0, 0]], float)
    labels = np.stack([label, np.full((3, 5), -1.0)])
    right = np.array(BOXES)
    shifted = right + [0, 0, 4, 0, 4, 0]  # the intersections are 22 / 30 and 23 / 31 of the unions: 5 of 10 thresholds
    assert coco([right], [label[:2]]) == pytest.approx((1, 1))
    assert coco([shifted], [label[:2]]) == pytest.approx((0.5, 1), abs=1e-6)
    empty = np.zeros((0, 6))
    assert coco([empty], [label[:2]]) == (0, 0) and np.isnan(coco([empty], [empty[:, :5]])[0])
    twice = np.concatenate([yolo("v8", BOXES), yolo("v8", [])])
    assert judged("detection", {"y": twice}, labels) == pytest.approx({"map": 1, "map50": 1})
    targets = TASKS["detection"].targets([right, right[:1] * [1, 0.1, 1, 1, 1, 1]])
    assert [len(t) for t in targets] == [2, 0]
    with pytest.raises(BadData, match=r"labels of detection do not fit, expected \[boxes, 5\]"):
        judged("detection", {"y": twice}, np.zeros((2, 3, 4)))


def test_metrics_and_decoders_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "their_task.py").write_text(
        "def halves(outputs):\n    return outputs['y'][:, :2]\n"
        "def missed(predicted, labels):\n    return float((predicted.argmax(1) != labels).sum())\n"
        "missed.higher = False\n"
        "def fails(outputs):\n    raise KeyError('z')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    y, labels = np.float32([[1, 2, 3], [2, 1, 3]]), np.array([1, 1])
    assert judged("classification", {"y": y}, labels, decode="their_task:halves")["accuracy"] == 0.5
    task = find_task("classification", "their_task:missed", "their_task:halves")
    assert list(task.metrics) == ["missed", "accuracy", "top5"] and not task.metrics["missed"]().higher
    assert judged("classification", {"y": y}, labels, metric="their_task:missed")["missed"] == 2
    assert find_task("regression", "r2").metric == "r2"
    assert find_task(None, "their_task:missed").metric == "missed"
    with pytest.raises(BadData, match="their_task:fails fails: KeyError: 'z'"):
        judged("classification", {"y": y}, labels, decode="their_task:fails")
    for wrong in ({"metric": "r2"}, {"decode": "their_task:halves"}):
        with pytest.raises(BadOption, match="needs"):
            find_task(None, **wrong)
    with pytest.raises(BadOption, match="the task regression has no such metric, expected r2, mae or module:function"):
        find_task("regression", "map")


def test_without_labels_a_requirement_is_held_in_the_terms_of_the_task(tmp_path):
    weight = RNG.standard_normal((3, 4, 1, 1)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv")
    image = [helper.make_tensor_value_info(n, 1, ["N", c, 6, 6]) for n, c in (("x", 4), ("y", 3))]
    graph = helper.make_graph([node], "g", image[:1], image[1:], [numpy_helper.from_array(weight, "w")])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
    data = {"x": RNG.standard_normal((8, 4, 6, 6)).astype(np.float32)}
    settings = {"data": data, "task": "segmentation", "metric": "pixel_accuracy", "require": "drop<=5%"}
    report = onnxc.run_passes(path, "quant.fixed(bits=6)", **settings).report
    assert report.metrics == {"pixel_accuracy": 1, "miou": 1} and report.metric == "pixel_accuracy"
    assert 0.95 < report.rows[-1].error["pixel_accuracy"] < 1
    with pytest.raises(onnxc.OnnxcError, match=r"after this pass the model misses a requirement, expected drop<=5%"):
        onnxc.run_passes(path, "quant.fixed(bits=2)", **settings)
