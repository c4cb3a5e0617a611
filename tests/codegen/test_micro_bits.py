"""Few-bit layers of microcontrollers: every integer of the C code, which any machine runs, and networks on boards in QEMU."""

from __future__ import annotations

import ctypes
import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxc.codegen import compile_model
from onnxc.codegen.c.build import C_DIR
from onnxc.codegen.kernels import planes
from onnxc.codegen.kernels.spec import BINARY, Encoding, Refusal
from onnxc.codegen.micro import fewbit
from onnxc.codegen.micro.calls import micro_of
from onnxc.codegen.micro.slower import MEASURED, slower
from onnxc.codegen.target import resolve
from onnxc.runtime.emulate import open_library

from . import bulk
from .conftest import run_ort
from .test_bits import CALM, MODELS, layers, signs
from .test_targets import ready

AWKWARD = [
    bulk.make(h=5, w=6, c=64, oc=64, activation=BINARY, weight=BINARY, pad_value=0),  # by slices, taps within
    bulk.make(h=5, w=6, c=48, oc=32, k=(2, 3), stride=(2, 1), dilation=(1, 2), activation=BINARY, weight=BINARY),
    bulk.make(h=4, w=4, c=128, oc=64, groups=2, activation=BINARY, weight=BINARY, pad_value=1),
    bulk.make(h=3, w=4, c=32, oc=32, activation=Encoding("bits", 3, "unsigned"), weight=Encoding("bits", 2, "signed")),
    bulk.make(h=3, w=3, c=2500, oc=3, activation=BINARY, weight=BINARY),  # more words than bytes can count
    bulk.make(
        h=5,
        w=5,
        c=64,
        oc=6,
        stride=(1, 2),
        activation=Encoding("bits", 8, "unsigned"),
        weight=Encoding("bits", 4, "signed"),
    ),
    bulk.make(h=3, w=4, c=32, oc=8, k=(2, 1), activation=Encoding("bits", 4, "unsigned"), weight=BINARY),
    bulk.make(h=1, w=5, c=1600, oc=32, k=(1, 1), pads=(0,) * 4, activation=BINARY, weight=BINARY),
]


