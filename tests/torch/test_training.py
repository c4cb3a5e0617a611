"""Training passes: they learn, keep what must stay, give the same bytes again, and go on after a kill."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxc
from onnxc.ir.errors import BadData, BadOption
from onnxc.ir.files import load
from onnxc.pipeline import Pipeline
from onnxc.runtime.reference import Session


def small(batch: int | str = "N", seed: int = 0) -> onnx.ModelProto:
    """Conv, batch normalisation, Relu, Conv, pool, Gemm: 8x8 images to three classes."""
    rng = np.random.default_rng(seed)

    def weight(name, *shape, scale=0.4):
        return numpy_helper.from_array((scale * rng.standard_normal(shape)).astype(np.float32), name)

    def level(name, value, n):
        return numpy_helper.from_array(np.full(n, value, np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "first", kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c1", "g", "b", "m", "v"], ["n1"], "norm"),
        helper.make_node("Relu", ["n1"], ["r1"], "act"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "second", kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Relu", ["c2"], ["r2"], "act2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"], "last"),
    ]
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])],
        [
            weight("w1", 12, 1, 3, 3), weight("w2", 8, 12, 3, 3), weight("w3", 8, 3), weight("b3", 3),
            level("g", 1, 12), level("b", 0, 12), level("m", 0, 12), level("v", 1, 12),
        ],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images(n: int = 96, labels: bool = True, seed: int = 1) -> dict[str, np.ndarray]:
    """Stripes along either axis, or none: what a convolution can tell apart."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    x = rng.standard_normal((n, 1, 8, 8)).astype(np.float32)
    wave = np.sin(np.arange(8) * np.pi / 2).astype(np.float32) * 2
    x[kind == 0] += wave[:, None]
    x[kind == 1] += wave
    return {"x": x, **({"labels": kind} if labels else {})}


def fitted(passes: str, data=None, **settings):
    return onnxc.run_passes(small(), passes, data=images() if data is None else data, **settings)


def told(result) -> tuple[float, float]:
    """The held loss before and after, as the report says."""
    note = result.report.rows[-1].notes[-1]
    before, after = note.split("held loss ")[1].split(" (")[0].split(" -> ")
    return float(before), float(after)


def test_finetuning_learns_from_labels():
    result = fitted("train.finetune(epochs=12,batch=16)")
    before, after = told(result)
    assert after < 0.75 * before
    assert result.report.rows[-1].error["accuracy"] > result.report.accuracy + 0.1


def test_a_training_tells_its_scores_and_how_weights_spread():
    data = images()
    (told,) = fitted("train.finetune(epochs=1,rate=0.01,held=0.5)", data).report.rows[-1].trainings
    held = np.random.default_rng([0, 1]).permutation(96)[:48]
    (logits,) = Session(small()).run({"x": data["x"][held]}).values()
    assert (told["score"], len(told["scores"])) == ("accuracy", 2)
    assert told["scores"][0] == pytest.approx(np.mean(logits.argmax(1) == data["labels"][held]))
    before, after = told["weights"]
    assert before != after and sum(before) > 900 and told["span"] > 0  # of 1,019 weights, those within three deviations
    result = fitted("train.distill(epochs=1,rate=0.01)", images(labels=False))
    (told,) = result.report.rows[-1].trainings
    assert told["score"] == "agreement" and told["scores"][0] == 1.0


def test_distillation_gives_back_what_pruning_took_without_labels():
    data = images(labels=False)
    pruned = fitted("prune(ratio=0.5,recover=none)", data)
    taught = fitted("prune(ratio=0.5,recover=none),train.distill(epochs=15,batch=16)", data)
    assert taught.report.rows[-1].error["snr_db"] > pruned.report.rows[-1].error["snr_db"] + 3


def test_maps_of_attention_are_learnt():
    from onnxc.torch.losses import attention
    from onnxc.torch.network import Network

    data, apart = images(labels=False), []
    goal = Network(small())(data, ["r2"])["r2"]
    for weight in (0, 30):
        passes = f"prune(ratio=0.5,recover=none),train.distill(epochs=4,batch=16,rate=0.01,features={weight})"
        model = fitted(passes, data).model
        apart.append(float(attention(Network(model)(data, ["r2"])["r2"], goal).detach()))
    assert apart[1] < 0.7 * apart[0]


