"""Folders that appear whole: a process that ends anywhere leaves the old or the new, and the next leaves nothing behind."""

import os
import sys
from pathlib import Path

import pytest

from onnxc.ir import staging as module
from onnxc.ir import temporary
from onnxc.ir.errors import BadOption
from onnxc.ir.staging import put, staging

OLD = {"manifest": "old", "library": "old", "gone": "old", "example/main": "old"}
NEW = {"manifest": "new", "library": "new", "header": "new", "example/main": "new"}
THEIRS = {"notes": "mine", "example/build/cache": "mine"}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def read(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def replace(out: Path) -> None:
    with staging(out) as stage:
        (stage / "done").mkdir()
        write(stage / "done", NEW)
        put(stage / "done", out, old=list(OLD), last="manifest")


def end_after(steps: int, out: Path) -> bool:
    """Replaces `out` in a process that ends, as by kill -9, after some lines of the module; whether it came to its end."""
    left = steps

    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename not in (module.__file__, temporary.__file__):
            return None
        if event == "line":
            left -= 1
            if left < 0:
                os._exit(9)
        return trace

    child = os.fork()
    if child == 0:
        try:
            sys.settrace(trace)
            replace(out)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 0


@pytest.mark.parametrize("exchange", [True, False])
def test_whenever_a_process_ends_the_folder_is_whole(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(module, "_exchange", lambda *_: False)
    steps, ended, seen = 0, False, set()
    while not ended:
        home = tmp_path / str(steps)
        write(home / "out", OLD | THEIRS)
        ended = end_after(steps, home / "out")
        found = read(home / "out")
        assert THEIRS.items() <= found.items()
        ours = {name: text for name, text in found.items() if name not in THEIRS}
        if exchange:
            assert ours in (OLD, NEW)
        else:  # without its last file it is taken for no library
            assert ours in (OLD, NEW, NEW | {"gone": "old"}) or "manifest" not in ours
        seen.add(tuple(sorted(ours.items())))
        replace(home / "out")
        assert read(home / "out") == NEW | THEIRS
        assert [path.name for path in home.iterdir()] == ["out"]
        steps += 1
    assert steps > 40 and len(seen) > 1


def test_a_new_folder_and_one_that_is_worked_in(tmp_path, monkeypatch):
    replace(tmp_path / "a" / "out")
    assert read(tmp_path / "a" / "out") == NEW
    write(tmp_path / "b", OLD | THEIRS)
    monkeypatch.chdir(tmp_path / "b" / "example")
    replace(Path(".."))
    assert read(Path("..")) == NEW | THEIRS
    (tmp_path / "link").symlink_to(tmp_path / "a" / "out")
    write(tmp_path / "a" / "out", {"library": "old"})
    replace(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and read(tmp_path / "a" / "out") == NEW


def test_folders_of_others_are_left_alone(tmp_path):
    alive, strange = tmp_path / f".out.onnxc-{temporary.host()}-{os.getpid()}-x", tmp_path / ".out.onnxc-elsewhere-1-x"
    dead = tmp_path / f".out.onnxc-{temporary.host()}-{2**22 + 1}-x"
    for folder in (alive, strange, dead):
        write(folder, OLD)
    replace(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["out", alive.name, strange.name])


def test_a_folder_that_cannot_be_written_is_told_in_a_line(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("mine")
    for path, said in [
        (tmp_path / "loop/lib", "cannot write .*/loop/lib: "),
        (tmp_path / "file/lib", "cannot write .*/file/lib: (not a directory|file exists)"),
        (tmp_path / os.fsdecode(b"\xff") / "lib", r"must be UTF-8, found '.*\\udcff/lib'"),
    ]:
        with pytest.raises(BadOption, match=said):
            replace(path)
    with pytest.raises(BadOption, match=r"cannot write .*/lib: no space left on device"), staging(tmp_path / "lib"):
        raise OSError(28, "No space left on device", "work/kernel.o")
    with pytest.raises(FileNotFoundError), staging(tmp_path / "lib"):
        Path("nowhere").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]
