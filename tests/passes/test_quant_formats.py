"""Weights stored as other numbers: what each format can hold, that the file shrinks, and that ONNX Runtime reads it."""

import ml_dtypes
import numpy as np
import pytest

import onnxc
from onnxc.ir.errors import BadOption
from onnxc.ir.text import dump
from onnxc.passes.base import apply
from onnxc.passes.registry import make
from tests.apart import differences

from .quant_helpers import feeds_of, model_of, run

RNG = np.random.default_rng(5)
TEXT = """<ir_version: 8, opset_import: ["" : 13]> g (float[N,16,6,6] x) => (float[N,10] y) {
    c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) m = MatMul(f, u) y = Gemm<transB=1>(m, v) }"""


def network():
    shapes = {"w": (32, 16, 3, 3), "b": (32,), "u": (32, 64), "v": (10, 64)}
    rng = np.random.default_rng(5)
    return model_of(TEXT, **{k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()})


def quantised(name: str, **options):
    model = network()
    done, report = apply(make(name, options), model, seed=1)
    feeds = feeds_of(model)
    return done, report, differences(run(model, feeds), run(done, feeds))["y"].snr_db


def stored(done, op: str) -> list[np.ndarray]:
    return [n.inputs[0].values for n in done.nodes if n.op == op]


@pytest.mark.parametrize(
    "name, options, op, dtype, least, share",
    [
        ("quant.float16", {}, "Cast", np.float16, 60, 0.52),
        ("quant.bfloat16", {}, "Cast", ml_dtypes.bfloat16, 40, 0.52),
        ("quant.fixed", {}, "DequantizeLinear", np.int16, 70, 0.52),
        ("quant.fixed", {"bits": 8}, "DequantizeLinear", np.int8, 25, 0.28),
        ("quant.fixed", {"bits": 8, "rounding": "stochastic"}, "DequantizeLinear", np.int8, 20, 0.28),
        ("quant.fixed", {"bits": 4}, "DequantizeLinear", ml_dtypes.int4, 7, 0.16),
        ("quant.fixed", {"bits": 2}, "DequantizeLinear", ml_dtypes.int2, 3, 0.1),
        ("quant.blockfloat", {"bits": 3}, "DequantizeLinear", ml_dtypes.int4, 7, 0.24),
        ("quant.blockfloat", {}, "DequantizeLinear", np.int8, 30, 0.36),
        ("quant.blockfloat", {"block": 0}, "DequantizeLinear", np.int8, 25, 0.28),
        ("quant.blockwise", {}, "DequantizeLinear", ml_dtypes.int4, 12, 0.24),
        ("quant.blockwise", {"symmetric": False}, "DequantizeLinear", ml_dtypes.uint4, 12, 0.25),
        ("quant.blockwise", {"bits": 2}, "DequantizeLinear", ml_dtypes.int2, 1, 0.18),
        ("quant.blockwise", {"bits": 8}, "DequantizeLinear", np.int8, 35, 0.36),
        ("quant.pow2", {}, "Lookup", np.uint8, 9, 0.25),
    ],
    ids=lambda v: str(v) if isinstance(v, (str, dict)) else "",
)
def test_a_format_keeps_what_it_can_and_the_file_shrinks(name, options, op, dtype, least, share):
    done, report, snr = quantised(name, **options)
    assert len(report.edits) == 3 and not report.refusals
    assert [v.dtype for v in stored(done, op)] == [dtype] * 3
    assert snr > least
    size = len(done.to_proto().SerializeToString()) / len(network().to_proto().SerializeToString())
    assert size < share
    again, second = apply(make(name, options), done, seed=1)
    assert not second.edits and dump(again) == dump(done)


def test_stochastic_rounding_keeps_the_mean_where_nearest_rounds_all_to_zero():
    w = np.full((64, 16, 3, 3), 0.3, np.float32)
    w[0, 0, 0, 0] = 120.0
    text = '<ir_version: 8, opset_import: ["" : 13]> g (float[N,16,6,6] x) => (float[N,64,4,4] y) { y = Conv(x, w) }'
    means = {}
    for rounding in ("nearest", "stochastic"):
        done, _ = apply(make("quant.fixed", {"bits": 8, "rounding": rounding}), model_of(text, w=w), seed=3)
        (integers,) = stored(done, "DequantizeLinear")
        means[rounding] = float(integers[1:].mean())
    assert means["nearest"] == 0 and abs(means["stochastic"] - 0.3) < 0.03


