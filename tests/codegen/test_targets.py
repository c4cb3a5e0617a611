"""Libraries for other machines: the trained networks and a quantised one equal ONNX Runtime, in emulators."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxc
from onnxc.codegen import compile_model
from onnxc.codegen.target import TARGETS, list_targets, missing_tools, resolve, runs_here
from onnxc.ir.errors import BadData, BadModel, BadOption, MissingTool
from onnxc.runtime.emulate import Emulated, open_library
from onnxc.runtime.library import Library
from onnxc.runtime.toolchain import TOOLCHAINS, ZIG, Linker

from .conftest import error, random_feeds, run_ort
from .objects import needed

ROOT = Path(onnxc.__file__).parent
MACHINES = ("x86-64-v3", "aarch64", "armv7", "riscv64", "riscv64-v", "wasm32", "cortex-m7")
# What may stay undefined in a static library: memory functions, libm, and the compiler's own arithmetic.
ALLOWED = {"memcpy", "memset", "expf", "nearbyintf", "roundevenf", "rintf", "_GLOBAL_OFFSET_TABLE_"}
ALLOWED |= {"__aeabi_idiv", "__aeabi_uidiv", "__aeabi_uidivmod", "__ctzdi2", "__bswapdi2"}
ALLOWED |= {"__aeabi_l2f", "__aeabi_ul2f", "__aeabi_f2lz", "__aeabi_l2d", "__popcountdi2"}


def ready(name: str) -> None:
    """Skips where this machine lacks a tool, and says which."""
    missing = missing_tools(TARGETS[name])
    if missing:
        pytest.skip(f"{name} needs: {'; '.join(missing)}")
    if TARGETS[name].toolchain.native and not runs_here(TARGETS[name]):
        pytest.skip(f"this machine cannot run {name}")


@cache
def quantised() -> onnx.ModelProto:
    """ResNet-20 in int8, as QuantizeLinear and DequantizeLinear."""
    model = ROOT / "data/resnet20_fashion.onnx"
    return onnxc.run_passes(model, "fuse, quant", data=ROOT / "data/fashion_calib.npz").model.to_proto()


@cache
def clustered() -> onnx.ModelProto:
    """ResNet-20 with the weights of each layer at 32 values, five bits each: the means of as many equal shares of them."""
    made = onnxc.run_passes(ROOT / "data/resnet20_fashion.onnx", "fuse", check="shapes").model.to_proto()
    for tensor in made.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim > 1:
            order = np.argsort(values, axis=None)
            flat = np.empty(values.size, np.float32)
            for share in np.array_split(order, 32):
                flat[share] = values.reshape(-1)[share].mean()
            tensor.CopyFrom(numpy_helper.from_array(flat.reshape(values.shape), tensor.name))
    return made


def images() -> np.ndarray:
    """One real image of the test set, so that quantised networks work in their range."""
    with np.load(ROOT / "data/fashion_test.npz") as data:
        return np.asarray(data["image"][:1], np.float32)


@pytest.mark.parametrize("name", MACHINES)
def test_trained(name, trained_path, tmp_path):
    ready(name)
    model = onnx.load(trained_path)
    report = compile_model(model, tmp_path, name="net", check="shapes", target=name)
    library = open_library(tmp_path)
    feeds = {key: images() for key in library.inputs}
    found, wanted = library.run(feeds), run_ort(model, feeds)
    assert all(error(found[key], wanted[key]) <= 1e-5 for key in wanted)
    assert report.arena_bytes <= 1.15 * report.live_bytes
    if name != "wasm32":
        assert needed(tmp_path / "libnet.a") <= ALLOWED
    if name == "aarch64" and "resnet20" in trained_path.name:
        assert (tmp_path / "libnet.so").stat().st_size - report.weights_bytes <= 150_000


@pytest.mark.parametrize("name", MACHINES)
def test_quantised(name, tmp_path):
    ready(name)
    compile_model(quantised(), tmp_path, name="net", check="shapes", target=name)
    library = open_library(tmp_path)
    feeds = {key: images() for key in library.inputs}
    found, wanted = library.run(feeds), run_ort(quantised(), feeds)
    # ORT runs QDQ in integers: where a sum lies at the edge of two levels it may round to the other
    assert all(error(found[key], wanted[key]) <= 0.05 for key in wanted)
    if name != "wasm32":
        assert needed(tmp_path / "libnet.a") <= ALLOWED


@pytest.mark.parametrize("name", MACHINES)
def test_clustered_and_coded(name, tmp_path):
    ready(name)
    report = compile_model(clustered(), tmp_path, name="net", check="shapes", target=name, weights="coded")
    library = open_library(tmp_path)
    feeds = {key: images() for key in library.inputs}
    found, wanted = library.run(feeds), run_ort(clustered(), feeds)
    assert all(error(found[key], wanted[key]) <= 1e-5 for key in wanted)
    if name == "aarch64":
        raw = compile_model(clustered(), tmp_path / "raw", name="net", check="shapes", target=name)
        assert report.library_bytes <= 0.25 * raw.library_bytes


@pytest.mark.parametrize("name", ["armv7", "cortex-m4", "cortex-m7", "riscv64"])
def test_wide_integers(name, tmp_path):
    """Arithmetic that a 32-bit machine does by calls, whose convention the target has to get right."""
    ready(name)
    made = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
      g (int64[6] x, float[6] f) => (float[6] y, int64[6] z, int64[6] d) {
        y = Cast<to=1>(x) z = Cast<to=7>(f) d = Div(x, z) }""")
    compile_model(made, tmp_path, name="net", check="shapes", target=name)
    feeds = {
        "x": np.array([1, -5, 1 << 20, -(1 << 33), 77, 0]),
        "f": np.array([1.5, -5, 1e6, -1e10, 7, -3], np.float32),
    }
    found, wanted = open_library(tmp_path).run(feeds), run_ort(made, feeds)
    assert all(np.array_equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("name", ["cortex-a53", "cortex-a76", "cortex-a7", "cortex-a9", "cortex-m4"])
def test_other_cores(name, small_model, tmp_path):
    ready(name)
    compile_model(small_model, tmp_path, name="net", check="shapes", target=name)
    library = open_library(tmp_path)
    feeds = random_feeds(library)
    found, wanted = library.run(feeds), run_ort(small_model, feeds)
    assert all(error(found[key], wanted[key]) <= 1e-5 for key in wanted)


@pytest.mark.slow  # zig builds stand-ins for a machine's C library at its first use: one stands for all
def test_zig_links_where_no_cross_compiler_is(small_model, tmp_path, monkeypatch):
    """A shared library; that programs which zig builds run is shown with rv32imc, which has no other linker."""
    if not Linker(ZIG).found():
        pytest.skip("needs: pip install ziglang")
    monkeypatch.setattr(Linker, "found", lambda self: self.compiler == ZIG)
    compile_model(small_model, tmp_path, name="net", check="shapes", target="aarch64")
    head = (tmp_path / "libnet.so").read_bytes()[:20]
    assert head[:5] == b"\x7fELF\x02" and head[18] == 183  # 64 bits, AArch64
    assert (tmp_path / "libnet.a").read_bytes()[:8] == b"!<arch>\n"


def test_vectors_longer_than_the_shortest(small_model, tmp_path, monkeypatch):
    ready("riscv64-v")
    compile_model(small_model, tmp_path, name="net", check="shapes", target="riscv64-v", program=True)
    feeds = None
    for bits in (128, 256, 512):
        cpu = f"rv64,v=true,vlen={bits},vext_spec=v1.0"
        monkeypatch.setattr(type(TOOLCHAINS["riscv64"]), "runner", lambda self, c=cpu: [self.emulator[0], "-cpu", c])
        library = Emulated(tmp_path)
        feeds = feeds or random_feeds(library)
        found, wanted = library.run(feeds), run_ort(small_model, feeds)
        assert all(error(found[key], wanted[key]) <= 1e-5 for key in wanted), bits


def test_emulated_inputs_are_checked(small_model, tmp_path):
    ready("aarch64")
    compile_model(small_model, tmp_path, name="net", check="shapes", target="aarch64")
    library = Emulated(tmp_path)
    feeds = random_feeds(library)
    with pytest.raises(BadData, match="missing"):
        library.run({})
    with pytest.raises(BadData, match="wrong dtype"):
        library.run({key: value.astype("f8") for key, value in feeds.items()})
    outputs, seconds = library.timed(feeds, 3)
    assert 0 < seconds < 60
    assert all(np.array_equal(outputs[key], value) for key, value in library.run(feeds).items())
    with pytest.raises(BadModel, match="it is for aarch64"):
        Library(tmp_path)


def test_a_missing_emulator_is_named(small_model, tmp_path, monkeypatch):
    ready("aarch64")
    compile_model(small_model, tmp_path, name="net", check="shapes", target="aarch64")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingTool, match="apt-get install qemu-user-static"):
        open_library(tmp_path)


