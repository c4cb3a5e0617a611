"""quant.product: the packed model equals its twin, codes and centroids do no worse than k-means, what is left alone."""

from itertools import pairwise

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from onnxc.ir import functions, numbers
from onnxc.ir.cost import cost
from onnxc.ir.errors import BadOption
from onnxc.ir.verify import verify
from onnxc.passes.base import Report, apply
from onnxc.passes.layers.stored import layers
from onnxc.passes.quant import product_fit, unseen
from onnxc.passes.quant.product_fit import Cut
from onnxc.passes.registry import make
from onnxc.runtime.data import open_data
from onnxc.runtime.reference import Runner
from onnxc.runtime.specs import input_specs

from .quant_helpers import feeds_of, model_of, run


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def network(opset: int = 13):
    """A convolution, a grouped one, transposed ones with and without groups, a MatMul, a batched one and a Gemm."""
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]> g (float[N,8,5,5] x) => (float[N,20] y) {{
        a = Conv<pads=[1,1,1,1]>(x, w1, b1)
        b = Relu(a)
        c = Conv<pads=[1,1,1,1], group=2>(b, w2)
        d = ConvTranspose(c, w3)
        e = ConvTranspose<group=2>(d, w4)
        f = GlobalAveragePool(e)
        h = Flatten(f)
        m = MatMul(h, w5)
        y = Gemm<transB=1>(m, w6, b6) }}"""
    return model_of(
        text, w1=draw(24, 8, 3, 3), b1=draw(24, seed=1), w2=draw(24, 12, 3, 3, seed=2), w3=draw(24, 8, 2, 2, seed=3),
        w4=draw(8, 12, 2, 2, seed=4), w5=draw(24, 32, seed=5), w6=draw(20, 32, seed=6), b6=draw(20),
    )  # fmt: skip


def coded(model, given: bool = True, **options):
    source = open_data(None, input_specs(model.to_proto()), samples=64)
    made = make("quant.product", {"centroids": 8, **options})
    return apply(made, model, runner=Runner(optimise=False), data=source, synthetic=not given)


def lookups(model) -> list:
    return [n for n in model.nodes if functions.is_lookup(n)]


@pytest.mark.parametrize("options", [{}, {"codebook": "layer"}, {"correct": False, "subvectors": 3}], ids=str)
def test_the_packed_model_equals_its_twin_and_the_numbers_that_are_read(options):
    model = network()
    done, _ = coded(model, **options)
    floats, _ = coded(model, **{**options, "store": "floats"})
    feeds = feeds_of(model)
    assert len(lookups(done)) == 6 and not lookups(floats)
    for optimise in (False, True):
        assert np.array_equal(run(done, feeds, optimise)["y"], run(floats, feeds, optimise)["y"])
    for node in floats.nodes:
        if node.op in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
            other = next(n for n in done.nodes if n.name == node.name)
            assert np.array_equal(numbers.read(other.inputs[1]).real(), node.inputs[1].values), node.op
    before, after = (cost(m, verify(m)) for m in (model, done))
    assert after.bytes < 0.5 * before.bytes and after.macs == before.macs


def test_the_body_is_that_of_onnx_too():
    codes = np.random.default_rng(0).integers(0, 5, (6, 4, 3, 1))
    for books in (1, 4):
        book = draw(books, 5, 2)
        model = model_of(
            '<ir_version: 8, opset_import: ["" : 13]> g (float[1] x) => (float[6,8,3,1] y) { y = Add(x, z) }', z=draw(1)
        )
        w = functions.product_lookup(model, "w", codes, book, 3, (6, 8, 3, 1))
        model.nodes[-1].inputs[1] = w
        want = np.stack([book[m % books][codes[:, m]] for m in range(4)], 1)  # [6, part, 3, 1, 2]
        want = want.transpose(0, 1, 4, 2, 3).reshape(6, 8, 3, 1)
        got = ReferenceEvaluator(model.to_proto()).run(None, {"x": np.zeros(1, np.float32)})[0]
        assert np.array_equal(got, want)
        assert np.array_equal(functions.weight(w.inputs[0]), want)


def correlated(rows: int, columns: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.normal(size=(rows, columns // 4)) @ rng.normal(size=(columns // 4, columns)) + 0.3 * rng.normal(
        size=(rows, columns)
    )


@pytest.mark.parametrize("shared", [False, True])
def test_correction_lowers_the_error_of_the_outputs(shared):
    """Against plain k-means, written out: Gong's codebooks, each vector to the nearest centroid."""
    x, w = correlated(600, 48), np.random.default_rng(2).normal(size=(1, 20, 16, 3))
    h = (x.T @ x / len(x) + 1e-3 * np.eye(48))[None]
    cut, rng = Cut.of(w.shape, 4), np.random.default_rng
    u = cut.blocks(w)

    def error(codes, book):
        d = (product_fit.meant(codes, book) - u).transpose(0, 1, 2, 4, 3).reshape(20, 48)
        return float(((x @ d.T) ** 2).mean())

    plain = error(*product_fit.plain(u, 8, shared, rng(0)))
    found = error(*product_fit.corrected(u, cut.moments(h), 8, shared, rng(0)))
    assert found < 0.5 * plain


