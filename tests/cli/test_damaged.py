"""200 damaged model files through the whole command: no traceback, no hang, nothing written unless a file is sound."""

import random

import onnx
import pytest

from .conftest import network

FILES = 200
BATCH = 25


def damaged(data: bytes, seed: int) -> bytes:
    """Cut, flip, overwrite, double or drop pieces; the weights make up most of the file, so aim at the rest as well."""
    rng = random.Random(seed)
    bad = bytearray(data)
    graph_end = bad.find(b"w0", 300)
    for _ in range(rng.choice((1, 1, 2, 5))):
        end = len(bad) if rng.random() < 0.4 else min(graph_end, len(bad))
        at = rng.randrange(max(end, 1)) if bad else 0
        kind = rng.choice(("cut", "flip", "random", "zero", "drop", "double"))
        if kind == "cut":
            del bad[at:]
        elif kind == "flip" and bad:
            bad[at] ^= 1 << rng.randrange(8)
        elif kind == "random":
            bad[at : at + 8] = rng.randbytes(8)
        elif kind == "zero":
            bad[at : at + 16] = bytes(16)
        elif kind == "drop":
            del bad[at : at + rng.randrange(1, 40)]
        else:
            bad[at:at] = bad[at : at + rng.randrange(1, 40)]
    return bytes(bad)


@pytest.mark.parametrize("start", range(0, FILES, BATCH))
def test_damaged_files_end_in_one_line_or_in_a_sound_model(command, tmp_path, start):
    data = network().SerializeToString()
    model, out = tmp_path / "bad.onnx", tmp_path / "out.onnx"
    refused = 0
    for seed in range(start, start + BATCH):
        bad = damaged(data, seed)
        model.write_bytes(bad)
        out.unlink(missing_ok=True)
        ended = command("passes", model, "-p", "clean, fuse, prune", "-o", out)
        if ended.status == 0:
            onnx.checker.check_model(onnx.load(out), full_check=True)
            continue
        refused += 1
        assert ended.status == 2, (seed, ended.err)
        assert "internal error" not in ended.error(), (seed, ended.err)
        assert sorted(tmp_path.iterdir()) == [model]
    assert refused >= BATCH // 3


HEAD = '<ir_version: 8, opset_import: ["": 17, "d": 1]> '
CALLS = HEAD + "g (float[1] x) => (float[1] y) { y = d.A(x) } "
FUNCTION = '<domain: "d", opset_import: ["d": 1]> '
ODD = {
    "nothing": HEAD + "g () => () {}",
    "no output": HEAD + "g (float[1] x) => () { y = Relu(x) }",
    "no input": HEAD + "g () => (float[1] y) { y = Relu(x) }",
    "zero extent": HEAD + "g (float[2,0] x, float[0,3] w) => (float[2,3] y) { y = MatMul(x, w) }",
    "huge": HEAD + "g (float[1099511627776] x) => (float[1099511627776] y) { y = Relu(x) }",
    "huge square": HEAD + "g (float[1099511627776,1099511627776] x) => (float[N,M] y) { y = MatMul(x, x) }",
    "list": HEAD + "g (float[2] x) => (seq(float[2]) y) { y = SequenceConstruct(x) }",
    "recursion": CALLS + FUNCTION + "A (x) => (y) { y = d.A(x) }",
    "recursion by two": CALLS + FUNCTION + "A (x) => (y) { y = d.B(x) } " + FUNCTION + "B (x) => (y) { y = d.A(x) }",
    "name": HEAD + "g (float[1] QQQ) => (float[1] y) { y = Relu(QQQ) }",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_models_end_in_a_result_or_a_line(name, command, tmp_path):
    model = onnx.parser.parse_model(ODD[name]).SerializeToString().replace(b"QQQ", b"\xff\xfe*")
    path = tmp_path / "odd.onnx"
    path.write_bytes(model)
    for words in (["run", path, "--out", tmp_path / "out"], ["diff", path, path], ["compare", path, path], ["bench", path],
                  ["check", path], ["sensitivity", path], ["auto", path], ["passes", path, "-p", "train.finetune"]):  # fmt: skip
        ended = command(*words)
        assert ended.status in (0, 1, 2)
        if ended.status:
            assert "internal error" not in ended.error(), words
    assert {item.name for item in tmp_path.iterdir()} <= {"odd.onnx", "out"}
