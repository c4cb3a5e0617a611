"""The examples run as they stand, from ONNX to a program that classifies."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .test_targets import ready

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name, target, count", [("raspberry_pi", "cortex-a72", 20), ("cortex_m7", "cortex-m7", 5)])
def test_example(name, target, count, tmp_path):
    ready(target)
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    command = [ROOT / "examples" / name / "run.sh", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stderr
    right, of = map(int, re.search(r"right: (\d+) of (\d+)", done.stdout).groups())
    assert of == count and right >= 0.8 * count
