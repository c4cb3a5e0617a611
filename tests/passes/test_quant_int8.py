"""quant.int8: exact against its fake-quantised twin, integer kernels in ONNX Runtime, and what it leaves alone."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxc.ir import numbers
from onnxc.ir.cost import cost
from onnxc.ir.errors import BadOption, Unsupported
from onnxc.ir.files import load
from onnxc.ir.text import dump
from onnxc.ir.verify import verify
from onnxc.passes.base import apply
from onnxc.passes.quant import mixed
from onnxc.passes.registry import make
from onnxc.pipeline import Pipeline, run_passes
from onnxc.runtime.evaluate import accuracy
from onnxc.runtime.reference import Session
from tests.apart import differences

from .quant_helpers import feeds_of, fused_operators, model_of, quantised, run, twin

RNG = np.random.default_rng(7)


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def conv_model(body: str, opset: int = 13, outputs: str = "float[N,M,P,Q] y", **weights) -> object:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[N,4,8,8] x) => ({outputs}) {{ {body} }}'
    given = {
        "w": weight(4, 4, 3, 3),
        "b": weight(4, seed=1),
        "w1": weight(6, 4, 1, 1, seed=2),
        "fc": weight(4, 5, seed=3),
    }
    return model_of(text, **{k: v for k, v in {**given, **weights}.items() if k in _names(body)})


def _names(body: str) -> set[str]:
    return set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())


CONV = "Conv<pads=[1,1,1,1]>"


def stored(model) -> dict[str, np.ndarray]:
    """The contents of each integer weight, by node that reads it."""
    return {n.name: n.inputs[1].inputs[0].inputs[0].values for n in model.nodes if n.op in ("Conv", "Gemm", "MatMul")}


# exactness


def test_trained_networks_equal_their_fake_quantised_twin(trained_path, calib_data_path):
    model = Pipeline("clean,fuse", check="shapes").transform(trained_path).model
    done, report = quantised(model, calib_data_path)
    verify(done, like=model)
    feeds = {"image": np.load(calib_data_path)["image"][:32]}
    ours, theirs = run(done, feeds)["logits"], run(twin(done), feeds)["logits"]
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    assert len(report.edits) >= 7 and not report.refusals


@st.composite
def networks(draw):
    """Small chains of what the quantiser knows, with branches, groups, shared weights and odd activations."""
    lines, rng, weights = [], np.random.default_rng(draw(st.integers(0, 2**31))), {}
    x, count = "x", 0

    def conv(x: str) -> str:
        nonlocal count
        count += 1
        group = draw(st.sampled_from([1, 2, 4]))
        name = draw(st.sampled_from(["w", f"w{count}"])) if group == 1 else f"w{count}"
        weights.setdefault(name, rng.normal(size=(4, 4 // group, 3, 3)) * rng.choice([0, 1, 9], (4, 1, 1, 1)))
        bias = ""
        if draw(st.booleans()):
            weights[f"b{count}"] = rng.normal(size=4)
            bias = f", b{count}"
        lines.append(f"c{count} = Conv<pads=[1,1,1,1], group={group}>({x}, {name}{bias})")
        act = draw(st.sampled_from(["", "Relu", "Clip", "HardSigmoid", "LeakyRelu"]))
        if not act:
            return f"c{count}"
        lines.append(f"a{count} = {act}(c{count}{', zero, six' if act == 'Clip' else ''})")
        return f"a{count}"

    for i in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["plain", "add", "concat", "pool", "mul", "mean"]))
        y = conv(x)
        if kind == "add" or kind == "mul":
            lines.append(f"s{i} = {kind.capitalize()}({y}, {conv(y)})")
            y = f"s{i}"
        elif kind == "concat":
            z = conv(x)
            weights[f"m{i}"] = rng.normal(size=(4, 8, 1, 1))
            lines += [f"k{i} = Concat<axis=1>({y}, {z})", f"s{i} = Conv(k{i}, m{i})"]
            y = f"s{i}"
        elif kind in ("pool", "mean"):
            op = "MaxPool" if kind == "pool" else "AveragePool"
            lines.append(f"s{i} = {op}<kernel_shape=[2,2], pads=[0,0,1,1]>({y})")
            y = f"s{i}"
        x = y
    weights["fc"] = rng.normal(size=(4, 5))
    lines += [f"p = GlobalAveragePool({x})", "f = Flatten(p)", "y = Gemm<alpha=0.5>(f, fc)"]
    text = (
        '<ir_version: 8, opset_import: ["" : 13]> g (float[N,4,6,6] x) => (float[N,5] y) { ' + "\n".join(lines) + " }"
    )
    if "Clip" in text:
        weights |= {"zero": np.zeros(()), "six": np.array(6)}
    return model_of(text, **{k: np.asarray(v, np.float32) for k, v in weights.items()})


@settings(max_examples=25)
@given(networks(), st.booleans(), st.booleans(), st.sampled_from(["minmax", "percentile", "entropy", "mse"]))
def test_any_chain_equals_its_twin_and_comes_near_the_original(model, symmetric, per_channel, calibration):
    before = dump(model)
    done, report = quantised(model, symmetric=symmetric, per_channel=per_channel, calibration=calibration)
    assert dump(model) == before
    verify(done, like=model)
    assert report.edits and not report.refusals
    feeds = feeds_of(model, seed=0, samples=8)  # the calibration inputs
    real, ours, theirs = (run(m, feeds)["y"] for m in (model, done, twin(done)))
    assert np.abs(ours - theirs).max() <= 1e-5 * max(1e-6, np.abs(theirs).max())
    if calibration == "minmax" and per_channel and np.abs(real).max() > 0:
        assert np.abs(ours - real).max() <= 0.25 * np.abs(real).max(), dump(model)
    assert dump(quantised(model, symmetric=symmetric, per_channel=per_channel, calibration=calibration)[0]) == dump(
        done
    )
    again, second = quantised(done)
    assert not second.edits and dump(again) == dump(done)


# what it is for


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "mse"])
def test_resnet20_loses_at_most_half_a_point(resnet20_path, calib_data_path, test_data_path, calibration):
    model = Pipeline("clean,fuse", check="shapes").transform(resnet20_path).model
    done, _ = quantised(model, calib_data_path, calibration=calibration)
    test = np.load(test_data_path)
    feeds = {"image": test["image"]}
    real, plain, fused = (run(m, feeds, o)["logits"] for m, o in ((model, False), (done, False), (done, True)))
    assert accuracy(plain, test["labels"]) >= accuracy(real, test["labels"]) - 0.005
    assert accuracy(fused, test["labels"]) >= accuracy(real, test["labels"]) - 0.005
    assert differences({"y": plain}, {"y": fused})["y"].top1 >= 0.995
    assert differences({"y": real}, {"y": plain})["y"].snr_db > 34
    assert len(done.to_proto().SerializeToString()) < 0.3 * len(model.to_proto().SerializeToString())


def spiky(spikes: float) -> tuple[object, dict[str, np.ndarray]]:
    """A network behind whose Clip a huge value is one like others, and data that hold two such."""
    model = conv_model(
        f"c = {CONV}(x, w, b) y = Clip(c, low, high)", w=weight(4, 4, 3, 3) / 6, low=np.float32(-2), high=np.float32(2)
    )
    x = RNG.normal(size=(1024, 4, 8, 8)).astype(np.float32)
    x[[3, 700], 1, 4, 4] = spikes
    return model, {"x": x}


def test_noisy_outputs_make_it_look_for_other_ranges():
    model, data = spiky(400.0)
    ratio = {}
    for name in ("quant", "quant(calibration=minmax)", "quant(calibration=percentile)"):
        done = run_passes(model, f"clean,fuse,{name}", data=data)
        ratio[name] = done.report.rows[-1].error["snr_db"]
        said = [note for note in done.report.rows[-1].notes if note.startswith("calibration=")]
        assert [note.split(",")[0] for note in said] == (["calibration=percentile"] if name == "quant" else [])
    auto, plain, percentile = ratio.values()
    assert plain < 20 and auto >= plain + 10 and auto == percentile


def test_ranges_stay_minmax_where_outputs_are_near_or_data_are_not_given():
    model, data = spiky(4.0)
    for source in ({"data": data}, {}):
        auto, plain = (
            run_passes(model, f"clean,fuse,{name}", **source).model for name in ("quant", "quant(calibration=minmax)")
        )
        assert dump(auto) == dump(plain)


def test_the_other_networks_keep_their_accuracy(trained_path, calib_data_path, test_data_path):
    model = Pipeline("clean,fuse", check="shapes").transform(trained_path).model
    done, _ = quantised(model, calib_data_path)
    test = np.load(test_data_path)
    real, fused = (run(m, {"image": test["image"]}, True)["logits"] for m in (model, done))
    assert accuracy(fused, test["labels"]) >= accuracy(real, test["labels"]) - 0.005


def test_resnet20_runs_on_integers_from_end_to_end(resnet20_path, calib_data_path, tmp_path):
    model = Pipeline("clean,fuse", check="shapes").transform(resnet20_path).model
    found = fused_operators(quantised(model, calib_data_path)[0], tmp_path)
    assert found["QLinearConv"] == 21 and found["QLinearAdd"] == 9 and found["QGemm"] == 1
    assert found["QLinearGlobalAveragePool"] == 1
    assert found["QuantizeLinear"] == 1 and found["DequantizeLinear"] == 0
    assert not {"Conv", "Relu", "Add"} & set(found)


@pytest.mark.parametrize(
    "body, kernels",
    [
        (f"c = {CONV}(x, w, b) a = Clip(c, zero, six) y = {CONV}(a, w)", {"QLinearConv": 2}),
        (
            f"c = {CONV}(x, w) p = MaxPool<kernel_shape=[2,2]>(c) y = Conv(p, w1)",
            {"QLinearConv": 2, "DequantizeLinear": 1},
        ),
        (f"c = {CONV}(x, w) d = Conv(x, w4) k = Concat<axis=1>(c, d) y = Conv(k, w8)", {"QLinearConcat": 1}),
        (f"c = {CONV}(x, w) s = Sigmoid(c) m = Mul(c, s) y = Conv(m, w1)", {"QLinearSigmoid": 1, "QLinearMul": 1}),
        (f"c = {CONV}(x, w) s = Sum(c, c) y = Conv(s, w1)", {"QLinearAdd": 1}),
        ("t = Transpose<perm=[0,2,3,1]>(x) y = MatMul(t, fc)", {"MatMulIntegerToFloat": 1}),
        ("g = GlobalAveragePool(x) f = Flatten(g) m = MatMul(f, fc) y = Add(m, b5)", {"QGemm": 1}),
        ("g = GlobalAveragePool(x) f = Flatten(g) y = Gemm<transB=1>(f, fct, b5)", {"QGemm": 1}),
    ],
    ids=["clip", "pool", "concat", "swish", "sum", "matmul", "matmul and add", "gemm"],
)
def test_chains_find_integer_kernels(body, kernels, tmp_path):
    outputs = "float[N,A] y" if "Flatten" in body else "float[N,A,B,C] y"
    extra = {"zero": np.float32(0), "six": np.float32(6), "w4": weight(4, 4, 1, 1), "w8": weight(3, 8, 1, 1)}
    model = conv_model(body, outputs=outputs, fct=weight(5, 4), b5=weight(5), **extra)
    found = fused_operators(quantised(model)[0], tmp_path)
    assert all(found[op] == n for op, n in kernels.items()), found
    assert not {"Conv", "MatMul", "Gemm", "Clip"} & set(found)


def test_a_product_in_front_of_float_operators_gives_floats():
    done, report = quantised(conv_model("t = Transpose<perm=[0,2,3,1]>(x) m = MatMul(t, fc) y = Softmax(m)"))
    assert [n.op for n in done.nodes] == [
        "Transpose", "QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul", "Softmax"
    ]  # fmt: skip
    assert report.notes == ["left in float: Softmax (1), Transpose (1)"]


def test_movers_share_a_scale_and_a_branch_with_other_readers_keeps_its_own():
    body = (
        f"c = {CONV}(x, w) p = MaxPool<kernel_shape=[2,2]>(c) d = Conv(p, w4) k = Concat<axis=1>(p, d) y = Conv(k, w8)"
    )
    done, _ = quantised(conv_model(body, w4=weight(4, 4, 1, 1), w8=weight(3, 8, 1, 1)))
    scale = {n.inputs[0].name: n.inputs[1] for n in done.nodes if n.op == "QuantizeLinear"}
    assert scale["c"] is scale["p"]
    assert scale["d"] is scale["k"]
    assert scale["p"] is not scale["k"]


def test_a_graph_output_keeps_its_name_and_other_readers_see_the_same_numbers():
    model = conv_model(f"c = {CONV}(x, w, b) y = Conv(c, w1)", outputs="float[N,4,8,8] c, float[N,6,8,8] y")
    done, _ = quantised(model)
    assert [t.name for t in done.outputs] == ["c", "y"]
    assert done.outputs[0].inputs[0].op == "DequantizeLinear"
    feeds = feeds_of(model)
    assert differences(run(model, feeds), run(done, feeds))["c"].snr_db > 25


def test_a_shared_weight_is_stored_once():
    done, _ = quantised(conv_model(f"a = {CONV}(x, w) r = Relu(a) y = {CONV}(r, w)"))
    first, second = (n for n in done.nodes if n.op == "Conv")
    assert first.inputs[1] is second.inputs[1]
    assert sum(t.values.dtype == np.int8 and t.values.ndim == 4 for t in done.constants().values()) == 1


def test_transposed_convolution_scales_its_second_axis_over_all_groups():
    text = """<ir_version: 8, opset_import: ["" : 13]> g (float[N,4,5,5] x) => (float[N,6,A,B] y) {
        y = ConvTranspose<group=2, strides=[2,2]>(x, w, b) }"""
    model = model_of(text, w=weight(4, 3, 3, 3), b=weight(6, seed=1))
    done, _ = quantised(model)
    dequantise = done.nodes[-1].inputs[1].inputs[0]
    assert dequantise.attrs["axis"] == 1 and dequantise.inputs[1].values.shape == (3,)
    feeds = feeds_of(model)
    assert differences(run(model, feeds), run(done, feeds))["y"].snr_db > 35
    assert np.allclose(run(done, feeds)["y"], run(twin(done), feeds)["y"], rtol=1e-5, atol=1e-5)


def test_alpha_and_beta_are_folded_into_the_integers():
    text = """<ir_version: 8, opset_import: ["" : 13]> g (float[N,4] x) => (float[N,5] y) {
        y = Gemm<alpha=0.25, beta=3.0>(x, fc, b) }"""
    model = model_of(text, fc=weight(4, 5), b=np.float32([2.0]))
    done, _ = quantised(model)
    assert not {"alpha", "beta"} & set(done.nodes[-1].attrs)
    assert done.nodes[-1].inputs[2].inputs[0].inputs[0].values.shape == (5,)
    feeds = feeds_of(model)
    assert differences(run(model, feeds), run(done, feeds))["y"].snr_db > 30


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_fewer_bits_use_fewer_numbers(bits):
    done, _ = quantised(conv_model(f"y = {CONV}(x, w)"), bits=bits)
    (values,) = stored(done).values()
    assert np.abs(values).max() == 2 ** (bits - 1) - 1


# rounding and bits


@pytest.fixture
def float_resnet20(resnet20_path):
    return Pipeline("clean,fuse", check="shapes").transform(resnet20_path).model


def snr(real, done, feeds) -> float:
    (difference,) = differences(run(real, feeds), run(done, feeds)).values()
    return difference.snr_db


def test_fitted_weights_of_four_bits_keep_within_a_point(float_resnet20, calib_data_path, test_data_path):
    test = np.load(test_data_path)
    feeds = {"image": test["image"][:500]}
    done, report = quantised(float_resnet20, calib_data_path, bits=4, rounding="gptq", calibration="mse")
    nearest, _ = quantised(float_resnet20, calib_data_path, bits=4)
    assert not any("rounded to nearest" in note for note in report.notes)
    assert max(np.abs(v).max() for v in stored(done).values()) == 7
    assert snr(float_resnet20, done, feeds) > snr(float_resnet20, nearest, feeds) + 5
    real, ours = (accuracy(run(m, feeds)["logits"], test["labels"][:500]) for m in (float_resnet20, done))
    assert ours >= real - 0.01


@pytest.mark.slow
def test_adaptive_rounding_is_better_still(float_resnet20, calib_data_path, test_data_path):
    feeds = {"image": np.load(test_data_path)["image"][:500]}
    gptq, adaptive = (
        quantised(float_resnet20, calib_data_path, bits=3, rounding=how)[0] for how in ("gptq", "adaptive")
    )
    assert snr(float_resnet20, adaptive, feeds) > snr(float_resnet20, gptq, feeds) + 1


@pytest.mark.parametrize("rounding", ["nearest", "gptq", "adaptive", "adaround", "seqmse"])
def test_biases_take_the_mean_error_of_every_kind_of_product(rounding):
    body = f"c = {CONV}(x, w, b) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) m = MatMul(f, fc) y = Add(m, b5)"
    model = conv_model(body, outputs="float[N,A] y", b5=weight(5))
    plain, _ = quantised(model, bits=3)
    done, _ = quantised(model, bits=3, rounding=rounding, bias_correction=True)
    feeds = feeds_of(model, seed=0, samples=8)  # the calibration inputs
    real, before, after = (run(m, feeds)["y"] for m in (model, plain, done))
    assert np.abs((after - real).mean(0)).max() < 0.5 * np.abs((before - real).mean(0)).max()
    assert np.abs(after - real).mean() < np.abs(before - real).mean()


@pytest.mark.parametrize("rounding", ["nearest", "gptq", "adaptive"])
def test_layers_that_nothing_fits_stand_ahead_of_those_that_are(rounding):
    """A ConvTranspose is rounded to nearest, and the Conv behind it is fitted to what that makes."""
    model = model_of(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4,5,5] x) => (float[N,3,9,9] y) {
            a = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, w0)  r = Relu(a)  b = Conv<pads=[1,1,1,1]>(r, w1)
            s = Relu(b)  c = ConvTranspose<pads=[1,1,1,1]>(s, w2)  t = Relu(c)  y = Conv(t, w3) }""",
        w0=weight(4, 6, 3, 3), w1=weight(6, 6, 3, 3), w2=weight(6, 5, 3, 3), w3=weight(3, 5, 1, 1),
    )  # fmt: skip
    done, report = quantised(model, bits=4, rounding=rounding, bias_correction=True)
    feeds = feeds_of(model, seed=0, samples=8)
    assert snr(model, done, feeds) >= snr(model, quantised(model, bits=4)[0], feeds)
    assert sum("is rounded to nearest" in note for note in report.notes) == 2


