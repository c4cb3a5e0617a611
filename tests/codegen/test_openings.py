"""What is opened before lowering, against ONNX Runtime: the model of what stands for a node computes what the node does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnxc.codegen import compile_model
from onnxc.codegen.prepare.build import REWRITES
from onnxc.codegen.prepare.extents import give_outputs
from onnxc.codegen.prepare.opening import opener
from onnxc.codegen.prepare.walk import Walk
from onnxc.ir.errors import Unsupported
from onnxc.ir.values import tensor_type

from .conftest import run_ort
from .programs import Programs

MICROSOFT = "com.microsoft"


def opened(model: onnx.ModelProto, known: tuple[str, ...] = ()) -> onnx.ModelProto:
    """The model of what is left when no operator but those in `known` and the plainest has a row."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    types = {value.name: value.type for value in model.graph.input}
    plain = {(domain, op) for domain, op in REWRITES if domain} | {("", "QLinearConv"), ("", "QLinearMatMul")}
    walk = Walk(
        opsets, constants, types, opener(lambda op, domain, opset: (domain, op) not in plain and op not in known)
    )
    give_outputs(walk, model.graph, walk.run(model.graph))
    made = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    made.graph.CopyFrom(helper.make_graph(walk.nodes, "opened", model.graph.input, model.graph.output))
    read = {name for node in walk.nodes for name in node.input} | {value.name for value in model.graph.output}
    for name, array in walk.constants.items():
        if name in read:
            made.graph.initializer.append(
                numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
            )
    return made


def node_model(op: str, inputs: list, outputs: int, constants=(), domain=MICROSOFT, **attributes):
    """One node as a model, whose inputs numbered in `constants` are initialisers; and the feeds of the others."""
    names = [f"i{k}" if array is not None else "" for k, array in enumerate(inputs)]
    results = [f"o{k}" for k in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, names, results, name="node", domain=domain, **attributes)],
        "g",
        [helper.make_tensor_value_info(n, tensor_type(a.dtype), a.shape)
         for k, (n, a) in enumerate(zip(names, inputs)) if n and k not in constants],
        [onnx.ValueInfoProto(name=name) for name in results],
        [numpy_helper.from_array(a, n) for k, (n, a) in enumerate(zip(names, inputs)) if n and k in constants],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, ir_version=8, opset_imports=imports)
    return model, {n: a for k, (n, a) in enumerate(zip(names, inputs)) if n and k not in constants}


rng = np.random.default_rng(4)


