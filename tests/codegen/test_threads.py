"""Threads of one handle: the same bytes whatever their number, kernels that share their work, starts and ends."""

from __future__ import annotations

import gc
import multiprocessing
import subprocess
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxc
from onnxc.codegen import compile_model
from onnxc.codegen.prepare.static import make_static
from onnxc.codegen.program import compile_program, lower_program
from onnxc.codegen.target import resolve
from onnxc.ir.errors import BadOption
from onnxc.runtime.emulate import open_library
from onnxc.runtime.library import Library

from .conftest import error, random_feeds, run_ort
from .test_operators import model
from .test_robust import HERE, build
from .test_targets import images, quantised, ready


@pytest.fixture(scope="module")
def folder(shared_model, tmp_path_factory) -> Path:
    """A library for up to four threads."""
    out = tmp_path_factory.mktemp("threads")
    compile_model(shared_model, out, name="net", threads=4)
    return out


def running() -> int:
    """Threads of this process."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def test_any_number_of_threads_makes_the_same_bytes(shared_model, folder):
    feeds = random_feeds(Library(folder))
    made = [Library(folder, threads).run(feeds) for threads in (1, 2, 3, 4)]
    wanted = run_ort(shared_model, feeds)
    for name in wanted:
        assert error(made[0][name], wanted[name]) <= 1e-5
        assert all(np.array_equal(made[0][name], other[name]) for other in made[1:])


def test_a_library_for_one_thread_computes_the_same(shared_model, folder, tmp_path):
    compile_model(shared_model, tmp_path, name="net", check="shapes")
    one, many = Library(tmp_path), Library(folder)
    feeds = random_feeds(one)
    found, wanted = many.run(feeds), one.run(feeds)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    needs = subprocess.run(["nm", "-u", tmp_path / "libnet.a"], capture_output=True, text=True, check=True).stdout
    assert "pthread" not in needs


@pytest.mark.parametrize("kind", ["binary", "quantised"])
def test_few_bits_and_integers_too(kind, tmp_path):
    model = onnx.load(HERE.parent / "data/binary_fashion.onnx") if kind == "binary" else quantised()
    report = compile_model(model, tmp_path, name="net", threads=3)
    assert {row["kernel"].split(".")[0] for row in report.kernels} - {"float32"}
    feeds = {name: images() for name in Library(tmp_path).inputs}
    wanted = Library(tmp_path, 1).run(feeds)
    for threads in (2, 3):
        library = Library(tmp_path, threads)
        for _ in range(20):
            found = library.run(feeds)
            assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_threads_share_rows_or_channels(tmp_path):
    """Rows of images that do not divide, tiles of one row, and channels where weights are large, in groups and in batches."""
    net = model(
        """g (float[2,12,13,9] x) => (float[2,40,1,1] y, float[2,24,7,5] z) {
        a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, wa) z = Conv<pads=[1,1,1,1], group=2>(a, wb) c = Conv(z, wc)
        d = GlobalAveragePool(c) e = Conv(d, we) y = Conv(e, wf) }""",
        wa=(24, 12, 3, 3), wb=(24, 12, 3, 3), wc=(40, 24, 1, 1), we=(400, 40, 1, 1), wf=(40, 400, 1, 1),
    )  # fmt: skip
    compile_model(net, tmp_path, name="net", threads=3)
    feeds = random_feeds(Library(tmp_path))
    made = [Library(tmp_path, threads).run(feeds) for threads in (1, 2, 3)]
    wanted = run_ort(net, feeds)
    for name in wanted:
        assert error(made[0][name], wanted[name]) <= 1e-5
        assert all(np.array_equal(made[0][name], other[name]) for other in made[1:])


def test_two_builds_are_the_same_bytes(shared_model, folder, tmp_path):
    compile_model(shared_model, tmp_path, name="net", threads=4, check="shapes")
    for file in ("libnet.so", "libnet.a", "net.h", "manifest.json", "example/main.c", "example/CMakeLists.txt"):
        assert (folder / file).read_bytes() == (tmp_path / file).read_bytes(), file


def test_every_family_shares_its_loops(shared_model, tmp_path):
    """Each layer but the last product, which is small, has a parallel phase; padding is one of its own."""
    program = lower_program(make_static(shared_model), resolve("x86-64-v4"), 2, "net")
    compile_program(program, 2, tmp_path / "kernels.o")
    phases = {row["node"]: program.compiled[f"net_{row['function']}"].phases for row in program.kernels}
    assert program.kernels[2]["kernel"] == "float32.packed"  # with a block of weights for each thread to unpack
    assert list(phases.values()) == [(True, True, True), (True, True), (True,), (True,), ()]
    others = {name: f.phases for name, f in program.compiled.items() if "kernel" not in name}
    assert any(True in found for found in others.values())


def test_threads_start_with_a_handle_and_end_with_it(folder):
    before = running()
    library = Library(folder, 3)
    library.run(random_feeds(library))
    assert running() == before + 2
    worker = threading.Thread(target=library.run, args=[random_feeds(library)])
    worker.start()
    worker.join()
    del library
    gc.collect()
    assert running() == before


def test_more_threads_than_compiled_for_are_refused(folder):
    for wanted in (0, 5):
        with pytest.raises(BadOption, match="expected 1 to 4"):
            Library(folder, wanted)


def test_too_few_threads_of_the_system(folder, tmp_path):
    build(folder, tmp_path / "handles", [HERE / "handles.c"], "-Wl,--wrap=pthread_create")
    done = subprocess.run([tmp_path / "handles"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "ended\n")


def _run(library, feeds, queue):
    queue.put(library.run(feeds))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_process_has_threads_of_its_own(folder):
    library = Library(folder, 2)
    feeds = random_feeds(library)
    wanted = library.run(feeds)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_run, args=(library, feeds, queue))
    child.start()
    found = queue.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert all(np.array_equal(value, wanted[name]) for name, value in library.run(feeds).items())


def test_eight_handles_with_two_threads_each(folder, tmp_path):
    build(folder, tmp_path / "stress", [HERE / "stress.c"])
    done = subprocess.run([tmp_path / "stress", "10"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "same bytes in 80 runs\n"), done.stderr


def test_threads_on_another_machine(shared_model, tmp_path):
    ready("aarch64")
    compile_model(shared_model, tmp_path, name="net", check="shapes", target="aarch64", threads=2)
    library = open_library(tmp_path)
    feeds = random_feeds(library)
    found, wanted = library.run(feeds), run_ort(shared_model, feeds)
    assert all(error(found[name], wanted[name]) <= 1e-5 for name in wanted)


def test_threads_from_python(shared_model):
    library = onnxc.compile(shared_model, threads=2)
    assert library.threads == 2
    feeds = random_feeds(library)
    assert all(error(library.run(feeds)[name], wanted) <= 1e-5 for name, wanted in run_ort(shared_model, feeds).items())


def test_the_arena_stays_near_the_largest_live_set(tmp_path):
    model = onnx.load(Path(onnxc.__file__).parent / "data/resnet20_fashion.onnx")
    report = compile_model(model, tmp_path, name="net", threads=4, check="shapes")
    assert report.arena_bytes <= 1.15 * report.live_bytes