def check(specs: list, folder, helium: bool = False) -> set[str]:
    """The integers of C code for all specs, compiled for this machine, equal NumPy's; which way they were counted. `helium`: of the
    code for that, without its intrinsics."""
    target, rng = resolve("cortex-m55" if helium else "cortex-m4"), np.random.default_rng(1)
    text, calls, rules = ["#define ONNXC_HELIUM 1"] * helium + ['#include "micro_few.h"'], [], set()
    for i, spec in enumerate(specs):
        plan = (fewbit.schedule_fields if helium else fewbit.schedule)(spec, target)
        assert not isinstance(plan, Refusal), plan
        rules.add(plan.rule)
        x = bulk.integers(spec.activation, (spec.n, spec.h, spec.w, spec.c), rng)
        w = bulk.integers(spec.weight, (spec.oc, spec.c // spec.groups, spec.kh, spec.kw), rng)
        call = micro_of(fewbit.emit(spec, plan, "f"))
        arrays = [planes.pack_activations(spec, x), fewbit.pack(spec, plan, w), *fewbit.tables(spec, plan, w)]
        arrays += [np.full(spec.y_shape, np.nan, np.float32), np.zeros(call.work, np.uint8)]
        text.append(call.definition(f"f{i}", len(arrays) - 1).removeprefix("static "))
        calls.append((arrays, bulk.convolve(spec, x, w)))
    (folder / "kernels.c").write_text("\n".join(text))
    flags = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic", "-shared", "-fPIC", f"-I{C_DIR}"]
    subprocess.run(["gcc", *flags, "kernels.c", "-o", "kernels.so"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "kernels.so"))
    for i, (arrays, wanted) in enumerate(calls):
        getattr(library, f"f{i}")(*(ctypes.c_void_p(array.ctypes.data) for array in arrays))
        assert np.array_equal(arrays[-2].reshape(wanted.shape), wanted), specs[i]
    return rules


def test_every_integer_of_awkward_layers(tmp_path):
    assert check(AWKWARD, tmp_path) == {"micro.bits.slices", "micro.bits.channels", "micro.bits.products"}


FIELDS = [
    bulk.make(h=5, w=6, c=64, oc=8, activation=BINARY, weight=BINARY, pad_value=0),  # taps outside count nothing
    bulk.make(h=4, w=3, c=40, oc=6, activation=BINARY, weight=BINARY, pad_value=1),
    bulk.make(h=3, w=4, c=32, oc=4, stride=(2, 1), activation=Encoding("bits", 2, "unsigned"), weight=BINARY),
    bulk.make(h=3, w=3, c=32, oc=4, activation=Encoding("bits", 7, "unsigned"), weight=Encoding("bits", 2, "bipolar")),
    bulk.make(h=3, w=4, c=96, oc=8, k=(2, 3), activation=Encoding("bits", 3, "signed"), weight=Encoding("bits", 3, "bipolar")),
    bulk.make(h=3, w=4, c=32, oc=8, activation=Encoding("bits", 4, "unsigned"), weight=Encoding("bits", 4, "signed")),
    bulk.make(h=3, w=4, c=32, oc=8, activation=Encoding("bits", 8, "unsigned"), weight=Encoding("bits", 4, "signed")),
    bulk.make(h=3, w=4, c=32, oc=4, activation=Encoding("bits", 5, "signed"), weight=Encoding("bits", 3, "unsigned")),
    bulk.make(h=3, w=4, c=5, oc=3, activation=Encoding("bits", 8, "signed"), weight=Encoding("bits", 1, "unsigned")),
    bulk.make(h=1, w=3, c=1600, oc=4, k=(1, 1), pads=(0,) * 4, activation=BINARY, weight=Encoding("bits", 2, "signed")),
]  # fmt: skip


def test_every_integer_of_fields(tmp_path):
    assert check(FIELDS, tmp_path, helium=True) == {"micro.bits.helium.fields", "micro.bits.helium.masked"}
    wide = bulk.make(c=32, oc=4, activation=Encoding("bits", 8, "unsigned"), weight=BINARY)  # sums of +-1: 9 bits
    refused = [bulk.make(c=32, oc=4, groups=2, activation=BINARY, weight=BINARY), wide]
    for spec, target in [(FIELDS[0], "cortex-m4"), *((spec, "cortex-m55") for spec in refused)]:
        assert isinstance(fewbit.schedule_fields(spec, resolve(target)), Refusal)


@CALM
@given(chosen=st.lists(bulk.specs(), min_size=12, max_size=12, unique=True))
def test_every_integer_of_any_layer(tmp_path_factory, chosen):
    check(chosen, tmp_path_factory.mktemp("bits"))


def network() -> onnx.ModelProto:
    """Thresholds that rise and fall, of sliced counts and of others; a shortcut in floats; pooled bits; two bits; a product."""
    text = """g (float[1,5,9,9] x) => (float[a,b] y) {
      q0 = ai.onnxc.Binarize(x) a = Conv<pads=[1,1,1,1]>(q0, w0) b = Mul(a, s0) c = Add(b, t0)
      q1 = ai.onnxc.Binarize(c) d = Conv<pads=[1,1,1,1]>(q1, w1) e = Mul(d, s1) f = Add(e, t1)
      q2 = ai.onnxc.Binarize(f) g0 = Conv<pads=[2,0,1,1], strides=[2,1]>(q2, w2) h = Mul(g0, s2) i = Add(h, t2)
      q3 = ai.onnxc.Binarize(i) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(q3) j = Conv<pads=[1,1,1,1]>(p, w3)
      k = Add(j, half) q4 = ai.onnxc.Quantize(k, scale, low, high) l = Conv<pads=[1,1,1,1]>(q4, w4) m = Relu(l) n = Add(m, k)
      q5 = ai.onnxc.Binarize(n) o = Flatten(q5) y = Gemm<transB=1>(o, w5) }"""
    rng = np.random.default_rng(6)
    numbers = {f"s{i}": rng.uniform(-2, 2, (c, 1, 1)).astype("f") for i, c in ((0, 64), (1, 64), (2, 20))}
    numbers |= {f"t{i}": rng.normal(0, 9 * 10**i, (c, 1, 1)).astype("f") for i, c in ((0, 64), (1, 64), (2, 20))}
    weights = {
        "w0": (64, 5, 3, 3),
        "w1": (64, 64, 3, 3),
        "w2": (20, 64, 3, 3),
        "w3": (32, 20, 3, 3),
        "w4": (32, 32, 3, 3),
    }
    made = {key: np.where(rng.random(shape) < 0.5, -1, 1).astype("f") for key, shape in weights.items()}
    numbers |= {"scale": np.float32(3), "low": np.float32(0), "high": np.float32(3), "half": np.float32(0.5)}
    return layers(text, ("Binarize", "Quantize"), **made, **numbers, w5=signs(7, 32 * 2 * 4))


RESULTS = Path(__file__).parents[2] / "benchmarks/results"


def test_helium_takes_at_most_half_of_the_instructions():
    """Of every kind of layer within the four networks, as `benchmarks/tiny_layers.py` counted them."""
    for net, cores in json.loads((RESULTS / "tiny_layers.json").read_text()).items():
        for kind, row in cores["cortex-m55"].items():
            assert row["instructions"] <= 0.5 * cores["cortex-m7"][kind]["instructions"], (net, kind)


def test_slower_layers_are_those_that_were_measured_so():
    held = json.loads((RESULTS / "tiny.json").read_text())
    for kind, key in (
        ("helium", " cortex-m55"), ("helium counted", " counted cortex-m55"), ("multiplied", ""), ("counted", " counted"),
        ("plain", " cortex-m3"),
    ):  # fmt: skip
        points = {
            (int(name[1]) * int(name[3]), round(row["of_int8"], 2)) for name, row in held[f"few bits{key}"].items()
        }
        assert points - {(64, 1.0)} <= set(MEASURED[kind]) and list(MEASURED[kind]) == sorted(MEASURED[kind])
    ways = (("slices", (2, 1)), ("products", (8, 4)), ("slices", (8, 4)), ("products", (3, 2)))
    rows = [{"node": f"n{i}", "kernel": f"micro.bits.{way}", "bits": bits} for i, (way, bits) in enumerate(ways)]
    rows.append({"node": "whole", "kernel": "micro.conv.floats", "bits": (8, 8)})
    found = slower(rows, resolve("cortex-m4"))
    assert [name for name, _ in found] == ["n2", "n1", "n3"] and found[0][1] == pytest.approx(13.09)
    assert 1.38 < found[2][1] < 1.58 and slower(rows, resolve("x86-64-v3")) == []
    assert [name for name, _ in slower(rows, resolve("cortex-m3"))] == ["n1", "n2"]
    assert len(slower(rows, resolve("cortex-m55"))) == 4


@pytest.mark.parametrize("target", ["cortex-m0", "cortex-m4", "cortex-m55"])
def test_a_network_of_few_bits(target, tmp_path):
    ready(target)
    model = network()
    report = compile_model(model, tmp_path, name="net", target=target)
    way = "helium.fields" if target == "cortex-m55" else "slices"
    assert {row["kernel"] for row in report.kernels} == {f"micro.bits.{way}", "micro.bits.channels"}
    assert [row["spec"].split("epilogue ")[1] for row in report.kernels[:3]] == ["threshold"] * 3
    assert sorted(c["macs"] for c in report.calls if c["macs"]) == sorted(row["macs"] for row in report.kernels)
    assert max(row["ram"] for row in report.calls) == report.live_bytes <= report.arena_bytes
    most = {"cortex-m4": 2, "cortex-m0": 13}.get(target, 0)  # pairs of bits that take less than 8 bits do
    wide = {row["node"] for row in report.kernels if row["bits"][0] * row["bits"][1] > most}
    assert {name for name, _ in slower(report.kernels, resolve(target))} == wide
    x = np.random.default_rng(2).normal(0, 1, (1, 5, 9, 9)).astype("f")
    assert np.array_equal(open_library(tmp_path).run({"x": x})["y"], run_ort(model, {"x": x})["y"])


WIDTHS = [(1, 7, 5), (2, 3, 3), (2, 8, 6), (3, 4, 4), (4, 4, 7), (4, 8, 4)]
"""Bits of weights and of unsigned activations, and output channels: fields of 1, 2 and 4 bits, whole and masked."""


def test_fields_of_every_width_on_a_board(tmp_path):
    ready("cortex-m55")
    rng, numbers = np.random.default_rng(8), {"one": np.float32(1), "low": np.float32(0)}
    text = "g (float[1,40,3,4] x) => (" + ", ".join(f"float[a,b,c,d] y{i}" for i in range(len(WIDTHS))) + ") {"
    for i, (weight, bits, channels) in enumerate(WIDTHS):
        text += f" q{i} = ai.onnxc.Quantize(x, one, low, high{i}) y{i} = Conv<pads=[1,0,0,1]>(q{i}, w{i})"
        least = 0 if weight == 1 else -(1 << weight - 1)
        numbers[f"w{i}"] = rng.integers(least, least + (1 << weight), (channels, 40, 2, 2)).astype("f")
        numbers[f"high{i}"] = np.float32(2**bits - 1)
    model = layers(text + " }", ("Quantize",), **numbers)
    report = compile_model(model, tmp_path, name="net", target="cortex-m55", check="shapes")
    ways = {row["kernel"] for row in report.kernels}
    assert ways == {"micro.bits.helium.fields", "micro.bits.helium.masked"}
    x = rng.uniform(-20, 260, (1, 40, 3, 4)).astype("f")
    found, wanted = open_library(tmp_path).run({"x": x}), run_ort(model, {"x": x})
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_a_trained_binary_network_on_a_board(tmp_path):
    ready("cortex-m4")
    model = onnx.load(MODELS / "binary_fashion.onnx")
    report = compile_model(model, tmp_path, name="net", target="cortex-m4", check="shapes")
    assert sum(row["kernel"].startswith("micro.bits") for row in report.kernels) == 5
    images = np.random.default_rng(0).random((1, 1, 28, 28), np.float32)
    found, wanted = open_library(tmp_path).run({"image": images})["logits"], run_ort(model, {"image": images})["logits"]
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()
