"""Few-bit kernels against NumPy, every integer; few-bit layers of models against ONNX Runtime."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper, parser

from onnxc.codegen import compile_model, kernels
from onnxc.codegen.kernels import bits, nibbles, planes, quantise
from onnxc.codegen.kernels.spec import BINARY, Encoding, Refusal, Schedule
from onnxc.codegen.match import fewbit
from onnxc.codegen.target import resolve, runs_here
from onnxc.ir.functions import function
from onnxc.runtime.library import Library

from . import bulk
from .conftest import counting, run_ort

MODELS = Path(__file__).parents[1] / "data"
CALM = settings(
    max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)


@CALM
@given(chosen=st.lists(bulk.specs(), min_size=6, max_size=6, unique=True), seed=st.integers(0, 99))
def test_integers_of_any_layer(tmp_path_factory, chosen, seed):
    bulk.check_integers(chosen, resolve("native"), tmp_path_factory.mktemp("bits"), seed)


def test_integers_of_every_pair_of_bits(tmp_path, monkeypatch):
    chosen = []
    for i, (a, w) in enumerate(itertools.product(range(1, 9), range(1, 5))):
        activation = Encoding("bits", a, bulk.LEVELS[i % 3])
        weight = Encoding("bits", w, bulk.LEVELS[(i // 3 + a) % 3])
        chosen.append(bulk.make(h=2, w=3, c=70, oc=9, k=(1, 2), activation=activation, weight=weight))
    monkeypatch.setattr(kernels, "FAMILIES", [bits.FAMILY])
    assert set(bulk.check_integers(chosen, resolve("native"), tmp_path)) == {"bits.direct"}


TWO, SIGNED = Encoding("bits", 2, "unsigned"), Encoding("bits", 2, "signed")
AWKWARD = [
    bulk.make(c=70, oc=37, pads=(1, 0, 2, 1), activation=BINARY, weight=BINARY),
    bulk.make(
        h=1, w=2, c=2200, oc=11, k=(1, 1), pads=(0, 0, 0, 0), activation=BINARY, weight=BINARY
    ),  # a byte overflows
    bulk.make(c=300, oc=9, k=(3, 2), activation=TWO, weight=SIGNED),
    bulk.make(c=65, oc=3, groups=2, dilation=(2, 1), activation=SIGNED, weight=BINARY),
    bulk.make(c=64, oc=1, activation=BINARY, weight=SIGNED),
    bulk.make(c=130, oc=24, activation=Encoding("bits", 4, "signed"), weight=Encoding("bits", 3, "bipolar")),
]


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
def test_integers_with_other_instructions(tmp_path, name, monkeypatch):
    target = resolve(name)
    if not runs_here(target):
        pytest.skip(f"this machine cannot run {name}")
    assert {"bits.nibbles.x86_64"} <= set(bulk.check_integers(AWKWARD, target, tmp_path))
    monkeypatch.setattr(kernels, "FAMILIES", [one for one in kernels.FAMILIES if one is not nibbles.FAMILY])
    assert {"bits.bytes.x86_64"} <= set(bulk.check_integers(AWKWARD, target, tmp_path))


@CALM
@given(chosen=st.lists(bulk.specs(), min_size=6, max_size=6, unique=True), data=st.data())
def test_packing_is_its_twin(tmp_path_factory, chosen, data):
    """Quantises and packs, channels with tails, borders with values; NaN binarises to -1, halves round to even."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    packs, inputs, wanted = [], [], []
    for spec in chosen:
        if spec.activation.levels == "bipolar":
            spec = bulk.make(spec.n, spec.h, spec.w, spec.c // spec.groups, 1, (1, 1), pads=spec.pads,
                             groups=spec.groups, activation=BINARY, pad_value=np.sign(spec.pad_value))  # fmt: skip
        x = rng.integers(-9, 9, spec.x_shape).astype("f") / 2
        if spec.activation == BINARY:
            packs.append(bulk.packing(spec, 0))
            x[rng.random(x.shape) < 0.1] = np.nan
            values, scale = np.where(x >= 0, 1, -1), None
        else:
            packs.append(bulk.packing(spec, data.draw(st.sampled_from([1, spec.c]))))
            scale = rng.choice(np.float32([0.25, 0.5, 0.7, 1]), packs[-1].scales)
            values = np.clip(np.rint(x / scale), spec.activation.low, spec.activation.high)
        inputs.append([x] if scale is None else [x, scale])
        wanted.append(planes.pack_activations(spec, values))
    functions = {f"p{i}": quantise.emit(pack, f"p{i}") for i, pack in enumerate(packs)}
    library = bulk.Bulk(functions, resolve("native"), tmp_path_factory.mktemp("pack"))
    for i, (arrays, result) in enumerate(zip(inputs, wanted, strict=True)):
        y = np.full(packs[i].shape, 0x5555555555555555, np.uint64)
        library.call(f"p{i}", *arrays, y)
        assert np.array_equal(y, result), packs[i]


