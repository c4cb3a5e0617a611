"""lowrank.svd: exact at full rank, nearest at every other, refused where nothing is saved."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxc import run_passes
from onnxc.ir.cost import cost
from onnxc.ir.errors import BadOption
from onnxc.ir.files import load
from onnxc.ir.model import Model
from onnxc.ir.text import dump
from onnxc.ir.verify import verify
from onnxc.passes.base import apply
from onnxc.passes.lowrank import target as targets
from onnxc.passes.lowrank.forms import FORMS, halves, pair
from onnxc.passes.registry import make
from onnxc.pipeline import Pipeline
from onnxc.runtime.data import open_data
from onnxc.runtime.reference import Session
from onnxc.runtime.specs import input_specs


def model_of(text: str, **weights: np.ndarray) -> Model:
    proto = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> ' + text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(w), k) for k, w in weights.items())
    return load(proto)


def weight(*shape: int, rank: int | None = None, seed: int = 0) -> np.ndarray:
    """Normal, or of low rank with a little noise."""
    rng = np.random.default_rng(seed)
    if rank is None:
        return rng.normal(size=shape).astype(np.float32)
    out, rest = shape[0], int(np.prod(shape[1:]))
    w = rng.normal(size=(out, rank)) @ rng.normal(size=(rank, rest)) + 1e-4 * rng.normal(size=(out, rest))
    return w.reshape(shape).astype(np.float32)


def feeds_of(model: Model, samples: int = 3) -> dict[str, np.ndarray]:
    return next(open_data(None, input_specs(model.to_proto()), seed=1, samples=samples).batches(samples))


def run(model: Model, feeds) -> dict[str, np.ndarray]:
    return Session(model.to_proto(), optimise=False).run(feeds)


def close(a, b, rtol: float) -> bool:
    return all(np.abs(a[k] - b[k]).max() <= rtol * np.abs(a[k]).max() for k in a)


def lowrank(model: Model, **options):
    return apply(make("lowrank.svd", options), model)


def factor_everything(model: Model, rank: int) -> Model:
    """Split every layer at this rank, whether or not that saves anything."""
    model = model.copy()
    analysis = verify(model).analysis
    for node in list(model.nodes):
        if model.is_standard(node, "Gemm", "MatMul", "Conv"):
            w = matrix(node)
            first, second = halved(w, min(rank, *w.shape))
            targets.replace(
                model, targets.target(analysis, [node]), FORMS["channel"], [first[None, :, :, None, None], second[None]]
            )
    return model


def matrix(node) -> np.ndarray:
    """The weight as [outputs, inputs], of a kernel of one position."""
    w = targets.weight(node)
    return w.reshape(w.shape[1:3])


# the decomposition


def halved(w: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """first [rank, n] and second [m, rank] of w [m, n]."""
    first, second = halves(pair(w[None].astype(np.float64))[0], rank)
    return first[0], second[0]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_it_is_the_singular_value_decomposition(m, n, seed):
    w = np.random.default_rng(seed).normal(size=(m, n))
    u, values, vt = np.linalg.svd(w, full_matrices=False)
    errors = pair(w[None])[1]
    for rank in range(1, min(m, n) + 1):
        first, second = halved(w, rank)
        assert first.shape == (rank, n) and second.shape == (m, rank)
        nearest = (u[:, :rank] * values[:rank]) @ vt[:rank]
        assert np.allclose(second @ first, nearest, atol=1e-5 * values[0])
        assert errors[rank - 1] == pytest.approx(np.square(values[rank:]).sum() / np.square(values).sum(), abs=1e-9)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_a_matrix_of_lower_rank_or_of_zeros_has_no_nan(shape):
    first, second = halved(np.ones(shape), 5)
    assert np.allclose(second @ first, 1, atol=1e-6)
    first, second = halved(np.zeros(shape), 2)
    assert not np.any(second @ first) and np.isfinite(first).all()
    assert not pair(np.zeros((1, *shape)))[1].any()


# layers


@st.composite
def single_layers(draw):
    """A model of one layer of each kind that can be factored, with every attribute that matters."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    m, n = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    w = rng.normal(size=(m, n)).astype(np.float32)
    weights = {"w": w}
    bias = draw(st.booleans())
    if bias:
        weights["b"] = rng.normal(size=m).astype(np.float32)
    kind = draw(st.sampled_from(["gemm", "matmul", "conv1", "conv2"]))
    if kind == "matmul":
        weights = {"w": w.T.copy()}
        lead = draw(st.sampled_from(["", "N,", "N,3,"]))
        return model_of(f"g (float[{lead}4,{n}] x) => (float[{lead}4,{m}] y) {{ y = MatMul(x, w) }}", **weights)
    if kind == "gemm":
        ta, tb = draw(st.booleans()), draw(st.booleans())
        weights["w"] = w if tb else w.T.copy()
        shape = f"{n},5" if ta else f"5,{n}"
        attrs = f"transA={int(ta)}, transB={int(tb)}, alpha=0.5, beta=2.0"
        call = f"Gemm<{attrs}>(x, w{', b' if bias else ''})"
        return model_of(f"g (float[{shape}] x) => (float[5,{m}] y) {{ y = {call} }}", **weights)
    d = int(kind[-1])
    weights["w"] = w.reshape(m, n, *[1] * d)
    stride, pads = draw(st.sampled_from([1, 2])), [draw(st.integers(0, 2)) for _ in range(2 * d)]
    attrs = f"strides=[{','.join([str(stride)] * d)}], pads=[{','.join(map(str, pads))}]"
    if draw(st.booleans()):
        attrs = f'strides=[{",".join([str(stride)] * d)}], auto_pad="SAME_UPPER", kernel_shape=[{",".join(["1"] * d)}]'
    sizes = ",".join(["6", "5"][:d])
    call = f"Conv<{attrs}>(x, w{', b' if bias else ''})"
    outs = ",".join(["P", "Q"][:d])
    return model_of(f"g (float[N,{n},{sizes}] x) => (float[N,{m},{outs}] y) {{ y = {call} }}", **weights)


