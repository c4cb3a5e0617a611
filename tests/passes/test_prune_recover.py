"""Recovery without labels: exact where it must be, better than nothing everywhere, and the accuracies that are promised."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxc import run_passes
from onnxc.ir.analysis import analyse
from onnxc.ir.cost import cost
from onnxc.ir.errors import BadOption
from onnxc.ir.files import load
from onnxc.ir.verify import verify
from onnxc.passes.base import Context, apply
from onnxc.passes.layers.linear import linear
from onnxc.passes.prune.uncut import Uncut
from onnxc.passes.registry import make
from onnxc.runtime.data import open_data
from onnxc.runtime.evaluate import Evaluator
from onnxc.runtime.reference import Runner, Session
from onnxc.runtime.specs import input_specs
from tests.conftest import ROOT, TRAINED
from tests.passes.prune_models import chain, network


def context(model, data=None, samples=64, seed=0):
    specs = input_specs(model.to_proto())
    rng = np.random.default_rng(3)
    arrays = data or {n: rng.normal(size=(samples, *s.shape[1:])).astype(np.float32) for n, s in specs.items()}
    return {"runner": Runner(optimise=False), "data": open_data(arrays, specs), "seed": seed, "synthetic": False}


def outputs(model, seed=11):
    specs = input_specs(model.to_proto())
    rng = np.random.default_rng(seed)
    x = {n: rng.normal(size=(8, *s.shape[1:])).astype(np.float32) for n, s in specs.items()}
    return next(iter(Session(model.to_proto()).run(x).values()))


def accuracy(model, path) -> float:
    with np.load(path) as data:
        logits = Session(model.to_proto()).run({"image": data["image"]})["logits"]
        return float((logits.argmax(1) == data["labels"]).mean())


def constants():
    """Half of the channels are constants: their batch normalisation has scale 0 and a shift of its own."""
    return chain(scales=np.array([1, 0, 1, 0, 0, 1, 0, 1.0]))


@pytest.mark.parametrize("how", ["bias", "lstsq", "all"])
def test_constant_channels_go_without_a_trace(how):
    model = constants()
    small, _ = apply(make("prune", {"criterion": "bn_scale", "recover": how}), model, **context(model))
    assert small.nodes[0].inputs[1].values.shape[0] == 4
    np.testing.assert_allclose(outputs(small), outputs(model), atol=2e-3 if how != "bias" else 1e-5)
    plain, _ = apply(make("prune", {"criterion": "bn_scale", "recover": "none"}), model)
    assert np.abs(outputs(plain) - outputs(model)).max() > 0.1


def halved(proto):
    """The same network in float16."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    for t in proto.graph.initializer:
        if t.data_type == onnx.TensorProto.FLOAT:
            t.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(t).astype(np.float16), t.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    del proto.graph.value_info[:]
    return load(proto)


@pytest.mark.parametrize("options", [{"ratio": 0.4}, {"macs": 0.6}], ids=str)
def test_float16_is_solved_as_float32_is(options):
    """Widths and an unequal use of channels make the plain cut lose far more than the solved one."""
    model = network(
        """g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
            [first] a = Conv<pads=[1,1,1,1]>(x, w1, b1)  r = Relu(a)
            [second] b = Conv<pads=[1,1,1,1]>(r, w2)  s = Relu(b)
            p = GlobalAveragePool(s)  f = Flatten(p)  [head] y = Gemm<transB=1>(f, w3) }""",
        w1=(24, 3, 3, 3), b1=(24,), w2=(24, 24, 3, 3), w3=(5, 24),
    )  # fmt: skip
    half = halved(model.to_proto())
    x = {n: np.random.default_rng(2).normal(size=(48, *s.shape[1:])) for n, s in input_specs(model.to_proto()).items()}
    noises = []
    for one, dtype in ((model, np.float32), (half, np.float16)):
        data = {n: a.astype(dtype) for n, a in x.items()}
        arguments = context(one, data)
        arguments["evaluator"] = Evaluator(arguments["runner"], arguments["data"])
        small, _ = apply(make("prune", options), one, **arguments)
        assert small.nodes[0].inputs[1].values.shape[0] < 24
        whole, cut = (next(iter(Session(m.to_proto()).run(data).values())).astype(np.float64) for m in (one, small))
        assert small.nodes[0].inputs[1].values.dtype == dtype
        noises.append(float(np.square(cut - whole).sum() / np.square(whole).sum()))
    assert noises[1] == pytest.approx(noises[0], rel=0.1, abs=1e-4) and noises[0] < 0.3


