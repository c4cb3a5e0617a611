"""Forms of weights: each leaves what its paper says, moves by its paper's gradient, and gives the same bytes again."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxc
from onnxc.ir.errors import BadOption, OnnxcError
from onnxc.runtime.reference import Session
from tests.torch.test_training import fitted, images, small

QUICK = "epochs=3,batch=16,rate=0.01"


def w2(result) -> np.ndarray:
    return result.model.constants()["w2"].values


def accuracy(result) -> float:
    return result.report.rows[-1].error["accuracy"]


@pytest.fixture(scope="module")
def trained():
    return fitted("train.finetune(epochs=8,batch=16,rate=0.01)").model


def on(model, passes, **settings):
    return onnxc.run_passes(model, passes, data=images(), **settings)


def test_shared_weights_stay_shared_and_zeros_zero(trained):
    start = "prune.magnitude(sparsity=0.5)"
    sparse, shared = on(trained, start), on(trained, f"{start},quant.cluster(bits=2,store=floats)")
    learnt = on(trained, f"{start},train.cluster(bits=2,store=floats,{QUICK})")
    before = w2(sparse)
    after = next(t.values for t in learnt.model.constants().values() if t.values.shape == before.shape)
    assert (after[before == 0] == 0).all() and len(np.unique(after)) == len(np.unique(w2(shared))) == 4
    assert ((after == 0) == (w2(shared) == 0)).all()
    assert not np.isin(after[after != 0], w2(shared)).any()
    packed = on(trained, f"{start},train.cluster(bits=2,{QUICK})").model
    values = {float(v) for n in packed.nodes if n.op == "Lookup" for v in n.inputs[1].values.ravel()}
    assert set(np.unique(after).tolist()) <= values


def test_a_hashed_table_learns_what_hashing_lost(trained):
    lost, learnt = (on(trained, p) for p in ("quant.hash(bits=8)", f"train.hash(bits=8,{QUICK})"))
    table = next(t for n, t in learnt.model.constants().items() if "w2" in n and n.endswith("codebook"))
    assert table.values.size == 8 * 12 * 9 // 4
    assert accuracy(learnt) > accuracy(lost) + 0.1


def test_sub_vectors_learn_and_their_codes_stay():
    start, codes = {}, {}
    for passes in (
        "quant.product(centroids=4,codebook=layer)",
        "train.product(centroids=4,codebook=layer,epochs=10,batch=16,rate=0.01)",
    ):
        model = fitted(passes).model
        (node,) = [n for n in model.nodes if n.op == "ProductLookup" and "w2" in n.name]
        codes[passes], start[passes] = (t.values for t in node.inputs[:2])
    (a, b), (c, d) = codes.values(), start.values()
    assert np.array_equal(a, b) and c.shape == d.shape and not np.array_equal(c, d)


def test_factors_are_trained(trained):
    taught = "train.lowrank(params=0.2,epochs=6,batch=16,rate=0.01)"
    lost, learnt = on(trained, "lowrank(params=0.2)"), on(trained, taught)
    shapes = [{n: t.values.shape for n, t in r.model.constants().items()} for r in (lost, learnt)]
    assert shapes[0] == shapes[1] and accuracy(learnt) > accuracy(lost)
    assert learnt.report.rows[-1].error["snr_db"] != lost.report.rows[-1].error["snr_db"]


@pytest.mark.parametrize("to, most", [("sparse", None), ("binary", 2), ("ternary", 3), ("bits3", 7)])
def test_admm_ends_in_its_set(trained, to, most):
    given = f"{to},sparsity=0.75" if to == "sparse" else f"{to},ends=false"
    w = w2(on(trained, f"train.admm(to={given},{QUICK})"))
    if most is None:
        assert np.mean(w == 0) == pytest.approx(0.75, abs=1e-3)
    else:
        assert 2 <= len(np.unique(w)) <= most
        assert set(np.round(np.unique(np.abs(w)) / np.abs(w).max(), 4)) <= {0, 0.25, 0.5, 1}


@pytest.mark.parametrize("levels, most", [("binary", 2), ("bits3", 7)])
def test_loss_aware_levels_are_left(trained, levels, most):
    w = w2(on(trained, f"train.proximal(levels={levels},ends=false,{QUICK})"))
    assert 2 <= len(np.unique(w)) <= most


def test_levels_are_nearest_where_the_loss_curves():
    import torch

    from onnxc.torch.forms import nearest

    rng = np.random.default_rng(0)
    w, d = (torch.from_numpy(rng.standard_normal(200)) for _ in range(2))
    d = d.abs()
    torch.testing.assert_close(nearest(w, (-1, 1), d), torch.sign(w) * (d * w.abs()).sum() / d.sum())

    def error(a, codes=(-1, 0, 1)):
        q = a * np.array(codes)
        return min(1e9, float((d.numpy() * np.square(w.numpy()[:, None] - q).min(1)).sum()))

    found = nearest(w, (-1, 0, 1), d)
    best = min(error(a) for a in np.linspace(0.1, 3, 300))
    assert float((d * (w - found).square()).sum()) <= 1.02 * best


def test_scales_of_either_sign_are_learnt(trained):
    w = w2(on(trained, f"train.ternary(scales=learnt,ends=false,{QUICK})"))
    values = np.unique(w)
    assert len(values) == 3 and values[1] == 0 and values[0] != -values[2]


def test_gradients_of_learnt_scales_are_the_papers():
    import torch

    from onnxc.torch.forms import _Sided

    w = torch.tensor([0.5, -0.4, 0.01, 0.9], requires_grad=True)
    up, down = (torch.tensor([s], requires_grad=True) for s in (2.0, 3.0))
    y = _Sided.apply(w, up, down, torch.tensor(0.045))
    assert y.tolist() == [2, -3, 0, 2]
    y.backward(torch.tensor([1.0, 10.0, 100.0, 1000.0]))
    assert w.grad.tolist() == [2, 30, 100, 2000] and up.grad.tolist() == [1001] and down.grad.tolist() == [-10]


def test_signs_are_drawn_by_chance_and_left_certain(trained):
    result = on(trained, f"train.binary(scale=layer,stochastic=true,ends=false,{QUICK})")
    assert len(np.unique(np.abs(w2(result)))) == 1
    import torch

    from onnxc.passes.train.objective import Form
    from onnxc.torch.forms import Clock, form

    w = torch.tensor([0.5, -0.5, 1.5, -1.5])  # mean |w| = 1: up in 0.75, 0.25, 1 and 0 of the draws
    torch.manual_seed(0)
    reading = form(Form("chance"), w, Clock())
    ups = torch.stack([reading(w) > 0 for _ in range(2000)]).float().mean(0)
    torch.testing.assert_close(ups, torch.tensor([0.75, 0.25, 1.0, 0.0]), atol=0.03, rtol=0)


def test_soft_sharing_gathers_weights_at_few_values(trained):
    result = on(trained, "train.soft_sharing(components=6,strength=1,epochs=12,batch=16,rate=0.01)")
    w = w2(result)
    assert 2 <= len(np.unique(w)) <= 6 and np.mean(w == 0) > 0.2
    assert accuracy(result) > 0.6


@pytest.mark.parametrize("passes", ["train.hwgq(bits=2,ends=false,", "train.two_step(bits=2,ends=false,"])
def test_inputs_and_weights_of_few_bits(trained, passes):
    result = on(trained, f"{passes}{QUICK})")
    ops = [n.op for n in result.model.nodes]
    assert ops.count("Quantize") >= 2
    rows = w2(result).reshape(8, -1)
    assert all(len(np.unique(row)) <= 3 for row in rows)


def test_labels_and_the_given_model_teach_together(trained):
    """Labels name one class for all images; with the teacher, the outputs stay nearer to the teacher's."""
    data = {**images(), "labels": np.zeros(96, int)}
    (wanted,) = Session(trained.to_proto()).run({"x": data["x"]}).values()
    away = {}
    for option in ("", ",distil=true"):
        passes = f"train.prune_retrain(sparsity=0.5,{QUICK},held=0{option})"
        model = onnxc.run_passes(trained, passes, data=data, check="shapes").model
        (y,) = Session(model.to_proto()).run({"x": data["x"]}).values()
        away[option] = float(np.square(y - wanted).mean())
    assert away[",distil=true"] < away[""] / 2, away


