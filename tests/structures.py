"""Random networks with symbols, states, bodies and functions: each block of a sequence stands plain, in a function, in an If,
in a Loop or in a Scan, or is a recurrent layer that takes its state as an input of [1, N, units].

The input is [N, T, WIDTH]; what every block gives too.
"""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

WIDTH = 8
PLACES = ("plain", "function", "constant if", "if", "shared if", "loop", "scan", "state")


@st.composite
def structures(draw) -> onnx.ModelProto:
    """A model of one to four blocks."""
    return structure(draw(st.integers(0, 2**31 - 1)), draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=4)))


def feeds(proto: onnx.ModelProto, n: int, t: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of n samples and t steps."""
    rng, sizes, found = np.random.default_rng(seed), {"N": n, "T": t}, {}
    for value in proto.graph.input:
        kind = value.type.tensor_type
        shape = [sizes[d.dim_param] if d.dim_param else d.dim_value for d in kind.shape.dim]
        found[value.name] = np.array(n % 2 == 1) if not shape else rng.normal(size=shape).astype(np.float32)
    return found


def structure(seed: int, places: list[str]) -> onnx.ModelProto:
    """The model with a block for each of `places` and weights of this seed."""
    return _Structure(seed).model(places)


class _Structure:
    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.functions: list[onnx.FunctionProto] = []
        self.inputs = [_info("x", ["N", "T", WIDTH])]
        self.outputs: list[onnx.ValueInfoProto] = []
        self.count = 0

    def model(self, places: list[str]) -> onnx.ModelProto:
        x = "x"
        for place in places:
            x = getattr(self, "_" + place.replace(" ", "_"))(x)
        self.nodes.append(helper.make_node("Identity", [x], ["y"]))
        self.outputs.insert(0, _info("y", ["N", "T", WIDTH]))
        graph = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid("my", 1)] if self.functions else [])]
        return helper.make_model(graph, opset_imports=opsets, functions=self.functions, ir_version=8)

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def weight(self, values: np.ndarray) -> str:
        name = self.name("w")
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def matrix(self, *shape: int) -> str:
        return self.weight((self.rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32))

    def node(self, op: str, *inputs: str, into: list | None = None, **attrs) -> str:
        out = self.name("t")
        (self.nodes if into is None else into).append(
            helper.make_node(op, list(inputs), [out], name=self.name("n"), **attrs)
        )
        return out

    def block(self, x: str, into: list) -> str:
        """Two products with something between, a residual sum around them."""
        wide = int(self.rng.integers(4, 17))
        h = self.node("MatMul", x, self.matrix(WIDTH, wide), into=into)
        h = self.node("Add", h, self.matrix(wide), into=into)
        h = self.node(str(self.rng.choice(["Relu", "Tanh", "Sigmoid"])), h, into=into)
        h = self.node("Mul", h, self.weight(np.float32(1)), into=into)  # which clean takes out
        h = self.node("MatMul", h, self.matrix(wide, WIDTH), into=into)
        return self.node("Add", x, h, into=into)

    def body(self, x: str, rank: int) -> onnx.GraphProto:
        into: list[onnx.NodeProto] = []
        out = self.block(x, into)
        return helper.make_graph(into, self.name("b"), [], [_info(out, [None] * (rank - 1) + [WIDTH])])

    def _plain(self, x: str) -> str:
        return self.block(x, self.nodes)

    def _function(self, x: str) -> str:
        into: list[onnx.NodeProto] = []
        held = len(self.weights)
        out, name = self.block(x, into), self.name("F")
        given = [x, *(w.name for w in self.weights[held:])]
        self.functions.append(helper.make_function("my", name, given, [out], into, [helper.make_opsetid("", 17)]))
        made = self.name("t")
        self.nodes.append(helper.make_node(name, given, [made], name=self.name("n"), domain="my"))
        return made

    def _constant_if(self, x: str) -> str:
        return self._branches(x, self.weight(np.array(bool(self.rng.integers(2)))))

    def _if(self, x: str) -> str:
        if all(i.name != "c" for i in self.inputs):
            self.inputs.append(_info("c", [], TensorProto.BOOL))
        return self._branches(x, "c")

    def _shared_if(self, x: str) -> str:
        """Branches that both read a weight of the model."""
        if all(i.name != "c" for i in self.inputs):
            self.inputs.append(_info("c", [], TensorProto.BOOL))
        w, bodies = self.matrix(WIDTH, WIDTH), []
        for op in ("Relu", "Tanh"):
            into: list[onnx.NodeProto] = []
            out = self.node(op, self.node("MatMul", x, w, into=into), into=into)
            bodies.append(helper.make_graph(into, self.name("b"), [], [_info(out, [None, None, WIDTH])]))
        return self.node("If", "c", then_branch=bodies[0], else_branch=bodies[1])

    def _branches(self, x: str, c: str) -> str:
        return self.node("If", c, then_branch=self.body(x, 3), else_branch=self.body(x, 3))

    def _loop(self, x: str) -> str:
        state, go, into = self.name("s"), self.name("go"), []
        on, out = self.node("Identity", go, into=into), self.block(state, into)
        shape = ["N", "T", WIDTH]
        trip = _info(self.name("i"), [], TensorProto.INT64)
        body = helper.make_graph(
            into, self.name("b"), [trip, _info(go, [], TensorProto.BOOL), _info(state, shape)],
            [_info(on, [], TensorProto.BOOL), _info(out, shape)],
        )  # fmt: skip
        trips = int(self.rng.choice([2, 20]))
        return self.node("Loop", self.weight(np.array(trips)), self.weight(np.array(True)), x, body=body)

    def _scan(self, x: str) -> str:
        state, item, into = self.name("s"), self.name("e"), []
        total = self.node("Add", state, item, into=into)
        out = self.block(total, into)
        again = self.node("Tanh", out, into=into)
        two = ["N", WIDTH]
        body = helper.make_graph(
            into, self.name("b"), [_info(state, two), _info(item, two)], [_info(again, two), _info(out, two)]
        )
        start = self.node("ReduceMean", x, axes=[1], keepdims=0)
        last, made = self.name("t"), self.name("t")
        attrs = {"num_scan_inputs": 1, "scan_input_axes": [1], "scan_output_axes": [1], "body": body}
        self.nodes.append(helper.make_node("Scan", [start, x], [last, made], name=self.name("n"), **attrs))
        return made

    def _state(self, x: str) -> str:
        op, gates = [("LSTM", 4), ("GRU", 3), ("RNN", 1)][int(self.rng.integers(3))]
        state, units = self.name("state"), WIDTH
        self.inputs.append(_info(state, [1, "N", units]))
        turned = self.node("Transpose", x, perm=[1, 0, 2])
        weights = self.matrix(1, gates * units, WIDTH), self.matrix(1, gates * units, units)
        y, last = self.name("t"), self.name("last")
        given = [turned, *weights, "", "", state]
        self.nodes.append(helper.make_node(op, given, [y, last], name=self.name("n"), hidden_size=units))
        self.outputs.append(_info(last, [1, "N", units]))
        flat = self.node("Squeeze", y, self.weight(np.array([1])))
        return self.node("Transpose", flat, perm=[1, 0, 2])


def _info(name: str, shape: list, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
