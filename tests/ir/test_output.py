"""Files that are written whole or not at all, whatever stands at their place and whenever the process ends."""

import errno
import os
import stat
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxc.ir import external, output, temporary, writing
from onnxc.ir.errors import BadModel, BadOption
from onnxc.ir.files import load
from onnxc.ir.output import replacing, write_whole
from onnxc.ir.staging import staging

MODULES = {module.__file__ for module in (external, output, temporary, writing)}


def model(value: float, count: int = 2):
    """Weights of one value, `count` tensors of 4 kB each."""
    weights = [numpy_helper.from_array(np.full((1, 1000), value, np.float32), f"w{i}") for i in range(count)]
    nodes = [helper.make_node("Add", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(count)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1000]) for name in ("x0", f"x{count}")]
    return load(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)))


def value_of(path: Path) -> float:
    """The one value of all weights of a model that is whole."""
    (value,) = {float(v) for t in load(path).constants().values() for v in np.unique(t.values)}
    return value


def end_after(steps: int, work) -> bool:
    """Does `work` in a process that ends, as by kill -9, after some lines of what writes files; whether it came to its end."""
    left = steps

    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename not in MODULES:
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
            work()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 0


@pytest.mark.parametrize("limit", [10**9, 1000])
def test_whenever_a_process_ends_a_model_has_its_own_weights(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(writing, "PROTO_LIMIT", limit)
    old, new, mine = model(1), model(2), model(3)
    steps, ended, seen = 0, False, set()
    while not ended:
        home = tmp_path / str(steps)
        home.mkdir()
        out = home / "net.onnx"
        old.save(out)
        (home / "net.onnx.data").write_bytes(b"mine")
        (home / f"net.onnx.{'0' * 32}.data").write_bytes(b"mine too")
        ended = end_after(steps, lambda out=out: new.save(out))
        seen.add(value_of(out))
        mine.save(out)
        assert value_of(out) == 3
        left = {path.name for path in home.iterdir()} - external.named(out) - {"net.onnx"}
        assert left == {"net.onnx.data", f"net.onnx.{'0' * 32}.data"}
        steps += 3
    assert seen == {1, 2} and steps > 60


def test_weights_go_with_the_model_that_named_them(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "PROTO_LIMIT", 1000)
    model(1).save(tmp_path / "a.onnx")
    model(2).save(tmp_path / "a.onnx")
    assert len(list(tmp_path.iterdir())) == 2
    model(2).save(tmp_path / "a.onnx")  # the same weights, the same name
    assert len(list(tmp_path.iterdir())) == 2 and value_of(tmp_path / "a.onnx") == 2
    monkeypatch.undo()
    model(3).save(tmp_path / "a.onnx")  # small enough for one file
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


@pytest.mark.parametrize("count", [0, 1])
def test_a_fault_while_weights_are_put_in_place_takes_them_back(tmp_path, monkeypatch, count):
    monkeypatch.setattr(writing, "PROTO_LIMIT", 1000)
    model(1).save(tmp_path / "a.onnx")
    before = sorted(tmp_path.iterdir())
    real, calls = os.replace, []

    def full(*paths):
        calls.append(paths)
        if len(calls) > count:
            raise OSError(28, "No space left on device")
        return real(*paths)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BadOption, match="no space left"):
        model(2).save(tmp_path / "a.onnx")
    assert sorted(tmp_path.iterdir()) == before and value_of(tmp_path / "a.onnx") == 1


def test_of_many_writers_the_last_whole_one_wins(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "PROTO_LIMIT", 1000)
    children = []
    for value in range(4):
        child = os.fork()
        if child == 0:
            try:
                for _ in range(12):
                    model(value).save(tmp_path / "a.onnx")
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert value_of(tmp_path / "a.onnx") in range(4)
    assert {path.name for path in tmp_path.iterdir()} == {"a.onnx", *external.named(tmp_path / "a.onnx")}


# what may stand at the place


def test_links_are_followed_and_stay(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("far/real")
    (tmp_path / "new").symlink_to("far/made")
    write_whole(tmp_path / "link", [b"a", b"b"])
    write_whole(tmp_path / "new", [b"c"])
    assert (tmp_path / "link").is_symlink() and (tmp_path / "far" / "real").read_bytes() == b"ab"
    assert (tmp_path / "new").is_symlink() and (tmp_path / "far" / "made").read_bytes() == b"c"
    assert sorted(os.listdir(tmp_path / "far")) == ["made", "real"]
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "lost").symlink_to("nowhere/x")
    for name in ("loop", "lost"):
        with pytest.raises(BadOption, match="cannot write"):
            write_whole(tmp_path / name, [b"x"])