@CALM
@given(chosen=st.lists(bulk.specs(), min_size=8, max_size=8, unique=True), seed=st.integers(0, 99))
def test_kernels_that_pack_their_own_input(tmp_path_factory, chosen, seed):
    """The integers of any layer from floats, whatever its stride, padding, groups and tails of channels."""
    rng, native = np.random.default_rng(seed), resolve("native")
    taken = {}
    for i, spec in enumerate(chosen):
        a = spec.activation
        if a.levels == "bipolar":
            spec = replace(spec, activation=BINARY, pad_value=int(np.sign(spec.pad_value)))
        spec = replace(spec, source=bulk.packing(spec, 0 if spec.activation == BINARY else 1))
        plan = bits.schedule(spec, native)
        if isinstance(plan, Schedule):
            taken[f"k{i}"] = spec, plan
    if not taken:
        return
    library = bulk.Bulk({k: bits.emit(s, p, k) for k, (s, p) in taken.items()}, native, tmp_path_factory.mktemp("own"))
    for name, (spec, plan) in taken.items():
        x = bulk.integers(spec.activation, spec.x_shape, rng)
        w = bulk.integers(spec.weight, (spec.oc, spec.c // spec.groups, spec.kh, spec.kw), rng)
        y = np.full(spec.y_shape, np.nan, np.float32)
        scale = [np.float32([0.5])] if spec.source.scales else []
        floats = (x * 0.5).astype("f") if scale else x.astype("f")
        library.call(name, floats, *scale, bits.pack(spec, plan, w), *bits.tables(spec, plan, w), y)
        assert np.array_equal(y, bulk.convolve(spec, x, w)), spec


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"threads": 2}, "one thread"),
        ({"h": 3}, "4 rows of output"),
        ({"oc": 8}, "16 lanes"),
        ({"c": 2048, "oc": 512}, "bytes of weights"),
    ],
)
def test_what_does_not_pack_its_own_input(changes, reason):
    spec = bulk.make(**({"h": 6, "w": 5, "c": 64, "oc": 32, "activation": BINARY, "weight": BINARY} | changes))
    answer = bits.schedule(replace(spec, source=bulk.packing(spec, 0)), resolve("znver4"))
    assert isinstance(answer, Refusal) and reason in answer.reason


@pytest.mark.parametrize("readers", [1, 2])
def test_a_packing_with_one_reader_is_taken_into_it(counted, readers):
    more, other = ("", "") if readers == 1 else (", float[e,f,g,h] z", "z = Conv<pads=[1,1,1,1]>(q, v)")
    text = f"g (float[1,64,7,9] x) => (float[a,b,c,d] y{more}) {{ q = ai.onnxc.Binarize(x) y = Conv<pads=[1,1,1,1]>(q, w) {other} }}"
    weights = {"w": signs(32, 64, 3, 3), "v": signs(32, 64, 3, 3)[::-1].copy()}
    report, _ = counted(layers(text, ("Binarize",), **weights), tolerance=0)
    assert ["float32 as 1-bit bipolar" in row["spec"] for row in report.kernels] == (
        [True] if readers == 1 else [False] * 2
    )


