"""Every evaluator of constant folding against ONNX Runtime, on shapes, types and the corners of each operator."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from onnxc.ir.evaluate import EVALUATORS, CannotFold, evaluate
from onnxc.ir.files import load
from onnxc.ir.values import tensor_type
from onnxc.runtime.reference import Session

RNG = np.random.default_rng(7)
F = RNG.standard_normal((2, 3, 4)).astype(np.float32) * 3
G = RNG.standard_normal((3, 1)).astype(np.float32)
P = np.abs(F) + np.float32(0.1)
I = RNG.integers(-9, 9, (2, 3, 4))  # noqa: E741
J = np.array([-4, -1, 2, 5])
B = F > 0


def ints(*values):
    return np.array(values, np.int64)


UNARY = [
    "Sqrt",
    "Exp",
    "Floor",
    "Ceil",
    "Round",
    "Sin",
    "Cos",
    "Tanh",
    "Reciprocal",
    "Sigmoid",
    "Neg",
    "Abs",
    "Sign",
    "Relu",
]
CASES = [(op, [P if op in ("Sqrt", "Log") else F], {}) for op in [*UNARY, "Log"]]
CASES += [(op, [a, b], {}) for op in ("Add", "Sub", "Mul", "Div") for a, b in ((F, G), (I, J))]
CASES += [("Round", [np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)], {})]
CASES += [(op, [F, G, F], {}) for op in ("Sum", "Max", "Min")]
CASES += [(op, [B, B[:, :1]], {}) for op in ("And", "Or", "Xor")] + [("Not", [B], {})]
CASES += [(op, [F, G], {}) for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")] + [("Equal", [I, J], {})]
CASES += [
    ("Pow", [P, G], {}),
    ("Pow", [F, np.float32(2)], {}),
    ("Pow", [I, np.array(2)], {}),
    ("Mod", [I, J], {}),
    ("Mod", [F, G], {"fmod": 1}),
    ("Mod", [I, J], {"fmod": 1}),
    ("Where", [B, F, G], {}),
    ("Clip", [F, np.float32(-1), np.float32(1)], {}),
    ("Clip", [F, np.float32(2), np.float32(-2)], {}),
    ("Clip", [F, None, np.float32(0)], {}),
    ("Cast", [F], {"to": 7}),
    ("Cast", [F], {"to": 10}),
    ("Cast", [I], {"to": 1}),
    ("Cast", [I], {"to": 9}),
    ("Cast", [B], {"to": 1}),
    ("Identity", [F], {}),
    ("Dropout", [F], {}),
    ("Reshape", [F, ints(0, -1)], {}),
    ("Reshape", [F, ints(4, 1, 6)], {}),
    ("Flatten", [F], {"axis": 2}),
    ("Flatten", [F], {"axis": -1}),
    ("Flatten", [F], {"axis": 0}),
    ("Squeeze", [G, ints(-1)], {}),
    ("Squeeze", [G], {}),
    ("Unsqueeze", [F, ints(0, -1)], {}),
    ("Transpose", [F], {"perm": [2, 0, 1]}),
    ("Transpose", [F], {}),
    ("Shape", [F], {}),
    ("Shape", [F], {"start": 1, "end": -1}),
    ("Size", [F], {}),
    ("ConstantOfShape", [ints(2, 3)], {}),
    ("ConstantOfShape", [ints(0, 3)], {"value": np.array([7], np.int64)}),
    ("Expand", [G, ints(2, 1, 4)], {}),
    ("Tile", [G, ints(2, 3)], {}),
    ("Range", [ints(5)[0], ints(-4)[0], ints(-2)[0]], {}),
    ("Range", [np.float32(0), np.float32(1), np.float32(0.3)], {}),
    ("Concat", [F, F], {"axis": -1}),
    ("Slice", [F, ints(-1), ints(-99), ints(1), ints(-2)], {}),
    ("Slice", [F, ints(1, 0), ints(99, 2)], {}),
    ("Slice", [F, ints(-2), ints(2**62), ints(-1)], {}),
    ("Slice", [F, ints(2), ints(1), ints(1)], {}),
    ("Gather", [F, ints(-1, 0)], {"axis": 2}),
    ("Gather", [F, ints(1)[0]], {}),
    ("MatMul", [F, RNG.standard_normal((4, 5)).astype(np.float32)], {}),
    ("ReduceSum", [F, ints(1)], {}),
    ("ReduceSum", [F], {"noop_with_empty_axes": 1}),
    ("ReduceSum", [I, ints(0, 2)], {"keepdims": 0}),
    ("ReduceProd", [P], {"axes": [2]}),
    ("ReduceMax", [F], {"axes": [-1]}),
    ("ReduceMin", [F], {}),
    ("ReduceMean", [F], {"axes": [0, 1]}),
    # beyond the table: the reference evaluator
    ("Erf", [F], {}),
    ("CumSum", [F, np.array(1)], {}),
    ("Trilu", [F], {}),
    ("Einsum", [G, G], {"equation": "ij,kj->ik"}),
    ("Pad", [F, ints(0, 1, 0, 0, 0, 2)], {}),
    ("Split", [F, ints(1, 3)], {"axis": 2}),
]


def node_model(op, inputs, attrs):
    names = [f"i{k}" if v is not None else "" for k, v in enumerate(inputs)]
    outs = ["y", "z"] if op == "Split" else ["y"]
    info = [
        helper.make_tensor_value_info(n, tensor_type(np.asarray(v).dtype), np.shape(v))
        for n, v in zip(names, inputs, strict=True)
        if n
    ]
    attrs = {
        k: helper.make_tensor("v", tensor_type(v.dtype), v.shape, v) if isinstance(v, np.ndarray) else v
        for k, v in attrs.items()
    }
    node = helper.make_node(op, names, outs, "node", **attrs)
    graph = helper.make_graph([node], "g", info, [helper.make_empty_tensor_value_info(o) for o in outs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("op, inputs, attrs", CASES, ids=[f"{k}-{c[0]}" for k, c in enumerate(CASES)])
def test_as_onnx_runtime(op, inputs, attrs):
    proto = node_model(op, inputs, attrs)
    model = load(proto)
    got = evaluate(model.nodes[0], [None if v is None else np.asarray(v) for v in inputs], model.opset)
    want = Session(proto, optimise=False).run({f"i{k}": np.asarray(v) for k, v in enumerate(inputs) if v is not None})
    for a, b in zip(got, want.values(), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
        else:
            np.testing.assert_array_equal(a, b)


def test_the_table_is_covered():
    assert set(EVALUATORS) <= {c[0] for c in CASES}


@pytest.mark.parametrize(
    "op, inputs, attrs, reason",
    [
        ("Div", [I, np.array([0, 1, 2, 3])], {}, "division by zero"),
        ("Mod", [I, np.array([0, 1, 2, 3])], {}, "division by zero"),
        ("Cast", [np.array([1e20, 1.0])], {"to": 6}, "does not hold"),
        ("Cast", [np.array([np.nan])], {"to": 7}, "does not hold"),
        ("Cast", [F], {"to": 8}, "a cast from"),
        ("Gather", [F, ints(9)], {}, "does not evaluate"),
        ("Reshape", [F, ints(5, 5)], {}, "does not evaluate"),
        ("Pow", [I, np.float32(0.5)], {}, "fraction"),
        ("ReduceMean", [I], {}, "ReduceMean of int64"),
        ("Range", [np.array(0), np.array(10**12), np.array(1)], {}, "long range"),
    ],
)
def test_what_is_refused(op, inputs, attrs, reason):
    model = load(node_model(op, inputs, attrs))
    with pytest.raises(CannotFold, match=reason):
        evaluate(model.nodes[0], [np.asarray(v) for v in inputs], model.opset)
