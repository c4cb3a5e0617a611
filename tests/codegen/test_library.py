"""The compiled library as a C and Python user meets it: header, symbols, states, determinism, threads, errors."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxc
from onnxc.codegen import compile_model
from onnxc.codegen.target import TARGETS, runs_here
from onnxc.ir.errors import BadData, BadModel, BadOption, MissingTool, Unsupported
from onnxc.runtime.library import Library, check_inputs, empty_aligned

from .conftest import error, random_feeds, run_ort


@pytest.fixture(scope="module")
def folder(small_model, tmp_path_factory) -> Path:
    """The compiled small model."""
    out = tmp_path_factory.mktemp("small")
    compile_model(small_model, out, name="net")
    return out


@pytest.fixture
def x() -> np.ndarray:
    """An input of the small model."""
    return np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype("f")


def test_only_the_announced_files_are_left(folder):
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == ["example/CMakeLists.txt", "example/main.c", "libnet.a", "libnet.so", "manifest.json", "net.h"]


def test_no_symbol_of_tvm(folder):
    needed = subprocess.run(["nm", "-D", "-u", folder / "libnet.so"], capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1].split("@")[0] for line in needed.splitlines()}
    assert not [name for name in names if "tvm" in name.lower()]
    allowed = {"expf", "memcpy", "memset", "memmove"}
    assert {name for name in names if not name.startswith(("_", "__"))} <= allowed
    linked = subprocess.run(["ldd", folder / "libnet.so"], capture_output=True, text=True, check=True).stdout
    libraries = {line.split()[0].split(".")[0] for line in linked.splitlines()}
    assert libraries <= {"statically", "linux-vdso", "libm", "libc", "/lib64/ld-linux-x86-64", "/lib/ld-linux-aarch64"}


def test_exports_the_interface_alone(folder):
    command = ["nm", "-D", "--defined-only", folder / "libnet.so"]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in made.stdout.splitlines()}
    suffixes = (
        "arena_bytes input_count output_count input output digest init init_checked run run_checked free status_text"
    )
    assert names == {f"net_{suffix}" for suffix in suffixes.split()}


@pytest.mark.parametrize("compiler, language", [("gcc", "c99"), ("g++", "c++98")])
def test_header_is_clean(folder, tmp_path, compiler, language):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    source = tmp_path / ("use.c" if compiler == "gcc" else "use.cpp")
    main = "int main(void) { return net_init(0, 1) != NET_NULL_POINTER; }"
    source.write_text(f'#include "net.h"\n#include "net.h"\n{main}\n')
    flags = [f"-std={language}", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wno-long-long", "-I", str(folder)]
    command = [compiler, *flags, str(source), str(folder / "libnet.so"), "-o", str(tmp_path / "use")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert subprocess.run([tmp_path / "use"], env={"LD_LIBRARY_PATH": str(folder)}, check=False).returncode == 0


def test_two_builds_are_the_same_bytes(small_model, folder, tmp_path):
    compile_model(small_model, tmp_path / "again", name="net", check="shapes")
    for file in ("libnet.so", "libnet.a", "net.h", "manifest.json", "example/main.c"):
        assert (folder / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


def test_every_failure_has_a_status(folder, x):
    library = ctypes.CDLL(str(folder / "libnet.so"))
    library.net_arena_bytes.restype = ctypes.c_size_t
    library.net_status_text.restype = ctypes.c_char_p
    arena = empty_aligned((library.net_arena_bytes(),), np.dtype("u1"))
    arena[...] = 0
    base = ctypes.c_void_p(arena.ctypes.data)
    y, z = np.empty((1, 6, 8, 8), "f"), np.empty((1, 6, 1, 1), "f")
    pointers = lambda *addresses: (ctypes.c_void_p * len(addresses))(*addresses)  # noqa: E731
    inputs, outputs = pointers(x.ctypes.data), pointers(y.ctypes.data, z.ctypes.data)
    assert library.net_run(base, inputs, outputs) == 4
    assert library.net_free(base) == 4
    assert library.net_init(None, 1) == 1
    assert library.net_init(ctypes.c_void_p(arena.ctypes.data + 4), 1) == 2
    assert library.net_init(base, 0) == 3
    assert library.net_init(base, 2) == 3
    assert library.net_init(base, 1) == 0
    assert library.net_run(None, inputs, outputs) == 1
    assert library.net_run(base, None, outputs) == 1
    assert library.net_run(base, pointers(None), outputs) == 1
    assert library.net_run(base, inputs, pointers(y.ctypes.data, None)) == 1
    assert library.net_run(base, pointers(x.ctypes.data + 1), outputs) == 2
    assert library.net_run(base, inputs, outputs) == 0
    assert library.net_free(base) == 0
    assert library.net_run(base, inputs, outputs) == 4
    assert len({library.net_status_text(status) for status in range(6)}) == 6


def test_the_c_side_knows_its_tensors(folder):
    class Tensor(ctypes.Structure):
        _fields_ = (
            ("name", ctypes.c_char_p), ("type", ctypes.c_char_p), ("rank", ctypes.c_int),
            ("shape", ctypes.POINTER(ctypes.c_int64)), ("bytes", ctypes.c_size_t),
        )  # fmt: skip

    library = ctypes.CDLL(str(folder / "libnet.so"))
    library.net_input.restype = library.net_output.restype = ctypes.POINTER(Tensor)
    assert (library.net_input_count(), library.net_output_count()) == (1, 2)
    tensor = library.net_input(0).contents
    assert (tensor.name, tensor.type, tensor.bytes) == (b'in"put:0/*', b"float32", 3 * 64 * 4)
    assert tensor.shape[: tensor.rank] == [1, 3, 8, 8]
    assert not library.net_output(2) and not library.net_output(-1)


def test_inputs_at_any_element_are_read_and_nothing_beyond_the_outputs_written(folder, x):
    library = Library(folder)
    raw = np.zeros(x.size + 1, "f")
    raw[1:] = x.ravel()
    shifted = raw[1:].reshape(x.shape)
    wanted = library.run({'in"put:0/*': x})
    for feed in (shifted, np.asfortranarray(x), x[:, :, ::-1][:, :, ::-1]):
        found = library.run({'in"put:0/*': feed})
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert np.array_equal(raw[1:], x.ravel())


def test_aligned_inputs_are_read_where_they_are(folder, x):
    specs = Library(folder).inputs
    name = next(iter(specs))
    raw = np.zeros(x.nbytes + 8, np.uint8)
    at = -raw.ctypes.data % 4
    aligned, odd = (raw[at + off : at + off + x.nbytes].view("f").reshape(x.shape) for off in (4, 1))
    assert check_inputs(specs, {name: x})[0] is x
    assert np.shares_memory(check_inputs(specs, {name: aligned})[0], raw)
    for other in (odd, x[:, :, ::-1], x.transpose(0, 1, 3, 2)):
        assert not np.shares_memory(check_inputs(specs, {name: other})[0], other)


def test_arena_end_is_kept(folder, x):
    library = ctypes.CDLL(str(folder / "libnet.so"))
    library.net_arena_bytes.restype = ctypes.c_size_t
    size = library.net_arena_bytes()
    arena = empty_aligned((size + 256,), np.dtype("u1"))
    arena[size:] = 0xA5
    y, z = np.full((2, 6, 8, 8), 7, "f"), np.full((2, 6, 1, 1), 7, "f")
    base = ctypes.c_void_p(arena.ctypes.data)
    assert library.net_init(base, 1) == 0
    outputs = (ctypes.c_void_p * 2)(y.ctypes.data, z.ctypes.data)
    assert library.net_run(base, (ctypes.c_void_p * 1)(x.ctypes.data), outputs) == 0
    assert (arena[size:] == 0xA5).all() and (y[1] == 7).all() and (z[1] == 7).all()


def test_threads_do_not_disturb_each_other(folder):
    library = Library(folder)
    feeds = [np.random.default_rng(i).standard_normal((1, 3, 8, 8)).astype("f") for i in range(8)]
    wanted = [library.run({'in"put:0/*': feed})["y"] for feed in feeds]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda feed: library.run({'in"put:0/*': feed})["y"], feeds * 25))
    assert all(np.array_equal(a, wanted[i % 8]) for i, a in enumerate(found))


def test_bad_inputs_are_named(folder, x):
    library = Library(folder / "libnet.so")
    name = 'in"put:0/*'
    assert library.inputs == {name: ((1, 3, 8, 8), np.dtype("f4"))}
    with pytest.raises(BadData, match="missing"):
        library.run({})
    with pytest.raises(BadData, match="no input 'q'"):
        library(q=x)
    with pytest.raises(BadData, match="expected float32, found float64"):
        library.run({name: x.astype("f8")})
    with pytest.raises(BadData, match="expected 1x3x8x8, found 3x8x8"):
        library.run({name: x[0]})


def test_damaged_libraries_are_refused(folder, tmp_path):
    with pytest.raises(BadModel, match=r"manifest\.json"):
        Library(tmp_path)
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "libnet.so").write_bytes((folder / "libnet.so").read_bytes()[:300])
    with pytest.raises(BadModel, match="cannot load"):
        Library(tmp_path / "copy")
    manifest = tmp_path / "copy" / "manifest.json"
    for text in ("{", "[]", json.dumps({"format": 2})):
        manifest.write_text(text)
        with pytest.raises(BadModel):
            Library(tmp_path / "copy")


def test_loading_needs_neither_tvm_nor_onnx(folder):
    code = f"""import sys