def test_bias_correction_is_never_worse_and_says_where_it_would_be(float_resnet20, calib_data_path):
    data = {"image": np.load(calib_data_path)["image"][:64]}
    for bits, stays in ((3, True), (4, False)):
        plain, corrected = (quantised(float_resnet20, data, bits=bits, bias_correction=c) for c in (False, True))
        before, after = (snr(float_resnet20, m, data) for m, _ in (plain, corrected))
        assert after == before if stays else after > before + 1
        assert any("biases stay" in note for note in corrected[1].notes) == stays


def test_auto_rounding_is_the_best_of_all_by_measured_error():
    model = conv_model(f"c = {CONV}(x, w, b) r = Relu(c) y = {CONV}(r, w2, b)", w2=weight(4, 4, 3, 3, seed=4))
    x = {"x": np.random.default_rng(0).normal(size=(64, 4, 8, 8)).astype(np.float32)}
    done, report = quantised(model, x, bits=3, rounding="auto")
    each = {
        how: quantised(model, x, bits=3, rounding=how)[0]
        for how in ("nearest", "seqmse", "gptq", "adaptive", "adaround")
    }
    found = {how: differences(run(model, x), run(m, x))["y"].snr_db for how, m in each.items()}
    assert differences(run(model, x), run(done, x))["y"].snr_db >= max(found.values())
    told = next(note for note in report.notes if "rounding=" in note)
    assert all(f"{how} {db:.1f}" in told for how, db in found.items() if how != "nearest")
    assert min(found[how] for how in ("seqmse", "adaround")) > found["nearest"]


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_four_bits_are_stored_as_four_bits_and_run_on_integers(form, tmp_path):
    body = f"c = {CONV}(x, w, b) r = Relu(c) y = {CONV}(r, w2)"
    model = conv_model(body, w=weight(16, 4, 3, 3), w2=weight(4, 16, 3, 3, seed=4), b=weight(16))
    plain, tight = (quantised(model, bits=4, form=form, store=store)[0] for store in ("bytes", "bits"))
    feeds = feeds_of(model)
    assert np.array_equal(run(plain, feeds)["y"], run(tight, feeds)["y"])
    sizes = [sum(t.values.nbytes for t in m.constants().values()) for m in (plain, tight)]
    assert sizes[1] < sizes[0] - 500 and max(t.values.size for t in tight.constants().values()) == 288
    assert fused_operators(tight, tmp_path) == fused_operators(plain, tmp_path)
    convs = [n for n in tight.nodes if n.op == "Conv"]
    for node in convs:
        other = next(n for n in plain.nodes if n.name == node.name)
        found = numbers.read(node.inputs[1])
        assert found.q.bits == 4 and np.array_equal(found.real(), numbers.read(other.inputs[1]).real())
    assert cost(tight, verify(tight)).params <= cost(plain, verify(plain)).params + 2