def test_a_budget_is_met_where_no_group_can_be_measured():
    """What transposed convolutions read is not solved for: the same share of each goes, by its weights."""
    model = network(
        """g (float[N, 8, 3, 3] x) => (float[N, 2, 9, 9] y) {
            [first] a = ConvTranspose(x, w1)  r = Relu(a)  [second] b = ConvTranspose(r, w2)  s = Relu(b)
            [third] y = ConvTranspose(s, w3) }""",
        w1=(8, 16, 3, 3), w2=(16, 16, 3, 3), w3=(16, 2, 3, 3),
    )  # fmt: skip
    arguments = context(model)
    arguments["evaluator"] = Evaluator(arguments["runner"], arguments["data"])
    small, _ = apply(make("prune", {"macs": 0.5}), model, **arguments)
    before, after = (cost(m, verify(m)).macs for m in (model, small))
    assert 0.4 * before < after <= 0.5 * before
    left = [n.inputs[1].values.shape[1] for n in small.nodes if n.op == "ConvTranspose"]
    assert max(left[:2]) - min(left[:2]) <= 1 and max(left[:2]) < 16 and left[2] == 2


def test_weights_that_were_trained_to_few_bits_are_told_of():
    model = chain(scales=np.array([1, 0.3, 1, 0.2, 0.1, 1, 0.4, 1.0]))
    node = [n for n in model.nodes if linear(model, n) is not None][1]
    node.inputs[1].values = np.sign(node.inputs[1].values)

    def repaired(**how):
        small, report = apply(make("prune", {"criterion": "bn_scale", "ratio": 0.5, **how}), model, **context(model))
        by_name = {n.name: n for n in small.nodes}
        gap = np.square(outputs(small) - outputs(model)).mean()
        rows = by_name[node.name].inputs[1].values.reshape(4, -1)
        return max(np.unique(row).size for row in rows), gap, report.notes

    floats, gap, notes = repaired()
    assert floats > 2 and any("second were trained to few bits, and are floats now" in n for n in notes)
    bits, more, notes = repaired(recover="bn")
    assert bits == 2 and not any("few bits" in n for n in notes) and gap < more < repaired(recover="none")[1]


def test_bias_hand_over_is_exact_inside_and_not_at_a_padded_rim():
    model = chain(scales=np.array([1, 0, 1, 0, 0, 1, 0, 1.0]), pad=1)
    small, _ = apply(make("prune", {"criterion": "bn_scale", "recover": "bias"}), model, **context(model))
    gap = np.abs(outputs(small) - outputs(model))
    assert gap[:, :, 1:-1, 1:-1].max() < 1e-5 < 1e-2 < gap.max()


@pytest.mark.parametrize("how", ["bias", "bn", "lstsq", "all"])
@pytest.mark.parametrize("fused", [False, True], ids=["batch norms", "fused"])
def test_every_recovery_brings_the_outputs_nearer(how, fused):
    model = network(
        """g (float[N, 3, 8, 8] x) => (float[N, 6] y) {
            [a] a = Conv<pads=[1,1,1,1]>(x, wa)
            [na] na = BatchNormalization(a, s, t, m, v)
            [ra] ra = Relu(na)
            [b] b = Conv<pads=[1,1,1,1]>(ra, wb)
            [nb] nb = BatchNormalization(b, s, t, m, v)
            [rb] rb = Relu(nb)
            [c] c = Conv<pads=[1,1,1,1]>(rb, wc)
            [sum] d = Add(ra, c)
            [pool] e = GlobalAveragePool(d)
            [flat] f = Flatten(e)
            [head] y = Gemm<transB=1>(f, wh, bh)
        }""",
        wa=(12, 3, 3, 3), wb=(12, 12, 3, 3), wc=(12, 12, 3, 3), wh=(6, 12), bh=(6,),
        s=np.ones(12), t=np.full(12, 0.5), m=np.zeros(12), v=np.ones(12),
    )  # fmt: skip
    if fused:
        model = run_passes(model, "fuse", check="shapes").model
    plain, _ = apply(make("prune", {"ratio": 0.4, "recover": "none"}), model)
    better, _ = apply(make("prune", {"ratio": 0.4, "recover": how}), model, **context(model))
    want = outputs(model)
    assert np.square(outputs(better) - want).sum() < np.square(outputs(plain) - want).sum()