def test_more_bits_behind_the_point_saturate():
    done, _, _ = quantised("quant.fixed", bits=8, fraction=7)
    assert max(v.max() for v in stored(done, "DequantizeLinear")) == 127


def test_every_weight_of_pow2_is_zero_or_a_power_of_two():
    done, _, _ = quantised("quant.pow2", bits=3)
    for node in (n for n in done.nodes if n.op == "Lookup"):
        book = node.inputs[1].values.ravel()
        sizes = np.abs(book[book != 0])
        assert (book == 0).sum() == 1 and np.array_equal(np.log2(sizes), np.rint(np.log2(sizes)))


def test_pow2_fits_outputs_by_data_or_by_a_guess_of_the_inputs(resnet20_path, calib_data_path):
    """Plain rounding loses most of the signal; the grid is the same."""
    snrs, seen = {}, {"image": np.load(calib_data_path)["image"][:64]}
    for how, data in (("nearest", None), ("auto", None), ("auto", calib_data_path)):
        done = onnxc.run_passes(
            resnet20_path, f"fuse, quant.pow2(bits=3, rounding={how})", data=data, check="shapes"
        ).model
        snrs[how, data is not None] = onnxc.compare(resnet20_path, done, seen).outputs["logits"].snr_db
    assert snrs["auto", True] > snrs["auto", False] + 4 > snrs["nearest", False] + 6, snrs
    books = [n.inputs[1].values.ravel() for n in done.nodes if n.op == "Lookup"]
    assert books and all(len(b) == 7 and np.array_equal(np.log2(np.abs(b[b != 0])) % 1, b[b != 0] * 0) for b in books)


def test_do_not_store_what_half_floats_cannot_hold():
    text = '<ir_version: 8, opset_import: ["" : 13]> g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }'
    model = model_of(text, w=np.diag([1e6, 1, 1, 1]).astype(np.float32))
    done, report = apply(make("quant.float16"), model)
    assert "out of range" in report.refusals[0].reason and dump(done) == dump(model)
    assert apply(make("quant.bfloat16"), model)[1].edits


@pytest.mark.parametrize("name", ["quant.float16", "quant.bfloat16"])
def test_cleaning_keeps_weights_in_two_bytes(name):
    done, _, _ = quantised(name)
    again, report = apply(make("clean"), done)
    assert [n.op for n in again.nodes].count("Cast") == 3
    assert stored(again, "Cast")[0].dtype == stored(done, "Cast")[0].dtype
    assert any("on purpose" in r.reason for r in report.refusals)


def test_do_not_use_blocks_that_cost_more_than_they_save():
    text = '<ir_version: 8, opset_import: ["" : 21]> g (float[N,1,6,6] x) => (float[N,8,4,4] y) { y = Conv(x, w) }'
    _, report = apply(make("quant.blockwise"), model_of(text, w=RNG.normal(size=(8, 1, 3, 3)).astype(np.float32)))
    assert "do not pay" in report.refusals[0].reason and not report.edits


@pytest.mark.parametrize(
    "name, options",
    [
        ("quant.fixed", {"bits": 17}),
        ("quant.blockwise", {"bits": 3}),
        ("quant.blockwise", {"block": 1}),
        ("quant.blockfloat", {"block": 1}),
        ("quant.pow2", {"bits": 7}),
    ],
)
def test_options_that_do_not_fit_are_refused(name, options):
    with pytest.raises(BadOption):
        make(name, options)


def test_the_trained_network_keeps_its_accuracy_in_blocks_of_four_bits(resnet20_path, test_data_path):
    done = onnxc.run_passes(resnet20_path, "fuse, quant.blockwise(block=16)", check="shapes")
    with np.load(test_data_path) as test:
        feeds, labels = {"image": test["image"][:400]}, test["labels"][:400]
    real, ours = (run(m, feeds, True)["logits"].argmax(1) for m in (onnxc.load(resnet20_path), done.model))
    assert np.mean(ours == labels) >= np.mean(real == labels) - 0.02