@pytest.mark.parametrize("rounding", ["gptq", "adaptive", "adaround"])
def test_rounding_takes_blank_pictures_and_large_offsets(rounding):
    model = conv_model(f"c = {CONV}(x, w, b) r = Relu(c) y = {CONV}(r, w2, b)", w2=weight(4, 4, 3, 3, seed=4))
    noise = np.random.default_rng(0).normal(size=(64, 4, 8, 8)).astype(np.float32)
    for x in (0 * noise, 0 * noise + 1, noise[:1].repeat(64, 0), 1000 + noise):
        done, _ = quantised(model, {"x": x}, rounding=rounding)
        found = differences(run(model, {"x": x}), run(done, {"x": x}))["y"].snr_db
        assert found > 25


def test_a_shared_weight_is_not_fitted_and_the_report_says_so():
    done, report = quantised(conv_model(f"a = {CONV}(x, w) r = Relu(a) y = {CONV}(r, w)"), rounding="gptq")
    assert sum("others use its weight" in note for note in report.notes) == 2
    assert len(done.constants()) and report.edits


def test_bits_by_product_keep_to_the_mean_and_spend_more_where_it_matters(float_resnet20, calib_data_path):
    done, _ = quantised(float_resnet20, calib_data_path, bits="auto", mean_bits=5)
    tops = {name: int(np.abs(v).max()) for name, v in stored(done).items()}
    bits = {name: top.bit_length() + 1 for name, top in tops.items()}
    sizes = {name: v.size for name, v in stored(done).items()}
    assert sum(bits[n] * sizes[n] for n in bits) <= 5 * sum(sizes.values())
    assert len(set(bits.values())) > 1
    feeds = {"image": np.load(calib_data_path)["image"][:64]}
    assert snr(float_resnet20, done, feeds) > snr(
        float_resnet20, quantised(float_resnet20, calib_data_path, bits=4)[0], feeds
    )