def factored_and_pruned(first: str):
    """A network, samples for it, and its squared output error after passes that start with `first`."""
    model = network(
        """g (float[N, 3, 8, 8] x) => (float[N, 6] y) {
            [a] a = Conv<pads=[1,1,1,1]>(x, wa)
            [ra] ra = Relu(a)
            [b] b = Conv<pads=[1,1,1,1]>(ra, wb)
            [rb] rb = Relu(b)
            [c] c = Conv<pads=[1,1,1,1]>(rb, wc)
            [rc] rc = Relu(c)
            [pool] e = GlobalAveragePool(rc)
            [flat] f = Flatten(e)
            [head] y = Gemm<transB=1>(f, wh, bh)
        }""",
        wa=(16, 3, 3, 3), wb=(16, 16, 3, 3), wc=(16, 16, 3, 3), wh=(6, 16), bh=(6,),
    )  # fmt: skip
    x = np.random.default_rng(3).normal(size=(256, 3, 8, 8)).astype(np.float32)

    def run(given, passes):
        return run_passes(given, passes, data={"x": x}, check="shapes").model

    def gap(got):
        return float(np.square(outputs(got) - outputs(model)).mean())

    return model, run, gap, run(model, first)


def test_behind_a_factored_model_prune_repairs_after_the_model_that_was_factored():
    model, run, gap, low = factored_and_pruned("lowrank.channel(rank=8)")
    together = run(model, "lowrank.channel(rank=8), prune(ratio=0.25)")
    apart = run(low, "prune(ratio=0.25)")  # to which the factored model is all there is
    assert [n.name for n in together.nodes] == [n.name for n in apart.nodes]
    assert gap(together) < 0.6 * min(gap(apart), gap(low))


def test_lowrank_solves_layers_behind_a_factored_one_where_asked():
    model, run, gap, low = factored_and_pruned("lowrank.channel(rank=8)")
    better = run(model, "lowrank.channel(rank=8, recover=lstsq)")
    assert [n.name for n in better.nodes] == [n.name for n in low.nodes]
    assert gap(better) < 0.6 * gap(low)
    with pytest.raises(BadOption, match="looks at activations"):
        run_passes(model, "lowrank.channel(rank=8, recover=lstsq)", check="shapes")


def test_a_tensor_of_another_meaning_is_no_target():
    """Of two tensors of equal names and shapes the source's counts only where both are alike."""
    model, _, _, low = factored_and_pruned("lowrank.channel(rank=8)")
    source = model.copy()
    node = next(n for n in source.nodes if n.name == "b")
    source.set_weight(node, 1, node.inputs[1].values[::-1].copy())
    held = context(model)
    ctx = Context(verify(low), runner=held["runner"], data=held["data"], synthetic=False)
    uncut = Uncut(low, analyse(low), ctx, 64, source)
    assert uncut.maker("a") is source
    assert uncut.maker("b") is low
    assert uncut.maker("of neither") is None


def test_least_squares_finds_weights_that_reproduce_the_output(monkeypatch):
    """A channel that is a linear function of others costs nothing once the reader is solved anew, but for the ridge that
    holds weights near the old ones: without it what is left is the rounding of float32."""
    monkeypatch.setattr("onnxc.passes.prune.recover_lstsq.RIDGE", 1e-9)
    rng = np.random.default_rng(0)
    w = rng.normal(size=(8, 5))
    w[:, 3] = w[:, 0] - 2 * w[:, 1]
    model = network(
        "g (float[N, 8] x) => (float[N, 4] y) { [in] a = Gemm(x, w, b) [out] y = Gemm(a, v, c) }",
        w=w, b=(5,), v=rng.normal(size=(5, 4)) * np.array([3, 3, 3, 1, 3])[:, None], c=(4,),
    )  # fmt: skip
    options = {"ratio": 0.2, "criterion": "obs", "recover": "lstsq"}
    small, _ = apply(make("prune", options), model, **context(model, samples=256))
    np.testing.assert_allclose(outputs(small), outputs(model), atol=1e-4)


