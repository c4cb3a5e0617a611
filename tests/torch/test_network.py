"""A model in torch equals ONNX Runtime, comes back byte for byte, and its gradients are those of finite differences."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import TensorProto, helper, numpy_helper

import onnxc
from onnxc.ir import functions
from onnxc.ir.errors import OnnxcError, Unsupported
from onnxc.ir.files import load
from onnxc.runtime.draw import random_feeds
from onnxc.runtime.reference import Runner
from onnxc.runtime.specs import input_specs
from tests.strategies import feeds, models

CLOSE = 1e-5


def network(model):
    from onnxc.torch.network import Network

    return Network(model)


def store(net, model):
    from onnxc.torch.network import store

    return store(net, model)


def gap(want: np.ndarray, got: np.ndarray) -> float:
    """The largest difference relative to the largest value."""
    level = max(np.abs(want).max(initial=0.0), 1e-30)
    return float(np.abs(want.astype(np.float64) - got).max(initial=0.0) / level)


def equals_runtime(model, batch) -> None:
    want = Runner(optimise=False)(model.to_proto(), batch)
    got = network(model)(batch)
    for name, value in want.items():
        assert gap(value, got[name].detach().numpy()) <= CLOSE, name


def comes_back(model, batch) -> int:
    """A backward pass, no step: the same bytes. Returns how many weights got a gradient."""
    before = model.to_proto().SerializeToString(deterministic=True)
    net = network(model)
    sum(v.square().mean() for v in net(batch).values() if v.is_floating_point()).backward()
    assert store(net, model) == []
    assert model.to_proto().SerializeToString(deterministic=True) == before
    return sum(p.grad is not None for p in net.parameters())


@settings(max_examples=40)
@given(models())
def test_random_networks_equal_onnx_runtime_and_come_back(proto):
    model, batch = load(proto), feeds(proto)
    equals_runtime(model, batch)
    assert comes_back(model, batch)


POINTWISE = """
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from onnxc.ir.files import load
from onnxc.torch.network import Network

rng = np.random.default_rng(0)
for trial in range(150):
    out, into, stride = (int(n) for n in rng.integers(1, (24, 24, 3)))
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t" if trial % 2 else "x", "w"], ["y"], strides=[stride] * 2),
    ]
    shape = (2, 8, 8, into) if trial % 2 else (2, into, 8, 8)
    w = numpy_helper.from_array(rng.standard_normal((out, into, 1, 1), np.float32), "w")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", None)))
    graph = helper.make_graph(nodes[1 - trial % 2 :], "g", [x], [y], [w])
    net = Network(load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)))
    net({"x": rng.standard_normal(shape, np.float32)})["y"].square().mean().backward()