@pytest.mark.slow
def test_products_stay_in_float_for_an_snr(float_resnet20, calib_data_path):
    done, report = quantised(float_resnet20, calib_data_path, bits="auto", snr=42.0)
    kept = [r.node for r in report.refusals if "snr" in r.reason]
    assert 0 < len(kept) < 22
    feeds = {"image": np.load(calib_data_path)["image"][:8]}  # those that it was given
    assert snr(float_resnet20, done, feeds) >= 42.0


def test_what_disturbs_most_for_its_size_stays_in_float_first():
    noises = {"small": (100, 1.0e-4), "large": (100_000, 1.2e-4), "quiet": (100, 1e-7)}
    found = [mixed.Candidate(name, n, 1000, lambda b, noise=noise: noise) for name, (n, noise) in noises.items()]
    assert mixed.choose(found, None, 39.0) == {"small": mixed.FLOAT, "large": 8, "quiet": 8}
    assert set(mixed.choose(found, None, 70.0).values()) == {mixed.FLOAT, 8}


def test_noise_is_measured_ahead_of_softmax():
    model = conv_model(
        f"c = {CONV}(x, w) p = GlobalAveragePool(c) f = Flatten(p) y = Softmax(f)", outputs="float[N,4] y"
    )
    assert [mixed._ahead_of_softmax(model, t) for t in model.outputs] == ["f"]
    model = conv_model(f"y = {CONV}(x, w)")
    assert [mixed._ahead_of_softmax(model, t) for t in model.outputs] == ["y"]