def test_the_same_seed_gives_the_same_bytes_and_another_others():
    def once(seed):
        model = fitted("train.finetune(epochs=2,batch=16,rate=0.01)", seed=seed).model
        return model.to_proto().SerializeToString(deterministic=True)

    assert once(3) == once(3) != once(4)


def averaged_by_hand(passes: str, decay: float, monkeypatch) -> tuple[dict, dict]:
    """What a training of one epoch leaves, and the averages of its weights over the steps, by name."""
    from onnxc.torch import trainer

    real, seen = trainer._Fit.step, []

    def step(self, *args):
        loss = real(self, *args)
        seen.append({n: t.detach().numpy().copy() for n, t in self._places().items()})
        return loss

    monkeypatch.setattr(trainer._Fit, "step", step)
    model = fitted(passes).model
    # zeros and ones of one length are one tensor in a model, and get names of their own for training
    means = {t.name: numpy_helper.to_array(t) for t in small().graph.initializer if t.name in seen[0]}
    for k, weights in enumerate(seen, 1):
        d = min(decay, (1 + k) / (10 + k))
        means = {n: d * mean + (1 - d) * weights[n] for n, mean in means.items()}
    return {n: t.values for n, t in model.constants().items()}, means


def test_averages_of_the_steps_are_what_is_left(monkeypatch):
    # 12 steps: the number bounds what the first seven keep, the option what the others do
    left, means = averaged_by_hand("train.finetune(epochs=1,batch=8,held=0,rate=0.003,average=0.5)", 0.5, monkeypatch)
    assert {"w1", "w2", "w3", "b3", "g", "b"} <= means.keys()
    for name, mean in means.items():
        assert np.allclose(left[name], mean, rtol=0, atol=1e-6), name
    last, _ = averaged_by_hand("train.finetune(epochs=1,batch=8,held=0,rate=0.003)", 0.5, monkeypatch)
    assert np.abs(last["w1"] - left["w1"]).max() > 1e-4


@pytest.mark.parametrize(
    "kept", ["train.prune_retrain(sparsity=0.7", "prune.magnitude(0.7),train.cluster(bits=2,store=floats"]
)
def test_averages_keep_zeros_and_shared_values(kept):
    def once():
        return fitted(f"{kept},epochs=3,batch=16,rate=0.01,average=0.9)").model.constants()

    found, again = once(), once()
    for name in ("w1", "w2"):
        w = next(t.values for n, t in found.items() if n.startswith(name))
        assert np.mean(w == 0) == pytest.approx(0.7, abs=0.02)
        assert "cluster" not in kept or len(np.unique(w)) <= 4
    assert found.keys() == again.keys() and all(np.array_equal(t.values, again[n].values) for n, t in found.items())


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    from onnxc.torch import trainer

    passes = f'train.finetune(epochs=4,batch=16,checkpoint="{tmp_path}/c.pt")'
    whole = fitted("train.finetune(epochs=4,batch=16)").model.to_proto()
    real, calls = trainer._Fit.step, []
    trials = len(trainer.RATES) * trainer.TRIAL

    def dies(self, *args):
        calls.append(1)
        if len(calls) == trials + 13:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(trainer._Fit, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        fitted(passes)
    calls.clear()
    resumed = fitted(passes)
    assert 0 < len(calls) < trials
    ours, theirs = ({t.name: t.raw_data for t in m.graph.initializer} for m in (resumed.model.to_proto(), whole))
    assert ours == theirs


@pytest.mark.parametrize(
    "passes, steps",
    [("train.admm(to=ternary,ends=false,epochs=4", 20), ("train.soft_sharing(epochs=4", 20),
     ("train.early_prune(early=2,epochs=3", 25), ("train.prune_retrain(average=0.8,sparsity=0.5,epochs=4", 20),
     ("train.binary(scale=layer,stochastic=true,epochs=4", 20),
     ("train.cluster(bits=2,assign=moving,store=floats,average=0.8,epochs=4", 20)],
)  # fmt: skip
def test_killed_at_any_step_forms_go_on_to_the_same_weights(passes, steps, tmp_path, monkeypatch):
    from onnxc.torch import trainer

    given = f"{passes},batch=16,rate=0.01"
    whole = fitted(f"{given})").model.constants()
    real, calls, last = trainer._Fit.step, [], int(np.random.default_rng(len(passes)).integers(1, steps))

    def dies(self, *args):
        calls.append(1)
        if len(calls) == last:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(trainer._Fit, "step", dies)
    for _ in range(2):  # and again at that step after it went on
        calls.clear()
        try:
            resumed = fitted(f'{given},checkpoint="{tmp_path}/c.pt")')
        except KeyboardInterrupt:
            continue
        break
    else:
        monkeypatch.setattr(trainer._Fit, "step", real)
        resumed = fitted(f'{given},checkpoint="{tmp_path}/c.pt")')
    for name, t in resumed.model.constants().items():
        assert np.array_equal(t.values, whole[name].values), name


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path = tmp_path / "c.pt"
    fitted(f'train.finetune(epochs=1,rate=0.01,checkpoint="{path}")')
    with pytest.raises(BadData, match="checkpoint of another training"):
        fitted(f'train.finetune(epochs=2,rate=0.01,checkpoint="{path}")')
    path.unlink()
    distilled = f'train.distill(epochs=1,rate=0.01,temperature={{}},checkpoint="{path}")'
    fitted(distilled.format(2))
    others = images(labels=False, seed=2)
    for passes, data in ((distilled.format(3), None), (distilled.format(2), others)):
        with pytest.raises(BadData, match="checkpoint of another training"):
            fitted(passes, data)
    path.write_bytes(b"nonsense")
    with pytest.raises(BadData, match="no checkpoint"):
        fitted(f'train.finetune(epochs=1,rate=0.01,checkpoint="{path}")')


def test_a_checkpoint_that_cannot_be_written_is_told_ahead_of_training(tmp_path, monkeypatch):
    from onnxc.torch import checkpoints

    for path, said in ((tmp_path, "is a folder"), (tmp_path / "no/c.pt", "cannot be written to")):
        with pytest.raises(BadOption, match=said):
            fitted(f'train.finetune(epochs=1,checkpoint="{path}")')

    def full(state, path):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints.torch, "save", full)
    (tmp_path / ".c.pt.123").write_bytes(b"what a kill left")
    with pytest.raises(BadData, match="cannot be written: No space left"):
        fitted(f'train.finetune(epochs=1,rate=0.01,checkpoint="{tmp_path}/c.pt")')
    assert not list(tmp_path.iterdir())


