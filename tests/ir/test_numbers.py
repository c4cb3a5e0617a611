"""What a tensor's values are, read off the graph: the reading must give the very numbers that a run gives."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxc.ir import functions, numbers
from onnxc.ir.files import load
from onnxc.ir.qtype import dtype_bits

DTYPES = {"int8": 13, "uint8": 13, "int16": 21, "int4": 21, "uint4": 21}


def model(nodes, weights: dict[str, np.ndarray], out: str = "y", opset: int = 21, inputs=(), made=()):
    graph = helper.make_graph(
        nodes,
        "g",
        list(inputs),
        [helper.make_tensor_value_info(out, TensorProto.UNDEFINED, None)],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    graph.output[0].ClearField("type")
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnxc", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(made), ir_version=10)


def run(proto: onnx.ModelProto, feeds: dict | None = None) -> list[np.ndarray]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds or {})


def draw_weight(draw, rng) -> tuple[list, dict]:
    """A stored weight and the nodes that make floats of it, ending in `w`; its shape is [4, 6]."""
    kind = draw(st.sampled_from(["linear", "arithmetic", "lookup", "unpack"]))
    if kind == "linear":
        dtype = onnx.helper.tensor_dtype_to_np_dtype(getattr(TensorProto, draw(st.sampled_from(list(DTYPES))).upper()))
        stored = rng.integers(0, 7, (4, 6)).astype(dtype)
        form = draw(st.sampled_from(["tensor", "axis 0", "axis 1", "block"]))
        shape = {"tensor": (), "axis 0": (4,), "axis 1": (6,), "block": (4, 2)}[form]
        attrs = {} if form == "tensor" else {"axis": int(form != "axis 0")}
        attrs |= {"block_size": 3} if form == "block" else {}
        weights = {"q": stored, "s": rng.uniform(0.1, 1, shape).astype("f")}
        if draw(st.booleans()):
            weights["z"] = rng.integers(0, 7, shape).astype(dtype)
        return [helper.make_node("DequantizeLinear", list(weights), ["w"], **attrs)], weights
    if kind == "arithmetic":
        nodes = [helper.make_node("Cast", ["q"], ["f"], to=1)]
        weights = {"q": rng.integers(-128, 128, (4, 6)).astype(np.int8)}
        last = "f"
        if draw(st.booleans()):
            weights["z"] = rng.integers(-5, 5, draw(st.sampled_from([(), (1,), (6,), (4, 1)]))).astype("f")
            nodes.append(helper.make_node("Sub", [last, "z"], ["c"]))
            last = "c"
        weights["s"] = rng.uniform(0.1, 1, draw(st.sampled_from([(), (1,), (6,), (1, 6), (4, 1)]))).astype("f")
        pair = [last, "s"] if draw(st.booleans()) else ["s", last]
        return [*nodes, helper.make_node("Mul", pair, ["w"])], weights
    bits = draw(st.integers(1, 8))
    stored = rng.integers(0, 1 << bits, (4, 6))
    weights = {"p": functions.pack_bits(stored, bits), "d": np.array([4, 6], np.int64)}
    if kind == "lookup":
        rows = draw(st.sampled_from([1, 4]))
        weights["b"] = rng.standard_normal((rows, 1 << bits)).astype("f")
        return [helper.make_node("Lookup", ["p", "b", "d"], ["w"], domain="ai.onnxc")], weights
    nodes = [helper.make_node("UnpackBits", ["p", "d"], ["i"], domain="ai.onnxc"),
             helper.make_node("Cast", ["i"], ["f"], to=1), helper.make_node("Mul", ["f", "s"], ["w"])]  # fmt: skip
    return nodes, weights | {"s": rng.uniform(0.1, 1, (4, 1)).astype("f")}


def draw_views(draw, rng, weights: dict) -> list:
    nodes, last = [], "w"
    for k in range(draw(st.integers(0, 3))):
        op = draw(st.sampled_from(["Transpose", "Reshape", "Unsqueeze"]))
        ins = [last]
        if op == "Reshape":
            weights[f"t{k}"] = np.array(draw(st.sampled_from([[4, -1], [2, 12], [-1], [3, 2, 4]])), np.int64)
            ins.append(f"t{k}")
        elif op == "Unsqueeze":
            weights[f"t{k}"] = np.array([0], np.int64)
            ins.append(f"t{k}")
        nodes.append(helper.make_node(op, ins, [f"v{k}"]))
        last = f"v{k}"
    return [*nodes, helper.make_node("Relu", [last], ["y"])]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_stored_weight_is_read_as_it_runs(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    nodes, weights = draw_weight(data.draw, rng)
    nodes += draw_views(data.draw, rng, weights)
    made = [functions.function(n, 21) for n in ("Lookup", "UnpackBits")]
    proto = model(nodes, weights, made=made)
    last = load(proto).nodes[-1].inputs[0]
    found = numbers.read(last)
    assert found is not None and found.constant
    proto.graph.output[0].name = last.name
    want = run(proto)[0]
    np.testing.assert_allclose(found.real(), want, rtol=1e-6)
    assert found.real().shape == want.shape
    stored = weights.get("q", weights.get("p"))
    assert found.stored.name in ("q", "p")
    assert numbers.number_bits(last) == (stored.shape[1] if "p" in weights else dtype_bits(stored.dtype))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_matmulnbits_is_read_as_onnx_runtime_runs_it(bits):
    rng = np.random.default_rng(bits)
    n, k, block = 6, 40, 16
    blocks = -(-k // block)
    weights = {
        "b": rng.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8),
        "s": rng.uniform(0.1, 1, n * blocks).astype("f"),
        "z": rng.integers(0, 256, n * -(-blocks * bits // 8)).astype(np.uint8),
    }
    attrs = {"K": k, "N": n, "bits": bits, "block_size": block}
    node = helper.make_node("MatMulNBits", ["x", *weights], ["y"], domain="com.microsoft", **attrs)
    info = helper.make_tensor_value_info("x", 1, [k, k])
    proto = model([node], weights, inputs=[info])
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    found = numbers.operand(load(proto).nodes[0], 1)
    assert found.q.bits == bits and found.constant
    got = run(proto, {"x": np.eye(k, dtype="f")})[0]
    np.testing.assert_allclose(got, found.real()[:, :k].T, rtol=2e-2, atol=0.3)


def test_scales_beside_an_operand():
    weights = {"xs": np.float32(0.5), "xz": np.uint8(3), "w": np.ones((2, 3, 1, 1), np.int8),
               "ws": np.array([0.1, 0.2], "f"), "wz": np.zeros(2, np.int8), "ys": np.float32(2), "yz": np.uint8(7)}  # fmt: skip
    node = helper.make_node("QLinearConv", ["x", *weights], ["y"])
    info = helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 3, 4, 4])
    conv = load(model([node], weights, inputs=[info])).nodes[0]
    x, w, y = numbers.operand(conv, 0), numbers.operand(conv, 3), numbers.result(conv)
    assert (x.q.bits, x.q.scale, x.q.zero_point, x.constant) == (8, 0.5, 3, False)
    assert w.constant and w.q.axis == 0
    np.testing.assert_allclose(w.real(), np.broadcast_to(weights["ws"][:, None, None, None], (2, 3, 1, 1)))
    assert (y.q.scale, y.q.zero_point) == (2, 7)


@pytest.mark.parametrize(
    "nodes",
    [
        [
            helper.make_node("Cast", ["q"], ["f"], to=10),
            helper.make_node("Mul", ["f", "s"], ["w"]),
        ],  # 16 bits in float16
        [helper.make_node("Cast", ["q"], ["f"], to=1), helper.make_node("Sub", ["f", "h"], ["w"])],  # no whole zero
        [
            helper.make_node("Cast", ["q"], ["f"], to=1),
            helper.make_node("Mul", ["f", "big"], ["w"]),
        ],  # it is made larger
    ],
)
def test_do_not_read_what_is_no_scale(nodes):
    weights = {
        "q": np.full((3,), 30001, np.int16),
        "s": np.float16(2),
        "h": np.float32(0.5),
        "big": np.ones((2, 3), "f"),
    }
    last = load(model([*nodes, helper.make_node("Relu", ["w"], ["y"])], weights)).nodes[-1]
    assert numbers.read(last.inputs[0]) is None
