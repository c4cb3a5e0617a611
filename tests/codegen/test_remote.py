"""Libraries on a board over ssh: a command `ssh` that runs what it is told here, in the emulator where need be."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import numpy as np
import pytest

from onnxc.codegen import compile_model
from onnxc.ir.errors import BadData, BadOption, MissingTool, OnnxcError, Unsupported
from onnxc.measure.subjects import bench, run_once
from onnxc.runtime.emulate import Emulated
from onnxc.runtime.feeding import Wishes
from onnxc.runtime.library import Library
from onnxc.runtime.remote import Remote, parse_address
from onnxc.search import Budget, auto
from onnxc.search.boards import check

from .conftest import error, random_feeds, run_ort
from .test_targets import ready

FAKE = """#!/bin/sh
# stands for ssh: notes its arguments, then runs the last of them
for last; do :; done
printf '%s\\n' "$*" >>{log}
for host in "" a b; do
  case "$*" in *"-- $host"*) [ -e {gone}$host ] && {{ echo "no route to host" >&2; exit 255; }} ;; esac
done
exec sh -c "$last"
"""


@pytest.fixture
def board(tmp_path, monkeypatch) -> Path:
    """A folder that stands for the board's; `ssh` leads there."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "the board").mkdir()
    fake = tmp_path / "bin/ssh"
    fake.write_text(FAKE.format(log=tmp_path / "log", gone=tmp_path / "gone"))
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "the board"


def test_a_library_runs_on_the_board(shared_model, board, tmp_path):
    shapes = [{}, {"x": (4, 3, 32, 32)}]
    compile_model(
        shared_model, tmp_path / "out", name="net", check="shapes", target="x86-64-v2", threads=2, shapes=shapes
    )
    there = Remote(tmp_path / "out", f"ssh://pi@board:2222{board}", threads=2)
    here = Library(tmp_path / "out")
    for feeds in (random_feeds(here), {"x": np.ones((4, 3, 32, 32), "f")}):
        found, wanted = there.run(feeds), here.run(feeds)
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert 0 < there.timed(random_feeds(here), 3)[1] < 60
    assert "-o BatchMode=yes -p 2222 -- pi@board sh -c " in (tmp_path / "log").read_text()
    (folder,) = board.iterdir()
    assert [path.name for path in folder.iterdir()] == ["run_net"]
    del there
    gc.collect()
    assert list(board.iterdir()) == []


def test_run_and_bench_take_it(small_model, board, tmp_path):
    compile_model(small_model, tmp_path / "out", name="net", check="shapes", target="x86-64-v2", program=True)
    address = f"ssh://board{board}"
    outputs, _ = run_once(str(tmp_path / "out"), Wishes(), address)
    feeds = random_feeds(Library(tmp_path / "out"))
    assert outputs.keys() == run_ort(small_model, feeds).keys()
    (row,) = bench([str(tmp_path / "out")], remote=address).rows
    assert row.name.endswith(f"in {address}") and row.median > 0
    (tmp_path / "m.onnx").write_bytes(small_model.SerializeToString())
    with pytest.raises(BadOption, match="--remote runs libraries"):
        run_once(str(tmp_path / "m.onnx"), Wishes(), address)


def test_failures_on_the_way_are_told(small_model, board, tmp_path, monkeypatch):
    compile_model(small_model, tmp_path / "out", name="net", check="shapes", target="x86-64-v2", program=True)
    there = Remote(tmp_path / "out", f"ssh://board{board}")
    feeds = random_feeds(Library(tmp_path / "out"))
    (program,) = board.glob("*/run_net")
    program.write_text("#!/bin/sh\necho out of memory >&2\nexit 3\n")
    with pytest.raises(BadData, match="out of memory"):
        there.run(feeds)
    with pytest.raises(BadData, match="No such file"):
        Remote(tmp_path / "out", "ssh://board/nonexistent")
    (tmp_path / "gone").touch()
    with pytest.raises(MissingTool, match="not reached: no route to host"):
        there.run(feeds)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingTool, match="openssh-client"):
        Remote(tmp_path / "out", "ssh://board")


def test_bare_metal_has_no_ssh(small_model, board, tmp_path):
    ready("cortex-m7")
    compile_model(small_model, tmp_path / "out", name="net", check="shapes", target="cortex-m7")
    with pytest.raises(Unsupported, match="over ssh"):
        Remote(tmp_path / "out", "ssh://board")


@pytest.mark.parametrize(
    "address",
    ["board", "http://board", "ssh://", "ssh://-oProxyCommand=x", "ssh://-l@board", "ssh://a:secret@board",
     "ssh://board:x", "ssh://board?x", "ssh://bo ard", "ssh://$(id)"],
)  # fmt: skip
def test_addresses_that_do_not_fit(address):
    with pytest.raises(BadOption, match="--remote does not fit"):
        parse_address(address)


def test_a_program_of_an_older_compilation_is_not_run(small_model, shared_model, tmp_path):
    ready("aarch64")
    compile_model(small_model, tmp_path, name="net", check="shapes", target="aarch64", program=True)
    compile_model(shared_model, tmp_path, name="net", check="shapes", target="aarch64")
    assert json.loads((tmp_path / "manifest.json").read_text())["program"] is None
    library = Emulated(tmp_path)
    feeds = random_feeds(library)
    found, wanted = library.run(feeds), run_ort(shared_model, feeds)
    assert all(error(found[name], wanted[name]) <= 1e-5 for name in wanted)


def test_a_search_times_libraries_on_boards(small_model, board, tmp_path):
    """Each beside the one as given; what a board that goes away had to do another one does."""
    name = small_model.graph.input[0].name
    data = {name: np.random.default_rng(0).normal(size=(32, 3, 8, 8)).astype(np.float32)}
    addresses = (f"ssh://a{board}", f"ssh://b{board}")
    search = auto(small_model, data, target="x86-64-v2", remote=addresses, budget=Budget(time=0.9))
    made = {text: search.local.do(("recipe", text)) for text in ("fuse", "clean")}
    (tmp_path / "goneb").touch()
    search._clock(made | {"none": {"refused": "why"}})
    assert all(0.05 < found["time"] < 20 for found in made.values())
    assert search.state[search._timing("none")] == float("inf")
    (said,) = search._said
    assert said.startswith(f"ssh://b{board} is left out: ") and "no route to host" in said
    hosts = [line.split("-- ")[1][0] for line in (tmp_path / "log").read_text().splitlines()]
    assert {"a", "b"} == set(hosts)
    (tmp_path / "gonea").touch()
    with pytest.raises(MissingTool, match="no board is left to time libraries on"):
        search._times(list(made.values()))


@pytest.mark.parametrize(
    "addresses, target, said",
    [
        (["ssh://a"], None, "--remote times compiled libraries; give --target"),
        (["ssh://a", "ssh://a"], "aarch64", "--remote names a board twice"),
        (["ssh://a"], "cortex-m4", "timing a library for cortex-m4 over ssh"),
        (["a"], "aarch64", "--remote does not fit"),
    ],
)
def test_boards_that_make_no_sense(addresses, target, said):
    with pytest.raises(OnnxcError, match=said):
        check(addresses, target)
