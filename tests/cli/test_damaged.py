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