@pytest.mark.parametrize(
    "attrs",
    ["pads=[1,2,0,1]", "strides=[2,1], pads=[1,1,1,1]", "dilations=[2,1]", 'auto_pad="SAME_UPPER", strides=[2,2]',
     'auto_pad="SAME_LOWER", strides=[2,3]', 'auto_pad="VALID"', "group=2, pads=[0,1,0,1]", "group=4"],
)  # fmt: skip
def test_rows_times_matrix_is_the_convolution(attrs):
    group = 2 if "group=2" in attrs else 4 if "group=4" in attrs else 1
    model = network(
        f"g (float[N, 4, 9, 8] x) => (float[N, 8, H, W] y) {{ [conv] y = Conv<{attrs}>(x, w, b) }}",
        w=(8, 4 // group, 3, 2), b=(8,),
    )  # fmt: skip
    layer = linear(model, model.nodes[0])
    x = np.random.default_rng(1).normal(size=(2, 4, 9, 8)).astype(np.float32)
    y = Session(model.to_proto()).run({"x": x})["y"]
    picked = np.array([0, 3, int(np.prod(y.shape[2:])) - 1])
    rows = layer.rows(x, y.shape[2:], picked)
    ours = np.einsum("grk,gok->rgo", rows, layer.matrix()).reshape(-1, 8) + layer.bias
    np.testing.assert_allclose(ours, layer.pick(y, picked), atol=1e-4)
    np.testing.assert_array_equal(layer.as_weight(layer.matrix()), layer.weight)


def test_labels_are_not_read(resnet20_path, calib_data_path):
    with np.load(calib_data_path) as stored:
        image, labels = stored["image"][:64], stored["labels"][:64]
    model = load(resnet20_path)
    made = []
    for y in (labels, labels[::-1].copy()):
        given = context(model, {"image": image, "labels": y})
        made.append(apply(make("prune", {"macs": 0.7, "criterion": "hessian", "recover": "all"}), model, **given)[0])
    for a, b in zip(made[0].constants().values(), made[1].constants().values(), strict=True):
        np.testing.assert_array_equal(a.values, b.values)


def test_without_data_nothing_is_recovered(resnet20_path):
    report = run_passes(resnet20_path, "prune(macs=0.9)", check="data").report.rows[-1]
    again = run_passes(resnet20_path, "prune(macs=0.9, recover=none)", check="data").report.rows[-1]
    assert report.error == again.error


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, passes, least",
    [
        ("resnet20", "prune(macs=0.5)", 0.91),
        ("resnet20", "fuse, prune(macs=0.5)", 0.91),
        ("resnet20", "prune(macs=0.5, criterion=l1)", 0.90),
        ("vggslim", "prune(macs=0.4, criterion=bn_scale)", 0.90),
    ],
)
def test_accuracy_stays_without_labels(name, passes, least):
    """Measured with the bundled 256 calibration and 1,000 test images."""
    result = run_passes(TRAINED[name], passes, data=str(ROOT / "onnxc/data/fashion_calib.npz"), check="shapes")
    rows = result.report.rows
    assert rows[-1].after.macs <= (0.4 if name == "vggslim" else 0.5) * rows[0].before.macs
    assert accuracy(result.model, ROOT / "onnxc/data/fashion_test.npz") >= least


def in_turn():
    """Three convolutions in a chain read one weight."""
    return network(
        """g (float[N, 4, 6, 6] x) => (float[N, 5, 6, 6] y) {
            p0 = Conv(x, wa)
            q0 = Relu(p0)
            [one] p1 = Conv<pads=[1,1,1,1]>(q0, w)
            q1 = Relu(p1)
            [two] p2 = Conv<pads=[1,1,1,1]>(q1, w)
            q2 = Relu(p2)
            [three] p3 = Conv<pads=[1,1,1,1]>(q2, w)
            q3 = Relu(p3)
            [head] y = Conv(q3, wb)
        }""",
        wa=(16, 4, 1, 1), w=(16, 16, 3, 3), wb=(5, 16, 1, 1),
    )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        *({"recover": how, "criterion": "l1"} for how in ("lstsq", "bn", "bias", "all")),
        {"criterion": "redundancy", "recover": "none"},
    ],
    ids=lambda o: f"{o['criterion']}, {o['recover']}",
)
def test_a_weight_that_several_layers_read_stays_one(options):
    model = in_turn()
    small, report = apply(make("prune", {"ratio": 0.5, "round_to": 1, **options}), model, **context(model))
    stored = {id(n.inputs[1]): n.inputs[1].values.shape for n in small.nodes if n.op == "Conv"}
    assert sorted(stored.values()) == [(5, 8, 1, 1), (8, 4, 1, 1), (8, 8, 3, 3)]
    solves = options["recover"] in ("lstsq", "all")
    assert any("one, two, three: not solved, for their weights are shared" in n for n in report.notes) == solves
    budget = {"params": 0.6, "round_to": 1, **options}
    small, _ = apply(make("prune", budget), model, **context(model))
    weights = {id(t): t.values.size for n in small.nodes for t in n.inputs if hasattr(t, "values")}
    assert sum(weights.values()) <= 0.6 * (16 * 4 + 16 * 16 * 9 + 5 * 16)


def test_shared_apart_solves_each_layer():
    model = in_turn()
    options = {"ratio": 0.5, "round_to": 1, "criterion": "l1", "recover": "lstsq"}
    apart, _ = apply(make("prune", options | {"shared": "apart"}), model, **context(model))
    assert len({id(n.inputs[1]) for n in apart.nodes if n.op == "Conv"}) == 5
    alike, _ = apply(make("prune", options), model, **context(model))
    errors = [np.square(outputs(m) - outputs(model)).sum() for m in (apart, alike)]
    assert errors[0] < errors[1]
