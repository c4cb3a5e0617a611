"""Every command of docs/tutorial.md, in an empty folder, from top to bottom."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")


def test_the_tutorial_has_ten_steps_and_all_blocks_are_commands():
    assert [int(n) for n in re.findall(r"^## (\d+)\. ", TEXT, re.M)] == list(range(1, 11))
    assert set(re.findall(r"^```(\w+)$", TEXT, re.M)) == {"sh", "python"}


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None or shutil.which("qemu-system-arm") is None, reason="no tools for boards"
)
def test_every_command_runs(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, line in (
        ("python", f'exec "{sys.executable}" "$@"'),
        ("onnxc", f'exec "{sys.executable}" -m onnxc "$@"'),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{line}\n")
        (tools / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    place = tmp_path / "place"
    place.mkdir()
    for kind, block in re.findall(r"^```(sh|python)\n(.*?)^```", TEXT, re.M | re.S):
        if kind == "python" and find_spec("torch") is None:
            continue
        argv = [sys.executable, "-c", block] if kind == "python" else ["bash", "-euo", "pipefail", "-c", block]
        done = subprocess.run(
            argv, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=1200
        )
        assert done.returncode == 0, (block, done.stdout[-2000:], done.stderr)
    assert (place / "small.html").exists() and (place / "found/report.json").exists()
