"""Few-bit kernels on every machine: the integers of NumPy, in emulators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxc.codegen import compile_model, kernels
from onnxc.codegen.kernels import planes, quantise
from onnxc.codegen.kernels.spec import BINARY, Encoding, Refusal
from onnxc.codegen.target import TARGETS
from onnxc.runtime.emulate import open_library

from . import bulk, cross
from .conftest import error, run_ort
from .test_bits import CALM, NORM, layers, signs
from .test_targets import images, ready

# families that a machine takes, among others
MACHINES = {
    "x86-64-v2": {"lookup", "nibbles"}, "x86-64-v3": {"lookup", "nibbles"}, "x86-64-v4": {"lookup", "nibbles"},
    "aarch64": {"bytes"}, "armv7": {"bytes"}, "riscv64": {"direct"}, "riscv64-v": {"direct"},
}  # fmt: skip


def bits(count: int, levels: str) -> Encoding:
    return Encoding("bits", count, levels)


SPECS = [
    bulk.make(h=7, w=9, c=70, oc=33, activation=BINARY, weight=BINARY, pad_value=0),
    bulk.make(h=4, w=5, c=256, oc=24, activation=BINARY, weight=BINARY, pad_value=1),
    bulk.make(
        h=5, w=8, c=33, oc=9, k=(2, 3), stride=(2, 1), dilation=(1, 2), groups=2, activation=BINARY, weight=BINARY
    ),
    bulk.make(h=1, w=5, c=2500, oc=18, k=(1, 1), pads=(0, 0, 0, 0), activation=BINARY, weight=BINARY),
    bulk.make(h=5, w=6, c=40, oc=17, activation=bits(2, "unsigned"), weight=BINARY),
    bulk.make(h=5, w=6, c=100, oc=16, activation=bits(2, "unsigned"), weight=bits(2, "signed")),
    bulk.make(h=5, w=6, c=20, oc=9, activation=bits(4, "signed"), weight=bits(2, "bipolar")),
    bulk.make(h=3, w=4, c=20, oc=9, activation=bits(8, "unsigned"), weight=bits(4, "signed")),
    bulk.make(h=3, w=4, c=20, oc=1, activation=bits(2, "unsigned"), weight=BINARY),
]


@pytest.mark.parametrize("name", MACHINES)
def test_every_integer_of_every_machine(name, tmp_path):
    ready(name)
    rules = cross.check_integers(SPECS, TARGETS[name], tmp_path)
    assert {rule.split(".")[1] for rule in rules} >= MACHINES[name]


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3", "aarch64"])
def test_lookup_of_every_sort(name, tmp_path):
    """Tails of channels, odd numbers of steps, overlapping blocks, groups, dilation, flat products, two planes of weights."""
    ready(name)
    u = [bits(n, "unsigned") for n in range(1, 5)]
    specs = [
        bulk.make(h=5, w=7, c=70, oc=40, activation=u[1], weight=BINARY),
        bulk.make(h=4, w=9, c=64, oc=64, activation=u[1], weight=bits(2, "signed"), pad_value=1),
        bulk.make(h=6, w=5, c=5, oc=33, k=(1, 3), stride=(1, 2), activation=u[2], weight=bits(2, "bipolar")),
        bulk.make(
            h=6, w=6, c=30, oc=32, k=(2, 2), dilation=(1, 2), groups=2, activation=bits(2, "bipolar"), weight=BINARY
        ),
        bulk.make(h=1, w=9, c=130, oc=35, k=(1, 1), pads=(0, 0, 0, 0), activation=u[3], weight=bits(3, "signed")),
        bulk.make(h=3, w=3, c=230, oc=32, activation=u[3], weight=bits(1, "signed")),
    ]
    taken = [spec for spec in specs if not isinstance(kernels.lookup.schedule(spec, TARGETS[name]), Refusal)]
    assert len(taken) == len(specs)
    rules = cross.check_integers(taken, TARGETS[name], tmp_path, family=kernels.lookup.FAMILY)
    assert set(rules) == {f"bits.lookup.{TARGETS[name].arch}"}


@CALM
@given(chosen=st.lists(bulk.specs(), min_size=6, max_size=6, unique=True), seed=st.integers(0, 99))
def test_lookup_of_any_layer(tmp_path_factory, chosen, seed):
    ready("x86-64-v3")
    taken = [spec for spec in chosen if not isinstance(kernels.lookup.schedule(spec, TARGETS["x86-64-v3"]), Refusal)]
    if taken:
        folder = tmp_path_factory.mktemp("lookup")
        cross.check_integers(taken, TARGETS["x86-64-v3"], folder, seed, kernels.lookup.FAMILY)


def test_lookup_on_two_threads(tmp_path):
    ready("x86-64-v3")
    text = "g (float[1,64,40,40] x) => (float[a,b,c,d] y) { q = ai.onnxc.Binarize(x) y = Conv<pads=[1,1,1,1]>(q, w) }"
    model = layers(text, ("Binarize",), w=signs(64, 64, 3, 3))
    x = np.random.default_rng(3).standard_normal((1, 64, 40, 40)).astype("f")
    report = compile_model(model, tmp_path, name="net", check="shapes", target="x86-64-v3", threads=2)
    assert report.kernels[0]["kernel"] == "bits.lookup.x86_64"
    assert np.array_equal(open_library(tmp_path).run({"x": x})["y"], run_ort(model, {"x": x})["y"])


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"activation": bits(2, "signed")}, "unsigned or bipolar"),
        ({"activation": bits(4, "unsigned"), "c": 300}, "16 bits"),
        ({"oc": 7}, "output channels"),
        ({"h": 112, "w": 112, "c": 64}, "3326976 bytes"),
    ],
)
def test_what_is_not_looked_up(changes, reason):
    base = {"activation": bits(2, "unsigned"), "weight": BINARY, "oc": 32}
    answer = kernels.lookup.schedule(bulk.make(**(base | changes)), TARGETS["x86-64-v3"])
    assert isinstance(answer, Refusal) and reason in answer.reason


@pytest.mark.parametrize("name", ["x86-64-v3", pytest.param("x86-64-v4", marks=pytest.mark.slow)])
@CALM
@given(chosen=st.lists(bulk.specs(), min_size=6, max_size=6, unique=True), seed=st.integers(0, 99))
def test_integers_of_any_layer(tmp_path_factory, name, chosen, seed):
    ready(name)
    bulk.check_integers(chosen, TARGETS[name], tmp_path_factory.mktemp("bits"), seed)


@pytest.mark.parametrize("name", ["aarch64", "armv7", "riscv64", "riscv64-v"])
def test_packing_on_every_machine(name, tmp_path):
    ready(name)
    rng = np.random.default_rng(4)
    functions, arrays, wanted = {}, {}, {}
    for i, spec in enumerate(SPECS[:-2]):
        scales = 0 if spec.activation == BINARY else 1
        x = rng.integers(-9, 9, spec.x_shape).astype("f") / 2
        scale = [np.float32([0.5])] if scales else []
        low, high = spec.activation.low, spec.activation.high
        values = np.clip(np.rint(x / 0.5), low, high) if scales else np.where(x >= 0, 1, -1)
        pack = bulk.packing(spec, scales)
        functions[f"p{i}"] = quantise.emit(pack, f"p{i}")
        arrays[f"p{i}"] = [x, *scale, np.full(pack.shape, 0x5555, np.uint64)]
        wanted[f"p{i}"] = planes.pack_activations(spec, values)
    found = cross.run(functions, arrays, TARGETS[name], tmp_path)
    for key, value in wanted.items():
        assert np.array_equal(found[key], value), key


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MACHINES, "wasm32", "cortex-m7"])
def test_binary_network_on_every_machine(name, tmp_path):
    ready(name)
    model = onnx.load(Path(__file__).parents[1] / "data/binary_fashion.onnx")
    report = compile_model(model, tmp_path, name="net", check="shapes", target=name)
    family = "micro.bits." if name == "cortex-m7" else "bits."
    assert sum(row["kernel"].startswith(family) for row in report.kernels) == 5
    feeds = {"image": images()}
    found, wanted = open_library(tmp_path).run(feeds), run_ort(model, feeds)
    assert all(error(found[key], wanted[key]) <= 1e-5 for key in wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x86-64-v3", "aarch64", "armv7", "riscv64-v", "wasm32"])
def test_pooled_words_and_thinned_pixels_on_other_machines(name, tmp_path):
    ready(name)
    text = """g (float[2,64,9,10] x) => (float[a,b,c,d] y, float[e,f,g,h] z) {
      p = ai.onnxc.Binarize(x) c = Conv<pads=[1,1,1,1]>(p, w0) u = BatchNormalization(c, s, b, m, v)
      q = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(u) r = ai.onnxc.Binarize(q)
      y = Conv<pads=[1,1,1,2]>(r, w1) z = Conv<strides=[2,2]>(p, w2) }"""
    weights = {"w0": signs(64, 64, 3, 3), "w1": signs(16, 64, 3, 3), "w2": signs(16, 64, 1, 1)}
    model = layers(text, ("Binarize",), **weights, **NORM)
    report = compile_model(model, tmp_path, name="net", check="shapes", target=name)
    assert all(row["kernel"].startswith("bits.") for row in report.kernels)
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 64, 9, 10)).astype("f")}
    found = open_library(tmp_path).run(feeds)
    assert all(np.array_equal(found[key], value) for key, value in run_ort(model, feeds).items())


def test_machines_that_count_otherwise_say_so():
    for name, reason in (("znver4", "64-bit lanes"), ("riscv64", "lacks"), ("cortex-m7", "lacks")):
        answer = kernels.bytecount.schedule(SPECS[0], TARGETS[name])
        assert isinstance(answer, Refusal) and reason in answer.reason