def test_zeros_stay_zero():
    sparse = fitted("prune.magnitude(sparsity=0.6)").model
    before = sparse.constants()["w2"].values == 0
    after = onnxc.run_passes(sparse, "train.finetune(epochs=2,rate=0.02)", data=images()).model.constants()["w2"].values
    assert before.sum() >= 300 and (after[before] == 0).all() and (after[~before] != 0).any()


def test_prune_retrain_ends_at_its_sparsity():
    model = fitted("train.prune_retrain(sparsity=0.75,sparsity_by={last: 0.5},epochs=4,batch=16)").model
    for name, share in (("w1", 0.75), ("w2", 0.75), ("w3", 0.5)):
        values = model.constants()[name].values
        assert np.mean(values == 0) == pytest.approx(share, abs=0.5 / values.size + 1e-9), name


def test_weights_of_recurrent_layers_are_cut_too():
    def weight(name, *shape):
        values = np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32)
        return numpy_helper.from_array(values, name)

    nodes = [helper.make_node("GRU", ["x", "W", "R"], ["y", ""], "gru", hidden_size=5)]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [4, "N", 3]), ("y", None))]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight("W", 1, 15, 3), weight("R", 1, 15, 5)])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data = {"x": np.random.default_rng(0).standard_normal((4, 32, 3)).astype(np.float32)}
    result = onnxc.run_passes(proto, "train.prune_retrain(sparsity=0.6,epochs=2,batch=8,rate=0.01)", data=data)
    assert [np.mean(result.model.constants()[n].values == 0) for n in "WR"] == [0.6, 0.6]
    with pytest.raises(BadOption, match="no layer has such groups"):
        onnxc.run_passes(proto, "train.group_sparse(epochs=1)", data=data)


def test_slimming_shrinks_scales_of_batch_normalisations():
    plain = fitted("train.finetune(epochs=4,batch=16,rate=0.01)").model.constants()["g"].values
    slim = fitted("train.slim(epochs=4,batch=16,rate=0.01,strength=0.9)").model.constants()["g"].values
    assert np.abs(slim).sum() < 0.5 * np.abs(plain).sum()


