"""`compile --tune`: what is tried, what is picked, what is kept, and that the library is never slower by it."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest

from onnxc.cli.tune import render
from onnxc.ir.errors import BadData, BadOption, Unsupported
from onnxc.measure import learnt, tune
from onnxc.measure.learnt import Learnt

SHAPES = [({"x": ((1,), np.dtype("float32"))}, {})]
OTHERS = ["plain", "fast", "lucky", "slow"]
SECONDS = {"plain": 1.0, "fast": 0.8, "slow": 1.3}


class Machine:
    """Libraries of two layers whose kernels take what SECONDS says; `lucky` swings around the time of `plain`."""

    def __init__(self, monkeypatch, whole: float = 0.9, takes: float = 0.0):
        self.built: list[dict[str, str]] = []
        self.whole, self.takes = whole, takes
        self.folders: dict = {}
        monkeypatch.setattr(tune.laps, "TimedLibrary", self.load)
        plain = SimpleNamespace(Library=lambda folder, threads: SimpleNamespace(shapes=SHAPES, run=dict))
        monkeypatch.setattr(tune, "library", plain)
        monkeypatch.setattr(
            "onnxc.measure.bench.measure", lambda calls, rounds, clock: [None, SimpleNamespace(ratio=self.whole)]
        )
        monkeypatch.setattr(tune, "ROUND_SECONDS", 0.0)

    def build(self, folder, picks, timed) -> None:
        time.sleep(self.takes)
        self.built.append(dict(picks))
        self.folders[folder] = dict(picks)

    def load(self, folder, threads):
        picks, turn = self.folders[folder], iter(range(10**6))
        rows = [{"key": "", "others": [], "nodes": ["exp"]}]
        rows += [{"key": key, "others": OTHERS, "nodes": [f"node_{key}"]} for key in ("a", "b")]

        def laps(calls: int) -> np.ndarray:
            swing = 0.7 if next(turn) // tune.RUNS % 2 else 1.2
            times = [SECONDS.get(picks.get(key, "plain"), swing) for key in ("a", "b")]
            return np.array([5.0, times[0], 1.01 * times[1] if times[1] == 0.8 else times[1]])

        return SimpleNamespace(calls=[rows], shapes=SHAPES, rows=lambda inputs: rows, run=dict, laps=laps)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "deep" / "tune.json"


def test_what_is_clearly_faster_is_picked_and_kept(monkeypatch, cache):
    """Luck is no gain; a second run has nothing to measure and finds the same."""
    machine = Machine(monkeypatch)
    found = tune.tune(machine.build, 60, Learnt(cache), "model")
    assert found.picks == {"a": "fast", "b": "fast"} and found.ratio == 0.9
    assert (found.measured, found.left, len(machine.built)) == (6, 0, 5)
    assert found.rows[0] == ("node_a", "plain", "fast", 0.8)
    kept = cache.read_bytes()
    layers = json.loads(kept)["machines"][learnt.machine()]["layers"]
    assert layers["a"]["slow"] == 1.3 and layers["a"]["lucky"] >= 1
    for seconds in (60, 0):
        again = Machine(monkeypatch, whole=5.0)
        second = tune.tune(again.build, seconds, Learnt(cache), "model")
        assert (second.picks, second.measured, second.ratio, second.rows) == (found.picks, 0, None, found.rows)
        assert again.built == []
        assert cache.read_bytes() == kept


def test_a_library_that_is_not_faster_as_a_whole_stays_as_predicted(monkeypatch, cache):
    machine = Machine(monkeypatch, whole=1.0)
    found = tune.tune(machine.build, 60, Learnt(cache), "model")
    assert found.picks == {} and not found.paid and len(found.rows) == 2
    assert "the library is not: the predicted kernels stay, the library takes 1.000x the time" in " ".join(
        render(found).split()
    )
    assert tune.tune(Machine(monkeypatch, whole=0.5).build, 60, Learnt(cache), "model").picks == {}


def test_time_is_kept_and_what_was_learnt_stays(monkeypatch, cache):
    """No trial begins that would not end; what was interrupted has saved the trials before."""
    machine = Machine(monkeypatch, takes=0.2)
    start = time.monotonic()
    found = tune.tune(machine.build, 0.8, Learnt(cache), "model")
    assert time.monotonic() - start < 1.4
    assert found.measured + found.left == 6 and 0 < found.measured < 6
    assert "left" in render(found)

    def interrupted(folder, picks, timed):
        if "slow" in picks.values():
            raise KeyboardInterrupt
        machine.build(folder, picks, timed)

    machine.takes = 0
    with pytest.raises(KeyboardInterrupt):
        tune.tune(interrupted, 60, Learnt(cache), "model")
    assert set(Learnt(cache).layers["a"]) == {"fast", "lucky"}
    assert Learnt(cache).picks() == {"a": "fast", "b": "fast"}


def test_nothing_to_try(monkeypatch, cache):
    machine = Machine(monkeypatch)
    monkeypatch.setattr(tune.laps, "TimedLibrary", lambda folder, threads: SimpleNamespace(calls=[[]], shapes=SHAPES))
    with pytest.raises(Unsupported, match="no layer has another kernel to try; leave out --tune"):
        tune.tune(machine.build, 60, Learnt(cache), "model")


def test_the_file_is_of_a_machine_and_shared(cache, monkeypatch):
    """Two processes add to it; what another machine has measured stays and is not used."""
    one, two = Learnt(cache), Learnt(cache)
    one.add("a", "fast", 0.8)
    two.add("a", "slow", 1.25)
    two.models["m"] = {"layers": {}, "paid": True}
    one.save()
    two.save()
    both = Learnt(cache)
    assert both.layers == {"a": {"fast": 0.8, "slow": 1.25}} and both.models == {"m": {"layers": {}, "paid": True}}
    monkeypatch.setattr(learnt, "machine", lambda: "another")
    other = Learnt(cache)
    assert other.layers == {} and other.picks() == {}
    other.add("b", "fast", 0.5)
    other.save()
    assert len(json.loads(cache.read_text())["machines"]) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    assert learnt.place() == cache.parent / "onnxc" / "tune.json"
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    with pytest.raises(BadOption, match="XDG_CACHE_HOME is no absolute path; set it to one, or name a file"):
        learnt.place()


RATIO = '{"format": 1, "machines": {"m": {"layers": {"a": {"k": -1}}, "models": {}}}}'


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2, "machines": {}}', RATIO])
def test_a_damaged_file_is_refused(cache, text):
    cache.parent.mkdir()
    cache.write_text(text)
    with pytest.raises(BadData, match=r"holds no measurements of --tune .*; delete it, or name another --tune-cache"):
        Learnt(cache)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--tune", "5", "--target", "aarch64"],
            "--tune measures on this machine, where kernels for aarch64 do not run",
        ),
        (["--tune-cache", "f.json"], "--tune-cache is of --tune; add --tune SECONDS"),
    ],
)
def test_what_cannot_be_tuned(command, model_path, tmp_path, words, said):
    done = command("compile", model_path, "-o", tmp_path / "out", *words)
    assert done.status in (1, 2) and said in done.error()
    assert not (tmp_path / "out").exists()


def test_a_library_is_made_of_what_is_in_the_file(command, model_path, tmp_path):
    """The same file and model give the same bytes, with the kernels that the file says; the result is proved as always."""
    pytest.importorskip("tvm")
    cache = tmp_path / "tune.json"
    from onnxc.codegen.candidates import candidates, key
    from onnxc.codegen.kernels.spec import KernelSpec
    from onnxc.codegen.target import resolve

    spec = KernelSpec(
        n=1, h=8, w=8, c=16, oc=8, kh=3, kw=3, stride=(1, 1), pads=(1, 1, 1, 1), dilation=(1, 1), groups=1,
        x_shape=(1, 8, 8, 16), y_shape=(1, 8, 8, 8), epilogue=(("bias",), ("relu",)),
    )  # fmt: skip
    plans = [plan.text() for _, plan in candidates(spec, resolve("native"))]
    assert len(plans) > 3 and len(set(plans)) == len(plans)
    file = Learnt(cache)
    file.add(key(spec, resolve("native")), plans[2], 0.5)
    file.add(key(spec, resolve("native")), "a kernel of another version", 0.9)
    file.save()
    made = []
    for check in ("data", "shapes"):
        out = tmp_path / check
        done = command("compile", model_path, "-o", out, "--tune", "0", "--tune-cache", cache, "--check", check)
        assert done.status == 0 and "0 kernels measured now" in done.out and "1 layer changed" in done.out, done
        made.append((out / "libnet.so").read_bytes())
    assert made[0] == made[1]
    found = [row["schedule"] for row in json.loads((out / "manifest.json").read_text())["kernels"]]
    assert plans[2] in found and plans[0] not in found