# what it leaves alone


@pytest.mark.parametrize(
    "body, reason",
    [
        ("y = MatMul(x, x)", "both sides are activations"),
        ("y = MatMul(k, x)", "left side is the constant"),
        ("y = Conv(x, wn)", "not finite"),
        ("r = ReduceMax<axes=[0,2,3], keepdims=0>(x) y = Conv(x, w, r)", "its bias is computed"),
    ],
)
def test_do_not_quantise_what_cannot_be(body, reason):
    model = conv_model(body, k=weight(8, 8), wn=np.full((4, 4, 1, 1), np.nan, np.float32))
    done, report = quantised(model)
    assert [r.node for r in report.refusals] == [model.nodes[-1].name] and reason in report.refusals[0].reason
    assert not report.edits and "nothing to quantise" in report.notes[0]
    assert dump(done) == dump(model)


def test_a_residual_stream_that_begins_at_an_input_runs_on_integers(tmp_path):
    body = f"c = {CONV}(x, w4) s = Add(x, c) d = {CONV}(s, w5) y = Add(s, d)"
    w = {"w4": weight(4, 4, 3, 3), "w5": weight(4, 4, 3, 3)}
    done, _ = quantised(conv_model(body, **w))
    first = next(n for n in done.nodes if n.op == "Add")
    assert all(t.inputs and t.inputs[0].op == "DequantizeLinear" for t in first.inputs)
    assert fused_operators(done, tmp_path)["QLinearAdd"] == 1