@pytest.mark.parametrize(
    "numbers, encoding, integers",
    [
        ([0.3, -0.3, 0.3], BINARY, [1, -1, 1]),
        ([0.3, -0.3, 0.0], Encoding("bits", 2, "signed"), [1, -1, 0]),
        ([0.3, -0.9, 0.9], Encoding("bits", 2, "bipolar"), [1, -3, 3]),
        ([0.6, -0.9, 0.9], Encoding("bits", 3, "signed"), [2, -3, 3]),
        ([-0.8, 0.7, 0.1], Encoding("bits", 4, "signed"), [-8, 7, 1]),
        ([0.5, 0.0, 1.5], Encoding("bits", 2, "unsigned"), [1, 0, 3]),
        ([0.0, 0.0, 0.0], BINARY, [1, 1, 1]),
    ],
)
def test_weights_that_are_few_integers(numbers, encoding, integers):
    numbers = np.float32(numbers)
    weights = np.stack([numbers, numbers * np.float32(0.1234)])
    found = fewbit.few_bit(weights)
    assert found[0] == encoding
    assert np.array_equal(found[1], [integers, integers])
    assert np.allclose(found[1] * found[2][:, None], weights, rtol=1e-6, atol=0)


@pytest.mark.parametrize("numbers", [[0.3, 0.301, -0.3], [1.0, 16.0, 3.0], [8.0, -8.0, 1.0], [1.0, np.nan, 1.0]])
def test_weights_that_are_none(numbers):
    assert fewbit.few_bit(np.float32([numbers])) is None


def layers(text: str, functions: tuple[str, ...] = (), **weights: np.ndarray) -> onnx.ModelProto:
    """A model of opset 17 from ONNX text, with quantisers of domain ai.onnxc."""
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17, "ai.onnxc": 1]>\n{text}')
    made.functions.extend(function(name, 17) for name in functions)
    made.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return made


def signs(*shape: int) -> np.ndarray:
    return np.where(np.random.default_rng(5).random(shape) < 0.5, -1, 1).astype("f")


def rules(report) -> list[str]:
    return [row["kernel"] for row in report.kernels]


BINARISED = [
    "Conv<pads=[1,1,1,1]>(q, w)",
    "Conv<pads=[0,2,1,0], strides=[2,1], dilations=[1,2]>(q, w)",
]


@pytest.mark.parametrize("conv", BINARISED)
def test_binarised_convolution_gives_the_very_integers(counted, conv):
    text = f"g (float[1,70,9,8] x) => (float[a,b,c,d] y) {{ q = ai.onnxc.Binarize(x) y = {conv} }}"
    report, _ = counted(layers(text, ("Binarize",), w=signs(24, 70, 3, 3)), tolerance=0)
    assert rules(report) == ["bits.direct"]


def test_epilogue_of_a_binary_layer(counted):
    text = """g (float[1,64,7,7] x) => (float[a,b,c,d] y) {
      q = ai.onnxc.Binarize(x) t = Conv<pads=[1,1,1,1]>(q, w, b) u = Add(t, x) v = PRelu(u, s) y = Clip(v, l, h) }"""
    rng = np.random.default_rng(1)
    w = signs(64, 64, 3, 3) * rng.random((64, 1, 1, 1), np.float32)
    more = {
        "b": rng.random(64, np.float32),
        "s": rng.random((64, 1, 1), np.float32),
        "l": np.float32(-3),
        "h": np.float32(9),
    }
    report, _ = counted(layers(text, ("Binarize",), w=w, **more))
    assert rules(report) == ["bits.direct"]
    assert "epilogue mul+bias+residual+prelu+clip" in report.kernels[0]["spec"]
    assert [row["rule"] for row in report.kernels[0]["refused"]]


@pytest.mark.parametrize(
    "low, high, bits", [(0, 3, "2-bit unsigned"), (-2, 1, "2-bit signed"), (0, 1, "1-bit unsigned")]
)
def test_quantised_convolution(counted, low, high, bits):
    text = """g (float[1,20,9,8] x) => (float[a,b,c,d] y) {
      q = ai.onnxc.Quantize(x, scale, low, high) y = Conv<pads=[1,1,1,1]>(q, w) }"""
    weights = np.random.default_rng(2).integers(-2, 2, (24, 20, 3, 3)).astype("f")
    model = layers(text, ("Quantize",), w=weights, scale=np.float32(0.5), low=np.float32(low), high=np.float32(high))
    report, _ = counted(model, tolerance=0)
    assert rules(report) == ["bits.direct"] and bits in report.kernels[0]["spec"]


