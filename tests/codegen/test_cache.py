"""Kernels kept across runs: found again with the same bytes, made again where an entry is damaged or another's, bounded."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxc
from onnxc import compiling, pipeline
from onnxc.codegen import cache, compile_model, later, program
from onnxc.codegen.c.function import CFunction
from onnxc.codegen.kernels import float32
from onnxc.codegen.target import TARGETS
from onnxc.codegen.tvm_api import tvm_modules
from onnxc.ir.digest import digest
from onnxc.ir.errors import VerificationError

from . import bulk
from .test_operators import model

NET = model("g (float[1,16,6,6] x) => (float[a,b,c,d] y) { y = Conv<pads=[1,1,1,1]>(x, w) }", w=(16, 16, 3, 3))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("ONNXC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/onnxc/kernels"


@pytest.fixture
def compilations(monkeypatch):
    """Calls of what compiles."""
    calls = []
    real = program.compile_functions

    def counted(*args):
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(program, "compile_functions", counted)
    return calls


def test_claims_that_held_between_two_models_are_not_tested_again(home, monkeypatch):
    """Only between the same bytes, by the same files: else they are, whatever an entry says."""
    runs, real = [], pipeline.run_passes

    def noted(given, passes, *, check, **options):
        runs.append(check)
        return real(given, passes, check=check, **options)

    monkeypatch.setattr(pipeline, "run_passes", noted)

    def optimised(given=NET, seed=0) -> tuple[list[str], str]:
        runs.clear()
        made = compiling.optimiser(seed=seed)(onnxc.load(given), None)
        return list(runs), digest(made.to_proto())

    first, found = optimised()
    assert first == ["data"] and optimised() == (["shapes"], found)
    assert optimised(seed=1)[0] == ["data"]
    other = onnx.ModelProto.FromString(NET.SerializeToString())
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((16, 16, 3, 3), "f"), "w"))
    assert optimised(other)[0] == ["data"]
    entries = [entry for entry in home.iterdir() if not entry.name.startswith(".")]
    for entry in entries:
        cache.save(entry.name, b"0" * 64, {})  # whole, of another model behind
    assert optimised()[0] == ["shapes", "data"] and optimised()[0] == ["shapes"]
    for entry in entries:
        lend(entry)
    assert optimised()[0] == ["data"]
    monkeypatch.setattr(compiling, "_TESTERS", (*compiling._TESTERS, "recipe.py"))
    assert optimised()[0] == ["data"]
    monkeypatch.setenv("ONNXC_CACHE", "off")
    assert optimised()[0] == ["data"]


def library(out) -> bytes:
    compile_model(NET, out, name="net", check="shapes")
    return (out / "libnet.so").read_bytes()


def cut(entry):
    entry.write_bytes(entry.read_bytes()[:-7])


def spoil(entry):
    data = bytearray(entry.read_bytes())
    data[-100] ^= 4
    entry.write_bytes(data)


def lend(entry):
    entry.chmod(0o622)


def link(entry):
    other = entry.parents[2] / "other"
    entry.rename(other)
    entry.symlink_to(other)


def nothing(entry):
    entry.write_bytes(b"[]\n")


def another_format(entry):
    entry.write_bytes(entry.read_bytes().replace(b'"format": 1', b'"format": 2'))


def open_folder(entry):
    entry.parent.chmod(0o777)


KEPT = b"object", {"f": CFunction(64, (True, False)), "g": CFunction(0)}


def test_a_kernel_is_compiled_once_and_again_where_its_entry_is_damaged(home, compilations, tmp_path, monkeypatch):
    written, real = [], later.Later.written
    monkeypatch.setattr(later.Later, "written", lambda self: written.append(self.text) or real(self))
    made = library(tmp_path)
    [entry] = home.iterdir()
    assert len(written) == 1 and "KernelSpec" in written[0] and " at 0x" not in written[0]
    assert len(compilations) == 1 and home.stat().st_mode & 0o777 == 0o700 and entry.stat().st_mode & 0o777 == 0o600
    assert library(tmp_path) == made and len(compilations) == len(written) == 1
    cut(entry)
    assert library(tmp_path) == made and len(compilations) == len(written) == 2
    assert cache.load(entry.name) is not None


@pytest.mark.parametrize("harm", [cut, spoil, lend, link, open_folder, nothing, another_format])
def test_what_cannot_be_trusted_is_not_read(home, harm):
    cache.save("one", *KEPT)
    assert cache.load("one") == KEPT
    harm(home / "one")
    assert cache.load("one") is None


def test_a_kernel_of_other_operands_than_it_is_given_is_refused():
    spec = bulk.make(h=4, w=4, c=4, oc=16, k=(1, 1), pads=(0, 0, 0, 0))
    walk = SimpleNamespace(target=TARGETS["znver4"], later={})
    plan = float32.schedule(spec, walk.target)
    kinds = [relax_type(spec.x_shape), relax_type((16, 5)), relax_type(spec.y_shape)]
    later.kernel(walk, float32.FAMILY, spec, plan, kinds, "f")
    with pytest.raises(
        VerificationError, match=r"operands of a kernel, expected .*\(64, 'float32'\).* found .*\(80, 'float32'\)"
    ):
        walk.later["f"].written()


def relax_type(extents):
    relax = tvm_modules().relax
    return relax.TensorType(list(extents), "float32")


@pytest.mark.parametrize("detail", [lambda: 0, np.arange(5000), object()])
def test_a_kernel_whose_text_does_not_say_all_is_written_at_once(detail):
    spec, target = bulk.make(h=4, w=4, c=4, oc=16, k=(1, 1), pads=(0, 0, 0, 0)), TARGETS["znver4"]
    walk = SimpleNamespace(target=target, later={})
    plan = replace(float32.schedule(spec, target), detail=detail)
    family = SimpleNamespace(name="f", emit=lambda *given: given)
    assert later.kernel(walk, family, spec, plan, [], "f")[1] is plan
    assert not walk.later


def test_off_keeps_nothing(home, monkeypatch):
    monkeypatch.setenv("ONNXC_CACHE", "off")
    assert cache.key({}, TARGETS["znver4"], 1, "p") == ""
    cache.save("one", *KEPT)
    assert cache.load("one") is None and not home.exists()


def test_a_folder_that_cannot_be_made_is_no_cache(home, tmp_path):
    (tmp_path / "cache").write_text("a file")
    cache.save("one", *KEPT)
    assert cache.load("one") is None


@pytest.mark.parametrize("written", [True, False])
def test_all_that_an_object_depends_on_is_in_its_name(home, monkeypatch, written):
    target = TARGETS["znver4"]
    low = float(np.float32(0.1))
    high = float(np.nextafter(np.float32(0.1), np.float32(1)))

    def functions(most: float) -> dict:
        spec = bulk.make(1, 2, 2, 4, 4, epilogue=(("clip", 0.0, most),))
        plan, walk = float32.schedule(spec, target), SimpleNamespace(target=target, later={})
        later.kernel(walk, float32.FAMILY, spec, plan, [relax_type(spec.x_shape)], "g")
        return {"f": float32.emit(spec, plan, "f")} if written else walk.later

    base = cache.key(functions(low), target, 1, "p")
    assert base == cache.key(functions(low), target, 1, "p")
    others = [
        cache.key(functions(high), target, 1, "p"),
        cache.key(functions(low), replace(target, tvm=TARGETS["x86-64-v3"].tvm), 1, "p"),
        cache.key(functions(low), target, 2, "p"),
        cache.key(functions(low), target, 1, "q"),
    ]
    monkeypatch.setattr(cache, "__version__", "0")
    others.append(cache.key(functions(low), target, 1, "p"))
    assert len({base, *others}) == 6


def test_the_entries_used_least_recently_go(home, monkeypatch):
    for i in range(3):
        cache.save(f"{i}", *KEPT)
        os.utime(home / f"{i}", (i, i))
    size = (home / "0").stat().st_size
    assert cache.load("0") == KEPT  # used now
    monkeypatch.setattr(cache, "MOST_BYTES", 3 * size)
    cache.save("3", *KEPT)
    assert sorted(path.name for path in home.iterdir()) == ["0", "2", "3"]


def test_many_write_and_read_one_entry(home):
    def turn(i: int):
        cache.save("one", *KEPT)
        return cache.load("one")

    with ThreadPoolExecutor(4) as pool:
        assert all(found == KEPT for found in pool.map(turn, range(60)))
    assert [path.name for path in home.iterdir()] == ["one"]
