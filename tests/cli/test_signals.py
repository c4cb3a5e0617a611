"""How commands end when they are told to, killed, or when nobody listens."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxc.cli import signals
from onnxc.ir import external, temporary
from tests.cli.test_errors import ROOT

DEFAULTS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
POINTS = int(os.environ.get("ONNXC_KILL_POINTS", "3"))
"""At how many random points a command is ended, for each command and signal; 34 make 200 in all."""


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


def large(path, value: float) -> None:
    """A chain of layers, with weights of one value."""
    weights = [numpy_helper.from_array(np.full((64, 64), value, np.float32), f"w{i}") for i in range(4)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(4)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in ("x0", "x4")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], weights), ir_version=8,
                                opset_imports=[helper.make_opsetid("", 17)]), path)  # fmt: skip


LOWERED = "import sys; from onnxc.ir import writing; from onnxc.cli.app import main; "
LOWERED += "writing.PROTO_LIMIT = 1000; sys.exit(main(sys.argv[1:]))"


ENDINGS = [(c, n) for c in ("passes", "large", "pack") for n in (signal.SIGKILL, signal.SIGTERM)]
COMPILES = [pytest.param("compile", n, marks=pytest.mark.slow) for n in (signal.SIGKILL, signal.SIGTERM)]


@pytest.mark.parametrize("command, number", [*ENDINGS, *COMPILES])
def test_killed_at_any_time_a_command_leaves_the_old_or_the_new(tmp_path, command, number, seed=0):
    # of one name, which a library takes from the file: one of another name would stay beside it
    old, new = tmp_path / "old/net.onnx", tmp_path / "new/net.onnx"
    for path, value in ((old, 0.5), (new, 0.25)):
        path.parent.mkdir()
        large(path, value)
    home = tmp_path / "home"
    home.mkdir()
    out = home / "out"
    call = {
        "passes": lambda net: ["-m", "onnxc", "passes", net, "-p", "clean", "--check", "shapes", "-o", out],
        "large": lambda net: ["-c", LOWERED, "passes", net, "-p", "clean", "--check", "shapes", "-o", out],
        "pack": lambda net: ["-m", "onnxc", "pack", net, "-o", out],
        "compile": lambda net: ["-m", "onnxc", "compile", net, "--check", "shapes", "-o", out],
    }[command]
    contents = []
    for net in (old, new, old):
        begun = time.perf_counter()
        assert start(*call(net)).wait() == 0
        took = time.perf_counter() - begun
        contents.append(whole(home))
    rng = random.Random(seed)
    for _ in range(POINTS - (command == "compile")):  # it takes longest
        child = start(*call(new))
        time.sleep(took * rng.random())
        child.send_signal(number)
        child.communicate()
        if number == signal.SIGTERM and child.returncode in (0, 143):
            assert whole(home, left=False) in contents
        assert whole(home) in contents
        assert start(*call(old)).wait() == 0
        assert whole(home, left=False) == contents[0]


def whole(home, left: bool = True) -> dict[str, bytes]:
    """The files of an output: itself, those in it, and the weights that it names; `left`: others may have been left beside it."""
    names = {"out", *external.named(home / "out")}
    found = {path.name for path in home.iterdir()}
    assert names <= found and (left or names == found), found
    inside = [path for path in (home / "out").rglob("*") if path.is_file()]
    files = inside if (home / "out").is_dir() else [home / name for name in names]
    return {str(path.relative_to(home)): path.read_bytes() for path in files}


# nobody listens


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "> /dev/full", "> /dev/full 2> /dev/full"])
def test_streams_that_are_closed_or_full(model_path, tmp_path, closed):
    out = tmp_path / "out.onnx"
    command = f'"{sys.executable}" -m onnxc passes "{model_path}" -p clean -o "{out}" {closed}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == (2 if "full" in closed else 0), done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert done.stderr == ("onnxc: error: the system: no space left on device\n" if closed == "> /dev/full" else "")
    onnx.checker.check_model(onnx.load(out))


def test_temporary_folders_of_the_dead_go(tmp_path):
    dead = tmp_path / f".session.onnxc-{temporary.host()}-{2**22 + 1}-00"
    (dead / "deep").mkdir(parents=True)
    (tmp_path / f".session.onnxc-{temporary.host()}-{2**22 + 2}-00").symlink_to(ROOT)
    with temporary.folder(tmp_path, "session") as folder:
        assert [folder] == list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir()) and (ROOT / "onnxc").is_dir()