def test_a_scale_per_channel_goes_into_the_weights(counted):
    """x = s[c] times integers: the weights have to be few integers once the scales stand in them."""
    text = """g (float[1,20,5,6] x) => (float[a,b,c,d] y) {
      q = ai.onnxc.Quantize(x, scale, low, high) y = Conv(q, w) }"""
    scale = np.float32([0.25, 0.5] * 10).reshape(20, 1, 1)
    limits = {"scale": scale, "low": np.float32(0), "high": np.float32(3)}
    report, _ = counted(layers(text, ("Quantize",), w=signs(8, 20, 3, 3) / scale, **limits), tolerance=0)
    assert rules(report) == ["bits.direct"] and "1-bit bipolar ->" in report.kernels[0]["spec"]


def test_do_not_take_scales_that_leave_no_integers(counted):
    text = """g (float[1,20,5,6] x) => (float[a,b,c,d] y) {
      q = ai.onnxc.Quantize(x, scale, low, high) y = Conv(q, w) }"""
    scale = np.linspace(0.1, 0.9, 20, dtype="f").reshape(20, 1, 1)
    limits = {"scale": scale, "low": np.float32(0), "high": np.float32(3)}
    report, _ = counted(layers(text, ("Quantize",), w=signs(8, 20, 3, 3), **limits))
    assert rules(report) == ["float32.direct"]


@pytest.mark.parametrize("value", [-1, 0, 1])
def test_explicit_padding(counted, value):
    text = """g (float[1,20,5,6] x) => (float[a,b,c,d] y) {
      q = ai.onnxc.Binarize(x) p = Pad(q, widths, value) y = Conv(p, w) }"""
    widths = np.int64([0, 0, 1, 0, 0, 0, 2, 1])
    model = layers(text, ("Binarize",), w=signs(8, 20, 3, 3), widths=widths, value=np.float32(value))
    report, _ = counted(model, tolerance=0)
    assert rules(report) == ["bits.direct"] and "1x5x6x20" in report.kernels[0]["spec"]


def test_pixels_that_a_strided_1x1_convolution_skips_are_not_packed(counted):
    """Two such readers share a packing; a 3x3 one has its own, and where a kernel packs for its reader it packs them all."""
    text = """g (float[2,64,7,10] x) => (float[a,b,c,d] y, float[e,f,g,h] z, float[i,j,k,l] v) {
      q = ai.onnxc.Binarize(x) y = Conv<strides=[2,3]>(q, w0) z = Conv<strides=[2,3]>(q, w1)
      t = Conv<strides=[2,1], pads=[1,1,1,1]>(q, w2) p = ai.onnxc.Binarize(t) v = Conv<strides=[2,2]>(p, w0) }"""
    weights = {"w0": signs(24, 64, 1, 1), "w1": signs(24, 64, 1, 1)[::-1].copy(), "w2": signs(64, 64, 3, 3)}
    report, _ = counted(layers(text, ("Binarize",), **weights), tolerance=0)
    assert [row["spec"].split(" epilogue")[0] for row in report.kernels if "kernel 1x1" in row["spec"]] == [
        "conv 2x4x4x64 -> 4x4x24 kernel 1x1 stride 1x1 groups 1 1-bit bipolar x 1-bit bipolar -> float32",
        "conv 2x4x4x64 -> 4x4x24 kernel 1x1 stride 1x1 groups 1 1-bit bipolar x 1-bit bipolar -> float32",
        "conv 2x4x10x64 -> 2x5x24 kernel 1x1 stride 2x2 groups 1 1-bit bipolar x 1-bit bipolar -> float32",
    ]


def test_pooled_flattened_and_shared_activations(counted):
    """Pooling and reshaping keep the integers; two readers share one packing."""
    text = """g (float[1,16,6,6] x) => (float[a,b] y, float[c,d,e,f] z) {
      q = ai.onnxc.Binarize(x) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(q)
      f = Flatten(p) y = Gemm<transB=1>(f, g) z0 = Conv(q, w) z1 = Conv(q, v) z = Add(z0, z1) }"""
    weights = {"g": signs(10, 144), "w": signs(8, 16, 3, 3), "v": signs(8, 16, 3, 3)[::-1].copy()}
    report, _ = counted(layers(text, ("Binarize",), **weights), tolerance=0)
    assert rules(report) == ["bits.direct"] * 3


