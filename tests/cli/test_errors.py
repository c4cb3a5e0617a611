"""Exit statuses and one-line errors: 0 done, 1 a claim or verification failed, 2 bad usage or bad input."""

import errno
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

import onnxc
from onnxc.cli import app, options

pytestmark = pytest.mark.usefixtures("own_passes")
ROOT = Path(onnxc.__file__).resolve().parent.parent

USAGE = [
    (["nonsense"], "No such command 'nonsense'"),
    (["--nonsense"], "No such option: --nonsense"),
    (["passes"], "MODEL is missing"),
    (["passes", "MODEL"], "give a pass list or a recipe"),
    (["passes", "MODEL", "-p", "clean", "--recipe", "r.toml"], "give a pass list or a recipe"),
    (["passes", "MODEL", "-p", ""], "the pass list is empty"),
    (["passes", "MODEL", "-p", "prune("], "a name is missing, found prune(<here>"),
    (["passes", "MODEL", "-p", "prunes"], "there is no pass prunes; did you mean prune"),
    (["passes", "MODEL", "-p", "prune(rato=0.5)"], "pass prune.channels: there is no option rato; it takes ratio"),
    (["passes", "MODEL", "-p", "prune(ratio=much)"], "option ratio does not fit, expected float or auto"),
    (["passes", "MODEL", "-p", "prune(ratio=1.5)"], "expected 0 <= ratio < 1, found 1.5"),
    (["passes", "MODEL", "-p", "prune(scope=all)"], "expected auto or layer or global or outputs, found all"),
    (["passes", "MODEL", "-p", "clean", "--seed", "-1"], "--seed"),
    (["passes", "MODEL", "-p", "clean", "--seed", "x"], "--seed"),
    (["passes", "MODEL", "-p", "clean", "--check", "all"], "expected data or shapes, found all"),
    (["passes", "MODEL", "-p", "clean", "-o", "DIR/none/out.onnx"], "-o: there is no folder"),
    (["passes", "MODEL", "-p", "clean", "-o", "DIR"], "is a folder"),
    (["passes", "MODEL", "-p", "clean", "--report", "DIR/r.txt"], "--report writes JSON or HTML"),
    (["passes", "MODEL", "-p", "clean", "--report", "DIR/none/r.json"], "--report: there is no folder"),
    (["passes", "MODEL", "-p", "clean", "--data", "DIR/none.npz"], "no such data"),
    (["passes", "MODEL", "-p", "clean", "--data", "MODEL"], "is not a readable .npz"),
    (["passes", "MODEL", "--recipe", "DIR/none.toml"], "cannot read the recipe"),
    (["passes", "MODEL", "--recipe", "MODEL"], "is not TOML"),
    (["passes", "DIR/none.onnx", "-p", "clean"], "no such file"),
    (["passes", "DIR", "-p", "clean"], "is a folder"),
    (["inspect"], "Missing argument 'MODEL'"),
    (["inspect", "DIR/none.onnx"], "no such file"),
    (["inspect", "MODEL", "more"], "unexpected extra argument"),
    (["compare", "MODEL"], "Missing argument 'B'"),
    (["compare", "MODEL", "DIR/none.onnx"], "no such file"),
    (["compare", "MODEL", "MODEL", "--data", "DIR/none"], "no such data"),
    (["compile", "MODEL"], "-o DIR is missing"),
    (["compile", "MODEL", "-o", "MODEL"], "is a file"),
    (["compile", "MODEL", "-o", "DIR/lib", "--weights", "zip"], "expected raw or coded, found zip"),
    (["compile", "MODEL", "-o", "DIR/lib", "--shape", "x=1x3xax8"], "--shape does not fit"),
    (["compile", "MODEL", "-o", "DIR/lib", "--shape", "1x3x8x8"], "--shape does not fit"),
    (["compile", "MODEL", "-o", "DIR/lib", "--threads", "0"], "--threads"),
    (["compile", "MODEL", "-o", "DIR/lib", "--target", "z80"], "no target 'z80'"),
    (["run", "MODEL", "--input", "x"], "--input does not fit, expected NAME=F.npy"),
    (["run", "MODEL", "--input", "z=DIR/none.npy"], "there is no file"),
    (["run", "MODEL", "--input", "x=DIR/none.npy"], "there is no file"),
    (["run", "MODEL", "--input", "x=MODEL"], "is not a readable .npy file"),
    (["run", "DIR"], "no manifest.json"),
    (["run", "DIR/none.so"], "no manifest.json"),
    (["bench"], "Missing argument"),
    (["bench", "MODEL", "DIR/none.onnx"], "no such file"),
    (["bench", "MODEL", "--shape", "z=1x2"], "--shape names no input"),
    (["bench", "MODEL", "--shape", "x=1x4x8x8"], "does not take this shape"),
]


