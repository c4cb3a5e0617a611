"""Recurrent layers first class: 8 bits, shared and few-bit weights, sparsity, low rank, pruning of hidden units."""

from __future__ import annotations

import numpy as np
import pytest

import onnxc
from onnxc.ir.cost import cost
from onnxc.ir.verify import verify

from .quant_helpers import feeds_of, model_of, run

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
HIDDEN, INPUTS = 24, 16


def network(op: str, way: str = "forward", opset: int = 17):
    d, g = 2 if way == "bidirectional" else 1, GATES[op]
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[T,1,{INPUTS}] x) => (float[T,{d},1,4] y) {{
      s, h = {op} <hidden_size = {HIDDEN}, direction = "{way}"> (x, W, R, B)
      y = MatMul(s, P)
    }}"""
    rng = np.random.default_rng(3)
    shapes = {"W": (d, g * HIDDEN, INPUTS), "R": (d, g * HIDDEN, HIDDEN), "B": (d, 2 * g * HIDDEN), "P": (HIDDEN, 4)}
    return model_of(text, **{n: (0.3 * rng.normal(size=s)).astype(np.float32) for n, s in shapes.items()})


def kinds(model) -> list[str]:
    return [n.op for n in model.nodes]


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("way", ["forward", "bidirectional"])
def test_int8(op, way):
    model = network(op, way)
    done = onnxc.run_passes(model, "quant")
    row = done.report.rows[-1]
    assert row.after.bytes < 0.35 * row.before.bytes and row.error["snr_db"] > 25
    assert row.after.macs == row.before.macs > 0
    assert ("DynamicQuantizeLSTM" in kinds(done.model)) == (op == "LSTM")
    assert "QuantizeLinear" in kinds(done.model)  # the product behind it
    assert any(e.node == "s" and "by row" in e.what for e in row.edits)
    again = onnxc.run_passes(done.model, "quant").report.rows[-1]
    assert not again.edits


def test_int8_of_weights_alone_is_dequantised():
    model = network("LSTM", "bidirectional")
    done = onnxc.run_passes(model, "quant(recurrent=weights, ops=[LSTM])").model
    assert kinds(done) == ["DequantizeLinear", "Reshape", "DequantizeLinear", "Reshape", "LSTM", "MatMul"]
    feeds = feeds_of(model)
    a, b = (run(m, feeds)["y"] for m in (model, done))
    assert 10 * np.log10(np.square(a).sum() / np.square(a - b).sum()) > 30
    kept = onnxc.run_passes(model, "quant(skip=[s])").report.rows[-1]
    assert any(r.node == "s" and "left out" in r.reason for r in kept.refusals)


@pytest.mark.parametrize(
    "passes, least",
    [("quant.cluster(bits=4)", 15), ("quant.blockwise", 15), ("quant.fixed(bits=8)", 25), ("quant.float16", 50)],
)
def test_few_bits(passes, least):
    row = onnxc.run_passes(network("GRU", opset=21), passes).report.rows[-1]
    assert {"s.W", "s.R"} <= {e.node for e in row.edits}
    assert row.after.bytes < 0.6 * row.before.bytes and row.error["snr_db"] > least


def test_sparsity():
    done = onnxc.run_passes(network("RNN"), "prune.magnitude(sparsity=0.75)").model
    weights = np.concatenate([done.constants()[name].values.ravel() for name in ("W", "R", "P")])
    assert np.mean(weights == 0) == 0.75


@pytest.mark.parametrize("op", GATES)
def test_hidden_units_are_pruned_through_the_gates(op):
    model = network(op)
    done = onnxc.run_passes(model, "prune(ratio=0.5)")
    (layer,) = [n for n in done.model.nodes if n.op == op]
    assert layer.attrs["hidden_size"] == HIDDEN // 2
    assert layer.inputs[2].values.shape == (1, GATES[op] * HIDDEN // 2, HIDDEN // 2)
    assert cost(done.model, verify(done.model)).params < 0.5 * cost(model, verify(model)).params


@pytest.mark.parametrize("way", ["forward", "bidirectional"])
def test_low_rank_of_what_an_lstm_reads(way):
    model = network("LSTM", way)
    w = model.constants()["W"].values
    flat = w.reshape(-1, INPUTS)
    u, s, v = np.linalg.svd(flat, full_matrices=False)
    low = ((u[:, :3] * s[:3]) @ v[:3]).reshape(w.shape).astype(np.float32)
    model.set_weight(model.nodes[0], 1, low)
    done = onnxc.run_passes(model, "lowrank.auto(energy=0.999)")
    row = done.report.rows[-1]
    assert kinds(done.model)[:2] == ["MatMul", "LSTM"] and row.after.params < row.before.params
    assert row.after.macs < row.before.macs and row.error["snr_db"] > 60
    assert [r.node for r in row.refusals if "R " in r.reason] == ["s"]


@pytest.mark.parametrize("op", GATES)
def test_units_that_can_be_cut_are_not_said_to_stay(op):
    report = onnxc.run_passes(network(op, "bidirectional"), "prune", check="shapes").report
    assert [e.node for e in report.rows[-1].edits] == ["s"]
    assert [r.reason for r in report.rows[-1].refusals] == ["its channels stay: a graph output has them"]