"""


def test_gradients_of_1_x_1_weights_stay_within_them_on_processors_without_avx512():
    """oneDNN writes past the end of some; the allocator's own checks end the process."""
    narrow = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MALLOC_CHECK_": "3"}
    checks = next(Path("/lib").glob("*/libc_malloc_debug.so.0"), None)
    if checks is not None:
        narrow["LD_PRELOAD"] = str(checks)
    done = subprocess.run([sys.executable, "-c", POINTWISE], env=os.environ | narrow, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


def test_a_trained_network_equals_onnx_runtime_before_and_after_a_step(trained_path):
    import torch

    model = load(trained_path)
    batch = random_feeds(input_specs(model.to_proto()), 3, batch=2)
    equals_runtime(model, batch)
    assert comes_back(model, batch)
    net = network(model)
    step = torch.optim.SGD(net.parameters(), lr=1e-3)
    next(iter(net(batch).values())).square().mean().backward()
    step.step()
    with torch.no_grad():
        wanted = {name: value.numpy() for name, value in net(batch).items()}
    assert store(net, model)
    for name, value in Runner(optimise=False)(model.to_proto(), batch).items():
        assert gap(wanted[name], value) <= CLOSE


@pytest.mark.slow
def test_a_light_model_equals_onnx_runtime(light_path):
    model = load(light_path)
    batch = random_feeds(input_specs(model.to_proto()), 3)
    equals_runtime(model, batch)


RANDOM = ("dropout", "bernoulli", "random")
KNOWN = {
    "test_bitwise_not_3d": "unsigned 16-bit numbers stand in 32 bits",
    "test_reduce_max_empty_set": "torch has no maximum of nothing",
    "test_reduce_max_empty_set_bool": "torch has no maximum of nothing",
    "test_reduce_min_empty_set": "torch has no minimum of nothing",
    "test_resize_downsample_scales_linear_align_corners": "ONNX Runtime differs from the example as we do",
    "test_resize_downsample_scales_cubic_align_corners": "ONNX Runtime differs from the example as we do",
    "test_quantizelinear_blocked_symmetric": "NumPy has no such element type",
}


def short(case) -> bool:
    """Whether the case computes in fewer bits than float32, where operators round on the way as they like."""
    kinds = {v.type.tensor_type.elem_type for v in [*case.model.graph.input, *case.model.graph.output]}
    return bool(kinds & {TensorProto.FLOAT16, TensorProto.BFLOAT16})


def example(case) -> str:
    """What became of ONNX's own example: ok, refused, or how it differs."""
    try:
        net = network(case.model)
        for given_, wanted in case.data_sets:
            got = net({i.name: np.asarray(a) for i, a in zip(case.model.graph.input, given_)})
            for o, want in zip(case.model.graph.output, wanted):
                value = got[o.name].detach()
                if value.shape != np.shape(want):
                    return f"{o.name}: shape {tuple(value.shape)} for {np.shape(want)}"
                near = {"rtol": max(case.rtol, 1e-5), "atol": 1e-2 if short(case) else 1e-5, "equal_nan": True}
                if not np.allclose(value.double().numpy(), np.asarray(want).astype(np.float64), **near):
                    return f"{o.name} differs"
    except Unsupported:
        return "refused"
    except OnnxcError as error:
        return str(error)
    return "ok"


@pytest.mark.slow
def test_the_examples_of_onnx_come_out_right_or_are_refused():
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [c for c in collect_testcases(None) if c.model is not None]
    ended: Counter = Counter()
    for case in cases[::2]:  # most examples come in pairs, the operator and its body
        tensors = all(v.type.HasField("tensor_type") for v in [*case.model.graph.input, *case.model.graph.output])
        if not tensors or case.name in KNOWN or any(word in case.name for word in RANDOM):
            continue
        said = example(case)
        assert said in ("ok", "refused"), (case.name, said)
        ended[said] += 1
    assert ended["ok"] > 690, ended


def test_gradients_are_those_of_finite_differences():
    import torch

    from tests.strategies import build

    for seed in range(6):
        model = load(build(seed, 3, 17))
        batch = feeds(build(seed, 3, 17), seed)
        net = network(model)
        with torch.no_grad():
            for p in net.parameters():
                p.data = p.data.double()
        net.stored = dict.fromkeys(net.stored, torch.float64)
        for part in (net.fixed, net._buffers):
            part.update({n: t.double() for n, t in part.items() if t.dtype == torch.float32})
        doubles = {n: torch.from_numpy(a).double() for n, a in batch.items()}

        def loss(net=net, doubles=doubles):
            return sum(v.square().mean() for v in net(doubles).values())

        loss().backward()
        rng = np.random.default_rng(seed)
        for name, p in list(net.named_parameters())[:6]:
            if p.grad is None:
                continue
            direction = torch.from_numpy(rng.standard_normal(tuple(p.shape)))
            with torch.no_grad():
                ends = []
                for sign in (1, -1):
                    p += sign * 1e-6 * direction
                    ends.append(float(loss()))
                    p -= sign * 1e-6 * direction
            slope = (ends[0] - ends[1]) / 2e-6
            assert slope == pytest.approx(float((p.grad * direction).sum()), rel=2e-3, abs=1e-6), name


def test_shared_weights_get_the_sum_of_the_gradients_of_those_that_share():
    rng = np.random.default_rng(0)
    index = rng.integers(0, 4, (5, 6))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6])],
        [numpy_helper.from_array(np.ones((5, 6), np.float32), "w")],
    )  # fmt: skip
    model = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    shared = functions.lookup(model, "w", index, rng.standard_normal((1, 4)).astype(np.float32), 2)
    model.nodes[-1].inputs[1] = shared
    x = rng.standard_normal((3, 5)).astype(np.float32)
    equals_runtime(model, {"x": x})
    net = network(model)
    net({"x": x})["y"].sum().backward()
    ((name, codebook),) = net.named_parameters()
    per_weight = np.broadcast_to(x.sum(0)[:, None], (5, 6))
    assert name == "w_codebook"
    np.testing.assert_allclose(codebook.grad[0], [per_weight[index == k].sum() for k in range(4)], rtol=1e-5)


def test_a_quantised_network_trains_as_what_it_is(resnet20_path, calib_data_path):
    import torch

    model = onnxc.run_passes(str(resnet20_path), "quant", data=str(calib_data_path), check="shapes").model
    images = np.load(calib_data_path)["image"][:8]
    assert comes_back(model, {"image": images}) >= 20
    net = network(model)
    step = torch.optim.Adam(net.parameters(), lr=1e-3)
    net({"image": images})["logits"].square().mean().backward()
    step.step()
    changed = store(net, model)
    constants = model.constants()
    assert any(constants[name].values.dtype == np.int8 for name in changed)
    got = Runner(optimise=False)(model.to_proto(), {"image": images})["logits"]
    with torch.no_grad():
        want = net({"image": images})["logits"].numpy()
    # a value on the border of two steps may fall to either side
    assert np.median(np.abs(got - want)) <= 1e-3 * np.abs(want).max()


def test_an_unknown_operator_is_refused_by_name():
    graph = helper.make_graph(
        [helper.make_node("Frobnicate", ["x"], ["y"], name="odd", domain="made.up")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )  # fmt: skip
    with pytest.raises(Unsupported, match=r"node odd: training does not know the operator made.up.Frobnicate;"):
        network(onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("made.up", 1)]))