def test_do_not_take_other_activations(counted):
    """+1 and -2 are no signs; a tensor of floats is not binary because its weights are."""
    text = """g (float[1,16,6,6] x) => (float[a,b,c,d] y, float[e,f,g,h] z) {
      t = GreaterOrEqual(x, zero) q = Where(t, one, two) y = Conv(q, w) z = Conv(x, w) }"""
    numbers = {"zero": np.float32(0), "one": np.float32(1), "two": np.float32(-2)}
    report, _ = counted(layers(text, w=signs(8, 16, 3, 3), **numbers))
    assert rules(report) == ["float32.direct"] * 2


def test_binary_network_gives_the_classes_of_ort(tmp_path):
    model = onnx.load(MODELS / "binary_fashion.onnx")
    compile_model(model, tmp_path, name="net")
    assert rules(counting(model, tmp_path)).count("bits.direct") == 5
    images = np.random.default_rng(0).random((40, 1, 28, 28), np.float32)
    library = Library(tmp_path)
    found = np.concatenate([library(image=images[i : i + 1])["logits"] for i in range(40)])
    assert np.array_equal(found.argmax(1), run_ort(model, {"image": images})["logits"].argmax(1))


def test_two_threads_give_the_same_bytes(tmp_path):
    text = "g (float[1,64,40,40] x) => (float[a,b,c,d] y) { q = ai.onnxc.Binarize(x) y = Conv<pads=[1,1,1,1]>(q, w) }"
    model, x = (
        layers(text, ("Binarize",), w=signs(64, 64, 3, 3)),
        np.random.default_rng(3).standard_normal((1, 64, 40, 40)),
    )
    found = []
    for threads in (1, 2):
        compile_model(model, tmp_path / str(threads), name=f"net{threads}", threads=threads)
        found.append(Library(tmp_path / str(threads))(x=x.astype("f"))["y"])
    assert np.array_equal(*found)
    assert np.array_equal(found[0], run_ort(model, {"x": x.astype("f")})["y"])


def test_the_same_spec_is_compiled_once(tmp_path, monkeypatch):
    """Two layers alike share a kernel, and the packing kernels of a model are one for each spec as well."""
    emitted = []
    count = replace(bits.FAMILY, emit=lambda *args: emitted.append(args[0]) or bits.emit(*args))
    monkeypatch.setattr(kernels, "FAMILIES", [count if one is bits.FAMILY else one for one in kernels.FAMILIES])
    pack = quantise.emit
    monkeypatch.setattr(quantise, "emit", lambda *args: emitted.append(args[0]) or pack(*args))
    text = """g (float[1,16,5,6] x) => (float[a,b,c,d] y, float[e,f,g,h] z, float[i,j,k,l] v) {
      q = ai.onnxc.Binarize(x) y = Conv<pads=[1,1,1,1]>(q, w0) p = ai.onnxc.Binarize(y)
      z = Conv<pads=[1,1,1,1]>(q, w1) v = Conv<pads=[1,1,1,1]>(p, w2) }"""
    weights = {f"w{i}": np.roll(signs(16, 16, 3, 3), i) for i in range(3)}
    report = counting(layers(text, ("Binarize",), **weights), tmp_path)
    assert (
        len(emitted) == len(set(emitted)) == 3
    )  # x packed; a convolution that packs its result as well; one that does not
    assert report.kernels[1]["function"] == report.kernels[2]["function"] != report.kernels[0]["function"]


NORM = {"s": np.linspace(-1.5, 2, 64, dtype="f"), "b": np.linspace(3, -3, 64, dtype="f")}
NORM |= {"m": np.linspace(-9, 9, 64, dtype="f"), "v": np.linspace(0.5, 9, 64, dtype="f")}


def chain(middle: str, quantiser: str = "ai.onnxc.Binarize(t1)", output: str = "") -> onnx.ModelProto:
    """Two few-bit convolutions with something between them."""
    text = f"""g (float[1,64,7,9] x) => (float[a,b,c,d] y{output}) {{
      q0 = ai.onnxc.Binarize(x) t0 = Conv<pads=[1,1,1,1]>(q0, w0) {middle}
      q1 = {quantiser} y = Conv<pads=[1,0,2,1]>(q1, w1) }}"""
    numbers = {"slope": np.linspace(-0.5, 1, 64, dtype="f").reshape(64, 1, 1), "half": np.float32(0.5)}
    limits = {"scale": np.float32(7.5), "low": np.float32(0), "high": np.float32(3)}
    return layers(
        text, ("Binarize", "Quantize"), w0=signs(64, 64, 3, 3), w1=signs(24, 64, 3, 3), **NORM, **numbers, **limits
    )