def test_do_not_quantise_a_sum_that_no_product_reads():
    model = conv_model(f"c = {CONV}(x, w) d = {CONV}(x, w) s = Add(c, d) y = Softmax(s)")
    done, _ = quantised(model)
    assert [n.op for n in done.nodes][-2:] == ["Add", "Softmax"]


def test_do_not_fold_an_activation_with_another_range_or_reader():
    bounds = {"one": np.float32(1), "six": np.float32(6)}
    done, _ = quantised(conv_model(f"c = {CONV}(x, w) a = Clip(c, one, six) y = Conv(a, w1)", **bounds))
    clip = next(n for n in done.nodes if n.op == "Clip")
    assert clip.inputs[0].inputs[0].op == "DequantizeLinear"
    done, _ = quantised(conv_model(f"c = {CONV}(x, w) a = Relu(c) s = Add(c, a) y = Conv(s, w1)"))
    relu = next(n for n in done.nodes if n.op == "Relu")
    assert relu.inputs[0].inputs[0].op == "DequantizeLinear"


def test_ops_and_skip_choose():
    model = conv_model(f"c = {CONV}(x, w) p = MaxPool<kernel_shape=[2,2]>(c) y = Conv(p, w1)")
    first = model.nodes[0].name
    done, report = quantised(model, skip=f"{first}*")
    assert [r.node for r in report.refusals] == [first] and len(stored_convs(done)) == 1
    done, report = quantised(model, ops=["Conv"])
    assert [e.node for e in report.edits] == [first, model.nodes[2].name]
    with pytest.raises(BadOption, match="skip names no node"):
        quantised(model, skip=["nonsense*"])


