"""Under sanitisers: a short coverage-guided run of the decoder, 40,000 mutated arrays in C, and mutated archives."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
clangs = [name for name in ("clang", "clang-14") if shutil.which(name)]


@pytest.mark.slow
@pytest.mark.skipif(not clangs, reason="clang is not installed")
def test_a_short_run_of_the_fuzzer_finds_nothing():
    done = subprocess.run(
        [ROOT / "tests/fuzz/run.sh", "2", "12000", "100"],
        env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if done.returncode == 2:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    assert "cov:" in done.stdout and "100 archives" in done.stdout
    times = re.search(
        r"12000 mutated: (\d+) decode, (\d+) truncated, (\d+) format, (\d+) table, (\d+) stream, (\d+) size",
        done.stdout,
    )
    assert times and all(int(n) > 120 for n in times.groups()), "the damage reaches every check of the decoder"