CHAINED = {
    # what stands between -> what the first kernel writes, its epilogue
    "t1 = BatchNormalization(t0, s, b, m, v)": "-> 1-bit bipolar epilogue threshold",
    "t1 = Add(t0, half)": "-> 1-bit bipolar epilogue threshold",
    "u = BatchNormalization(t0, s, b, m, v) t1 = Relu(u)": "-> 1-bit bipolar epilogue threshold",
    "u = Add(t0, half) t1 = PRelu(u, slope)": "-> 1-bit bipolar epilogue threshold",
    "u = PRelu(t0, slope) t1 = BatchNormalization(u, s, b, m, v)": "-> 1-bit bipolar epilogue prelu+mul+add",  # a V
    "u = Add(t0, x) t1 = PRelu(u, slope)": "-> 1-bit bipolar epilogue residual+prelu",
    "t1 = Sigmoid(t0)": "-> 1-bit bipolar epilogue sigmoid",
}


@pytest.mark.parametrize("middle", CHAINED)
def test_activations_stay_packed_between_layers(counted, middle):
    report, _ = counted(chain(middle), tolerance=0)
    assert CHAINED[middle] in report.kernels[0]["spec"]
    assert rules(report) == ["bits.direct"] * 2


def test_a_result_is_requantised_to_planes(counted):
    report, _ = counted(chain("t1 = Add(t0, half)", "ai.onnxc.Quantize(t1, scale, low, high)"), tolerance=0)
    assert "-> 2-bit unsigned" in report.kernels[0]["spec"]


def test_floats_are_kept_where_something_else_reads_them(counted):
    model = chain("t1 = Add(t0, half) z = Tanh(t1)", output=", float[e,f,g,h] z")
    report, _ = counted(model)
    assert "-> float32 and 1-bit bipolar" in report.kernels[0]["spec"]


def test_a_float_layer_packs_its_result(counted):
    text = """g (float[1,3,9,9] x) => (float[a,b,c,d] y) {
      t = Conv<strides=[2,2]>(x, w0) u = Relu(t) v = Sub(u, half) q = ai.onnxc.Binarize(v) y = Conv<pads=[1,1,1,1]>(q, w1) }"""
    rng = np.random.default_rng(0)
    first = rng.integers(-99, 99, (96, 3, 3, 3)).astype("f") / 128
    model = layers(text, ("Binarize",), w0=first, w1=signs(10, 96, 3, 3), half=np.float32(0.5))
    report, _ = counted(model)
    assert "-> 1-bit bipolar" in report.kernels[0]["spec"]
    assert rules(report) == ["float32.direct", "bits.direct"]


def test_a_layer_whose_channels_fill_no_vector_leaves_packing_to_a_kernel(counted):
    text = """g (float[1,64,5,6] x) => (float[a,b,c,d] y) {
      q = ai.onnxc.Binarize(x) t = Conv(q, w0) p = ai.onnxc.Binarize(t) y = Conv(p, w1) }"""
    report, _ = counted(layers(text, ("Binarize",), w0=signs(20, 64, 1, 1), w1=signs(8, 20, 3, 3)), tolerance=0)
    assert "-> float32" in report.kernels[0]["spec"]
    assert any("multiples of 8 channels" in row["reason"] for row in report.kernels[0]["refused"])


POOLED = """g (float[2,16,{h},{w}] x) => (float[a,b,c,d] y, float[e,f] z) {{
  p = ai.onnxc.Binarize(x) c = Conv<pads=[1,1,1,1]>(p, w0) u = BatchNormalization(c, s, b, m, v)
  {pool} y = Conv<pads=[1,1,1,2]>(r, w1) f = Flatten(r) z = MatMul(f, g) }}"""


