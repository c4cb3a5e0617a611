"""The forms of convolutions: exact at full rank on every attribute, cheaper where they edit, refused with reasons."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxc.ir.cost import cost
from onnxc.ir.errors import BadOption
from onnxc.ir.files import load
from onnxc.ir.model import Model
from onnxc.ir.verify import verify
from onnxc.passes.base import apply
from onnxc.passes.layers.linear import linear
from onnxc.passes.layers.moments import Moments
from onnxc.passes.lowrank.common import Factorise
from onnxc.passes.lowrank.cp import OnData
from onnxc.passes.lowrank.fit import Plain, Whitened, error, likely, refine
from onnxc.passes.lowrank.forms import FORMS
from onnxc.passes.lowrank.moments import fitted
from onnxc.passes.lowrank.rank import Budget, Choice, leads, spend, vbmf_rank
from onnxc.passes.lowrank.target import replace, target
from onnxc.passes.registry import make
from onnxc.pipeline import Pipeline
from onnxc.runtime.data import open_data
from onnxc.runtime.evaluate import Evaluator
from onnxc.runtime.reference import Runner, Session
from onnxc.runtime.specs import input_specs
from tests.passes.prune_models import network


def model_of(text: str, **weights: np.ndarray) -> Model:
    proto = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> ' + text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(w), k) for k, w in weights.items())
    return load(proto)


def run(model: Model, seed: int = 1) -> np.ndarray:
    feeds = next(open_data(None, input_specs(model.to_proto()), seed=seed, samples=2).batches(2))
    (y,) = Session(model.to_proto(), optimise=False).run(feeds).values()
    return y


@st.composite
def convolutions(draw):
    """One Conv or ConvTranspose with groups, strides, pads, dilations, of one to three kernel axes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    d = draw(st.sampled_from([2, 2, 2, 1, 3]))
    groups, o, c = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    kernel = [draw(st.integers(1, 4)) for _ in range(d)]
    strides, dilations = ([draw(st.integers(1, 2)) for _ in range(d)] for _ in range(2))
    attrs = {"group": groups, "strides": strides, "dilations": dilations}
    transposed = draw(st.booleans())
    if transposed:
        attrs["output_padding"] = [draw(st.integers(0, s - 1)) for s in strides]  # ORT takes no more
        attrs["pads"] = [draw(st.integers(0, min(1, k - 1))) for k in kernel * 2]
    elif draw(st.booleans()):
        attrs["auto_pad"] = '"SAME_UPPER"'
        attrs["dilations"] = [1] * d
    else:
        attrs["pads"] = [draw(st.integers(0, 2)) for _ in range(2 * d)]
    shape = (groups * c, o, *kernel) if transposed else (groups * o, c, *kernel)
    weights = {"w": rng.normal(size=shape).astype(np.float32)}
    if draw(st.booleans()):
        weights["b"] = rng.normal(size=groups * o).astype(np.float32)
    said = ", ".join(f"{k}={str(v).replace(' ', '')}" for k, v in attrs.items())
    sizes, outs = ",".join(map(str, [11, 10, 9][:d])), ",".join(["P", "Q", "R"][:d])
    op = "ConvTranspose" if transposed else "Conv"
    call = f"{op}<{said}>(x, {', '.join(weights)})"
    return model_of(
        f"g (float[N,{groups * c},{sizes}] x) => (float[N,{groups * o},{outs}] y) {{ y = {call} }}", **weights
    )


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=40, deadline=None)
@given(model=convolutions())
def test_full_rank_reproduces_every_convolution(name, model):
    form, work = FORMS[name], model.copy()
    at = target(verify(work).analysis, [work.nodes[0]])
    if form.planar and work.nodes[0].inputs[1].values.ndim != 4:
        assert form not in at.forms([form])[0]
        return
    rank = form.full(at.w.shape)
    macs, params = at.cost(form, rank)
    replace(work, at, form, Whitened(form, at.w, None).factors(rank))
    checked = verify(work, like=model)
    found = cost(work, checked)
    assert (
        found.macs == macs and found.params == params + (len(model.nodes[0].inputs) > 2) * at.w.shape[0] * at.w.shape[1]
    )
    a, b = run(model), run(work)
    assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()


