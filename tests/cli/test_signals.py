"""How commands end when they are told to, killed, or when nobody listens."""

import json
import os
import signal
import subprocess
import sys
import time

import onnx
import pytest

from onnxc.cli import signals
from onnxc.ir import temporary
from tests.cli.test_errors import ROOT
from tests.fuzz import kills

DEFAULTS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
POINTS = int(os.environ.get("ONNXC_KILL_POINTS", "3"))
"""At how many random points a command is ended, for each command and signal."""


@pytest.fixture(autouse=True)
def none_is_ignored():
    """A suite that is started in the background ignores these, and so would all that it starts."""
    old = {n: signal.signal(n, default) for n, default in DEFAULTS.items()}
    yield
    for n, handler in old.items():
        signal.signal(n, handler)


def start(*argv, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, argv)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


HOLDS = """
import sys, time
from pathlib import Path
from onnxc.cli import app, signals
from onnxc.ir import temporary

def work():
    home = Path(sys.argv[1])
    with temporary.folder(home, "work") as folder, temporary.file(home, "net.onnx"):
        (folder / "large").write_bytes(bytes(1000))
        print("held", flush=True)
        {work}

app._dispatch = lambda argv: work()
signals.GRACE = 0.5
sys.exit(app.main([]))
"""
BUSY = {
    "in Python": "time.sleep(60)",
    # ONNX Runtime and BLAS hold the main thread likewise: Python's own handlers do not come to their turn
    "in C": "import hashlib; hashlib.pbkdf2_hmac('sha256', b'x', b'y', 10**9)",
}


@pytest.mark.parametrize("where", BUSY)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_command_and_what_it_holds(tmp_path, number, where):
    child = start("-c", HOLDS.format(work=BUSY[where]), tmp_path)
    assert child.stdout.readline() == "held\n" and len(list(tmp_path.iterdir())) == 2
    child.send_signal(number)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 128 + number
    said = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert err == f"onnxc: error: {said}\n"
    assert not list(tmp_path.iterdir())


def test_a_second_signal_does_not_wait(tmp_path):
    child = start("-c", HOLDS.format(work=BUSY["in C"]).replace("0.5", "25"), tmp_path)
    child.stdout.readline()
    child.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=20)
    assert child.returncode == 128 + signal.SIGTERM and not list(tmp_path.iterdir())


def test_what_is_ignored_stays_ignored_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with signals.handled():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(signals.Ended):
                signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert signal.getsignal(signal.SIGTERM) == before and signal.getsignal(signal.SIGINT) == signal.default_int_handler


@pytest.mark.parametrize("command", ["passes", "large", "pack", pytest.param("compile", marks=pytest.mark.slow)])
def test_killed_at_any_time_a_command_leaves_the_old_or_the_new(tmp_path, command):
    done = start(kills.__file__, "--points", POINTS, "--commands", command, "--json", tmp_path / "k.json")
    out, err = done.communicate(timeout=550)
    assert done.returncode == 0, out + err
    found = json.loads((tmp_path / "k.json").read_text())[command]
    assert [found[name]["points"] for name in kills.SIGNALS] == [POINTS] * 2


# nobody listens


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["--version", "--help", "passes --list"])
def test_a_full_output_is_told_whatever_prints(command, unbuffered):
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m onnxc {command} > /dev/full'], capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "onnxc: error: standard output: no space left on device\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "> /dev/full", "> /dev/full 2> /dev/full"])
def test_streams_that_are_closed_or_full(model_path, tmp_path, closed):
    out = tmp_path / "out.onnx"
    command = f'"{sys.executable}" -m onnxc passes "{model_path}" -p clean -o "{out}" {closed}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == (2 if "full" in closed else 0), done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert done.stderr == (
        "onnxc: error: standard output: no space left on device\n" if closed == "> /dev/full" else ""
    )
    onnx.checker.check_model(onnx.load(out))


def test_temporary_folders_of_the_dead_go(tmp_path):
    dead = tmp_path / f".session.onnxc-{temporary.host()}-{2**22 + 1}-00"
    (dead / "deep").mkdir(parents=True)
    (tmp_path / f".session.onnxc-{temporary.host()}-{2**22 + 2}-00").symlink_to(ROOT)
    with temporary.folder(tmp_path, "session") as folder:
        assert [folder] == list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir()) and (ROOT / "onnxc").is_dir()