@CALM
@given(data=st.data())
def test_maxpool_and_binarize_commute(tmp_path_factory, data):
    """Windows of all sorts, ceil_mode and padding, the one before the other, between few-bit layers; and a reader of floats."""
    small = st.integers(1, 3)
    kernel, strides, dilations = (data.draw(st.tuples(small, small)) for _ in range(3))
    pads = [data.draw(st.integers(0, min(k - 1, 1))) for k in (*kernel, *kernel)]
    h, w = (max(k - 1, 1) * d + data.draw(st.integers(1, 6)) for k, d in zip(kernel, dilations, strict=True))
    attributes = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
    attributes["ceil_mode"] = data.draw(st.sampled_from([0, 1]))
    if attributes["ceil_mode"]:  # ONNX and ONNX Runtime disagree about windows that start behind the tensor
        attributes |= {"strides": (1, 2), "pads": [*pads[:2], 0, 0], "kernel_shape": (kernel[0], 2)}
    text = ", ".join(f"{key}={list(v) if key != 'ceil_mode' else v}" for key, v in attributes.items())
    first = data.draw(
        st.sampled_from(
            [f"q = MaxPool<{text}>(u) r = ai.onnxc.Binarize(q)", f"q = ai.onnxc.Binarize(u) r = MaxPool<{text}>(q)"]
        )
    )
    flat = data.draw(st.booleans())
    graph = POOLED.format(h=h, w=w, pool=first)
    if not flat:
        graph = graph.replace(", float[e,f] z", "").replace("f = Flatten(r) z = MatMul(f, g)", "")
    norm = {key: value[:16] for key, value in NORM.items()}
    weights = {"w0": signs(16, 16, 3, 3), "w1": signs(16, 16, 3, 3), **norm}
    x = np.random.default_rng(1).standard_normal((2, 16, h, w)).astype("f")
    if flat:
        whole = layers(graph.replace("z = MatMul(f, g)", "z = Identity(f)"), ("Binarize",), **weights)
        weights["g"] = signs(run_ort(whole, {"x": x})["z"].shape[1], 16)
    model = layers(graph, ("Binarize",), **weights)
    folder = tmp_path_factory.mktemp("pool")
    compile_model(model, folder, name="net")
    report = counting(model, folder)
    assert rules(report) == ["bits.direct"] * (3 if flat else 2)
    assert ("-> 1-bit bipolar" in report.kernels[0]["spec"]) is not flat
    found = Library(folder)(x=x)
    for key, value in run_ort(model, {"x": x}).items():
        assert np.array_equal(found[key], value)


def test_few_bits_that_floats_outrun_are_left_to_floats(counted):
    """Eight planes by four: 32 products of bits where one of floats does; and a depthwise layer, a word for each channel."""
    text = """g (float[1,64,8,8] x) => (float[a,b,c,d] y) {
      q = ai.onnxc.Quantize(x, scale, low, high) y = Conv<pads=[1,1,1,1]>(q, w) }"""
    limits = {"scale": np.float32(0.25), "low": np.float32(0), "high": np.float32(255)}
    weights = np.random.default_rng(2).integers(-8, 8, (64, 64, 3, 3)).astype("f")
    report, _ = counted(layers(text, ("Quantize",), w=weights, **limits))
    assert rules(report) == ["float32.packed"]
    assert any("predicted" in row["reason"] for row in report.kernels[0]["refused"])


def test_a_depthwise_layer_of_bits_stays_in_floats(counted):
    text = """g (float[1,64,8,8] x) => (float[a,b,c,d] y) {
      q = ai.onnxc.Binarize(x) y = Conv<pads=[1,1,1,1], group=64>(q, w) }"""
    report, _ = counted(layers(text, ("Binarize",), w=signs(64, 1, 3, 3)), tolerance=0)
    assert rules(report) == ["float32.depthwise"]


@pytest.mark.parametrize(
    "before, rule",
    [
        ("t = Add(x, x)", "bits.direct"),  # zero by coincidence only
        ("u = BatchNormalization(x, s, b, m, v) t = PRelu(u, slope)", "bits.direct"),
        ("t = Relu(x)", "float32.direct"),
        ("t = Add(x, whole)", "float32.direct"),
        ("t = Identity(x)", "float32.direct"),
    ],
)
def test_a_sign_of_zeros_is_no_binarisation(counted, before, rule):
    text = f"g (float[1,64,5,6] x) => (float[a,b,c,d] y) {{ {before} q = Sign(t) y = Conv(q, w) }}"
    more = {"slope": np.full((64, 1, 1), 0.5, "f"), "whole": np.float32(2)}
    report, _ = counted(layers(text, w=signs(8, 64, 3, 3), **NORM, **more), tolerance=0)
    assert rules(report) == [rule]
