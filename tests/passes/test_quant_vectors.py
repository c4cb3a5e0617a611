"""Biases, slopes and codebooks in few bits: what becomes of them, that the file shrinks, and what stays."""

import numpy as np
import onnx

import onnxc
from onnxc.codegen.prepare.static import make_static
from onnxc.codegen.prepare.stored import Stored, Vectors
from onnxc.ir import functions, numbers
from onnxc.ir.text import dump
from onnxc.measure.inspect import inspect
from onnxc.passes.base import apply
from onnxc.passes.registry import make

from .quant_helpers import feeds_of, fused_operators, model_of, run

TEXT = """<ir_version: 8, opset_import: ["" : 13]> g (float[N,16,6,6] x) => (float[N,8] y) {
    c = Conv(x, w, b) p = PRelu(c, slope) d = Conv(p, v, e) f = GlobalAveragePool(d) g = Flatten(f) y = Gemm<transB=1>(g, u, h) }"""


def network(**others):
    """Convolutions whose weights share 4 values by layer, 2 by output, and 256; slopes of which some are next to nothing."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    slope = normal(200, 1, 1)
    slope[:100] *= 1e-6
    weights = {
        "w": rng.choice(normal(4), (200, 16, 3, 3)),
        "b": normal(200),
        "slope": slope,
        "v": np.sign(normal(200, 200, 3, 3)) * np.abs(normal(200, 1, 1, 1)),
        "e": normal(200),
        "u": rng.choice(normal(200), (8, 200)),
        "h": normal(8),
    }
    return onnxc.run_passes(model_of(TEXT, **(weights | others)).to_proto(), "quant.recognise(bits=8)").model


def done(model, **options):
    return apply(make("quant.vectors", options), model)


def test_vectors_are_integers_and_codebooks_short():
    model = network()
    small, report = done(model)
    lookups = {n.inputs[1].values.shape: n for n in small.nodes if functions.is_lookup(n)}
    assert {shape: n.inputs[1].values.dtype.name for shape, n in lookups.items()} == {
        (1, 4): "float32", (200, 2): "int8", (1, 200): "float16"
    }  # fmt: skip
    stored = {n.inputs[0].name: n.inputs[0].values for n in small.nodes if n.op == "Cast" and not n.inputs[0].inputs}
    assert {name: (v.dtype.name, v.shape) for name, v in stored.items()} == {
        "b": ("int8", (200,)), "slope": ("int8", (200, 1, 1)), "e": ("int8", (200,))
    }  # fmt: skip
    assert np.array_equal(np.sign(stored["slope"]), np.sign(model.constants()["slope"].values))
    sizes = [len(m.to_proto().SerializeToString()) for m in (model, small)]
    constants = [sum(t.values.nbytes for t in m.constants().values()) for m in (model, small)]
    assert 0 < sizes[0] - sizes[1] < constants[0] - constants[1]
    assert {r.reason.split(": ")[-1] for r in report.refusals} == {"nodes more and their names take more"}
    was, now = (run(m, feeds_of(model))["y"] for m in (model, small))
    assert np.sum((was - now) ** 2) < 1e-3 * np.sum(was**2)
    onnx.checker.check_model(small.to_proto(), full_check=True)


def test_what_reads_numbers_sees_through_short_codebooks():
    """Each weight is the codebook's own within its step, packed still, and a library holds it packed."""
    model = network()
    small, _ = done(model)
    for before, after in zip(model.nodes[-6:], small.nodes[-6:], strict=True):
        assert before.op == after.op
        if before.op in ("Conv", "Gemm"):
            was, now = (numbers.read(n.inputs[1]) for n in (before, after))
            assert now.constant and now.q.bits == was.q.bits and now.real().dtype == np.float32
            assert np.abs(now.real() - was.real()).max() <= np.abs(was.real()).max() / 127
    static = make_static(small.to_proto(), {"x": (1, 16, 6, 6)})
    held = [a for a in static.constants.values() if isinstance(a, Stored)]
    assert sorted(a.codebook.shape for a in held) == [(1, 4), (200, 2)]


def test_codebooks_of_sub_vectors_are_short_too():
    """What they mean is their own in float16, and a library holds it packed."""
    rng, shapes = (
        np.random.default_rng(0),
        {"w": (200, 16, 3, 3), "v": (200, 200, 3, 3), "u": (8, 200), "b": 200, "e": 200, "h": 8},
    )
    drawn = {
        name: rng.normal(size=shape).astype(np.float32) for name, shape in (shapes | {"slope": (200, 1, 1)}).items()
    }
    coded = make("quant.product", {"codebook": "layer", "centroids": 64, "correct": False})
    model, _ = apply(coded, model_of(TEXT, **drawn))
    small, report = done(model)
    was, now = ([n for n in m.nodes if n.op == "ProductLookup"] for m in (model, small))
    assert now and {n.inputs[1].values.dtype.name for n in now} == {"float16"}
    for before, after in zip(was, now, strict=True):
        assert np.array_equal(before.inputs[1].values.astype(np.float16), after.inputs[1].values)
    assert sum("its codebook in 16 bits" in str(e) for e in report.edits) == len(now) == 3
    feeds = feeds_of(model)
    assert np.sum((run(model, feeds)["y"] - run(small, feeds)["y"]) ** 2) < 1e-3 * np.sum(run(model, feeds)["y"] ** 2)
    static = make_static(small.to_proto(), {"x": (1, 16, 6, 6)})
    assert sum(isinstance(a, Vectors) for a in static.constants.values()) == 2  # the third has 1,600 weights


def test_clean_leaves_them_and_a_second_run_does_nothing():
    small, _ = done(network())
    again, report = done(small)
    assert not report.edits and dump(again) == dump(small)
    cleaned, _ = apply(make("clean"), small)
    assert dump(cleaned) == dump(small)


def test_runtimes_fold_what_is_added(tmp_path):
    model = network()
    small, report = done(model)
    assert report.edits and fused_operators(small, tmp_path) == fused_operators(model, tmp_path)


def test_more_decibels_take_more_bits():
    model = network()
    for snr, dtype in ((30, np.int8), (60, np.float16), (100, np.float32)):
        small, _ = done(model, snr=snr)
        assert small.constants()["e"].values.dtype == dtype


def test_do_not_shorten_what_skip_names_or_cannot_be_held():
    spread = np.r_[1e6, np.full(199, 0.1)].astype(np.float32)
    for options, told in (({"skip": ["*"]}, "skip names it"), ({}, "dB are below 30")):
        small, report = done(network(b=spread, e=np.full(200, np.inf, np.float32)), **options)
        kept = {name for name, t in small.constants().items() if t.values.dtype == np.float32}
        assert {"b", "e"} <= kept and any(told in r.reason for r in report.refusals)


def test_layers_have_what_is_shortened_for_them():
    model = network()
    small, _ = done(model)
    was, now = ({r.name: r for r in inspect(m).layers if r.bytes} for m in (model, small))
    assert now.keys() == was.keys() == {n.name for n in model.nodes if n.op in ("Conv", "PRelu", "Gemm")}
    assert all(now[name].bits in (was[name].bits, 8) and now[name].bytes <= was[name].bytes for name in was)
    kept = {name: row.entropy for name, row in was.items() if row.entropy is not None}
    assert len(kept) == 3 and kept == {name: now[name].entropy for name in kept}