@settings(max_examples=80)
@given(single_layers())
def test_full_rank_reproduces_every_layer(model):
    done = factor_everything(model, 10**9)
    verify(done, like=model)
    assert len(done.nodes) == 2 and done.nodes[1].name == model.nodes[0].name
    feeds = feeds_of(model)
    assert close(run(model, feeds), run(done, feeds), 1e-5)


@settings(max_examples=40)
@given(single_layers(), st.integers(1, 4))
def test_the_pass_factors_just_where_macs_and_parameters_fall(model, rank):
    before = cost(model, verify(model))
    done, report = lowrank(model, rank=rank)
    after = cost(done, verify(done, like=model))
    m, n = matrix(model.nodes[0]).shape
    if rank * (m + n) < m * n:
        assert len(report.edits) == 1 and after.macs < before.macs and after.params < before.params
        assert f"{before.macs} MACs to {after.macs}" in report.edits[0].what
        theirs = run(factor_everything(model, rank), feeds_of(model))
        assert close(theirs, run(done, feeds_of(model)), 1e-6)
    else:
        assert dump(done) == dump(model)
        assert f"not {m * n}" in report.refusals[0].reason and len(report.refusals) == 1


def test_a_layer_of_low_rank_is_found_and_kept():
    model = model_of("g (float[N,64] x) => (float[N,32] y) { y = Gemm<transB=1>(x, w, b) }",
                     w=weight(32, 64, rank=5), b=weight(32))  # fmt: skip
    done, report = lowrank(model, energy=0.999999)
    assert "Gemm 32x64 to rank 5" in report.edits[0].what
    feeds = feeds_of(model)
    assert close(run(model, feeds), run(done, feeds), 1e-3)
    assert dump(lowrank(model, energy=0.999999)[0]) == dump(done)


def test_a_shared_weight_is_factored_once():
    model = model_of("g (float[N,16] x) => (float[N,16] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, w) }",
                     w=weight(16, 16, rank=3))  # fmt: skip
    done, report = lowrank(model, rank=3)
    assert len(report.edits) == 2 and len(done.constants()) == 2
    feeds = feeds_of(model)
    assert close(run(model, feeds), run(done, feeds), 1e-3)


@pytest.mark.parametrize(
    "body, reason",
    [
        ("y = Conv(x, k3)", "its kernel is 3x3, not 1x1"),
        ("y = Conv<group=2>(x, g2)", "it has groups"),
        ("w = Abs(c1) y = Conv(x, w)", "its weight is computed"),
        ("z = Conv(x, c1) u = Mul(c1, c1) v = ReduceSum(u) y = Add(z, v)", "its weight must stay for"),
        ("y = Conv(x, nan)", "not finite"),
        ("y = Conv(x, huge)", "too large to be squared"),
        ("y = MatMul(m, x)", "its weight is no constant"),
        ("y = MatMul(x, m3)", "its weight has rank 3"),
    ],
)
def test_do_not_factor(body, reason):
    names = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    weights = {
        "k3": weight(16, 16, 3, 3), "g2": weight(16, 8, 1, 1), "c1": weight(16, 16, 1, 1), "m": weight(8, 8),
        "nan": np.full((16, 16, 1, 1), np.nan, np.float32), "huge": weight(16, 16, 1, 1) * np.float32(1e37), "m3": weight(16, 8, 8),
    }  # fmt: skip
    text = f"g (float[N,16,8,8] x) => (float[N,16,P,Q] y) {{ {body} }}"
    model = model_of(text, **{k: v for k, v in weights.items() if k in names})
    done, report = lowrank(model, rank=2)
    assert len(report.refusals) == 1 and reason in report.refusals[0].reason
    assert not report.edits and dump(done) == dump(model)


def test_do_not_factor_by_data_that_are_not_finite():
    model = model_of("g (float[N,16] x) => (float[N,16] y) { v = Sqrt(x) y = MatMul(v, w) }", w=weight(16, 16))
    data = {"x": -np.ones((4, 16), np.float32)}
    report = run_passes(model, "lowrank.auto(energy=0.5)", data=data).report.rows[-1]
    assert not report.edits and "what it reads of the data is not finite" in report.refusals[0].reason


def test_do_not_factor_what_skip_names():
    model = model_of("g (float[N,16] x) => (float[N,16] y) { y = MatMul(x, w) }", w=weight(16, 16))
    _, report = lowrank(model, rank=2, skip="y*")
    assert "left out by skip" in report.refusals[0].reason and not report.edits


@pytest.mark.parametrize("options", [{"energy": 0.0}, {"energy": 1.5}, {"rank": 0}, {"rank": 3, "energy": 0.5}])
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(BadOption):
        make("lowrank.svd", options)


@pytest.mark.slow
def test_it_composes_with_pruning_and_quantisation(resnet20_path, calib_data_path, tmp_path):
    with np.load(calib_data_path) as data:
        np.savez(tmp_path / "few.npz", **{name: array[:48] for name, array in data.items()})
    result = Pipeline("lowrank,prune(ratio=0.1),quant", data=str(tmp_path / "few.npz")).transform(resnet20_path)
    rows = {r.name.split("(")[0]: r for r in result.report.rows}
    assert all(rows[name].edits for name in ("lowrank.auto", "prune.channels", "quant.int8"))
    assert result.report.rows[-1].after.bytes < 0.3 * result.report.rows[0].before.bytes
    Session(result.model.to_proto())