def stored_convs(model) -> list:
    return [n for n in model.nodes if n.op == "Conv" and n.inputs[1].inputs]


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 9},
        {"bits": "auto"},
        {"snr": 40.0},
        {"bits": "auto", "mean_bits": 2.0},
        {"percentile": 99.0},
        {"calibration": "percentile", "percentile": 5.0},
        {"ops": ["Softmax"]},
        {"calibration": "x"},
    ],
)
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(BadOption):
        make("quant.int8", options)


def test_without_data_it_says_what_is_missing():
    with pytest.raises(BadOption, match="no runner or no data"):
        apply(make("quant.int8"), conv_model(f"y = {CONV}(x, w)"))


# opsets


@pytest.mark.parametrize("opset", [7, 9, 10, 12])
def test_older_models_are_raised(opset):
    model = conv_model(f"c = {CONV}(x, w, b) r = Relu(c) y = Softmax<axis=1>(r)", opset=opset)
    done, report = quantised(model)
    assert done.opset == 13 and f"raised from opset {opset} to 13: scales by channel need that" in report.notes
    feeds = feeds_of(model)
    assert differences(run(model, feeds), run(done, feeds))["y"].snr_db > 20


def test_where_that_fails_opset_12_gets_one_scale_per_weight_and_9_an_error():
    def with_function(opset: int):
        model = conv_model(f"c = {CONV}(x, w) y = Conv(c, w1)", opset=opset)
        model.functions = {("com.foreign", "F"): _identity_function(opset)}
        return model

    done, report = quantised(with_function(12))
    assert done.opset == 12 and "one scale per weight" in report.notes[0]
    scales = [n.inputs[1].values for n in done.nodes if n.op == "DequantizeLinear"]
    assert all(s.ndim == 0 for s in scales)
    with pytest.raises(Unsupported, match="cannot be raised from opset 9: it has model-local functions"):
        quantised(with_function(9))