def test_a_model_of_a_file_teaches_in_the_place_of_the_given(trained, tmp_path):
    """A network with other weights draws the outputs to its own, of labels or none."""
    other = trained.copy()
    for constant in other.constants().values():
        if constant.values.dtype == np.float32 and constant.values.ndim > 1:
            constant.values = constant.values[::-1].copy()
    other.save(tmp_path / "other.onnx")
    data = images()
    (wanted,) = Session(other.to_proto()).run({"x": data["x"]}).values()

    def away(model) -> float:
        (y,) = Session(model.to_proto()).run({"x": data["x"]}).values()
        return float(np.square(y - wanted).mean())

    rows = {}
    for passes, of in (("distill", data), ("finetune", {**data, "labels": wanted.argmax(1)}), ("decay", data)):
        text = f'train.{passes}({QUICK},held=0,teacher="{tmp_path}/other.onnx")'
        rows[passes] = away(onnxc.run_passes(trained, text, data=of, check="shapes").model)
    assert all(row < 0.8 * away(trained) for row in rows.values()), (away(trained), rows)


@pytest.mark.parametrize(
    "change, said",
    [
        ("output", "the teacher must have the model's outputs"),
        ("input", "the teacher has an input that the model has not"),
    ],
)
def test_a_teacher_of_other_ends_is_refused(trained, tmp_path, change, said):
    proto = trained.to_proto()
    old, new = getattr(proto.graph, change)[0].name, "other"
    for node in proto.graph.node:
        node.input[:] = [new if n == old else n for n in node.input]
        node.output[:] = [new if n == old else n for n in node.output]
    for end in (*proto.graph.input, *proto.graph.output):
        end.name = new if end.name == old else end.name
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(BadOption, match=said):
        onnxc.run_passes(trained, f'train.distill(teacher="{tmp_path}/other.onnx")', data=images(), check="shapes")
    with pytest.raises(OnnxcError, match="cannot read"):
        onnxc.run_passes(trained, f'train.distill(teacher="{tmp_path}/none.onnx")', data=images(), check="shapes")