@pytest.mark.parametrize("name", FORMS)
def test_the_start_leaves_out_what_it_says_and_fitting_never_harms(name):
    rng = np.random.default_rng(0)
    w = rng.normal(size=(2, 7, 6, 3, 3))
    x = rng.normal(size=(2, 54, 200)) * np.linspace(0.1, 2, 54)[:, None]
    h = x @ x.transpose(0, 2, 1) / 200
    form = FORMS[name]
    start = form.start(w)
    n = len(start.ranks) // 2
    factors = form.at(start, start.ranks[n])
    plain = error(w, form.compose(factors), None)
    assert plain <= start.errors[n] + 1e-9 and (name == "tucker" or plain >= start.errors[n] - 1e-9)
    aware = error(w, form.compose(Whitened(form, w, h).factors(start.ranks[n])), h)
    assert aware < error(w, form.compose(factors), h)
    assert error(w, form.compose(refine(form, w, None, factors)), None) <= plain + 1e-9
    for k, factor in enumerate(factors[:-1]):  # <compose(.., d, ..), v> = <d, pulled(v)>
        d, v = rng.normal(size=factor.shape), rng.normal(size=w.shape)
        moved = form.compose([*factors[:k], d, *factors[k + 1 :]])
        assert (moved * v).sum() == pytest.approx((d * form.pulled(v, factors, k)).sum(), rel=1e-9)


@pytest.mark.parametrize("rank", [3, 11])  # fewer than outputs, and more
@pytest.mark.parametrize("kernel", [(3, 3), (2, 4), (1, 3)])
def test_cp_on_data_solves_each_small_factor_exactly(rank, kernel):
    """At the solution no direction lowers the error to first order, and steps either way raise it to second."""
    rng = np.random.default_rng(1)
    form, shape = FORMS["cp"], (2, 7, 5, *kernel)
    w, x = rng.normal(size=shape), rng.normal(size=(2, 5 * int(np.prod(kernel)), 300))
    x = x * np.linspace(0.2, 2, x.shape[1])[:, None] + 0.5 * x[:, ::-1]
    h = x @ x.transpose(0, 2, 1) / 300
    factors = [rng.normal(size=(2, rank, n)) for n in (5, *kernel)] + [rng.normal(size=(2, 7, rank))]
    fit = OnData(w, h)
    factors[3], left = fit.last(factors)
    assert left == pytest.approx(error(w, form.compose(factors), h), rel=1e-9)
    made = fit.others(factors)
    assert error(w, form.compose(made), h) < 0.999 * left and made[3] is factors[3]

    def around(at, k, d):
        moved = [f + d if n == k else f for n, f in enumerate(at)]
        return error(w, form.compose(moved), h)

    for at, k in (([*made[:2], factors[2], made[3]], 1), (made, 2), ([*made[:3], fit.last(made)[0]], 3)):
        best = error(w, form.compose(at), h)
        for _ in range(5):
            d = rng.normal(size=at[k].shape) * 1e-3
            up, down = around(at, k, d), around(at, k, -d)
            assert min(up, down) >= best and abs(up - down) < 1e-2 * (up + down - 2 * best)
    first = around([made[0], *factors[1:]], 0, 0)
    assert first < left


@pytest.mark.parametrize("shape, rank", [((2, 4, 9, 3, 3), 8), ((1, 16, 6, 3, 3), 5)])
def test_cp_on_data_is_no_worse_than_plain_sweeps(shape, rank):
    rng = np.random.default_rng(4)
    w = rng.normal(size=shape)
    x = rng.normal(size=(shape[0], int(np.prod(shape[2:])), 400))
    x *= np.geomspace(0.05, 2, x.shape[1])[:, None]
    h = x @ x.transpose(0, 2, 1) / 400
    form = FORMS["cp"]
    start = Whitened(form, w, h)
    begun = start.factors((rank,), 0)
    found = [begun, begun]
    for fit, n in ((OnData(w, h), 0), (Plain(form, w, h), 1)):
        for _ in range(12):
            made = fit.others(found[n])
            found[n] = [*made[:3], fit.last(made)[0]]
    solved, plain = (error(w, form.compose(f), h) for f in found)
    assert solved <= 1.001 * plain < error(w, form.compose(begun), h)


def layer(channels: int = 16, **more: np.ndarray) -> Model:
    rng = np.random.default_rng(3)
    w = rng.normal(size=(channels, channels, 3, 3)).astype(np.float32)
    text = f"g (float[N,{channels},9,9] x) => (float[N,{channels},9,9] y) {{ y = Conv<pads=[1,1,1,1]>(x, w) }}"
    return model_of(text, w=w, **more)


