"""End commands at random points: what stands at their output is the old or the new, never mixed, and nothing stays behind.

Usage: kills.py [--points N] [--commands NAMES] [--signals NAMES] [--seed S] [--json FILE]. For each command and signal, N times:
the command, which would put a new output in the place of an old one, is ended at a random time of its run; the output must be
one of the two, whole; the command then runs to its end, and nothing but its output may be there. Commands run in forks of a
process that has imported all, so that the points lie in their work and not in imports. `large` is `passes` above
2 GiB, with the limit lowered.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from onnxc.cli import app
from onnxc.ir import external, writing

COMMANDS = {
    "passes": ["passes", "NET", "-p", "clean", "--check", "shapes", "-o", "OUT"],
    "large": ["passes", "NET", "-p", "clean", "--check", "shapes", "-o", "OUT"],
    "pack": ["pack", "NET", "-o", "OUT"],
    "compile": ["compile", "NET", "--check", "shapes", "-o", "OUT"],
}
SIGNALS = ("SIGKILL", "SIGTERM")
MODULES = ("onnxc.cli.passes", "onnxc.cli.pack", "onnxc.cli.compile", "onnxc.pipeline", "onnxc.coding")


class Mixed(AssertionError):
    """An output that is neither the old nor the new, or something left behind."""


def network(path: Path, value: float) -> None:
    """A chain of layers, each with weights of one value."""
    weights = [numpy_helper.from_array(np.full((64, 64), value / (i + 1), np.float32), f"w{i}") for i in range(4)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(4)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in ("x0", "x4")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], weights), ir_version=8,
                                opset_imports=[helper.make_opsetid("", 17)]), path)  # fmt: skip


def started(arguments: list[str], limit: int | None) -> int:
    """A fork that runs a command, in silence, and ends with its status."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        for n in (signal.SIGINT, signal.SIGTERM):
            signal.signal(n, signal.SIG_DFL if n == signal.SIGTERM else signal.default_int_handler)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (1, 2):
            os.dup2(null, stream)
        if limit is not None:
            writing.PROTO_LIMIT = limit
        status = app.main(arguments)
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else 1
    finally:
        os._exit(status)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def whole(home: Path, left: bool = True) -> dict[str, bytes]:
    """The files of an output: itself, those in it, and the weights that it names; `left`: others may have been left beside it."""
    names = {"out", *external.named(home / "out")}
    found = {path.name for path in home.iterdir()}
    if not names <= found or not (left or names == found):
        raise Mixed(f"found {sorted(found)}, expected {sorted(names)}")
    inside = [path for path in (home / "out").rglob("*") if path.is_file()]
    files = inside if (home / "out").is_dir() else [home / name for name in names]
    return {str(path.relative_to(home)): path.read_bytes() for path in files}


def points(folder: Path, command: str, number: int, count: int, seed: int = 0) -> dict:
    """End `command` by signal `number` at `count` random points. Raises Mixed."""
    # of one name, which a library takes from the file: one of another name would stay beside it
    nets = {name: folder / name / "net.onnx" for name in ("old", "new")}
    for value, path in zip((0.5, 0.25), nets.values()):
        path.parent.mkdir(parents=True)
        network(path, value)
    home = folder / "home"
    home.mkdir()
    limit = 1000 if command == "large" else None
    calls = {
        which: [{"NET": str(net), "OUT": str(home / "out")}.get(a, a) for a in COMMANDS[command]]
        for which, net in nets.items()
    }
    contents, took = [], 0.0
    for which in ("old", "new", "old"):
        begun = time.perf_counter()
        if ended(started(calls[which], limit)):
            raise Mixed(f"{command} fails")
        took = time.perf_counter() - begun
        contents.append(whole(home))
    rng = random.Random(seed)
    seen = {"old": 0, "new": 0, "to the end": 0, "left": 0}
    for point in range(count):
        try:
            begun = time.perf_counter()
            child = started(calls["new"], limit)
            time.sleep(took * rng.random())
            os.kill(child, number)
            status = ended(child)
            polite = number == signal.SIGTERM and status in (0, 128 + number)
            now = whole(home, left=not polite)
            if now not in contents:
                raise Mixed("the output is neither the old nor the new")
            seen["new" if now == contents[1] else "old"] += 1
            seen["to the end"] += status == 0
            seen["left"] += len(list(home.iterdir())) > 1 + len(external.named(home / "out"))
            begun = time.perf_counter()
            if ended(started(calls["old"], limit)):
                raise Mixed("the next run fails")
            took += 0.1 * (time.perf_counter() - begun - took)  # the machine may do other things besides
            if whole(home, left=False) != contents[0]:
                raise Mixed("after the next run the output is not the new")
        except Mixed as e:
            raise Mixed(f"{command}, signal {number}, point {point} of seed {seed}: {e}") from None
    return {"points": count, "seed": seed} | seen


def imported() -> None:
    """All that commands import, before they fork."""
    for name in MODULES:
        __import__(name)
    with TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        network(Path(folder) / "net.onnx", 1.0)
        app.main(["passes", f"{folder}/net.onnx", "-p", "clean", "--check", "shapes", "-o", f"{folder}/out"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--signals", nargs="+", choices=SIGNALS, default=list(SIGNALS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    imported()
    found = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    for command in args.commands:
        for name in args.signals:
            with TemporaryDirectory() as folder:
                result = points(Path(folder), command, getattr(signal, name), args.points, args.seed)
            found.setdefault(command, {})[name] = result
            sys.stdout.write(f"{command:8} {name}: {result}\n")
            sys.stdout.flush()
            if args.json:
                args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
