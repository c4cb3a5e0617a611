"""Whenever a compilation is ended, its folder holds the old library or the new, and the next one leaves nothing beside it."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import onnx
import pytest
from onnx import parser

from onnxc.codegen import compile_model
from onnxc.ir.files import load
from onnxc.runtime.library import Library

POINTS = 12  # `POINTS=200 pytest tests/codegen/test_kill.py -m ""` takes minutes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="folders change places on Linux")


def model(operator: str) -> onnx.ModelProto:
    return parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
      g (float[2,64] x) => (float[2,64] y) {{ a = {operator}(x) b = Transpose(a) c = MatMul(a, b) y = MatMul(c, x) }}""")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def compile_until(path: Path, out: Path, number: int, seconds: float) -> int:
    """Runs `onnxc compile` in a fork, which gets a signal after some seconds; its status."""
    child = os.fork()
    if child == 0:
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            from onnxc.cli.app import main

            os._exit(main(["compile", str(path), "-o", str(out)]))
        finally:
            os._exit(99)
    time.sleep(seconds)
    os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_old_or_new_and_nothing_left(tmp_path, number):
    points = int(os.environ.get("POINTS", POINTS))
    paths, whole, seconds = [], [], 0.0
    for i, operator in enumerate(("Relu", "Tanh")):
        (tmp_path / str(i)).mkdir()
        paths.append(tmp_path / str(i) / "net.onnx")
        onnx.save(model(operator), paths[-1])
        began = time.monotonic()
        compile_model(load(paths[-1]), tmp_path / "whole" / operator, name="net")
        seconds = time.monotonic() - began
        whole.append(contents(tmp_path / "whole" / operator))
    home, rng = tmp_path / "home", random.Random(1)
    out = home / "build"
    compile_model(load(paths[0]), out, name="net")
    (out / "notes").write_text("mine")
    ended = 0
    for turn in range(points):
        status = compile_until(paths[(turn + 1) % 2], out, number, rng.uniform(0, 1.2 * seconds))
        assert status in (0, -number, 128 + number)
        ended += status == 0
        found = contents(out)
        assert found.pop("notes") == b"mine"
        assert found in whole, "a folder of two libraries"
        if number == signal.SIGTERM:  # that one clears up after itself
            assert [path.name for path in home.iterdir()] == ["build"]
    assert ended < points
    compile_model(model("Tanh"), out, name="net")
    assert [path.name for path in home.iterdir()] == ["build"]
    assert Library(out).name == "net"