@pytest.mark.parametrize("name", ["spatial", "channel", "tucker", "cp", "separable", "auto"])
def test_a_budget_is_kept_and_both_costs_fall(name):
    model = layer()
    before = cost(model, verify(model))
    done, report = apply(make(f"lowrank.{name}", {"macs": 0.5}), model)
    after = cost(done, verify(done, like=model))
    assert len(report.edits) == 1 and after.macs <= 0.5 * before.macs and after.params < before.params


@pytest.mark.parametrize("name", ["spatial", "channel", "tucker", "cp"])
def test_ranks_are_rounded(name):
    _, report = apply(make(f"lowrank.{name}", {"macs": 0.6, "round_to": 4}), layer())
    said = report.edits[0].what.split("rank ")[1].split(":")[0].strip("()").split(",")
    assert all(int(v) % 4 == 0 for v in said)


@pytest.mark.parametrize("options", [{"macs": 0.55}, {"energy": 0.6}], ids=str)
def test_ranks_are_multiples_of_16_where_that_will_do(options):
    def outputs(model):
        return [n.inputs[1].values.shape[0] for n in model.nodes]

    done, report = apply(make("lowrank", options), layer(48))
    assert report.edits and all(n % 16 == 0 for n in outputs(done))
    plain, _ = apply(make("lowrank", options | {"round_to": 1}), layer(48))
    assert any(n % 16 for n in outputs(plain))
    small, report = apply(make("lowrank", {"macs": 0.6}), layer(6))  # nothing of 16 there
    assert report.edits and len(small.nodes) > 1


@pytest.mark.parametrize(
    "body, reason",
    [
        ('y = ConvTranspose<auto_pad="SAME_UPPER">(x, w)', "pads by auto_pad"),
        ("v = Abs(w) y = Conv(x, v)", "its weight is computed (Abs v)"),
        ("a = Conv(x, w) s = ReduceSum(w) y = Add(a, s)", "its weight must stay for"),
    ],
)
def test_do_not_factor(body, reason):
    w = np.ones((8, 8, 3, 3), np.float32)
    model = model_of(f"g (float[N,8,9,9] x) => (float[N,8,P,Q] y) {{ {body} }}", w=w)
    done, report = apply(make("lowrank.auto", {"energy": 0.5}), model)
    assert not report.edits and reason in report.refusals[0].reason and len(done.nodes) == len(model.nodes)


def test_do_not_split_1x1_into_forms_of_larger_kernels():
    model = model_of(
        "g (float[N,8,9,9] x) => (float[N,8,9,9] y) { y = Conv(x, w) }", w=np.ones((8, 8, 1, 1), np.float32)
    )
    _, report = apply(make("lowrank.spatial"), model)
    assert "larger than 1x1" in report.refusals[0].reason


@pytest.mark.parametrize("options", [{"macs": 0.5, "params": 0.5}, {"macs": -1.0}, {"rank": 2, "vbmf": True}])
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(BadOption):
        make("lowrank.auto", options)


def test_a_budget_out_of_reach_is_an_error():
    with pytest.raises(BadOption, match="budget cannot be met"):
        apply(make("lowrank.channel", {"macs": 0.001}), layer())
    text = "g (float[N,8,9,9] x) => (float[N,8,P,Q] y) { v = DequantizeLinear(w, s) y = Conv(x, v) }"
    stored = {"w": np.ones((8, 8, 3, 3), np.int8), "s": np.array(0.1, np.float32)}
    with pytest.raises(BadOption, match="no layer can be factored: its weight is quantised"):
        apply(make("lowrank.auto", {"macs": 0.5}), model_of(text, **stored))


def test_vbmf_finds_the_rank_under_noise():
    rng = np.random.default_rng(0)
    for rank in (1, 4, 9):
        m = rng.normal(size=(60, rank)) @ rng.normal(size=(rank, 200)) + 0.5 * rng.normal(size=(60, 200))
        assert vbmf_rank(np.square(np.linalg.svd(m, compute_uv=False)), 60, 200) == rank


def macs(layers: int, goal: float) -> Budget:
    """So much of layers of 100 MACs each."""
    return Budget("macs", goal, [100.0] * layers, "macs", [100.0] * layers)


def test_a_budget_is_spent_where_it_costs_least():
    form = FORMS["channel"]
    cheap = [Choice(form, (1,), 50, 50, 0.01), Choice(form, (2,), 80, 80, 0.001)]
    dear = [Choice(form, (1,), 50, 50, 0.5), Choice(form, (2,), 80, 80, 0.3)]
    picked = spend([dear, cheap], macs(2, 150))
    assert picked[0] is None and picked[1] is cheap[0]