def test_each_step_of_the_correction_lowers_the_error():
    w, x = np.random.default_rng(2).normal(size=(2, 10, 8, 2)), correlated(400, 16)
    h = np.stack([x.T @ x / 400 + 1e-3 * np.eye(16)] * 2)
    cut = Cut.of(w.shape, 4)
    u, h = cut.blocks(w), cut.moments(h)
    codes, book = product_fit.plain(u, 4, False, np.random.default_rng(0))
    errors = [product_fit._error(u, h, codes, book)]
    for _ in range(3):
        book = product_fit._refit(u, h, codes, book)
        errors.append(product_fit._error(u, h, codes, book))
        codes = product_fit._descend(u, h, codes, book)
        errors.append(product_fit._error(u, h, codes, book))
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(errors)) and errors[-1] < 0.7 * errors[0]


def test_centroids_of_as_many_vectors_are_the_vectors():
    x = draw(12, 3).astype(np.float64)
    centroids, found = product_fit.kmeans(np.concatenate([x, x]), 16, np.random.default_rng(0))
    assert len(centroids) == 12 and np.allclose(centroids[found], np.concatenate([x, x]))


def test_do_not_code_what_has_no_sub_vectors_or_grows():
    text = """<ir_version: 8, opset_import: ["" : 13]> g (float[N,8,6,6] x) => (float[N,4,4,4] y) {
        a = Conv<group=8>(x, w1)
        y = Conv(a, w2) }"""
    model = model_of(text, w1=draw(8, 1, 3, 3), w2=draw(4, 8, 1, 1))
    done, report = coded(model)
    assert not report.edits and not lookups(done)
    reasons = {r.node: r.reason for r in report.refusals}
    assert any("no part" in r for r in reasons.values()) and any("take" in r for r in reasons.values())


def test_layers_have_centroids_of_their_own():
    model = network()
    names = [n.name for n in model.nodes if n.op in ("Conv", "Gemm")]
    done, report = coded(model, codebook="layer", centroids_by={"*": 16, names[0]: 4, names[1]: 0})
    books = {n.inputs[0].name.removesuffix("_packed"): n.inputs[1].values.shape[1] for n in lookups(done)}
    assert books == {"w1": 4, "w3": 16, "w4": 16, "w5": 16, "w6": 16}
    assert {r.node: r.reason for r in report.refusals}[names[1]] == "its centroids are 0"
    with pytest.raises(BadOption, match="option centroids_by names no layer"):
        coded(model, centroids_by={"nothing": 4})
    with pytest.raises(BadOption, match="0, or 2 to 256, each"):
        make("quant.product", {"centroids_by": {"*": 1}})


def test_without_data_codes_are_fitted_to_a_guess_of_the_inputs_and_the_report_says_so():
    model = network()
    a, report = coded(model, given=False, store="floats")
    b, plain = coded(model, correct=False, store="floats")
    assert any("no data were given" in n for n in report.notes) and not plain.notes
    given, ours, theirs = (layers(m, verify(m).analysis, [], Report()) for m in (model, a, b))
    errors = [
        [unseen.error(layer, layer.view() - other.view()) for other in both]
        for layer, *both in zip(given, ours, theirs, strict=True)
    ]
    assert all(fitted <= nearest * (1 + 1e-6) for fitted, nearest in errors)
    assert np.prod([fitted / nearest for fitted, nearest in errors]) < 0.5