@pytest.mark.parametrize("argv, said", USAGE, ids=[" ".join(a) for a, _ in USAGE])
def test_bad_usage_and_bad_input_are_one_line_and_status_2(command, model_path, tmp_path, argv, said):
    before = sorted(tmp_path.rglob("*"))
    argv = [a.replace("MODEL", str(model_path)).replace("DIR", str(tmp_path)) for a in argv]
    ended = command(*argv)
    assert ended.status == 2
    text = ended.error()
    assert said.replace("MODEL", str(model_path)) in text or said in text
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_understood_but_not_done_is_status_1(command, model_path, tmp_path):
    ended = command("compile", model_path, "-o", tmp_path / "lib", "--threads", 2, "--target", "cortex-m7")
    assert ended.status == 1 and "2 threads on cortex-m7" in ended.error()
    assert not (tmp_path / "lib").exists()


def test_data_that_do_not_fit_are_told_before_any_pass_runs(command, model_path, tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 3, 8, 9), np.float32))
    ended = command("passes", model_path, "-p", "own.crash", "--data", tmp_path / "d.npz")
    assert ended.status == 2 and "x[3]: wrong extent, expected 8, found 9" in ended.error()


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("empty.onnx", b"", "is empty"),
        ("text.onnx", b"this is no model, whatever its name says", "is not an ONNX model"),
        ("packed.onnxz", b"\x89ONNXZ\r\n" + bytes(64), "is an archive"),
        ("image.onnx", b"\x89PNG\r\n\x1a\n" + bytes(64), "is not an ONNX model"),
    ],
)
def test_a_file_that_is_no_model(command, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    for argv in (["inspect"], ["passes", "-p", "clean"], ["run"], ["bench"]):
        ended = command(argv[0], tmp_path / name, *argv[1:])
        assert ended.status == 2 and said in ended.error()


def test_a_model_whose_dimensions_disagree_is_bad_input(command, tmp_path):
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2,3] x) => (float[2,5] y) { y = MatMul(x, w) }'
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 5), np.float32), "w"))
    onnx.save(proto, tmp_path / "bad.onnx")
    ended = command("passes", tmp_path / "bad.onnx", "-p", "clean", "-o", tmp_path / "out.onnx")
    assert ended.status == 2 and not (tmp_path / "out.onnx").exists()
    said = ended.error()
    assert "[0]" in said or "[1]" in said
    assert "the model as given is not sound" in said


@pytest.mark.parametrize(
    "text, said",
    [
        ("bfloat16[2] x) => (bfloat16[2] y) { y = Tanh(x)", "does not take"),
        ("float[2] x, int64[1] i) => (float[1] y) { y = Reshape(x, i)", "fails in ONNX Runtime"),
    ],
)
def test_a_model_that_onnx_runtime_refuses_is_bad_input(command, tmp_path, text, said):
    onnx.save(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g ({text} }}'), tmp_path / "net.onnx")
    np.save(tmp_path / "i.npy", np.array([3]))
    given = ["--input", f"i={tmp_path / 'i.npy'}"] if "Reshape" in text else []
    ended = command("run", tmp_path / "net.onnx", *given)
    assert ended.status == 2 and said in ended.error()