def f(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype("f")


def u(*shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape).astype("u1")


def i8(*shape: int) -> np.ndarray:
    return rng.integers(-63, 64, shape).astype("i1")  # ONNX Runtime's sums of larger ones saturate on some machines


def scale(value: float) -> np.ndarray:
    return np.array(value, "f")


def zero(value: int, kind: str = "u1") -> np.ndarray:
    return np.array(value, kind)


X, Q = (u(2, 3, 4, 6), scale(0.02), zero(120)), (scale(0.05), zero(77))
Y = (u(2, 3, 4, 6), scale(0.013), zero(3))
mask = (rng.random((2, 5)) > 0.3).astype("i4")
mask[:, 0] = 1
half = np.cos(rng.standard_normal((9, 4))).astype("f")
packed = u(6, 3, 8)
CASES = {
    # operator: (inputs, outputs, attributes), maybe several
    "Gelu": [([f(3, 5)], 1, {})],
    "BiasGelu": [([f(3, 5), f(5)], 1, {})],
    "FastGelu": [([f(3, 5), f(5)], 1, {}), ([f(3, 5)], 1, {})],
    "QuickGelu": [([f(3, 5)], 1, {"alpha": 1.3})],
    "FusedConv": [
        ([f(1, 3, 7, 7), f(4, 3, 3, 3), f(4), f(1, 4, 7, 7)], 1, {"pads": [1, 1, 1, 1], "activation": "Relu"}),
        ([f(1, 4, 7, 7), f(4, 2, 3, 3)], 1, {"group": 2, "activation": "LeakyRelu", "activation_params": [0.2]}),
        ([f(1, 3, 7, 7), f(4, 3, 1, 1)], 1, {"activation": "Clip", "activation_params": [-0.5, 0.7]}),
        ([f(1, 3, 7, 7), f(4, 3, 1, 1)], 1, {"activation": "HardSigmoid", "activation_params": [0.3, 0.4]}),
    ],
    "FusedGemm": [([f(3, 5), f(5, 4), f(4)], 1, {"activation": "Tanh", "alpha": 0.5}),
                  ([f(3, 5), f(4, 5), f(4)], 1, {"activation": "LeakyRelu", "activation_alpha": 0.3, "transB": 1})],
    "FusedMatMul": [([f(2, 5, 3), f(2, 4, 5)], 1, {"transA": 1, "transB": 1, "alpha": 0.25}),
                    ([f(5, 2, 3), f(2, 3, 4)], 1, {"transBatchA": 1})],
    "SkipLayerNormalization": [([f(2, 3, 8), f(2, 3, 8), f(8), f(8), f(8)], 1, {"epsilon": 1e-5}),
                               ([f(2, 3, 8), f(1, 3, 8), f(8), f(8)], 1, {})],
    "SkipSimplifiedLayerNormalization": [([f(2, 3, 8), f(2, 3, 8), f(8), f(8)], 1, {"epsilon": 1e-5})],
    "EmbedLayerNormalization": [([rng.integers(0, 7, (2, 3)).astype("i4"), rng.integers(0, 2, (2, 3)).astype("i4"),
                                  f(7, 8), f(5, 8), f(2, 8), f(8), f(8)], 2, {"epsilon": 1e-5})],
    "MatMulNBits": [([f(2, 3, 44), packed, f(18), u(6 * 2)], 1, {"K": 44, "N": 6, "bits": 4, "block_size": 16}),
                    ([f(5, 48), packed, f(18)], 1, {"K": 48, "N": 6, "bits": 4, "block_size": 16})],
    "DynamicQuantizeMatMul": [([f(4, 8), i8(8, 5), f(5), np.zeros(5, "i1"), f(5)], 1, {})],
    "DynamicQuantizeLSTM": [
        ([f(4, 2, 5), i8(1, 5, 12), i8(1, 3, 12), None, None, None, None, None,
          scale([0.01]), zero([0], "i1"), scale([0.01]), zero([0], "i1")], 3, {"hidden_size": 3}),
        ([f(4, 2, 5), i8(2, 5, 12), i8(2, 3, 12), f(2, 24), np.full(2, 4, "i4"), f(2, 2, 3), f(2, 2, 3), f(2, 9),
          np.abs(f(2, 12)) / 50, zero(np.zeros((2, 12)), "i1"), np.abs(f(2, 12)) / 50, zero(np.zeros((2, 12)), "i1")], 3,
         {"hidden_size": 3, "direction": "bidirectional", "clip": 1.5}),
        ([f(4, 2, 5), u(1, 5, 12), u(1, 3, 12), f(1, 24), None, None, None, None,
          np.abs(f(1, 12)) / 50, zero(np.full((1, 12), 128)), np.abs(f(1, 12)) / 50, zero(np.full((1, 12), 128))], 3,
         {"hidden_size": 3, "direction": "reverse", "input_forget": 1, "activations": ["Sigmoid", "Relu", "Tanh"]}),
    ],
    "MatMulIntegerToFloat": [([u(4, 8), i8(8, 5), scale(0.1), f(5), zero(9), np.zeros(5, "i1"), f(5)], 1, {})],
    "QLinearAdd": [([*X, *Y, *Q], 1, {})],
    "QLinearMul": [([*X, *Y, *Q], 1, {})],
    "QLinearSigmoid": [([*X, scale(1 / 256), zero(0)], 1, {})],
    "QLinearLeakyRelu": [([*X, *Q], 1, {"alpha": 0.1})],
    "QLinearAveragePool": [([*X, *Q], 1, {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [0, 1, 0, 1]})],
    "QLinearGlobalAveragePool": [([*X, *Q], 1, {}), ([*X, *Q], 1, {"channels_last": 1})],
    "QLinearConcat": [([*Q, *X, *Y], 1, {"axis": 1})],
    "QLinearSoftmax": [([*X, scale(1 / 256), zero(0)], 1, {"axis": -1, "opset": 13}),
                       ([*X, scale(1 / 256), zero(0)], 1, {"axis": 2, "opset": 12})],
    "QLinearWhere": [([rng.random((2, 3, 4, 6)) > 0.5, *X, *Y, *Q], 1, {})],
    "QGemm": [([u(3, 8), scale(0.02), zero(100), i8(8, 5), scale(0.01), zero(0, "i1"),
                rng.integers(-999, 999, 5).astype("i4"), *Q], 1, {}),
              ([u(3, 8), scale(0.02), zero(100), i8(5, 8), f(5) ** 2 / 50 + 0.01, np.zeros(5, "i1"),
                rng.integers(-999, 999, 5).astype("i4")], 1, {"transB": 1})],
    "Attention": [
        ([f(2, 5, 8), f(8, 24), f(24)], 1, {"num_heads": 2}),
        ([f(2, 5, 8), f(8, 24), f(24), mask], 1, {"num_heads": 2, "unidirectional": 1}),
        ([f(2, 5, 8), f(8, 24), f(24), np.array([3, 5], "i4")], 1, {"num_heads": 2, "scale": 0.3}),
        ([f(2, 5, 8), f(8, 24), f(24), None, f(2, 2, 2, 3, 4)], 2, {"num_heads": 2}),
    ],
    "MultiHeadAttention": [
        ([f(2, 5, 8), f(2, 6, 8), f(2, 6, 8), f(24)], 1, {"num_heads": 2}),
        ([f(2, 5, 8), f(2, 5, 8), f(2, 5, 8), None, mask], 1, {"num_heads": 4, "unidirectional": 1}),
        ([f(2, 5, 8), f(2, 2, 6, 4), f(2, 2, 6, 4)], 1, {"num_heads": 2}),
    ],
    "RotaryEmbedding": [
        ([f(2, 5, 16), np.array([2], "i8"), half, half[::-1].copy()], 1, {}),
        ([f(2, 5, 16), rng.integers(0, 9, (2, 5)), half, half[::-1].copy()], 1, {"interleaved": 1}),
        ([f(2, 3, 5, 12), rng.integers(0, 9, (2, 5)), half, half[::-1].copy()], 1,
         {"rotary_embedding_dim": 8, "num_heads": 3}),
    ],
    "ExpandDims": [([f(2, 3), np.array(1, "i4")], 1, {})],
    "Trilu": [([f(3, 4), np.array(1, "i8")], 1, {"upper": 0})],
}  # fmt: skip
CONSTANT = {"MatMulNBits": (1, 2, 3), "DynamicQuantizeLSTM": (1, 2, 4, 8, 9, 10, 11), "ExpandDims": (1,), "Trilu": (1,)}


@pytest.mark.parametrize("op", CASES)
def test_operators_of_onnx_runtime_in_standard_ones(op):
    for inputs, outputs, attributes in CASES[op]:
        model, feeds = node_model(op, inputs, outputs, constants=CONSTANT.get(op, ()), **attributes)
        made = opened(model)
        assert all(node.domain == "" for node in made.graph.node)
        wanted, found = run_ort(model, feeds), run_ort(made, feeds)
        for name, array in wanted.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            if array.dtype.kind in "iu":  # a tie may fall to the other side
                assert np.abs(found[name].astype(int) - array.astype(int)).max() <= 1
                assert np.mean(found[name] != array) < 0.03
            else:
                assert np.abs(found[name] - array).max() <= 2e-5 * np.abs(array).max()


def test_a_quantised_lstm_is_refused_where_lengths_are_known_at_run_time():
    inputs, outputs, attributes = CASES["DynamicQuantizeLSTM"][1]
    model, _ = node_model("DynamicQuantizeLSTM", inputs, outputs, constants=(1, 2, 8, 9, 10, 11), **attributes)
    with pytest.raises(Unsupported, match="sequence_lens other than all steps"):
        opened(model)


def recurrent(op: str, directions: int, gates: int, given: str, first: bool = False) -> list:
    """Inputs of a layer of 4 steps, 3 sequences, 5 features and 6 hidden ones; `given` names the optional ones."""
    h, lead = 6, (3, directions) if first else (directions, 3)
    parts = [f(3, 4, 5) if first else f(4, 3, 5), f(directions, gates * h, 5), f(directions, gates * h, h)]
    parts.append(f(directions, 2 * gates * h) if "b" in given else None)
    parts.append(np.array([4, 2, 3], "i4") if "l" in given else None)
    parts.append(f(*lead, h) if "h" in given else None)
    if op == "LSTM":
        parts.append(f(*lead, h) if "c" in given else None)
        parts.append(f(directions, 3 * h) if "p" in given else None)
    while parts[-1] is None:
        parts.pop()
    return parts


RECURRENT = [
    ("LSTM", 4, "bhcp", {}), ("LSTM", 4, "bl", {"direction": "bidirectional"}),
    ("LSTM", 4, "b", {"direction": "reverse", "clip": 0.5}), ("LSTM", 4, "bhl", {"input_forget": 1}),
    ("LSTM", 4, "b", {"activations": ["HardSigmoid", "Softsign", "Relu"], "activation_alpha": [0.3], "activation_beta": [0.4]}),
    ("GRU", 3, "bh", {}), ("GRU", 3, "bhl", {"direction": "bidirectional", "linear_before_reset": 1}),
    ("GRU", 3, "bl", {"direction": "reverse"}),
    ("RNN", 1, "bhl", {"direction": "bidirectional"}), ("RNN", 1, "b", {"activations": ["Relu"], "clip": 0.3}),
]  # fmt: skip


def test_recurrent_layers(tmp_path):
    programs, wanted = Programs(tmp_path), {}
    for i, (op, gates, given, attributes) in enumerate(RECURRENT):
        count = 2 if attributes.get("direction") == "bidirectional" else 1
        inputs, attributes = recurrent(op, count, gates, given), {"hidden_size": 6, **attributes}
        outputs = 3 if op == "LSTM" else 2
        model, feeds = node_model(op, inputs, outputs, constants=(1, 2, 3, 7), domain="", **attributes)
        assert programs.add(f"{op}{i}", model) is None
        wanted[f"{op}{i}"] = feeds, run_ort(model, feeds)
    programs.build()
    for name, (feeds, right) in wanted.items():
        found = programs.run(name, feeds)
        assert all(np.allclose(found[key], right[key], rtol=1e-4, atol=1e-5) for key in right), name


EQUATIONS = {
    "bij,bjk->bik": ((2, 3, 4), (2, 4, 5)), "ij,jk": ((3, 4), (4, 5)), "...ij,...kj->...ik": ((2, 3, 4), (1, 5, 4)),
    "bhwij,bhwjk->bhwik": ((2, 1, 2, 3, 4), (2, 1, 2, 4, 2)), "ii->i": ((4, 4),), "ij->": ((3, 4),), "i,j,k->kij": ((2,), (3,), (4,)),
    "bnth,bnsh->bnts": ((2, 3, 4, 5), (2, 3, 6, 5)), "ijk,ki->kj": ((2, 3, 4), (4, 2)), "ba,ba->b": ((3, 4), (3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum(equation):
    inputs = [f(*shape) for shape in EQUATIONS[equation]]
    model, feeds = node_model("Einsum", inputs, 1, domain="", equation=equation)
    found = run_ort(opened(model), feeds)["o0"]
    assert np.allclose(found, np.einsum(equation, *inputs), rtol=1e-4, atol=1e-5)


TRANSFORMS = [
    ((2, 7, 1), {}, None), ((2, 3, 8, 2), {"axis": 2, "inverse": 1}, None), ((2, 8, 1), {"onesided": 1}, None),
    ((2, 8, 1), {}, 5), ((2, 6, 2), {"axis": 1}, 9),
]  # fmt: skip


@pytest.mark.parametrize("shape, attributes, size", TRANSFORMS)
def test_fourier_transforms(shape, attributes, size):
    inputs = [f(*shape), *([] if size is None else [np.array(size)])]
    model, feeds = node_model("DFT", inputs, 1, domain="", constants=(1,), **attributes)
    x, axis = inputs[0], attributes.get("axis", 1)
    x = x[..., 0] + (1j * x[..., 1] if shape[-1] == 2 else 0)
    wanted = (np.fft.ifft if attributes.get("inverse") else np.fft.fft)(x, size, axis)
    if attributes.get("onesided"):
        wanted = wanted[:, : x.shape[1] // 2 + 1]
    found = run_ort(opened(model), feeds)["o0"]
    assert np.allclose(found, np.stack([wanted.real, wanted.imag], -1), atol=1e-5)


def test_windows_of_a_signal_are_transformed():
    signal, window = f(2, 20, 1), np.hanning(8).astype("f")
    model, feeds = node_model("STFT", [signal, np.array(3), window], 1, domain="", constants=(1, 2))
    wanted, found = run_ort(model, feeds)["o0"], run_ort(opened(model), feeds)["o0"]
    assert np.allclose(found, wanted, atol=1e-5)


def test_attributes_that_are_not_known_are_named():
    for op, attributes in (("Attention", {"num_heads": 2, "odd": 1}), ("RotaryEmbedding", {"scale": 2.0})):
        inputs, outputs, _ = CASES[op][0]
        model, _ = node_model(op, inputs, outputs, **attributes)
        with pytest.raises(Unsupported, match=f"node node: operator {op}: attribute.* {list(attributes)[-1]}"):
            opened(model)


QUANTISED = {
    "QLinearConv": (
        [u(1, 4, 6, 6), scale(0.02), zero(128), i8(5, 4, 3, 3), f(5) ** 2 / 50 + 0.001, np.zeros(5, "i1"), *Q,
         rng.integers(-500, 500, 5).astype("i4")], {"pads": [1, 1, 1, 1]}),
    "QLinearMatMul": ([u(2, 3, 8), scale(0.02), zero(128), i8(8, 5), scale(0.01), zero(0, "i1"), *Q], {}),
}  # fmt: skip


@pytest.mark.parametrize("op", QUANTISED)
def test_quantised_products_reach_the_integer_kernels(tmp_path, op):
    from onnxc.runtime.library import Library

    inputs, attributes = QUANTISED[op]
    model, feeds = node_model(op, inputs, 1, domain="", constants=range(1, 9), **attributes)
    report = compile_model(model, tmp_path, name="net", check="shapes")
    assert [row["kernel"].split(".")[0] for row in report.kernels] == ["int8"]
    found, wanted = Library(tmp_path).run(feeds)["o0"], run_ort(model, feeds)["o0"]
    assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 1


BODIES = {
    "if_known": """g (float[2,3] x) => (float[2,3] y) <bool c = {1}> {
        y = If (c) <then_branch = a () => (float[2,3] t) { t = Relu(x) },
                    else_branch = b () => (float[2,3] t) { t = Neg(x) }> }""",
    "if_computed": """g (float[2,3] x, bool c) => (float[2,3] y, float[2,3] z) <float[3] w = {1, 2, 3}> {
        r = Abs(x)
        y, z = If (c) <then_branch = a () => (float[2,3] t, float[2,3] s) { t = Mul(r, w) s = Identity(x) },
                       else_branch = b () => (float[2,3] t, float[2,3] s) { t = Neg(x) s = Add(t, r) }> }""",
    "loop": """g (float[3] x) => (float[3] y, float[4,3] all) <int64 n = {4}, bool go = {1}> {
        y, all = Loop (n, go, x) <body = b (int64 i, bool c, float[3] v) => (bool d, float[3] m, float[3] s) {
            d = Identity(c) f = Cast<to = 1>(i) h = Add(v, f) m = Mul(h, x) s = Sub(m, x) }> }""",
    "if_in_a_loop": """g (float[3] x) => (float[3] y) <int64 n = {3}, bool go = {1}, int64 one = {1}> {
        y = Loop (n, go, x) <body = b (int64 i, bool c, float[3] v) => (bool d, float[3] m) {
            d = Identity(c) e = Equal(i, one)
            m = If (e) <then_branch = p () => (float[3] t) { t = Mul(v, v) },
                        else_branch = q () => (float[3] t) { t = Sub(v, x) }> }> }""",
    "scan": """g (float[4,2,3] x, float[2] s) => (float[2] last, float[2,4] all) {
        last, all = Scan (s, x) <num_scan_inputs = 1, scan_input_axes = [0], scan_input_directions = [1],
            scan_output_axes = [1], scan_output_directions = [1],
            body = b (float[2] v, float[2,3] e) => (float[2] n, float[2] o) {
            m = ReduceMax<axes = [1], keepdims = 0>(e) n = Add(v, m) o = Mul(n, m) }> }""",
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies(name):
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {BODIES[name]}')
    made = opened(model)
    assert not {"If", "Loop", "Scan"} & {node.op_type for node in made.graph.node}
    for choice in (True, False):
        feeds = {}
        for value in model.graph.input:
            kind = value.type.tensor_type
            extents = [d.dim_value for d in kind.shape.dim]
            feeds[value.name] = np.array(choice) if kind.elem_type == TensorProto.BOOL else np.abs(f(*extents)) + 0.1
        wanted, found = run_ort(model, feeds), run_ort(made, feeds)
        assert all(np.allclose(found[key], wanted[key], rtol=1e-6) for key in wanted)


DEFINED = {
    "HardSwish": "y = HardSwish(x)",
    "Mish": "y = Mish(x)",
    "LayerNormalization": "y = LayerNormalization<axis = 1>(x, w)",
    "MeanVarianceNormalization": "y = MeanVarianceNormalization<axes = [0, 1]>(x)",
    "Softmax": "y = Softmax<axis = 0>(x)",
    "ReduceLogSumExp": "y = ReduceLogSumExp<keepdims = 0>(x, one)",
    "Shrink": "y = Shrink<bias = 0.2>(x)",
}  # fmt: skip


@pytest.mark.parametrize("op", DEFINED)
def test_definitions_of_the_standard(op):
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 18]> g (float[4,3] x) => (float[a,b] y)
      <float[3] w = {{1, 2, 3}}, int64[1] one = {{1}}> {{ {DEFINED[op]} }}""")
    if op == "ReduceLogSumExp":
        model.graph.output[0].type.tensor_type.ClearField("shape")
    made = opened(model, known=(op,))
    assert op not in {node.op_type for node in made.graph.node}
    feeds = {"x": f(4, 3)}
    assert np.allclose(run_ort(made, feeds)["y"], run_ort(model, feeds)["y"], rtol=1e-5, atol=1e-6)


def test_what_draws_random_numbers_is_refused_for_that():
    model, _ = node_model("Bernoulli", [f(3)], 1, domain="")
    with pytest.raises(Unsupported, match="operator Bernoulli: it draws random numbers; draw them outside"):
        opened(model)