@pytest.mark.parametrize("groups, axes", [("filters", (1, 2, 3)), ("channels", (0, 2, 3)), ("positions", (0, 1))])
def test_group_sparsity_shrinks_whole_groups(groups, axes):
    def sizes(strength):
        model = fitted(f"train.group_sparse(groups={groups},strength={strength},epochs=5,batch=16,rate=0.005)").model
        return np.sqrt(np.square(model.constants()["w2"].values).sum(axes))

    loose, tight = sizes(1e-6), sizes(0.97)
    gone = (tight == 0).sum()
    assert (loose > 0).all() and 0 < gone < tight.size and tight.sum() < 0.6 * loose.sum()


@pytest.mark.parametrize("kind", ["hanson", "plain"])
def test_decay_shrinks_small_weights_and_hansons_spares_large_ones(kind):
    def weights(strength):
        passes = f"train.decay(kind={kind},strength={strength},epochs=3,batch=16,rate=0.001)"
        return np.abs(fitted(passes).model.constants()["w2"].values).ravel()

    loose, tight = weights(1e-6), weights(0.5)
    order = np.argsort(loose)
    small, large = order[: len(order) // 4], order[-len(order) // 4 :]
    lost = [1 - tight[part].sum() / loose[part].sum() for part in (small, large)]
    assert lost[0] > 0.3
    assert lost[1] < 0.5 * lost[0] if kind == "hanson" else lost[1] == pytest.approx(lost[0], abs=0.15)


@pytest.mark.parametrize("name, levels", [("binary", 2), ("ternary", 3)])
def test_few_valued_weights_are_left_as_they_were_read(name, levels):
    result = fitted(f"train.{name}(epochs=3,batch=16,rate=0.01,ends=false)")
    w = result.model.constants()["w2"].values.reshape(8, -1)
    assert all(len(np.unique(row)) <= levels for row in w)
    assert len(np.unique(np.abs(w))) <= (8 if name == "binary" else 2)


def test_quantisation_aware_training_moves_steps_and_keeps_integers():
    plain = fitted("quant").model
    tuned = fitted("quant,train.qat(labels=true,epochs=3,batch=16,rate=0.01)").model
    kinds = {n: t.values.dtype for n, t in plain.constants().items()}
    assert {n: t.values.dtype for n, t in tuned.constants().items()} == kinds
    moved = [n for n, t in tuned.constants().items() if not np.array_equal(t.values, plain.constants()[n].values)]
    assert any(kinds[n] == np.int8 for n in moved) and any("scale" in n for n in moved)


def test_a_model_of_one_sample_a_run_trains_in_batches_all_the_same():
    data = images(labels=False)
    free = onnxc.run_passes(small(), "prune(ratio=0.5),train.distill(epochs=2,rate=0.01,batch=16)", data=data)
    fixed = onnxc.run_passes(small(1), "prune(ratio=0.5),train.distill(epochs=2,rate=0.01,batch=16)", data=data)
    for name, t in free.model.constants().items():
        if t.values.dtype.kind == "f":
            assert np.allclose(t.values, fixed.model.constants()[name].values, atol=1e-4), name


@pytest.mark.parametrize(
    "passes, data, said",
    [
        ("train.finetune", images(labels=False), "training on labels needs labels"),
        ("fuse,train.slim", images(), "no batch normalisation"),
        ("train.qat", images(), "holds no quantisers"),
        ("train.prune_retrain(sparsity_by={nothing: 0.5})", images(), "sparsity_by names no layer"),
        ("train.finetune(epochs=0)", images(), "option epochs does not fit"),
        ("train.finetune(augment=[turn])", images(), "option augment does not fit"),
        (
            "train.finetune(rate=0.01)",
            {**images(), "labels": np.full(96, 0.5, np.float32)},
            "expected whole numbers, found 0.5",
        ),
        ("train.decay(epochs=1,rate=1e30)", images(), "the training diverged, .* found loss .*give a smaller rate"),
        ("train.binary(epochs=1,rate=1e30,ends=false)", images(), "the training diverged"),
        ("train.finetune(rate=0.01)", {**images(), "labels": np.full(96, 7)}, "a label stands for no class"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(passes, data, said):
    with pytest.raises((BadOption, BadData), match=said):
        fitted(passes, data)


def test_augmented_images_are_of_the_same_form_and_flips_are_flips():
    import torch

    from onnxc.torch.samples import augmented

    x = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).reshape(2, 3, 8, 8)
    seen = set()
    for seed in range(8):
        y = augmented({"x": x}, ["flip"], np.random.default_rng(seed))["x"]
        for a, b in zip(x, y, strict=True):
            assert torch.equal(a, b) or torch.equal(a.flip(2), b)
            seen.add(bool(torch.equal(a, b)))
        z = augmented({"x": x}, ["shift", "mix"], np.random.default_rng(seed))["x"]
        assert z.shape == x.shape and z.min() >= x.min() and z.max() <= x.max()
    assert seen == {True, False}


CHANGES = """
def darker(batch, rng):
    assert sorted(batch) == ["labels", "x"]
    return {**batch, "x": batch["x"] * rng.uniform(0.5, 1, (len(batch["x"]), 1, 1, 1)).astype("f4")}
def cut(batch, rng):
    return {**batch, "x": batch["x"][:, :, 2:]}
def fall(batch, rng):
    raise ValueError("no")
class Pairs:
    def __init__(self, n):
        self.n = n
    def __len__(self):
        return self.n
    def __getitem__(self, i):
        import numpy
        rng = numpy.random.default_rng(i)
        return rng.standard_normal((1, 8, 8)).astype("f4"), i % 3
def pairs():
    return Pairs(40)
"""


def test_functions_of_the_user_change_batches_and_make_data(tmp_path, monkeypatch):
    (tmp_path / "own_changes.py").write_text(CHANGES)
    monkeypatch.syspath_prepend(tmp_path)
    once = "train.slim(epochs=1,rate=0.01,augment=[{}])"
    weights = [
        fitted(once.format(kind)).model.constants()["w1"].values for kind in ("flip", "flip, 'own_changes:darker'") * 2
    ]
    assert np.array_equal(weights[1], weights[3]) and not np.array_equal(weights[0], weights[1])
    for name, said in (("cut", r"x: own_changes:cut changes the form of a batch, expected float32 .*8, 8.*found float32 .*6, 8"),
                       ("fall", "own_changes:fall fails: ValueError: no"), ("gone", "no function gone")):  # fmt: skip
        with pytest.raises(BadData, match=said):
            fitted(once.format(f"'own_changes:{name}'"))
    result = fitted("train.slim(epochs=1,rate=0.01)", "own_changes:pairs")
    assert result.report.rows[-1].trainings[0]["steps"] == 36 // 32


def test_samples_are_dealt_once_an_epoch_and_held_ones_never():
    from onnxc.runtime.data import open_data
    from onnxc.runtime.specs import input_specs
    from onnxc.torch.samples import Samples

    data = open_data({"x": np.arange(50, dtype=np.float32).reshape(50, 1, 1, 1) * np.ones((1, 1, 8, 8), np.float32)},
                     input_specs(load(small()).to_proto()))  # fmt: skip
    samples = Samples(data, 5, 0.2, seed=0)
    held = {int(v) for c in samples.judged() for v in c["x"][:, 0, 0, 0]}
    orders = [[int(v) for c in samples.epoch(e) for v in c["x"][:, 0, 0, 0]] for e in (0, 1, 0)]
    assert len(held) == 10 and samples.batches() == 8
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(set(range(50)) - held)
    assert orders[0] == orders[2] != orders[1]


def test_where_nothing_gets_better_the_model_stays_as_it_came():
    result = fitted("train.finetune(epochs=1,batch=16,rate=1e20)")
    assert result.report.rows[-1].after.params == result.report.rows[-2].after.params
    names = [t.name for t in result.model.constants().values()]
    assert names == [t.name for t in fitted("clean").model.constants().values()]


def test_training_stops_where_nothing_gets_better():
    result = fitted("train.finetune(epochs=20,batch=16,rate=1e-9,patience=3)")
    assert len(result.report.rows[-1].trainings[0]["losses"]) <= 6


def test_training_tells_of_its_way():
    pipeline, way = Pipeline("train.finetune(epochs=2)", data=images(24)), []
    pipeline.detail = lambda text, share: way.append((text.split(",")[0], share))
    pipeline.transform(small())
    way = [(text, share) for text, share in way if text != "its outputs are compared"]  # where it has learnt anything
    words = [text for text, _ in way]
    first = words.index("the model as it comes")
    assert words[first + 1 : first + 3] == ["rate 1 of 6 is tried", "rate 2 of 6 is tried"]
    assert words[-4:] == ["epoch 1 of 2", "epoch 1 of 2 is judged", "epoch 2 of 2", "epoch 2 of 2 is judged"]
    assert [share for _, share in way[-4:]] == [0.0, 0.5, 0.5, 1.0]