def test_an_unwritable_out_leaves_nothing_behind(command, model_path, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    ended = command("passes", model_path, "-p", "clean", "-o", tmp_path / "out.onnx")
    assert ended.status == 2 and "no space left on device" in ended.error()
    assert list(tmp_path.iterdir()) == [model_path]


def test_an_interrupt_is_one_line_and_status_130(command, model_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxc.pipeline.Pipeline.transform", interrupted)
    ended = command("passes", model_path, "-p", "clean")
    assert (ended.status, ended.error()) == (130, "interrupted")


def test_running_out_of_memory_is_one_line(command, model_path, monkeypatch):
    def exhausted(*_):
        raise MemoryError

    monkeypatch.setattr("onnxc.pipeline.Pipeline.transform", exhausted)
    ended = command("passes", model_path, "-p", "clean")
    assert (ended.status, ended.error()) == (1, "out of memory")


def test_no_bar_in_a_pipe(command, model_path):
    assert command("passes", model_path, "-p", "clean").err == ""


def test_a_bar_on_a_terminal(capsys, model_path, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with options.bar(2) as step:
        step("one")
        step("half of two", 0.5)
    assert capsys.readouterr().out == ""


def process(*argv, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "onnxc", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, **options)


def test_the_process_returns_the_status(model_path):
    assert process("inspect", model_path).returncode == 0
    ended = process("inspect", f"{model_path}.none")
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)


def test_a_closed_pipe_is_quiet(model_path):
    code = "import sys; from onnxc.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stdout:
        ended = subprocess.run(
            [sys.executable, "-c", code, "inspect", str(model_path), "--json"],
            stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment, timeout=120,
        )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (141, "")


def test_help_loads_nothing_heavy():
    heavy = "{'numpy', 'onnx', 'tvm', 'onnxruntime', 'rich', 'scipy', 'onnx_graphsurgeon'}"
    code = f"import sys; from onnxc.cli import main; main(sys.argv[1:]); print(sorted({heavy} & set(sys.modules)))"
    for argv in (["--help"], ["passes", "--help"], ["--version"], []):
        ended = subprocess.run(
            [sys.executable, "-c", code, *argv], capture_output=True, text=True, cwd=ROOT, timeout=60
        )
        assert ended.returncode == 0 and ended.stdout.splitlines()[-1] == "[]"


def test_help_names_every_command_of_the_contract(command):
    ended = command("--help")
    assert ended.status == 0
    for name in (
        "passes",
        "inspect",
        "compare",
        "compile",
        "run",
        "bench",
        "pack",
        "unpack",
        "sensitivity",
        "diff",
        "demo",
        "auto",
        "check",
        "completion",
    ):
        assert f"\n  {name} " in ended.out
        assert command(name, "--help").status == 0
    assert command("--version").out == f"onnxc {onnxc.__version__}\n"
    assert command() == ended


def test_the_page_on_the_command_line_names_options_that_exist(command):
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    commands = [shlex.split(line)[2:] for line in text.splitlines() if line.startswith("$ onnxc ")]
    shown = {
        "passes",
        "inspect",
        "compare",
        "compile",
        "run",
        "bench",
        "pack",
        "unpack",
        "sensitivity",
        "demo",
        "auto",
        "diff",
        "check",
        "completion",
    }
    assert {argv[0] for argv in commands} == shown
    for name, *rest in commands:
        known = command(name, "--help").out
        assert all(f"{word} " in known.replace(",", " ") for word in rest if word.startswith("-"))


def test_a_message_has_an_end(command, tmp_path):
    """Names of a megabyte and lists of thousands: what is to be done still stands at the end."""
    info = [onnx.helper.make_tensor_value_info(name, 1, [1, 4]) for name in "xy"]
    node = onnx.helper.make_node("n" * 2**20, ["x"], ["y"], domain="d" * 2**20)
    graph = onnx.helper.make_graph([node], "g", info[:1], info[1:])
    imports = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("d" * 2**20, 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=imports, ir_version=8), tmp_path / "m.onnx")
    ended = command("passes", tmp_path / "m.onnx", "-p", "clean")
    assert ended.status == 2 and len(ended.err) < 5000 and ended.err.strip().endswith("or use --check shapes")


def test_texts_that_are_no_utf8_are_not_compared(command, tmp_path):
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.STRING, [1], [b"\xff\xfe"])
    out = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.STRING, [1])]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["w"], ["y"])], "g", [], out, [tensor])
    onnx.save(
        onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)]),
        tmp_path / "m.onnx",
    )
    ended = command("passes", tmp_path / "m.onnx", "-p", "fuse")
    assert "internal" not in ended.err and "use --check shapes" in ended.err


def test_a_full_disk_within_a_pass_is_no_internal_error():
    full = OSError(errno.ENOSPC, "No space left on device")
    setattr(full, "pass_name", "prune")  # noqa: B010  as the manager does
    said, status = app._unforeseen(full)
    assert status == 2 and said.startswith(
        "pass prune: cannot write temporary files: no space left on device; make room in "
    )
    full.filename = "weights.npy"
    assert "internal error in pass prune" in app._unforeseen(full)[0]
    outside = OSError(errno.ENOSPC, "No space left on device")
    for name in (None, f"{tempfile.gettempdir()}/.session.onnxc-x"):  # before any pass: sessions, libraries
        outside.filename = name
        assert app._unforeseen(outside)[0].startswith(
            "cannot write temporary files: no space left on device; make room in "
        )
    outside.filename = "/elsewhere"
    assert app._unforeseen(outside)[0] == "/elsewhere: no space left on device"
