"""Large weights in memory once: packed ones are spilled to a file, and put into their object behind the assembler."""

import errno
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxc.codegen import compile_model
from onnxc.codegen.c import build
from onnxc.codegen.c.archive import put_last
from onnxc.codegen.c.elf import grown
from onnxc.codegen.lower import packing
from onnxc.codegen.memory import spill
from onnxc.codegen.memory.weights import lay_out
from onnxc.ir.errors import Unsupported
from onnxc.runtime.toolchain import TOOLCHAINS

from .test_targets import quantised

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_spilled_arrays_are_what_they_were(rng, monkeypatch):
    monkeypatch.setattr(spill, "LEAST", 8)
    given = [rng.standard_normal((1, n, 5)).astype(np.float32) for n in (3, 1, 4)]
    made = spill.gathered(iter(given), (1, 8, 5), np.dtype(np.float32))
    np.testing.assert_array_equal(made, np.concatenate(given, axis=1))
    spill.release(made)
    np.testing.assert_array_equal(made, np.concatenate(given, axis=1))
    weights = lay_out([made, given[0]])
    assert b"".join(weights.chunks())[: made.nbytes] == made.tobytes()


@pytest.mark.parametrize("fails_at", range(5))
def test_a_full_disk_is_no_fault(rng, monkeypatch, fails_at):
    monkeypatch.setattr(spill, "LEAST", 8)
    given = [rng.standard_normal((1, 2, 5)) for _ in range(4)]
    real, calls = spill._scratch, []

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *what):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            calls.append(data)
            if len(calls) == fails_at + 1:
                self.file.write(bytes(data)[:3])
                raise OSError(errno.ENOSPC, "full")
            return self.file.write(data)

    monkeypatch.setattr(spill, "_scratch", lambda: Full(real()))
    made = spill.gathered(iter(given), (1, 8, 5), np.dtype(np.float64))
    np.testing.assert_array_equal(made, np.concatenate(given, axis=1))
    assert calls


@pytest.mark.parametrize(
    "file, target, weights, far",
    [
        ("binary_fashion", "aarch64", "coded", build.FAR),
        ("int8", "cortex-m4", "raw", 0),
        ("int8", "native", "raw", 0),
    ],
)
def test_small_parts_and_a_filled_object_make_the_same_library(tmp_path, monkeypatch, file, target, weights, far):
    monkeypatch.setattr(build, "FAR", far)
    model = quantised() if file == "int8" else onnx.load(DATA / f"{file}.onnx")
    taken = []

    def noted(road, real, *given):
        taken.append((road, real(*given)))
        return taken[-1][1]

    for road in ("_linked", "_linked_in_pieces"):
        monkeypatch.setattr(build, road, partial(noted, road, getattr(build, road)))
    options = {"name": "net", "target": target, "weights": weights, "check": "shapes"}
    for large in (False, True):
        if large:
            monkeypatch.setattr(packing, "LARGE", 1)
            monkeypatch.setattr(packing, "PART", 1)
            monkeypatch.setattr(spill, "LEAST", 256)
            monkeypatch.setattr(build, "LARGE", 64)
            monkeypatch.setattr(build, "PIECE", 1000)
        compile_model(model, tmp_path / str(large), **options)
    first, second = (sorted(p for p in (tmp_path / str(it)).iterdir() if p.is_file()) for it in (False, True))
    assert [p.name for p in first] == [p.name for p in second]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second))
    roads = {"native": [("_linked", True)], "aarch64": [("_linked_in_pieces", True)]}
    assert taken == roads.get(target, [])


@pytest.mark.parametrize("size", [0, 1, 2, 77])
def test_the_last_member_of_an_archive(tmp_path, size):
    """What an archiver makes of the file itself; other members and other files stay as they are."""
    (tmp_path / "short").mkdir()
    (tmp_path / "first.o").write_bytes(b"odd")
    (tmp_path / "last.o").write_bytes(bytes(range(size)))
    (tmp_path / "short/last.o").write_bytes(b"stands for it")
    ar = ["ar", "rcsD"]
    for name, last in (("wanted.a", "last.o"), ("made.a", "short/last.o")):
        subprocess.run([*ar, name, "first.o", last], cwd=tmp_path, check=True)
    before = (tmp_path / "made.a").read_bytes()
    last = ("last.o", size, [bytes(range(size))])
    assert not put_last(tmp_path / "made.a", "first.o", 3, [b"odd"]) and not put_last(tmp_path / "first.o", *last)
    assert (tmp_path / "made.a").read_bytes() == before
    assert put_last(tmp_path / "made.a", *last)
    assert (tmp_path / "made.a").read_bytes() == (tmp_path / "wanted.a").read_bytes()


@pytest.mark.parametrize("section, flags, grows", [(*build.LAST, True), (".rodata", "a", False)])
def test_a_library_grows_by_what_ends_it(tmp_path, section, flags, grows):
    """As the linker makes it; where other segments lie behind, and of other files, nothing is written."""
    for name, data in (("short", b"mark"), ("whole", bytes(range(99)) * 50)):
        (tmp_path / name).write_bytes(data)
        text = f'.section {section},"{flags}"\n.globl w\n.p2align 6\nw: .incbin "{name}"\n.byte 0\n.size w, .-w\n.data\n.quad w\n'
        (tmp_path / f"{name}.S").write_text(text)
        for made in ("-c -o {0}.o {0}.S", "-shared -nostdlib -s -Wl,--build-id=none -o {0}.so {0}.o"):
            subprocess.run(["gcc", *made.format(name).split()], cwd=tmp_path, check=True)
    assert not grown(tmp_path / "whole.so", tmp_path / "made", b"mark", 4950, [])
    assert not grown(tmp_path / "short.S", tmp_path / "made", b"short", 4950, [])
    for suffix in ("o", "so"):
        done = grown(tmp_path / f"short.{suffix}", tmp_path / "made", b"mark", 4950, [bytes(range(99)) * 50])
        assert done == (grows or suffix == "o")
        if done:
            assert (tmp_path / "made").read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / "made").unlink(missing_ok=True)


def test_pieces_that_are_not_one_after_the_other_are_linked_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "LARGE", 64)
    monkeypatch.setattr(build, "grown", lambda *_: False)  # a linker that puts them elsewhere
    real = build._marks
    monkeypatch.setattr(build, "_marks", lambda file: [1, 2] if file.suffix == ".so" else real(file))
    compile_model(quantised(), tmp_path / "a", name="net", check="data")


@pytest.mark.parametrize("target, weights", [("native", "coded"), ("aarch64", "raw")])
def test_many_weights_lie_apart_and_give_the_same_numbers(tmp_path, monkeypatch, target, weights):
    """As beyond 1 GiB, in a shared library (proven against ONNX Runtime here) and in a static program."""
    monkeypatch.setattr(build, "FAR", 0)
    options = {"name": "net", "target": target, "weights": weights, "check": "data", "program": True}
    compile_model(quantised(), tmp_path / "far", **options)
    assert b"_weights_far" in (tmp_path / "far" / "libnet.a").read_bytes()


def test_more_weights_than_code_addresses_are_refused(tmp_path, monkeypatch):
    riscv = replace(TOOLCHAINS["riscv64"], reach=1000)
    monkeypatch.setitem(TOOLCHAINS, "riscv64", riscv)
    with pytest.raises(
        Unsupported, match=r"riscv64 cannot address these weights, expected at most 1000 bytes, found \d+ bytes"
    ):
        compile_model(quantised(), tmp_path / "a", name="net", check="shapes", target="riscv64")
    assert not list(tmp_path.iterdir())
