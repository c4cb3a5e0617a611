"""Cases as data, and the checks that every row of the operator table must pass.

A case is one node with the shapes of its data inputs and the contents of its constant inputs. It is checked twice:
its shapes against strict ONNX inference and a real run, with fixed and with symbolic extents; and the meaning of its
axes, by pruning whatever the analysis leaves free and comparing with the zeroed twin.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from onnxc.ir.analysis import Analysis, analyse
from onnxc.ir.axes import Atom, atoms
from onnxc.ir.files import load
from onnxc.ir.masks import apply_masks
from onnxc.ir.model import Model
from onnxc.ir.verify import verify
from onnxc.passes.prune.select import balance
from onnxc.passes.prune.twin import zeroed
from onnxc.runtime.reference import saturates

FLOATS = (np.float32, np.float64, np.float16)


class Data:
    """A data input: its shape, dtype and the range of its random contents (integers from low to high - 1)."""

    def __init__(self, *shape: int, dtype=np.float32, low: float = -1.0, high: float = 1.0):
        self.shape, self.dtype, self.low, self.high = shape, np.dtype(dtype), low, high

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        if self.dtype == bool:
            return rng.random(self.shape) < 0.5
        if self.dtype.kind in "iu":
            return rng.integers(int(self.low), int(self.high), self.shape).astype(self.dtype)
        return rng.uniform(self.low, self.high, self.shape).astype(self.dtype)


def u8(*shape: int) -> Data:
    return Data(*shape, dtype=np.uint8, low=0, high=256)


def i8(*shape: int) -> Data:
    # where sums of two products with any uint8 fit 16 bits, in which some machines keep them
    return Data(*shape, dtype=np.int8, low=-64, high=64)


def i64(*shape: int, low: int = 0, high: int = 9) -> Data:
    return Data(*shape, dtype=np.int64, low=low, high=high)


def flags(*shape: int) -> Data:
    return Data(*shape, dtype=bool)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass
class Case:
    """One node. `operands`: input name -> shape (float data), Data, or an array (an initialiser).

    free: the extents of the free atoms, sorted, where every data input is a weight and every output axis is contracted:
    what may be pruned. runtime: "ort", or "onnx" where ORT has no kernel. symbolic: whether the shapes are also
    checked with a name for every extent. dynamic: extents of the result depend on data. made: the element type of the
    outputs that ONNX's inference does not know.
    """

    text: str
    free: list[int]
    operands: dict[str, object] = field(default_factory=dict)
    opset: int = 17
    runtime: str = "ort"
    symbolic: bool = True
    dynamic: bool = False
    made: int = TensorProto.FLOAT

    def __init__(
        self,
        text: str,
        free: list[int],
        *,
        opset: int = 17,
        runtime: str = "ort",
        symbolic: bool = True,
        dynamic: bool = False,
        made: int = TensorProto.FLOAT,
        **operands,
    ):
        self.text, self.free, self.opset, self.runtime, self.symbolic = text, free, opset, runtime, symbolic
        self.dynamic, self.made = dynamic, made
        self.operands = {
            k: Data(*v) if isinstance(v, tuple) else np.asarray(v) if isinstance(v, np.generic) else v
            for k, v in operands.items()
        }

    @property
    def op(self) -> str:
        node = self.node()
        return f"{node.domain}.{node.op_type}" if node.domain else node.op_type

    def node(self) -> onnx.NodeProto:
        node = parser.parse_node(self.text)
        node.name = "it"
        return node

    def data(self) -> dict[str, Data]:
        return {k: v for k, v in self.operands.items() if isinstance(v, Data)}

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(f"{self.text}{self.opset}".encode()))

    def feeds(self) -> dict[str, np.ndarray]:
        rng = self.rng()
        return {k: v.draw(rng) for k, v in self.data().items()}

    def __str__(self) -> str:
        shapes = ",".join("x".join(map(str, v.shape)) for v in self.operands.values())
        return f"{self.text}[{shapes}]@{self.opset}".replace(" ", "")


def proto(nodes, opset: int, inputs=(), outputs=(), weights=None) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "case",
        list(inputs),
        list(outputs),
        [numpy_helper.from_array(v, k) for k, v in (weights or {}).items()],
    )
    domains = {n.domain: 1 for n in graph.node} | {"": opset}
    opsets = [helper.make_opsetid(d, v) for d, v in domains.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10 if opset < 24 else 11)


def kind(dtype: np.dtype) -> int:
    return helper.np_dtype_to_tensor_dtype(dtype)


def run(model: onnx.ModelProto, feeds: dict, runtime: str = "ort") -> list[np.ndarray]:
    """All outputs of `model`, by ORT with its optimisations off."""
    if runtime == "onnx":
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(model).run(None, feeds)
    import onnxruntime as ort

    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_DISABLE_ALL
    if saturates(model):
        options.graph_optimization_level = level.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)


# shapes


def plain_model(case: Case, symbolic: bool) -> onnx.ModelProto:
    """The node alone, data as graph inputs, its outputs as graph outputs of undeclared shape."""
    node = case.node()
    inputs = []
    for name, d in case.data().items():
        named = symbolic and name != "w"
        shape = [f"{name}_{k}" for k in range(len(d.shape))] if named else d.shape
        inputs.append(helper.make_tensor_value_info(name, kind(d.dtype), shape))
    weights = {k: v for k, v in case.operands.items() if isinstance(v, np.ndarray)}
    outputs = [onnx.ValueInfoProto(name=o) for o in node.output if o]
    bare = proto([node], case.opset, inputs, outputs, weights)
    inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    types = {o.name: o.type.tensor_type.elem_type for o in inferred.graph.output}
    outputs = [
        onnx.ValueInfoProto(name=o, type=helper.make_tensor_type_proto(types[o] or case.made, None))
        for o in node.output
        if o
    ]
    return proto([node], case.opset, inputs, outputs, weights)


def check_shapes(case: Case, symbolic: bool) -> Analysis:
    """The table's shapes equal those of strict inference (in `verify`) and those of a run."""
    model = plain_model(case, symbolic)
    analysis = verify(load(model)).analysis
    feeds = case.feeds()
    sizes = {f"{name}_{k}": n for name, v in feeds.items() for k, n in enumerate(v.shape)}
    results = run(model, feeds, case.runtime)
    for info, value in zip(model.graph.output, results, strict=True):
        ours = analysis.shape(info.name)
        assert ours is not None, f"{info.name} has no shape"
        assert len(ours) == np.ndim(value), f"{info.name}: {ours}, really {np.shape(value)}"
        for d, (have, real) in enumerate(zip(ours, np.shape(value), strict=True)):
            if isinstance(have, str):
                have = sizes.get(have)  # None for a name that ONNX inference has made up
            assert have == real or (have is None and (symbolic or case.dynamic)), (
                f"{info.name}[{d}]: {ours}, really {np.shape(value)}"
            )
    return analysis


