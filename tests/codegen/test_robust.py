"""The C side under strain: wrong calls, many threads, sanitizers, damaged weights, examples built by CMake."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxc.codegen import compile_model
from onnxc.codegen.c.function import compile_functions
from onnxc.codegen.prepare.static import make_static
from onnxc.codegen.program import lower_program
from onnxc.codegen.target import TARGETS
from onnxc.ir.errors import BadData
from onnxc.runtime.library import Library

from .objects import members
from .test_targets import ready

HERE = Path(__file__).parent
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic"]


def build(
    folder: Path, out: Path, sources: list[Path], *flags: str, compiler: str = "gcc", language: str = "c11"
) -> None:
    """Compiles and links C sources with the static libraries of `folder`."""
    libraries = sorted(folder.glob("lib*.a"))
    command = [compiler, f"-std={language}", "-D_GNU_SOURCE", "-O1", "-g", *flags, "-I", folder, *sources, *libraries]
    done = subprocess.run([*command, "-lm", "-pthread", "-o", out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def resnet20(tmp_path_factory) -> Path:
    """ResNet-20 with coded weights, for a machine that valgrind knows."""
    import onnxc

    out = tmp_path_factory.mktemp("resnet20")
    model = onnx.load(Path(onnxc.__file__).parent / "data/resnet20_fashion.onnx")
    compile_model(model, out, name="net", check="shapes", target="x86-64-v2", weights="coded")
    return out


@pytest.mark.parametrize("language", ["c99", "c++11"])
def test_every_wrong_call_has_its_status(small_model, tmp_path, language):
    compiler = "gcc" if language == "c99" else "g++"
    if shutil.which(compiler) is None:
        pytest.skip(f"needs: apt-get install {compiler}")
    for name in ("net", "other"):
        compile_model(small_model, tmp_path, name=name, threads=1 if language == "c99" else 3)
    source = tmp_path / ("misuse.c" if language == "c99" else "misuse.cpp")
    shutil.copy(HERE / "misuse.c", source)
    build(tmp_path, tmp_path / "misuse", [source], *STRICT, compiler=compiler, language=language)
    done = subprocess.run([tmp_path / "misuse"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("language", ["c99", "c++11"])
def test_the_example_is_clean(small_model, tmp_path, language):
    compiler = "gcc" if language == "c99" else "g++"
    if shutil.which(compiler) is None:
        pytest.skip(f"needs: apt-get install {compiler}")
    compile_model(small_model, tmp_path, name="net")
    source = tmp_path / ("main.c" if language == "c99" else "main.cpp")
    shutil.copy(tmp_path / "example/main.c", source)
    build(tmp_path, tmp_path / "main", [source], *STRICT, compiler=compiler, language=language)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("seconds per run") and "\ny float32:" in done.stdout
    for wrong in (["only-one"], ["/nonexistent", "out"], ["a", "b", "-3"]):
        assert subprocess.run([tmp_path / "main", *wrong], capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("target", ["native", "aarch64", "cortex-m7"])
def test_cmake_builds_the_example(small_model, tmp_path, target):
    if shutil.which("cmake") is None or shutil.which("make") is None:
        pytest.skip("needs: apt-get install cmake make")
    if target != "native":
        ready(target)
    compile_model(small_model, tmp_path, name="net", check="shapes", target=target)
    for command in (["cmake", "-S", "example", "-B", "made", "-G", "Unix Makefiles"], ["cmake", "--build", "made"]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout + done.stderr
    suffix = ".elf" if target == "cortex-m7" else ""
    assert (tmp_path / "made" / f"run_net{suffix}").is_file()
    if target == "native":
        subprocess.run([tmp_path / "made/run_net"], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("distance", [0, 1000, 300_000])
def test_damaged_weights_are_refused(resnet20, tmp_path, distance):
    """One changed bit of the coded weights inside the shared library."""
    shutil.copytree(resnet20, tmp_path / "copy")
    data = bytearray((resnet20 / "libnet.so").read_bytes())
    weights = max(members(resnet20 / "libnet.a"), key=len)
    data[data.index(weights[1000:1400]) + distance] ^= 0x40
    (tmp_path / "copy/libnet.so").write_bytes(bytes(data))
    loaded = Library(tmp_path / "copy")
    with pytest.raises(BadData, match="coded weights are damaged"):
        loaded.run({name: np.zeros(shape, dtype) for name, (shape, dtype) in loaded.inputs.items()})


def test_eight_threads_make_the_same_bytes(resnet20, tmp_path):
    build(resnet20, tmp_path / "stress", [HERE / "stress.c"])
    done = subprocess.run([tmp_path / "stress", "40"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "same bytes in 320 runs\n"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
@pytest.mark.parametrize("threads, runs", [(1, 1250), (2, 100)])
def test_sanitizers_find_nothing(shared_model, tmp_path, sanitizer, threads, runs, monkeypatch):
    """The C of the library is compiled with the sanitizer; kernels come from LLVM as they are."""
    compiler = tmp_path / "cc"
    compiler.write_text(f'#!/bin/sh\nexec gcc -fsanitize={sanitizer} "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    # not run here: a sanitizer's own library has to be loaded before all others, so a program has to be made for it
    compile_model(shared_model, tmp_path, name="net", check="shapes", weights="coded", threads=threads)
    build(tmp_path, tmp_path / "stress", [HERE / "stress.c"], compiler=str(compiler))
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=1"}
    done = subprocess.run(
        [tmp_path / "stress", str(runs)], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"same bytes in {8 * runs} runs\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_valgrind_finds_nothing(shared_model, tmp_path, threads):
    if shutil.which("valgrind") is None:
        pytest.skip("needs: apt-get install valgrind")
    compile_model(
        shared_model, tmp_path, name="net", check="shapes", target="x86-64-v2", weights="coded", threads=threads
    )
    build(tmp_path, tmp_path / "stress", [HERE / "stress.c"])
    command = ["valgrind", "--error-exitcode=9", "--leak-check=full", "-q", tmp_path / "stress", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "same bytes in 24 runs\n"), done.stderr


def test_a_disk_that_is_full_does_not_end_the_process():
    """LLVM's own writer ends it where a write fails."""
    net = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[8] x) => (float[8] y) { y = Tanh(x) }'
    )
    target = TARGETS["x86-64-v3"]
    functions = lower_program(make_static(net), target, 1, "net").bodies
    with pytest.raises(OSError, match="No space left"):
        compile_functions(functions, target, 1, "/dev/full")