@pytest.mark.parametrize("inputs, op", [("xnor,smooth=true", "Binarize"), ("horq,bits=2", "ResidualBinarize")])
def test_inputs_and_weights_of_one_bit(inputs, op):
    result = fitted(f"train.binary(inputs={inputs},ends=false,epochs=6,batch=16,rate=0.01)")
    assert [n.op for n in result.model.nodes].count(op) == 3
    assert all(len(np.unique(row)) <= 2 for row in w2(result).reshape(8, -1))
    if op == "Binarize":  # the averages of the K map are no weights
        maps = [t.values for t in result.model.constants().values() if t.values.shape == (1, 1, 3, 3)]
        assert maps and all(np.array_equal(m, np.full_like(m, 1 / 9)) for m in maps)
    assert accuracy(result) > result.report.accuracy


def test_first_products_of_all_inputs_and_last_ones_of_all_outputs_keep_their_floats():
    rng = np.random.default_rng(0)
    shapes = {"wa": (6, 8), "wb": (5, 8), "mid": (8, 8), "left": (8, 3), "right": (8, 3)}
    weights = [
        onnx.numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), name) for name, s in shapes.items()
    ]
    joined = (("ya", "a", "wa"), ("yb", "b", "wb"), ("z", "r", "mid"), ("one", "z", "left"), ("two", "z", "right"))
    nodes = [helper.make_node("MatMul", [x, w], [y], w) for y, x, w in joined]
    nodes[2:2] = [helper.make_node("Add", ["ya", "yb"], ["s"]), helper.make_node("Relu", ["s"], ["r"])]

    def value(name, n):
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", n])

    ins, outs = [value("a", 6), value("b", 5)], [value("one", 3), value("two", 3)]
    proto = helper.make_model(helper.make_graph(nodes, "g", ins, outs, weights))
    data = {n: rng.standard_normal((32, k)).astype(np.float32) for n, k in (("a", 6), ("b", 5))}
    model = onnxc.run_passes(proto, f"train.binary({QUICK})", data=data, check="shapes").model
    kinds = {name: len(np.unique(np.abs(model.constants()[name].values))) for name in shapes}
    assert kinds.pop("mid") == 8 and min(kinds.values()) > 20  # one scale of each output


def test_the_smooth_gradient_of_a_sign_is_bi_reals():
    import torch

    from onnxc.torch.table import sign_through

    x = torch.tensor([-1.5, -0.5, 0.25, 1.5], requires_grad=True)
    sign_through(x, smooth=True).sum().backward()
    assert x.grad.tolist() == [0, 1, 1.5, 0]


def test_channels_go_by_their_forecast_and_the_rest_is_trained_on():
    result = fitted(f"train.early_prune(early=3,ratio=0.5,strength=0.9,{QUICK})")
    g = result.model.constants()["g"].values
    assert len(g) == 6 and (g != 0).all()
    assert len(result.report.rows[-1].trainings) == 2
    slimmed = fitted(
        "train.slim(epochs=3,batch=16,rate=0.01,strength=0.9),prune(criterion=bn_scale,ratio=0.5,recover=none)"
    )
    assert accuracy(result) > accuracy(slimmed)


