"""Embedding tables in few bits: every lookup finds the row it found, memory and file shrink, what cannot be done is said."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxc
from onnxc.passes.base import apply
from onnxc.passes.registry import make
from tests.apart import differences

from .quant_helpers import model_of, run

HEAD = '<ir_version: 8, opset_import: ["" : 13]> g '
TEXT = HEAD + "(int64[N,T] i, int64[N] j) => (y, z) { e = Gather(w, i) y = MatMul(e, u) z = Gather<axis=0>(w, j) }"
RNG = np.random.default_rng(6)


def network():
    w = (RNG.normal(size=(600, 48)) * np.exp(RNG.normal(size=(600, 1)))).astype(np.float32)
    return model_of(TEXT, w=w, u=RNG.normal(size=(48, 8)).astype(np.float32))


@pytest.mark.parametrize(
    "bits, dtype, least, share", [(8, np.int8, 40, 0.3), (4, ml_dtypes.int4, 17, 0.18), (2, ml_dtypes.int2, 4, 0.11)]
)
def test_every_reader_of_a_table_finds_its_rows(bits, dtype, least, share):
    model = network()
    done, report = apply(make("quant.embedding", {"bits": bits}), model)
    assert [edit.node for edit in report.edits] == ["w"]
    feeds = {"i": np.array([[0, 599, -1], [3, -600, 7]]), "j": np.array([5, -3])}
    found = differences(run(model, feeds), run(done, feeds))
    assert found["y"].snr_db > least and found["z"].snr_db > least
    stored = [t.values for t in done.constants().values() if t.values.dtype == dtype]
    assert [v.shape for v in stored] == [(600, 48)]
    table = model.constants()["w"].values.nbytes
    size = len(done.to_proto().SerializeToString()) - len(model.to_proto().SerializeToString()) + table
    assert size < share * table
    if bits == 8:  # no table of floats, at no time
        assert not any(node.op == "DequantizeLinear" for node in done.nodes)
    _, second = apply(make("quant.embedding", {"bits": bits}), done)
    assert not second.edits


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.sampled_from([8, 4]), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_tables_of_any_rank(inner, bits, seed):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(80, *inner)).astype(np.float32) * rng.choice([0, 1e-6, 1, 1e6], (80, *[1] * len(inner)))
    model = model_of(HEAD + "(int64[N] i) => (y) { y = Gather(w, i) }", w=w.astype(np.float32))
    done, report = apply(make("quant.embedding", {"bits": bits, "least": 1}), model)
    feeds = {"i": rng.integers(-80, 80, 30)}
    before, after = run(model, feeds)["y"], run(done, feeds)["y"]
    assert before.shape == after.shape and after.dtype == np.float32
    size = np.abs(before).reshape(30, -1).max(1).reshape(30, *[1] * len(inner))
    assert (np.abs(before - after) <= size / (127 if bits == 8 else 7) + 1e-12).all()
    if not report.edits:
        assert "do not pay" in str(report.refusals)


@pytest.mark.parametrize(
    "body, said",
    [
        ("{ e = Gather(w, i) y = MatMul(e, w) }", "MatMul reads it too"),
        ("{ y = Gather<axis=1>(w, i) }", "along another axis"),
        ("{ h = Cast<to=10>(w) y = Gather(h, i) }", "no Gather"),
    ],
)
def test_what_is_left_alone_is_said(body, said):
    w = RNG.normal(size=(64, 64)).astype(np.float32)
    _, report = apply(make("quant.embedding", {}), model_of(HEAD + "(int64[N] i) => (y) " + body, w=w))
    assert not report.edits and said in " ".join([*(str(r) for r in report.refusals), *report.notes])


@pytest.mark.parametrize("options, said", [({"skip": ["w"]}, "skip"), ({"least": 30_000}, "fewer than least")])
def test_options_leave_tables_alone(options, said):
    _, report = apply(make("quant.embedding", options), network())
    assert not report.edits and said in str(report.refusals)


@pytest.mark.parametrize("name", ["quant.int8", "quant.float16", "quant.cluster", "quant.hash", "quant.blockwise"])
def test_other_passes_say_what_tables_stay(name):
    result = onnxc.run_passes(network().to_proto(), name, check="shapes")
    said = " ".join(result.report.rows[-1].notes)
    assert "115200 bytes of tables that Gather looks up stay (w): quant.embedding" in said