def test_two_cross_builds_are_the_same_bytes(small_model, tmp_path):
    for name in ("cortex-m7", "wasm32"):
        ready(name)
        for turn in "ab":
            compile_model(
                small_model, tmp_path / (name + turn), name="net", check="shapes", target=name, weights="coded"
            )
        for file in ("libnet.a", "net.h", "manifest.json"):
            assert (tmp_path / f"{name}a" / file).read_bytes() == (tmp_path / f"{name}b" / file).read_bytes()


def test_the_list_names_what_to_install(monkeypatch):
    rows = {row["name"]: row for row in list_targets()}
    assert set(rows) == {"native", *TARGETS}
    assert rows["native"]["runs"] == "here"
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("onnxc.runtime.toolchain.find_spec", lambda name: None)
    rows = {row["name"]: row for row in list_targets()}
    assert rows["riscv64"]["links"] is None and rows["riscv64"]["runs"] is None
    assert rows["riscv64"]["install"] == ["apt-get install gcc-riscv64-linux-gnu", "apt-get install qemu-user-static"]
    assert rows["wasm32"]["install"] == ["pip install ziglang", "apt-get install nodejs"]


def test_free_targets():
    made = resolve("cortex-a72,mcpu=neoverse-n1,mattr=+dotprod:-sve,lanes=2")
    tvm = made.tvm_dict()
    assert (tvm["mcpu"], tvm["mattr"], made.lanes, made.registers) == ("neoverse-n1", ["+dotprod", "-sve"], 2, 32)
    assert resolve("base=aarch64,mcpu=cortex-a78").tvm_dict()["mcpu"] == "cortex-a78"
    assert resolve("riscv64,mattr=+v").tvm_dict()["mattr"][-1] == "+v"
    flash = resolve("cortex-m4,waits=5,fetch=8,cache=1024,prefetch=1")
    assert (flash.waits, flash.fetch, flash.cache, flash.prefetch) == (5, 8, 1024, 1)


@pytest.mark.parametrize(
    "name",
    [
        "cortex-a72,mcpu",
        "cortex-a72,speed=9",
        "mcpu=cortex-a72",
        "aarch64,lanes=3",
        "aarch64,mattr=dotprod",
        "x,",
        "cortex-m4,waits=-1",
        "cortex-m4,fetch=0",
        "cortex-a72,waits=5",
    ],
)
def test_free_targets_that_do_not_fit(name):
    with pytest.raises(BadOption):
        resolve(name)


def test_wasm_imports_wasi_alone(small_model, tmp_path):
    ready("wasm32")
    compile_model(small_model, tmp_path, name="net", check="shapes", target="wasm32", program=True)
    script = """const m = new WebAssembly.Module(require('fs').readFileSync('run_net.wasm'));
      console.log([...new Set(WebAssembly.Module.imports(m).map(i => i.module))].join());"""
    made = subprocess.run(["node", "-e", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "wasi_snapshot_preview1"