BRANCHES = """<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 3] x, bool c) => (float[n, 3] y) <float[3, 3] outer = {1, 0, 2, 0, 1, 0, 3, 0, 1}> {
  y = If (c) <
    then_branch = t () => (float[n, 3] yes) <float[3, 3] w = {1, 2, 0, 0, 1, 0, 0, 0, 1}> {
      a = MatMul (x, w)
      yes = If (c) <
        then_branch = tt () => (float[n, 3] deep) {
          w2 = Constant <value = float[3] {0.5, 0.25, 0.125}> ()
          b = MatMul (a, outer)
          deep = Mul (b, w2)
        },
        else_branch = te () => (float[n, 3] other) { other = Identity (a) }
      >
    },
    else_branch = e () => (float[n, 3] no) <float[3, 3] w = {4, 0, 0, 0, 4, 0, 0, 0, 4}> { no = MatMul (x, w) }
  >
}"""


def test_weights_within_bodies_train_and_go_back_into_them():
    import torch

    model = load(onnx.parser.parse_model(BRANCHES))
    untouched = model.copy()
    before = model.to_proto().SerializeToString(deterministic=True)
    batch = {"x": np.array([[1, 2, 3], [4, -5, 6]], np.float32), "c": np.array(True)}
    equals_runtime(model, batch)
    assert comes_back(model, batch) == 3
    net = network(model)
    net(batch)["y"].square().mean().backward()
    torch.optim.SGD(net.parameters(), lr=1e-3).step()
    changed = store(net, model)
    assert sorted(changed) == ["outer", "y.then_branch/w", "y.then_branch/yes.then_branch/w2"]
    with torch.no_grad():
        want = net(batch)["y"].numpy()
    assert gap(Runner(optimise=False)(model.to_proto(), batch)["y"], want) <= CLOSE
    # the branch not taken, which calls its weight alike, and a copy of the model are as they were
    batch["c"] = np.array(False)
    np.testing.assert_array_equal(Runner(optimise=False)(model.to_proto(), batch)["y"], 4 * batch["x"])
    assert untouched.to_proto().SerializeToString(deterministic=True) == before


def test_passes_that_reach_into_bodies_keep_zeros_there_and_refuse_nothing():
    from onnxc.passes.train.weights import kept_zeros

    model = onnx.parser.parse_model(BRANCHES)
    assert sorted(kept_zeros(load(model))) == ["outer", "y.else_branch/w", "y.then_branch/w"]
    batch = {"x": np.random.default_rng(0).standard_normal((32, 3)).astype(np.float32), "c": np.array(True)}
    result = onnxc.run_passes(model, "train.distill(epochs=1,rate=0.01,batch=8,held=0,features=0)", data=batch)
    assert not result.report.rows[-1].refusals


INTEGERS = {
    "DynamicQuantizeLSTM": (
        """g (float[4, 2, 6] x) => (float[4, 1, 2, 5] y) {{ y, h = LSTM <hidden_size = 5> (x, w, r, b) }}""",
        {"w": (1, 20, 6), "r": (1, 20, 5), "b": (1, 40)}, "quant(ops=[LSTM])", 2,
    ),
    "QLinearConv": (
        """g (float[n, 3, 6, 6] x) => (float[n, 4] z) {{
        a = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(a) p = GlobalAveragePool(r) f = Flatten(p) z = MatMul(f, v) }}""",
        {"w": (8, 3, 3, 3), "b": (8,), "v": (8, 4)}, "quant(form=qoperator)", 2,
    ),
    "MatMulInteger": (
        """g (float[n, 8] x) => (float[n, 3] z) {{ a = MatMul(x, w) r = Relu(a) z = MatMul(r, v) }}""",
        {"w": (8, 16), "v": (16, 3)}, "quant.dynamic", 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("op", INTEGERS)
def test_stored_integers_of_integer_products_train(op):
    """They equal ONNX Runtime, all get a gradient, and what a large step leaves are integers of the same grid."""
    import torch

    text, shapes, passes, count = INTEGERS[op]
    rng = np.random.default_rng(1)
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>' + text.replace("{{", "{").replace("}}", "}")
    )
    for name, shape in shapes.items():
        w = (rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(w, name))
    batch = {"x": rng.normal(size=[d.dim_value or 4 for d in proto.graph.input[0].type.tensor_type.shape.dim])}
    batch = {"x": batch["x"].astype(np.float32)}
    model = onnxc.run_passes(proto, passes, data=batch, check="shapes").model
    assert any(node.op == op for node in model.nodes)
    equals_runtime(model, batch)
    assert comes_back(model, batch) >= count
    net = network(model)
    sum(v.square().mean() for v in net(batch).values()).backward()
    with torch.no_grad():
        for name in net.grids:
            p = dict(net.named_parameters())[name]
            assert p.grad.any(), name
            p += 3 * p.std() * torch.sign(p.grad)
    whole = [n for n in store(net, model) if model.constants()[n].values.dtype.kind in "iu"]
    assert len(whole) == len(net.grids) == count
    equals_runtime(model, batch)
