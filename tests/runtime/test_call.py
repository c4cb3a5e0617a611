"""Calls of a library with the arrays of the call before: no result that somebody holds is written to, no change overlooked."""

import gc
import os
import threading
import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxc
from onnxc.ir.errors import BadData
from onnxc.runtime.call import Pool, Results


@pytest.fixture(scope="module")
def library():
    pytest.importorskip("tvm")
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Add", ["x", "x"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in "yz"],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnxc.compile(model, check="shapes")


def fresh():
    return np.arange(6, dtype=np.float32).reshape(2, 3)


HOLDS = {
    "array": lambda a: a,
    "row": lambda a: a[1],
    "turned": lambda a: a.T[1:],
    "as integers": lambda a: a.view(np.int32)[0],
    "memoryview": memoryview,
    "flat": lambda a: a.flat,
}


@pytest.mark.parametrize("hold", HOLDS.values(), ids=list(HOLDS))
def test_what_is_held_is_not_written_to(library, hold):
    x = fresh()
    for _ in range(3):
        held = hold(library.run({"x": x})["y"])
        before = np.array(held, copy=True)
        x += 1
        kept = [library.run({"x": x}) for _ in range(5)]
        np.testing.assert_array_equal(np.array(held), before)
        assert len({made["z"].ctypes.data for made in kept}) == 5
        assert all(np.array_equal(made["z"], 2 * x) for made in kept)


def test_what_nobody_holds_is_used_again(library):
    x = fresh()
    places = {library.run({"x": x})["y"].ctypes.data for _ in range(9)}
    assert len(places) == 1
    held = library.run({"x": x})
    seen = set()
    for _ in range(9):
        held = library.run({"x": x})
        seen.add(held["y"].ctypes.data)
    assert len(seen) == 2


def test_changes_of_an_array_in_place_are_seen(library):
    x = fresh()
    library.run({"x": x})
    x[0, 0] = 7
    np.testing.assert_array_equal(library.run({"x": x})["y"], -x)
    x.shape = (3, 2)
    with pytest.raises(BadData, match="wrong shape"):
        library.run({"x": x})
    x.shape = (2, 3)
    x.dtype = np.int32
    with pytest.raises(BadData, match="wrong dtype"):
        library.run({"x": x})
    x.dtype = np.float32
    with pytest.raises(BadData, match="no input"):
        library.run({"x": x, "w": x})
    with pytest.raises(BadData, match="missing"):
        library.run({})
    np.testing.assert_array_equal(library.run({"x": x})["y"], -x)


def test_another_array_at_the_place_of_a_dead_one(library):
    for value in range(20):
        x = np.full((2, 3), value, np.float32)
        np.testing.assert_array_equal(library.run({"x": x})["y"], -x)
        del x
        gc.collect(0)


def test_out_is_written_and_nothing_allocated(library):
    x, feeds = fresh(), {}
    out = {name: np.empty((2, 3), np.float32) for name in "yz"}
    feeds["x"] = x
    assert library.run(feeds, out) is not None
    tracemalloc.start()
    try:
        library.run(feeds, out)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(100):
            made = library.run(feeds, out)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made is out and after - before < 256
    x *= 3
    np.testing.assert_array_equal(library.run(feeds, out)["y"], -x)
    other = {name: np.empty((2, 3), np.float32) for name in "zy"}
    np.testing.assert_array_equal(library.run(feeds, other)["z"], 2 * x)
    out["y"] = np.empty((3, 2), np.float32)
    with pytest.raises(BadData, match="out does not fit"):
        library.run(feeds, out)


def test_threads_have_results_of_their_own(library):
    x, wrong = fresh(), []

    def work(value):
        own = np.full((2, 3), value, np.float32)
        for _ in range(200):
            if not (np.array_equal(library.run({"x": own})["y"], -own) and np.array_equal(library(x=x)["z"], 2 * x)):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_makes_a_handle_of_its_own(library):
    x = fresh()
    library.run({"x": x})
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(library.run({"x": x})["y"], -x) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_pool_keeps_few_sets_and_any_shape():
    specs = {"a": ((), np.dtype(np.float32)), "b": ((0, 3), np.dtype(np.int8)), "c": ((5,), np.dtype(np.bool_))}
    assert Results(specs).free()
    pool = Pool(specs)
    held = [pool.take().arrays.copy() for _ in range(7)]
    assert len(pool.sets) == 3 and len({one["c"].ctypes.data for one in held}) == 7