# meaning


def pruning_model(case: Case) -> onnx.ModelProto:
    """All data are weights; every output is weighted with random numbers and summed over all axes."""
    node = case.node()
    rng = case.rng()
    values = {k: v.draw(rng) if isinstance(v, Data) else v for k, v in case.operands.items()}
    weights, before = {}, []
    for name, v in case.operands.items():
        if isinstance(v, Data) and name not in ("w", "scale", "zero"):
            before.append(helper.make_node("Identity", [f"{name}_weight"], [name]))
            weights[f"{name}_weight"] = values[name]
        else:
            weights[name] = values[name]
    results = run(plain_model(case, False), case.feeds(), case.runtime)
    after, outputs = [], []
    for name, value in zip([o for o in node.output if o], results, strict=True):
        value = np.asarray(value)
        weights[f"{name}_mix"] = rng.uniform(0.5, 1.5, value.shape).astype(np.float32) * rng.choice(
            [-1, 1], value.shape
        ).astype(np.float32)
        after.append(helper.make_node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT))
        after.append(helper.make_node("Mul", [f"{name}_float", f"{name}_mix"], [f"{name}_mixed"]))
        after.append(helper.make_node("ReduceSum", [f"{name}_mixed"], [f"{name}_sum"], keepdims=0))
        outputs.append(helper.make_tensor_value_info(f"{name}_sum", TensorProto.FLOAT, []))
    return proto([*before, node, *after], case.opset, (), outputs, weights)


def free_atoms(analysis: Analysis) -> list[Atom]:
    """Every unfrozen atom of known extent above 1, in graph order."""
    every = dict.fromkeys(a for axis in analysis.all_axes() for a in atoms(axis))
    return [a for a in every if a.frozen is None and isinstance(a.size, int) and a.size > 1]


def exact_atoms(analysis: Analysis) -> list[Atom]:
    """The free atoms whose removal is exactly a zeroing."""
    return [a for a in free_atoms(analysis) if a.soft is None]


def random_masks(
    analysis: Analysis, atoms: list[Atom], rng: np.random.Generator, share: float = 0.5
) -> dict[Atom, np.ndarray]:
    """Masks for these atoms that keep at least one index, and as many in each axis of a balanced set."""
    wanted = {a: 1 + int(rng.binomial(a.size - 1, 1 - share)) for a in atoms}
    counts = balance(wanted, analysis.balanced)
    keep = {}
    for a in atoms:
        if counts[a] < a.size:
            keep[a] = np.zeros(a.size, bool)
            keep[a][rng.choice(a.size, counts[a], replace=False)] = True
    return keep


def prune(model: Model, rng: np.random.Generator, share: float = 0.5) -> tuple[Model, Model, int]:
    """The pruned model (verified), its zeroed twin, and how many atoms lost indices, under random masks."""
    analysis = analyse(model)
    keep = random_masks(analysis, exact_atoms(analysis), rng, share)
    twin = zeroed(model, analysis, keep)
    pruned = model.copy()
    again = analyse(pruned)
    same = dict(zip(free_atoms(analysis), free_atoms(again), strict=True))
    apply_masks(pruned, again, {same[a]: m for a, m in keep.items()})
    verify(pruned, like=model)
    return pruned, twin, len(keep)


def close(a: np.ndarray, b: np.ndarray, rtol: float = 1e-4) -> bool:
    """Whether the largest difference is within rtol of the largest magnitude (at least of 0.1); integers are equal."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        return False
    if a.dtype.kind not in "fV":
        return np.array_equal(a, b)
    a, b = a.astype(np.float64), b.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return False
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    return bool(np.max(np.abs(a - b), initial=0) <= rtol * max(np.max(np.abs(a), initial=0), 0.1))


def free_extents(case: Case) -> list[int]:
    return sorted(a.size for a in exact_atoms(analyse(load(pruning_model(case)))))


def check_pruning(case: Case, rounds: int = 4, blind: bool = False) -> None:
    """The free atoms are those that the case names (unless `blind`); cut at random, it equals its zeroed twin."""
    model = load(pruning_model(case))
    free = exact_atoms(analyse(model))
    assert blind or sorted(a.size for a in free) == sorted(case.free)
    rng = case.rng()
    for _ in range(rounds if free else 0):
        pruned, twin, _ = prune(model, rng)
        got = run(pruned.to_proto(), {}, case.runtime)
        want = run(twin.to_proto(), {}, case.runtime)
        for a, b in zip(got, want, strict=True):
            assert close(a, b, 1e-4), f"pruned {a}, twin {b}"