def test_the_same_seed_gives_the_same_bytes_of_forms_that_draw(trained):
    def once():
        passes = f"train.binary(scale=layer,stochastic=true,{QUICK}),train.soft_sharing(components=5,{QUICK})"
        return on(trained, passes, seed=2).model.to_proto().SerializeToString(deterministic=True)

    assert once() == once()


@pytest.mark.parametrize(
    "passes, said",
    [
        ("train.binary(stochastic=true)", "signs are drawn by one scale"),
        ("train.binary(smooth=true)", "option smooth needs signs of inputs"),
        ("train.admm(to=binary,sparsity=0.5)", "option sparsity needs to=sparse"),
        ("train.proximal(skip=['*'])", "no product is left to train"),
        ("fuse,train.early_prune", "no batch normalisation"),
        ("train.finetune(shared_exponent=8,fixed_point=8)", "weights have one format"),
        ("train.finetune(precision=bfloat16,topk_gradient=0.5)", "emulated in float32"),
        ("train.finetune(average=0.9,fixed_point=8)", "averages of weights are none of their format"),
    ],
)
def test_what_has_no_form_is_refused_in_one_line(passes, said):
    with pytest.raises(BadOption, match=said):
        onnxc.run_passes(small(), passes, data=images())


def test_what_is_cut_is_the_smallest_share_wherever_it_is_looked_for():
    import torch

    from onnxc.torch.forms import _largest

    w = torch.from_numpy(np.random.default_rng(0).standard_normal((40, 25)).astype(np.float32))
    w[:9] = 0.5  # 225 equal ones: of those that are not all cut the first go
    for count in (0, 1, 300, 430, 500, 999):
        order = np.argsort(w.abs().numpy().ravel(), kind="stable")
        wanted = np.ones(1000, np.float32)
        wanted[order[:count]] = 0
        bound = abs(float(w.ravel()[int(order[count - 1])])) if count else 0.0
        for near in (0.0, bound, 1.03 * bound, 0.7 * bound, 9.0):
            mask, found = _largest(w, count / 1000, near)
            assert np.array_equal(mask.numpy().ravel(), wanted) and found == bound, (count, near)


def test_shared_weights_move_to_other_values_and_stay_few(trained):
    start = "prune.magnitude(sparsity=0.5)"
    sparse, begun = on(trained, start), on(trained, f"{start},quant.cluster(bits=2,store=floats)")
    moved = on(trained, f"{start},train.cluster(bits=2,assign=moving,store=floats,{QUICK})")
    before, shared, after = w2(sparse), w2(begun), w2(moved)
    assert (after[before == 0] == 0).all() and len(np.unique(after)) <= 4
    # where each stays with those that it shared a value with, a value that was is one that is
    pairs = {(float(a), float(b)) for a, b in zip(shared.ravel(), after.ravel(), strict=True)}
    assert len(pairs) > 4 and not np.isin(after[after != 0], shared).any()
    stored = on(trained, f"{start},train.cluster(bits=2,assign=moving,{QUICK})").model
    assert sum(n.op == "Lookup" for n in stored.nodes) == 3
    session, data = (Session(m.to_proto()) for m in (stored, moved.model)), images()
    a, b = (next(iter(s.run({n: data[n] for n in data if n != "labels"}).values())) for s in session)
    assert np.array_equal(a, b)


def test_biases_share_values_that_move():
    model = fitted("train.finetune(epochs=8,batch=16,rate=0.01),fuse").model  # the norms' shifts become biases
    left = on(model, f"train.cluster(bits=3,assign=moving,biases=2,{QUICK})").model.constants()
    before = {n: t.values for n, t in model.constants().items() if t.values.ndim == 1 and "bias" in n}
    assert before
    for name, b in before.items():
        assert len(np.unique(b)) > 4 >= len(np.unique(left[name].values)) > 1, name
    with pytest.raises(BadOption, match="biases share values that move"):
        on(model, "train.cluster(bits=3,biases=2)")


def test_shared_weights_of_a_hot_start_are_shared_all_the_same(trained):
    """A rate that makes every epoch worse than the start leaves shared weights, none as they were."""
    wild = on(trained, "train.cluster(bits=2,assign=moving,store=floats,epochs=1,batch=16,rate=0.3)")
    assert len(np.unique(w2(wild))) <= 4