from onnxc.runtime.library import Library
library = Library({str(folder)!r})
import numpy
library.run({{name: numpy.zeros(shape, dtype) for name, (shape, dtype) in library.inputs.items()}})
assert not {{"tvm", "onnxruntime"}} & set(sys.modules), "imports too much"
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])


def test_a_missing_compiler_names_the_package(small_model, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("onnxc.runtime.toolchain.find_spec", lambda name: None)
    with pytest.raises(MissingTool, match="apt-get install gcc or pip install ziglang"):
        compile_model(small_model, tmp_path / "out", name="net")
    assert not (tmp_path / "out").exists()


def test_a_failed_build_leaves_the_old_files(small_model, folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "out")
    failing = tmp_path / "cc"
    failing.write_text("#!/bin/sh\necho no space left >&2; exit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("CC", str(failing))
    with pytest.raises(MissingTool, match="no space left"):
        compile_model(small_model, tmp_path / "out", name="net")
    for file in (path.relative_to(folder) for path in folder.rglob("*") if path.is_file()):
        assert (tmp_path / "out" / file).read_bytes() == (folder / file).read_bytes()
    assert len(list((tmp_path / "out").iterdir())) == len(list(folder.iterdir()))


@pytest.mark.parametrize("name", ["", "a-b", "9x", "a b", "ä", "a/b"])
def test_names_that_c_does_not_take(small_model, tmp_path, name):
    with pytest.raises(BadOption, match="cannot name a C library"):
        compile_model(small_model, tmp_path, name=name)


@pytest.mark.parametrize("name", ["subnet_net", "pool", "decode", "weights"])
def test_names_that_look_like_ours(shared_model, tmp_path, name):
    compile_model(shared_model, tmp_path, name=name, threads=2, weights="coded", program=True, check="shapes")
    library = Library(tmp_path)
    feeds = random_feeds(library)
    found, wanted = library.run(feeds), run_ort(shared_model, feeds)
    assert all(error(found[key], wanted[key]) <= 1e-5 for key in wanted)
    assert subprocess.run([tmp_path / f"run_{name}"], check=False, stdout=subprocess.DEVNULL).returncode == 0


def test_other_bad_options(small_model, tmp_path):
    with pytest.raises(BadOption, match="no target 'pdp11', expected one of native"):
        compile_model(small_model, tmp_path, name="net", target="pdp11")
    for threads in (0, -1, 65):
        with pytest.raises(BadOption, match="expected 1 to 64"):
            compile_model(small_model, tmp_path, name="net", threads=threads)
    with pytest.raises(Unsupported, match="2 threads on cortex-m7, which has none"):
        compile_model(small_model, tmp_path, name="net", threads=2, target="cortex-m7")


@pytest.mark.parametrize("name", [name for name in TARGETS if name.startswith("x86")])
def test_x86_levels(small_model, folder, tmp_path, name, x):
    if not runs_here(TARGETS[name]):
        pytest.skip("this machine cannot run it")
    report = compile_model(small_model, tmp_path, name="net", target=name, check="shapes")
    assert f"{min(TARGETS[name].lanes, 4)} lanes" in report.kernels[0]["schedule"]
    found, wanted = Library(tmp_path).run({'in"put:0/*': x}), Library(folder).run({'in"put:0/*': x})
    assert all(np.allclose(found[key], wanted[key], rtol=1e-5, atol=1e-6) for key in wanted)


def test_compile_loads_what_it_made(small_model, tmp_path, x):
    library = onnxc.compile(small_model.SerializeToString())
    kept = onnxc.compile(onnxc.load(small_model), tmp_path / "kept", shapes={'in"put:0/*': (2, 3, 8, 8)})
    assert (tmp_path / "kept" / "libmodel.so").exists()
    one = library.run({'in"put:0/*': x})
    two = kept.run({'in"put:0/*': np.concatenate([x, x])})
    for key in one:
        assert np.allclose(two[key], np.concatenate([one[key]] * 2), rtol=1e-5, atol=1e-6)


def test_progress_and_report(small_model, tmp_path):
    seen = []
    report = compile_model(small_model, tmp_path, name="net", progress=lambda stage, share: seen.append((stage, share)))
    words = [
        "preparing the model",
        "choosing kernels",
        "compiling kernels",
        "linking",
        "running beside ONNX Runtime",
        "done",
    ]
    assert [stage for stage, _ in seen] == words
    assert [share for _, share in seen] == sorted(share for _, share in seen)
    made = json.loads(json.dumps(report.to_dict()))
    assert made["kernels"][0]["node"] == "Conv_0"
    assert made["kernels"][0]["refused"][0]["reason"].startswith("needs as many groups")
    assert made["arena_bytes"] == Library(tmp_path).arena_bytes
    assert made["library_bytes"] == (tmp_path / "libnet.so").stat().st_size > made["weights_bytes"] > 0


def test_what_a_folder_keeps(small_model, tmp_path):
    """A library takes the place of the one of its name, and of no other file."""
    compile_model(small_model, tmp_path, name="my__Net", check="shapes", program=True, wheel=True)
    (tmp_path / "notes").write_text("mine")
    compile_model(small_model, tmp_path, name="other", check="shapes")
    before = {path.name for path in tmp_path.iterdir()}
    assert {"libmy__Net.so", "libmy__Net.a", "my__Net.h", "run_my__Net", "libother.so", "other.h", "notes"} <= before
    compile_model(small_model, tmp_path, name="my__Net", check="shapes")
    after = {path.name for path in tmp_path.iterdir()}
    assert before - after == {"run_my__Net", *(name for name in before if name.endswith(".whl"))}
    assert Library(tmp_path).name == "my__Net"


def test_products_of_two_activations_have_names(tmp_path):
    """Scores and sums of attention, beside what is fused into them: the name is the product's."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,24,16] x, float[1,24,16] k) => (float[1,24,16] y) <float half = {0.5}> {
            t = Transpose <perm = [0, 2, 1]> (k) s = MatMul(x, t) h = Mul(s, half) p = Softmax(h) y = MatMul(p, k) }""")
    for node, name in zip(model.graph.node, ["turn", "scores", "scale", "soft", "sums"], strict=True):
        node.name = name
    assert [kernel["node"] for kernel in compile_model(model, tmp_path, name="net").kernels] == ["scores", "sums"]
