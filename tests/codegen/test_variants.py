"""One library for several shapes, and one with kernels for several instruction sets that picks at init."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper, parser

from onnxc.codegen import compile_model
from onnxc.codegen.c import pick as cpick
from onnxc.codegen.target import TARGETS, resolve
from onnxc.ir.errors import BadData, BadOption
from onnxc.runtime.emulate import open_library
from onnxc.runtime.library import Library, empty_aligned
from onnxc.runtime.toolchain import TOOLCHAINS, host_features

from .conftest import error, random_feeds, run_ort
from .test_robust import build
from .test_targets import ready

SHAPES = [{"x": (1, 3, 32, 32)}, {"x": (4, 3, 32, 32)}]


@pytest.fixture(scope="module")
def two(shared_model, tmp_path_factory):
    """A library for batches of one and of four, on up to two threads."""
    out = tmp_path_factory.mktemp("two")
    report = compile_model(shared_model, out, name="net", shapes=SHAPES, threads=2, program=True)
    return out, report


def batch(count: int) -> np.ndarray:
    """Random samples."""
    return np.random.default_rng(count).standard_normal((count, 3, 32, 32)).astype("f")


def test_a_call_picks_the_shape_of_its_input(shared_model, two):
    library = Library(two[0])
    for count in (1, 4, 4, 1):
        found, wanted = library(x=batch(count)), run_ort(shared_model, {"x": batch(count)})
        assert all(found[name].shape == wanted[name].shape for name in wanted)
        assert all(error(found[name], wanted[name]) <= 1e-5 for name in wanted)
    with pytest.raises(BadData, match="expected 1x3x32x32 or 4x3x32x32, found 2x3x32x32"):
        library(x=batch(2))
    with pytest.raises(BadData, match="missing"):
        library()


def test_weights_are_shared_by_shapes_and_arena_is_that_of_the_largest(shared_model, two, tmp_path):
    report = compile_model(shared_model, tmp_path, name="net", shapes=SHAPES[1], threads=2, check="shapes")
    product = (
        24 * 16 * 4
    )  # of the last layer, which takes two thirds of the time with weights as only this batch wants them
    assert two[1].weights_bytes <= report.weights_bytes + product
    assert two[1].arena_bytes == report.arena_bytes
    assert len(two[1].kernels) == 2 * len(report.kernels)
    assert {row["program"] for row in two[1].kernels} == {"native 1x3x32x32", "native 4x3x32x32"}


def test_a_large_product_has_one_layout_for_all_batches(tmp_path):
    """Alone, a batch of one is computed by other tiles than one of four, which read other orders of weights."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
      g (float[N,1024] x) => (float[N,1000] y) { y = MatMul(x, w) }""")
    drawn = np.random.default_rng(0).standard_normal((1024, 1000)).astype("f")
    model.graph.initializer.append(numpy_helper.from_array(drawn, "w"))
    weights = [
        compile_model(model, tmp_path / str(i), name="net", shapes=shapes, check="shapes").weights_bytes
        for i, shapes in enumerate(([{"x": (1, 1024)}], [{"x": (1, 1024)}, {"x": (4, 1024)}]))
    ]
    assert weights[0] == weights[1]
    library = Library(tmp_path / "1")
    for count in (1, 4):
        x = np.random.default_rng(count).normal(size=(count, 1024)).astype("f")
        assert error(library(x=x)["y"], run_ort(model, {"x": x})["y"]) <= 1e-5


def test_select_and_what_it_refuses(two):
    library = ctypes.CDLL(str(two[0] / "libnet.so"))
    library.net_arena_bytes.restype = ctypes.c_size_t
    arena = empty_aligned((library.net_arena_bytes(),), np.dtype("u1"))
    arena[...] = 0
    handle = ctypes.c_void_p(arena.ctypes.data)
    assert library.net_shape_count() == 2
    assert library.net_select(handle, 0) == 4  # before init
    assert library.net_init(handle, 2) == 0
    assert [library.net_select(handle, number) for number in (0, 1, 2, -1)] == [0, 0, 11, 11]
    assert library.net_select(None, 0) == 1
    library.net_input_of.restype = library.net_output_of.restype = ctypes.c_void_p
    found = [bool(library.net_input_of(*pair)) for pair in ((0, 0), (1, 0), (2, 0), (1, 1), (-1, 0))]
    assert found == [True, True, False, False, False]
    assert bool(library.net_output_of(1, 1)) and not library.net_output_of(1, 2)
    sizes = [(ctypes.c_size_t * 1)(4 * count * 3 * 32 * 32) for count in (1, 4)]
    outputs = (ctypes.c_size_t * 2)(4 * 4 * 24 * 30 * 30, 4 * 4 * 10)
    arrays = [batch(4), empty_aligned((4, 24, 30, 30), np.dtype("f")), empty_aligned((4, 10), np.dtype("f"))]
    x, y, z = (array.ctypes.data for array in arrays)
    pointers = (ctypes.c_void_p * 1)(x), (ctypes.c_void_p * 2)(y, z)
    assert library.net_run_checked(handle, pointers[0], sizes[0], pointers[1], outputs) == 6
    assert library.net_run_checked(handle, pointers[0], sizes[1], pointers[1], outputs) == 0
    assert library.net_free(handle) == 0
    assert library.net_select(handle, 0) == 4


def test_the_program_takes_the_number_of_the_shape(two, tmp_path):
    (tmp_path / "in").write_bytes(batch(4).tobytes())
    program = two[0] / "run_net"
    subprocess.run([program, tmp_path / "in", tmp_path / "out", "1", "2", "1"], check=True, stdout=subprocess.DEVNULL)
    wanted = Library(two[0])(x=batch(4))
    assert (tmp_path / "out").read_bytes() == b"".join(array.tobytes() for array in wanted.values())
    for number in ("2", "-1"):
        command = [program, tmp_path / "in", tmp_path / "out", "1", "2", number]
        assert subprocess.run(command, check=False, capture_output=True).returncode == 1


def test_shapes_that_do_not_fit(shared_model, tmp_path):
    with pytest.raises(BadOption, match="two shapes of the library are the same"):
        compile_model(shared_model, tmp_path, name="net", shapes=[SHAPES[0], {}])
    with pytest.raises(BadOption, match="no shape"):
        compile_model(shared_model, tmp_path, name="net", shapes=[])


def test_x86_picks_the_best_that_the_processor_has(small_model, tmp_path):
    ready("x86-64-v3")
    names = ["znver4", "x86-64-v2", "x86-64-v4", "x86-64-v3"]
    report = compile_model(small_model, tmp_path, name="net", check="shapes", target="/".join(names), weights="coded")
    library = ctypes.CDLL(str(tmp_path / "libnet.so"))
    library.net_machine.restype = ctypes.c_char_p
    arena = empty_aligned((report.arena_bytes,), np.dtype("u1"))
    arena[...] = 0
    assert library.net_machine(ctypes.c_void_p(arena.ctypes.data)) is None
    assert library.net_init(ctypes.c_void_p(arena.ctypes.data), 1) == 0
    best = max((n for n in names if set(TARGETS[n].needs) <= host_features()), key=lambda n: len(TARGETS[n].needs))
    assert library.net_machine(ctypes.c_void_p(arena.ctypes.data)).decode() == best
    made = Library(tmp_path)
    feeds = random_feeds(made)
    assert all(error(made.run(feeds)[name], wanted) <= 1e-5 for name, wanted in run_ort(small_model, feeds).items())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["target"] == "x86-64-v2/x86-64-v3/x86-64-v4/znver4"
    assert manifest["needs"] == list(TARGETS["x86-64-v2"].needs)


def test_a_processor_without_any_of_them_is_told(small_model, tmp_path, monkeypatch):
    ready("x86-64-v3")
    nothing = "static void features(uint32_t found[6]) { memset(found, 0, 6 * sizeof *found); }\n"
    monkeypatch.setitem(cpick._READ, "x86_64", nothing)
    monkeypatch.setitem(cpick._INCLUDES, "x86_64", "")
    compile_model(small_model, tmp_path, name="net", check="shapes", target="x86-64-v2/x86-64-v3")
    library = Library(tmp_path)
    with pytest.raises(BadData, match="no kernels for this processor"):
        library.run(random_feeds(library))


def picked(folder: Path, compiler: str, *emulator: str) -> str:
    """The instruction set that the library in `folder` picks in an emulator."""
    source = folder / "pick.c"
    source.write_text("""#include <stdio.h>
      #include "net.h"
      static char arena[NET_ARENA_BYTES] __attribute__((aligned(64)));
      int main(void) { return net_init(arena, 1) || !printf("%s", net_machine(arena)); }""")
    if not (folder / "pick").exists():
        build(folder, folder / "pick", [source], "-static", compiler=compiler)
    return subprocess.run([*emulator, folder / "pick"], check=True, capture_output=True, text=True).stdout


def test_x86_picks_by_what_the_system_saves_too(small_model, tmp_path):
    ready("x86-64-v2")
    if shutil.which("qemu-x86_64-static") is None:
        pytest.skip("needs: apt-get install qemu-user-static")
    compile_model(small_model, tmp_path, name="net", check="shapes", target="x86-64-v2/x86-64-v3/x86-64-v4")
    cpus = {"Nehalem": "x86-64-v2", "max": "x86-64-v3", "max,-avx2": "x86-64-v2", "max,-xsave": "x86-64-v2"}
    found = {cpu: picked(tmp_path, "gcc", "qemu-x86_64-static", "-cpu", cpu) for cpu in cpus}
    assert found == cpus


def test_aarch64_picks_in_the_emulator(shared_model, tmp_path, monkeypatch):
    ready("aarch64")
    target = "aarch64/aarch64,mattr=+dotprod/cortex-a76"
    compile_model(shared_model, tmp_path, name="net", check="shapes", target=target, threads=2)
    for cpu, wanted in (("cortex-a72", "aarch64"), ("cortex-a76", "cortex-a76")):
        assert picked(tmp_path, "aarch64-linux-gnu-gcc", "qemu-aarch64-static", "-cpu", cpu) == wanted
    for cpu in ("cortex-a72", "cortex-a76"):
        runner = lambda self, c=cpu: [self.emulator[0], "-cpu", c]  # noqa: E731
        monkeypatch.setattr(type(TOOLCHAINS["aarch64"]), "runner", runner)
        library = open_library(tmp_path)
        feeds = random_feeds(library)
        found, wanted = library.run(feeds), run_ort(shared_model, feeds)
        assert all(error(found[name], wanted[name]) <= 1e-5 for name in wanted), cpu


@pytest.mark.parametrize(
    "chain, compiler, cpus",
    [
        ("riscv64", "riscv64-linux-gnu-gcc", {"rv64,v=false": "riscv64", "rv64,v=true": "riscv64-v"}),
        ("armv7", "arm-linux-gnueabihf-gcc", {"cortex-a9": "armv7", "cortex-a7": "cortex-a7"}),
    ],
)
def test_linux_tells_which_in_the_emulator(shared_model, tmp_path, monkeypatch, chain, compiler, cpus):
    ready(chain)
    compile_model(shared_model, tmp_path, name="net", check="shapes", target="/".join(cpus.values()), threads=2)
    emulator = TOOLCHAINS[chain].emulator[0]
    for cpu, wanted in cpus.items():
        assert picked(tmp_path, compiler, emulator, "-cpu", cpu) == wanted
        monkeypatch.setattr(type(TOOLCHAINS[chain]), "runner", lambda self, c=cpu: [emulator, "-cpu", c])
        library = open_library(tmp_path)
        feeds = random_feeds(library)
        found, wanted = library.run(feeds), run_ort(shared_model, feeds)
        assert all(error(found[name], wanted[name]) <= 1e-5 for name in wanted), cpu


@pytest.mark.parametrize(
    "target, said",
    [
        ("x86-64-v2/aarch64", "one family"),
        ("wasm32/wasm32,lanes=2", "cannot pick its instruction set on wasm32"),
        ("x86-64-v3/x86-64-v3", "need the same"),
        ("aarch64/aarch64,mcpu=neoverse-n1", "need the same"),
        ("x86-64-v3/", "one base"),
    ],
)
def test_targets_that_do_not_go_together(small_model, tmp_path, target, said):
    with pytest.raises(BadOption, match=said):
        compile_model(small_model, tmp_path, name="net", check="shapes", target=target)


def test_features_give_needs():
    assert resolve("aarch64,mattr=+dotprod").needs == ("asimddp",)
    assert resolve("cortex-a76,mattr=+dotprod:-sve").needs == TARGETS["cortex-a76"].needs
    assert resolve("x86-64-v3,mattr=+avxvnni").needs[-1] == "avx_vnni"
    assert resolve("aarch64,mattr=+unheard-of").needs == ()
    assert resolve("x86-64-v3,lanes=4").needs == TARGETS["x86-64-v3"].needs
