"""Packed weights with float activations: whole numbers against NumPy exactly, models against ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxc.codegen.kernels import packed_weights
from onnxc.codegen.kernels.spec import FLOAT32, Encoding, Schedule
from onnxc.codegen.target import TARGETS, resolve

from . import bulk, cross
from .test_bits import CALM, layers, rules
from .test_targets import ready


def made(chosen: list, target, seed: int) -> tuple[dict, dict, dict]:
    """Functions, arrays and results of those of `chosen` that the family takes; sums are exact in float32."""
    rng = np.random.default_rng(seed)
    functions, arrays, wanted = {}, {}, {}
    for i, spec in enumerate(chosen):
        spec = replace(spec, activation=FLOAT32, pad_value=0)
        plan = packed_weights.schedule(spec, target)
        if not isinstance(plan, Schedule):
            continue
        x = rng.integers(-99, 99, spec.x_shape)
        weights = bulk.integers(spec.weight, (spec.oc, spec.c // spec.groups, spec.kh, spec.kw), rng)
        y = np.full(spec.y_shape, np.nan, np.float32)
        functions[f"k{i}"] = packed_weights.emit(spec, plan, f"k{i}")
        arrays[f"k{i}"] = [(x / 8).astype("f"), packed_weights.pack(spec, plan, weights), y]
        wanted[f"k{i}"] = bulk.convolve(spec, x, weights) / 8
    return functions, arrays, wanted


@CALM
@given(chosen=st.lists(bulk.specs(), min_size=4, max_size=4, unique=True), seed=st.integers(0, 99))
def test_any_layer(tmp_path_factory, chosen, seed):
    chosen = [
        replace(spec, weight=Encoding("bits", min(1 + i, 3), spec.weight.levels)) for i, spec in enumerate(chosen)
    ]
    chosen = [bulk.make(1, 19, 18 + i, 7, 19, k=(2, 3), weight=chosen[i].weight) for i in range(2)] + chosen
    functions, arrays, wanted = made(chosen, resolve("native"), seed)
    assert functions
    library = bulk.Bulk(functions, resolve("native"), tmp_path_factory.mktemp("packed"))
    for name, held in arrays.items():
        library.call(name, *held)
        assert np.array_equal(held[-1], wanted[name]), (name, chosen)


ODD = [
    bulk.make(h=9, w=19, c=13, oc=37, pads=(1, 0, 2, 1), weight=Encoding("bits", 1, "bipolar")),
    bulk.make(h=17, w=21, c=5, oc=11, groups=2, stride=(2, 1), weight=Encoding("bits", 1, "signed")),
    bulk.make(h=9, w=19, c=6, oc=8, dilation=(1, 2), weight=Encoding("bits", 1, "unsigned")),
    bulk.make(h=1, w=1, c=1500, oc=704, k=(1, 1), pads=(0, 0, 0, 0), weight=Encoding("bits", 2, "signed")),
]


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3", "aarch64", "armv7", "riscv64-v"])
def test_every_machine(tmp_path, name):
    ready(name)
    functions, arrays, wanted = made(ODD, TARGETS[name], 1)
    assert len(functions) >= 3, functions.keys()
    found = cross.run(functions, arrays, TARGETS[name], tmp_path)
    for key, value in wanted.items():
        assert np.array_equal(found[key], value), key


@pytest.mark.parametrize("levels", [(-1, 1), (-1, 0, 1)])
def test_binary_weights_of_floats_stay_packed(same_as_ort, levels):
    text = """g (float[1,16,17,15] x) => (float[a,b,c,d] y) {
      t = Conv<pads=[1,1,1,1]>(x, w, b) u = Relu(t) v = Conv<pads=[1,1,1,1]>(u, w) y = Add(v, x) }"""
    rng = np.random.default_rng(1)
    scale = rng.random((16, 1, 1, 1), np.float32) / 9
    weights = rng.choice(np.float32(levels), (16, 16, 3, 3)) * scale
    report, _ = same_as_ort(layers(text, w=weights, b=rng.random(16, np.float32)))
    assert rules(report) == ["float32.packed"] * 2
    assert "epilogue mul+bias+relu" in report.kernels[0]["spec"]


@pytest.mark.parametrize(
    "changes, target, reason",
    [
        ({"oc": 5}, "znver4", "8 output channels"),
        ({}, "cortex-m7", "needs vectors"),
        ({"h": 1, "w": 1, "k": (1, 1), "pads": (0, 0, 0, 0)}, "znver4", "tiles of pixels"),
    ],
)
def test_what_is_not_taken(changes, target, reason):
    spec = bulk.make(**({"w": 19, "oc": 32, "weight": Encoding("bits", 1, "bipolar")} | changes))
    assert reason in packed_weights.schedule(spec, TARGETS[target]).reason
