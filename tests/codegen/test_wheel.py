"""The wheel of a library: pip installs it, it runs with NumPy alone, and it is the same bytes twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from onnxc.codegen import compile_model
from onnxc.ir.errors import Unsupported
from onnxc.runtime.library import Library

from .conftest import random_feeds
from .test_targets import ready

USE = """import json, sys
import numpy as np
import Small_Net
feeds = dict(np.load(sys.argv[1]))
np.savez(sys.argv[2], *Small_Net.run(feeds).values())
try:
    Small_Net.run({})
except Small_Net.OnnxcError as error:
    print(error)
extra = {name.partition(".")[0] for name in sys.modules} & {"onnxc", "onnx", "tvm", "onnxruntime", "onnx_graphsurgeon"}
print(json.dumps([sorted(extra), Small_Net.__file__, list(Small_Net.outputs)]))
"""


def test_a_wheel_installs_and_runs_by_itself(shared_model, tmp_path):
    report = compile_model(
        shared_model, tmp_path / "out", name="Small_Net", threads=2, shapes=[{}, {"x": (4, 3, 32, 32)}], wheel=True
    )
    target = tmp_path / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "-q",
        "--target",
        target,
        report.wheel,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    library = Library(tmp_path / "out")
    feeds = random_feeds(library)
    np.savez(tmp_path / "in.npz", **feeds)
    command = [sys.executable, "-c", USE, tmp_path / "in.npz", tmp_path / "out.npz"]
    environment = os.environ | {"PYTHONPATH": str(target)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=environment)
    message, last = done.stdout.splitlines()
    extra, file, outputs = json.loads(last)
    assert message.startswith("x: an input is missing")
    assert extra == [] and Path(file).is_relative_to(target) and outputs == ["y", "z"]
    with np.load(tmp_path / "out.npz") as found:
        assert all(np.array_equal(a, b) for a, b in zip(found.values(), library.run(feeds).values(), strict=True))


def test_two_wheels_are_the_same_bytes_and_say_their_machine(small_model, tmp_path):
    ready("aarch64")
    wheels = [compile_model(small_model, tmp_path / t, name="net", target="aarch64", wheel=True).wheel for t in "ab"]
    first, second = map(Path, wheels)
    assert first.name.endswith("-py3-none-linux_aarch64.whl")
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
        record = archive.read(next(name for name in names if name.endswith("RECORD"))).decode()
        assert {row.split(",")[0] for row in record.split()} == set(names)
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
        assert "Requires-Dist: numpy" in metadata and metadata.count("Requires-Dist") == 1


def test_bare_metal_has_no_wheel(small_model, tmp_path):
    with pytest.raises(Unsupported, match="no shared libraries"):
        compile_model(small_model, tmp_path / "out", name="net", target="cortex-m7", wheel=True)
    assert not (tmp_path / "out").exists()