def test_weights_beside_a_link_are_found_from_both_sides(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "PROTO_LIMIT", 1000)
    (tmp_path / "far").mkdir()
    (tmp_path / "net.onnx").symlink_to("far/net.onnx")
    model(5).save(tmp_path / "net.onnx")
    assert value_of(tmp_path / "net.onnx") == value_of(tmp_path / "far" / "net.onnx") == 5


def test_pipes_and_devices_are_written_to(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        got = []
        reader = threading.Thread(target=lambda got=got: got.append((tmp_path / "pipe").read_bytes()))
        reader.start()
        with replacing(tmp_path / name) as file:
            file.write(b"..cd")
            file.seek(0)
            file.write(b"ab")
        reader.join()
        assert got == [b"abcd"] and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    write_whole("/dev/null", [b"x"])
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    read, write = os.pipe()
    write_whole(f"/dev/fd/{write}", [b"to a handle"])
    assert os.read(read, 100) == b"to a handle"
    monkeypatch.setattr(writing, "PROTO_LIMIT", 1000)
    with pytest.raises(BadModel, match="beside the model, and /dev/null can have none"):
        model(1).save("/dev/null")


def test_folders_and_what_cannot_be_are_refused(tmp_path):
    for path, said in [
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "x", "cannot write"),
        (f"{tmp_path}/a\0", "null"),
        (tmp_path / ("n" * 300), "cannot write"),
    ]:
        with pytest.raises(BadOption, match=said):
            write_whole(path, [b"x"])
    write_whole(tmp_path / ("n" * 255), [b"x"])
    write_whole(tmp_path / os.fsdecode(b"x\xff"), [b"not UTF-8"])


def test_the_old_mode_stays(tmp_path):
    path = tmp_path / "private"
    path.write_bytes(b"old")
    path.chmod(0o600)
    with replacing(path) as file:
        modes = [stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()]
        file.write(b"new")
    assert modes == [0o600, 0o600] and stat.S_IMODE(path.stat().st_mode) == 0o600
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "fresh", [b"x"])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "fresh").stat().st_mode) == 0o640


def test_a_name_that_must_be_new(tmp_path):
    with pytest.raises(BadOption, match="file exists"), replacing(tmp_path / "x", new=True) as file:
        file.write(b"ours")
        (tmp_path / "x").write_bytes(b"theirs")  # another process was faster
    assert (tmp_path / "x").read_bytes() == b"theirs" and os.listdir(tmp_path) == ["x"]


def test_temporary_files_of_the_dead_go_those_of_the_living_stay(tmp_path):
    names = {pid: f".x.onnxc-{temporary.host()}-{pid}-00" for pid in (os.getpid(), 2**22 + 1)}
    for name in (*names.values(), ".x.onnxc-elsewhere-1-00", f".y.onnxc-{temporary.host()}-{2**22 + 1}-00"):
        (tmp_path / name).write_bytes(b"")
    write_whole(tmp_path / "x", [b"x"])
    assert names[os.getpid()] in os.listdir(tmp_path) and len(os.listdir(tmp_path)) == 4
    assert not (tmp_path / names[2**22 + 1]).exists()


def full(*chunks: bytes):
    """Chunks of a file for which the disk has no room."""
    yield from chunks
    raise OSError(errno.ENOSPC, "No space left on device")


def test_of_several_files_all_are_written_or_none(tmp_path):
    made, deep = tmp_path / "made", tmp_path / "a" / "b" / "c"
    output.write_several(made, {"x": [b"old x"], "y": [b"old ", b"y"]})
    for folder in (made, deep):
        with pytest.raises(BadOption, match=r"^cannot write .*z: no space left on device$"):
            output.write_several(folder, {"x": [b"new"], "in/y": [b"new"], "in/z": full(b"half"), "y": [b"new"]})
    assert {path.name: path.read_bytes() for path in made.iterdir()} == {"x": b"old x", "y": b"old y"}
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_build_that_fails_leaves_no_folder_above_it(tmp_path):
    with pytest.raises(BadOption, match="no space left"), staging(tmp_path / "a" / "b" / "out") as work:
        (work / "part").write_bytes(b"half")
        next(full())
    assert list(tmp_path.iterdir()) == []
