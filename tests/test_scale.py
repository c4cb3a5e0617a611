"""Work grows as the model does, and memory is bounded by the weights: benchmarks/scale.py on small models."""

import cProfile
import gc
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import onnxc
from onnxc.ir import model as model_module
from onnxc.ir import table
from onnxc.ir.garbage import patient

SCRIPT = Path(onnxc.__file__).resolve().parents[1] / "benchmarks/scale.py"


@pytest.fixture(scope="module")
def scale():
    spec = importlib.util.spec_from_file_location("scale", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tensors_of_a_node_of_many_inputs_are_exchanged_at_once(scale, monkeypatch):
    model = onnxc.load(scale.many_readers(400))
    total = next(n for n in model.nodes if n.op == "Sum")
    old, seen = list(total.inputs), []
    find = model_module.position
    monkeypatch.setattr(
        model_module,
        "position",
        lambda items, one, near=0: seen.append(find(items, one, near) - near) or seen[-1] + near,
    )
    for t in old:
        model.replace_uses(t, model.variable(f"{t.name}_new"))
    assert [t.name for t in total.inputs] == [f"{t.name}_new" for t in old]
    assert len(seen) == 200 and set(seen) <= {0, 1}  # each found where the last one was, or next to it


def calls(proto, passes: str) -> int:
    """How many functions are called, Python's and C's: a measure of work that no other load changes."""
    profile = cProfile.Profile()
    profile.enable()
    onnxc.run_passes(proto, passes, check="shapes")
    profile.disable()
    return sum(entry.callcount for entry in profile.getstats())


def test_the_search_for_garbage_is_as_before_afterwards():
    before, followers = gc.get_threshold(), list(gc.callbacks)
    with patient(), patient():
        assert gc.get_threshold()[0] > before[0]
        gc.collect()
        assert gc.get_threshold()[0] > before[0] and len(gc.callbacks) == len(followers) + 1
        assert gc.get_freeze_count()
    assert gc.get_threshold() == before and gc.callbacks == followers and not gc.get_freeze_count()
    gc.freeze()
    with patient():
        pass
    assert gc.get_freeze_count()  # that somebody else has frozen stays so
    gc.unfreeze()
    with pytest.raises(RuntimeError), patient():
        raise RuntimeError
    assert gc.get_threshold() == before and gc.callbacks == followers


def test_nothing_holds_what_other_threads_are_making(monkeypatch):
    """A tuple that is being made of an iterator is in gc.get_objects: while the list lives it cannot grow, and its thread fails."""
    monkeypatch.setattr(gc, "get_objects", lambda *_: pytest.fail("holds every object"))
    monkeypatch.setattr(gc, "get_referrers", lambda *_: pytest.fail("holds every object"))
    with patient():
        gc.collect()


CASES = [
    ("equal_names", "clean,fuse"), ("shared_constant", "prune"), ("slices", "clean,fuse"), ("long_slices", "clean"),
    ("many_readers", "clean,fuse"), ("concats", "clean"), ("dead_weight", "clean"), ("dense", "lowrank"), ("dense", "quant"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind, passes", CASES)
def test_four_times_the_nodes_are_four_times_the_work(scale, kind, passes, monkeypatch):
    monkeypatch.setattr(table, "ALL_PARTS", 1000)  # below which the parts of sums may grow as squares
    calls(scale.GRAPHS[kind](8), passes)  # imports
    first, last = (calls(scale.GRAPHS[kind](n), passes) for n in (130, 520))
    assert last < 4.4 * first


@pytest.mark.slow
def test_memory_is_bounded_by_the_weights(scale, tmp_path):
    path = tmp_path / "linear.onnx"
    onnxc.load(scale.linear(5)).save(path)
    for passes, most in scale.MEMORY.items():
        command = [sys.executable, str(SCRIPT), "memory-worker", str(path), passes]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert found["peak_mb"] < most * found["weights_mb"] + 16, (passes, found)