def test_without_data_one_form_takes_every_layer_that_it_is_open_to():
    a, b = FORMS["cp"], FORMS["spatial"]
    at = [[Choice(a, (1,), 50, 50, e) for e in es[:1]] + [Choice(b, (1,), 50, 50, e) for e in es[1:]]
          for es in ((0.1, 0.08), (0.01, 0.5))] + [[Choice(b, (1,), 50, 50, 0.3)]]  # fmt: skip
    picked = spend(leads(at, macs(3, 150))[0], macs(3, 150))
    assert [c.form.name for c in picked] == ["cp", "cp", "spatial"]
    assert leads(at, macs(3, 10)) == []  # none meets the goal: nothing leads


def test_without_data_smooth_kernels_count_more():
    smooth, rough = np.zeros((2, 1, 1, 1, 3, 3))
    smooth[...], rough[...] = 1.0, [[1, -1, 1], [-1, 1, -1], [1, -1, 1]]
    w = smooth + rough
    assert likely(w, smooth) < 0.15 < 0.7 < likely(w, rough)
    assert likely(w, w) == 0 and likely(w, 0 * w) == pytest.approx(1)
    x = np.random.default_rng(0).normal(size=(1, 4, 3, 1, 1))
    assert likely(x, x / 2) == pytest.approx(0.25)  # without taps it is the error of the weight


@pytest.mark.parametrize("better", [0, 1])
def test_of_two_plans_that_of_the_nearest_outputs_stays(better, monkeypatch):
    text = """g (float[N,8,6,6] x) => (float[N,8,6,6] y)
              { a = Conv<pads=[1,1,1,1]>(x, v) r = Relu(a) y = Conv<pads=[1,1,1,1]>(r, w) }"""
    rng = np.random.default_rng(4)
    model = model_of(text, **{k: rng.normal(size=(8, 8, 3, 3)).astype(np.float32) for k in "vw"})
    data = open_data(None, input_specs(model.to_proto()), seed=1, samples=8)
    runner = Runner()
    given = {"runner": runner, "data": data, "evaluator": Evaluator(runner, data)}

    def plans(_pass, _model, _ctx, _found, choices, aware, _report):
        fine = [max(c, key=lambda o: o.macs) for c in choices]
        rough = [min(c, key=lambda o: o.macs) for c in choices]
        assert aware
        return [fine, rough] if better == 0 else [rough, fine]

    def factored(plan):
        monkeypatch.setattr(Factorise, "_plans", plan)
        return apply(make("lowrank.auto", {"macs": 0.5, "fit": "outputs"}), model, **given)

    done, report = factored(plans)
    alone, _ = factored(lambda *given: [plans(*given)[better]])
    assert len(report.edits) == 2 and "outputs on the data" in report.notes[-1]
    assert np.array_equal(run(done), run(alone)) and not np.array_equal(run(done), run(model))


@pytest.mark.parametrize("longer, nodes", [(50.1, 2), (51.0, 4)])
def test_of_plans_alike_that_of_the_fewest_nodes_stays(longer, nodes, monkeypatch):
    def plans(_pass, _model, _ctx, _found, choices, _aware, _report):
        return [[next(c for c in of if c.form.name == name) for of in choices] for name in ("cp", "spatial")]

    noises = iter([10 ** (-longer / 10), 1e-5])
    monkeypatch.setattr(Factorise, "_plans", plans)

    def judges(_reference, _samples):
        return lambda _model: SimpleNamespace(noise=next(noises))

    done, _ = apply(make("lowrank.auto", {"macs": 0.5}), layer(), evaluator=judges)
    assert len(done.nodes) == nodes


def test_data_make_the_outputs_closer(resnet20_path, calib_data_path):
    snr = {}
    for fit in ("weights", "outputs"):
        result = Pipeline(f"lowrank.channel(macs=0.7, fit={fit}, samples=64)", data=str(calib_data_path)).transform(
            resnet20_path
        )
        snr[fit] = result.report.rows[-1].error["snr_db"]
    assert snr["outputs"] > snr["weights"] + 2


def plain_als(w, rank, sweeps, start):
    """CP of w [o, c, i, j] by alternating least squares, one pseudoinverse a factor (Kolda and Bader 2009)."""
    b, a, u, v = start
    unfold = [w.reshape(len(w), -1), *(np.moveaxis(w, k, 0).reshape(w.shape[k], -1) for k in (1, 2, 3))]
    for _ in range(sweeps):
        factors = [b, a, u, v]
        for k in range(4):
            others = [f for n, f in enumerate(factors) if n != k]
            khatri = np.einsum("ar,br,cr->abcr", *others).reshape(-1, rank)
            factors[k] = unfold[k] @ np.linalg.pinv(khatri).T
        b, a, u, v = factors
    return float(np.square(w - np.einsum("or,cr,ir,jr->ocij", b, a, u, v)).sum() / np.square(w).sum())