def _identity_function(opset: int):
    node = onnx.helper.make_node("Identity", ["a"], ["b"])
    return onnx.helper.make_function("com.foreign", "F", ["a"], ["b"], [node], [onnx.helper.make_opsetid("", opset)])


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_a_light_model_of_opset_9_goes_all_the_way(name):
    light = Path(onnx.__file__).parent / f"backend/test/data/light/light_{name}.onnx"
    result = Pipeline("fuse,quant", check="shapes").transform(light)
    row = result.report.rows[-1]
    assert len(row.edits) > 20 and row.after.bytes < 0.35 * row.before.bytes
    Session(result.model.to_proto())


def test_loading_again_changes_nothing(tmp_path):
    done, report = quantised(conv_model(f"c = {CONV}(x, w, b) y = Relu(c)"))
    assert not any("--time" in note for note in report.notes)
    done.save(tmp_path / "q.onnx")
    assert dump(load(tmp_path / "q.onnx")) == dump(done)


@pytest.mark.parametrize(
    "body, low",
    [
        ("r = HardSwish(c)", -3.0),
        ("h = HardSigmoid<alpha=0.25, beta=0.5>(c) r = Mul(c, h)", -2.0),
        ("h = HardSigmoid(c) r = Mul(x, h)", -2.5),
        ("r = Tanh(c)", None),
    ],
    ids=["HardSwish", "gated", "HardSigmoid", "do_not_Tanh"],
)
def test_no_levels_are_spent_on_what_the_readers_cannot_tell_apart(body, low):
    model = conv_model(f"c = {CONV}(x, w) {body} y = Conv(r, w1)", opset=14, w=5 * weight(4, 4, 3, 3))
    done, report = quantised(model)
    assert any(note.startswith(("HardSwish (1)", "HardSigmoid (1)", "Tanh (1)")) for note in report.notes)
    quantiser = next(n for n in done.nodes if n.op == "QuantizeLinear" and n.inputs[0].name == "c")
    scale, zero = (float(t.values) for t in quantiser.inputs[1:])
    lowest = -scale * zero
    assert lowest == pytest.approx(low, abs=scale) if low else lowest < -10
