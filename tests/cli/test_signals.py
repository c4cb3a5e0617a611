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
from onnxc.ir import output, staging, temporary, writing
from onnxc.ir.files import load
from onnxc.ir.model import Model
from onnxc.ir.writing import save
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


def at_each_line(modules, work):
    """Do `work` again and again, with SIGTERM ahead of its first line in `modules`, of its second, and so on to its end."""
    files, point, left = {m.__file__ for m in modules}, 0, 0

    def trace(frame, event, _):
        nonlocal left
        # a lock goes with its process, and this one stays
        if frame.f_code.co_filename not in files or frame.f_code.co_name == output.turn.__name__:
            return None
        if event == "line":
            left -= 1
            if not left:
                signal.raise_signal(signal.SIGTERM)
        return trace

    while left <= 0:
        point += 1
        left = point
        ended, before = False, sys.gettrace()
        try:
            with signals.handled():
                sys.settrace(trace)
                try:
                    work()
                finally:
                    sys.settrace(before)
        except signals.Ended:
            ended = True
        yield point, ended


def models(folder) -> dict[str, Model]:
    folder.mkdir()
    for name, value in (("old", 0.5), ("new", 0.25)):
        kills.network(folder / name, value)
    return {name: load(folder / name) for name in ("old", "new")}


def test_ended_at_any_line_a_model_has_its_own_weights_and_no_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "PROTO_LIMIT", 1000)
    nets, home = models(tmp_path / "nets"), tmp_path / "home"
    home.mkdir()
    seen = {}
    for name in nets:
        save(nets[name], home / "out")
        seen[name] = kills.whole(home, left=False)
    ends = []
    for point, ended in at_each_line((writing, temporary), lambda: save(nets["new"], home / "out")):
        now = kills.whole(home, left=False)
        assert now == seen["new"] if not ended else now in seen.values(), f"line {point}"
        ends.append((ended, now == seen["new"]))
        save(nets["old"], home / "out")
    # ended before the model stood there, after it, and not at all
    assert len(ends) > 100 and {(True, False), (True, True), (False, True)} == set(ends)


@pytest.mark.parametrize("exchanged", [True, False])
def test_ended_at_any_line_folders_are_the_old_or_the_new(tmp_path, monkeypatch, exchanged):
    if not exchanged:
        monkeypatch.setattr(staging, "_exchange", lambda *_: False)
    out = tmp_path / "out"

    def fill(text: str) -> None:
        with staging.staging(out) as work:
            (work / "done").mkdir()
            for name in "abc":
                (work / "done" / name).write_text(text)
            staging.put(work / "done", out, last="c")

    ends = []
    for point, ended in at_each_line((staging, output, temporary), lambda: fill("new")):
        found = {path.name: path.read_text() for path in out.iterdir()} if out.exists() else dict.fromkeys("abc", "old")
        assert found in [dict.fromkeys("abc", text) for text in ("old", "new")], f"line {point}"
        assert {path.name for path in tmp_path.iterdir()} <= {"out"}, f"line {point}"
        ends.append((ended, found["a"]))
        fill("old")
    assert {(True, "old"), (True, "new"), (False, "new")} == set(ends)


def test_ended_at_any_line_files_of_one_folder_are_all_old_or_all_new(tmp_path):
    def fill(text: bytes) -> None:
        output.write_several(tmp_path / "out", {name: [text] for name in "abc"})

    fill(b"old")
    for point, ended in at_each_line((output, temporary), lambda: fill(b"new")):
        found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert found in [dict.fromkeys("abc", text) for text in ([b"old", b"new"] if ended else [b"new"])], (
            f"line {point}"
        )
        fill(b"old")


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