@pytest.mark.parametrize("rank", [4, 12])
def test_cp_is_as_good_as_plain_alternating_least_squares(rank):
    rng = np.random.default_rng(rank)
    w = rng.standard_normal((12, 10, 3, 3)) * np.linspace(2, 0.2, 12)[:, None, None, None]
    form = FORMS["cp"]
    found = Whitened(form, w[None], None).factors((rank,))
    ours = error(w[None], form.compose(found), None)
    starts = [[rng.standard_normal((n, rank)) for n in w.shape] for _ in range(3)]
    plain = np.mean([plain_als(w, rank, 200, start) for start in starts])
    assert ours <= 1.01 * plain


def plain_als_on_data(w, root, rank, sweeps):
    """The same in the metric H = root root' of w [o, c, i, j]: dense least squares for each factor in turn, from the start that
    `Whitened` has."""
    n = w.shape[0]
    factors = [f[0] for f in Whitened(FORMS["cp"], w[None], (root @ root.T)[None]).factors((rank,), 0)]
    goal = (w.reshape(n, -1) @ root).ravel()
    for _ in range(sweeps):
        for k in (3, 0, 1, 2):
            made = []
            for e in np.eye(factors[k].size):
                tried = [f[None] for f in factors]
                tried[k] = e.reshape(tried[k].shape)
                made.append((FORMS["cp"].compose(tried)[0].reshape(n, -1) @ root).ravel())
            a = np.array(made)
            factors[k] = np.linalg.lstsq(a @ a.T, a @ goal, rcond=1e-12)[0].reshape(factors[k].shape)
    return FORMS["cp"].compose([f[None] for f in factors])


def test_cp_on_data_is_as_good_as_plain_alternating_least_squares():
    rng = np.random.default_rng(5)
    w = rng.standard_normal((6, 5, 3, 3)) * np.linspace(2, 0.2, 6)[:, None, None, None]
    root = np.linalg.cholesky(np.cov(rng.standard_normal((45, 90)) * np.linspace(0.2, 2, 45)[:, None]))
    h = (root @ root.T)[None]
    plain = error(w[None], plain_als_on_data(w, root, 6, 60), h)
    form = FORMS["cp"]
    assert error(w[None], form.compose(Whitened(form, w[None], h).factors((6,))), h) <= 1.01 * plain


def test_a_budget_of_parameters_holds_with_the_biases_that_fitting_adds():
    model = layer()
    before = cost(model, verify(model)).params
    data = {"x": np.random.default_rng(0).normal(size=(8, 16, 9, 9)).astype(np.float32)}
    done = Pipeline("lowrank.spatial(params=0.8,round_to=1)", data=data).transform(model).model
    assert done.nodes[-1].inputs[2].values.size and cost(done, verify(done)).params <= 0.8 * before


def test_vbmf_finds_both_ranks_of_tucker():
    rng = np.random.default_rng(0)
    core, left, right = rng.standard_normal((5, 3, 3, 3)), rng.standard_normal((32, 5)), rng.standard_normal((24, 3))
    w = np.einsum("qpij,oq,cp->ocij", core, left, right) + 0.05 * rng.standard_normal((32, 24, 3, 3))
    model = network("g (float[N, 24, 6, 6] x) => (float[N, 32, 6, 6] y) { [a] y = Conv<pads=[1,1,1,1]>(x, w) }", w=w)
    _, report = apply(make("lowrank.tucker", {"vbmf": True}), model)
    assert "rank (3, 5)" in report.edits[0].what


def test_the_target_leans_on_the_weight_where_data_say_nothing():
    """An input that is always zero on the data keeps its weights; the others are what makes the wanted outputs."""
    model = network("g (float[N, 4] x) => (float[N, 3] y) { y = Gemm(x, w, b) }", w=(4, 3), b=(3,))
    layer = linear(model, model.nodes[0])
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((400, 4)).astype(np.float32)
    rows[:, 2] = 0
    wanted = layer.matrix() + np.array([0.5, -0.5, 0, 0.25])
    seen = Moments(1, 4, 3)
    seen.add(rows[None], np.einsum("rk,gok->gro", rows, wanted))
    np.testing.assert_allclose(fitted(model, layer, seen, crossed=True).w, wanted, atol=2e-2)
