"""One walk over a model with static shapes: constants are computed, types told, and what is made of other operators is opened.

    Reshape(x, Concat(Slice(Shape(x)), -1))   ->   Reshape(x, [1, -1])
    If(true) {a} {b}                          ->   a
    Loop(2) {body}                            ->   body body
    an operator without a row                 ->   its definition in other operators

Nodes are visited in order, each once, and with every shape before it known: what depends on shapes alone is constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from onnxc.codegen.prepare.constant import constant_of
from onnxc.codegen.prepare.matrices import Blocks, Matrix, blocks, halves
from onnxc.codegen.prepare.numbers import Numbers
from onnxc.codegen.prepare.stored import Lazy, Vectors
from onnxc.ir import sizes
from onnxc.ir.errors import BadModel, Unsupported
from onnxc.ir.evaluate import CannotFold, evaluate
from onnxc.ir.faults import ONNX_ERRORS
from onnxc.ir.values import MOST_AXES, attribute, to_array, to_tensor

STANDARD = ("", "ai.onnx")
SHOWN = 1024  # elements: constants of at most so many are shown to the inference of types
MOST_NODES = 50_000  # of a model whose bodies are opened
RANDOM = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
    "Dropout",
}
LARGE = 1 << 28
"""Bytes of a result that may be computed ahead, or twice its operands."""
ROOM = 1 << 30
"""Bytes of all of them, or those of the constants that there are."""
SUMMED = {"Conv", "ConvTranspose", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
MOST_ELEMENTS = 2**31 - 1
"""Of a tensor."""
BARE = {"GreaterOrEqual": "Greater", "LessOrEqual": "Less"}
"""Comparisons, and those of the same types and shapes that inference has always known."""
REGION = "onnxc.region"
"""The domain of nodes that stand for a Loop or If that stays one (`prepare.loops`)."""
EXTENTS = "onnxc.extents"
"""The domain of operators of ours for tensors whose lengths data decide (`prepare.extents`)."""
Scope = dict[str, str]
"""What names of a body mean outside it."""


@dataclass(frozen=True)
class Integers:
    """A constant as `values` (int8) times `scale` (float32), which broadcasts to the shape of the values."""

    values: np.ndarray
    scale: np.ndarray


def attributes_of(node: onnx.NodeProto) -> dict:
    """The attributes of a node by name: numbers, text, lists of them, protos."""
    return {
        a.name: [text.decode() for text in a.strings] if a.type == onnx.AttributeProto.STRINGS else attribute(a)
        for a in node.attribute
    }


@dataclass
class Walk:
    """State of a walk, and what has come of it.

    `nodes` are what is left to compute, `constants` every tensor that is known, `types` the type of every tensor. `integers`
    names the constants that have been dequantised. `open_node(walk, node, scope)` answers the tensors that stand for a
    node's outputs, or None for a node that stays.
    """

    opsets: dict[str, int]
    constants: dict[str, Any]  # arrays, or `Lazy` ones that NumPy makes where it needs them
    types: dict[str, onnx.TypeProto]
    open_node: Callable[[Walk, onnx.NodeProto, Scope], Sequence[str | None] | None]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    integers: dict[str, Integers] = field(default_factory=dict)
    regions: dict[str, Any] = field(default_factory=dict)  # `prepare.loops.Region` by the names of their nodes
    numbers: Numbers = field(default_factory=Numbers)
    actual: dict[str, Any] = field(
        default_factory=dict
    )  # `prepare.extents.Extents` of tensors whose lengths data decide
    bare: int = 0  # above 0 nodes take such tensors as they are held
    trial: int = 0  # above 0 only what becomes of whole numbers matters
    read: set[str] = field(default_factory=set)  # names of the model that something reads
    taken: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)  # of nodes
    room: int = ROOM
    fill: int = ROOM

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return self.opsets.get("", self.opsets.get("ai.onnx", 1))

    def run(self, graph: onnx.GraphProto) -> Scope:
        """Visits the nodes of the outer graph: what its names mean. Raises BadModel where types contradict each other, Unsupported."""
        self.taken = {name for node in graph.node for name in (*node.input, *node.output)} | set(self.constants)
        self.taken.update(self.types)
        self.room = max(ROOM, sum(array.nbytes for array in self.constants.values()))
        self.read = _read(graph)
        outer: Scope = {}
        for node in graph.node:
            self.visit(node, outer)
        return outer

    def fresh(self, stem: str) -> str:
        """A name that nothing has yet."""
        name, i = stem, 0
        while name in self.taken:
            i += 1
            name = f"{stem}_{i}"
        self.taken.add(name)
        return name

    def constant(self, values, stem: str = "constant") -> str:
        """The name of a new constant."""
        name = self.fresh(stem)
        self.constants[name] = values if isinstance(values, Lazy) else np.asarray(values)
        return name

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The extents of a tensor; None where they are not known."""
        if name in self.constants:
            return self.constants[name].shape
        kind = self.types.get(name)
        return None if kind is None else _extents(kind)

    def element(self, name: str) -> int:
        """The element type of a tensor, 0 where it is not known."""
        if name in self.constants:
            return helper.np_dtype_to_tensor_dtype(self.constants[name].dtype)
        kind = self.types.get(name)
        return kind.tensor_type.elem_type if kind is not None else 0

    def visit(self, node: onnx.NodeProto, scope: Scope, inside: bool = False) -> None:
        """Takes one node of a graph, or of a body (`inside`, where names that the graph has mean something else); `scope`
        translates names."""
        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.input[:] = [scope.get(name, name) for name in node.input]
        results: Sequence[str | None] | None = self._constants(made, inside)
        if results is None:
            results = self.open_node(self, made, scope)
        if results is not None:
            scope.update((name, result) for name, result in zip(node.output, results) if name and result)
            return
        for i, name in enumerate(node.output):
            if name and (name in self.types or name in self.constants or (inside and name in self.taken)):
                made.output[i] = self.fresh(name)
            self.taken.add(made.output[i])
        scope.update((name, now) for name, now in zip(node.output, made.output) if name and name != now)
        self.keep(made)

    def open_body(self, body: onnx.GraphProto, inputs: Sequence[str], scope: Scope, stem: str) -> list[str]:
        """The tensors that stand for the outputs of a body whose inputs are the tensors `inputs`."""
        inner = dict(scope)
        inner.update(zip((value.name for value in body.input), inputs))
        for tensor in body.initializer:
            inner[tensor.name] = self.constant(to_array(tensor, None), tensor.name)
        for i, node in enumerate(body.node):
            own = onnx.NodeProto()
            own.CopyFrom(node)
            own.name = f"{stem}/{node.name or f'{node.op_type}_{i}'}"
            for name in own.output:
                inner.pop(name, None)
            self.visit(own, inner, inside=True)
        return [inner.get(value.name, value.name) for value in body.output]

    def keep(self, node: onnx.NodeProto) -> None:
        """Takes a node as it is, under a name of its own."""
        if len(self.nodes) >= MOST_NODES:
            raise Unsupported(
                f"a model of more than {MOST_NODES} nodes, once its loops are unrolled", node=node.name,
                remedy="compile the body of the loop and call it in a loop of your own",
            )  # fmt: skip
        stem, i = node.name or node.op_type, 0
        while not node.name or node.name in self.names:
            node.name = f"{stem}_{i}" if i else stem
            i += 1
        self.names.add(node.name)
        self.nodes.append(node)
        made = self.inferred(node)
        for name, kind in made.items():
            bounded(name, [d.dim_value for d in kind.tensor_type.shape.dim], node.name)
        self.types.update(made)
        self.numbers.learn(self, node)

    def inferred(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        """The types of a node's outputs, as ONNX infers them. Raises BadModel where types contradict each other."""
        if node.domain in (REGION, EXTENTS):
            return dict(zip(node.output, next(a.type_protos for a in node.attribute if a.name == "types")))
        if node.op_type == "MaxUnpool" and len(node.input) > 2 and node.input[2] in self.constants:  # ONNX says nothing
            kind = helper.make_tensor_type_proto(self.element(node.input[0]), self.constants[node.input[2]].tolist())
            return {node.output[0]: kind}
        node = settled(node, self.shape(node.input[0]) if node.input and node.input[0] else None, self.opset)
        domain = "" if node.domain in STANDARD else node.domain
        version = self.opset if not domain else self.opsets.get(domain, 1)
        if domain == "ai.onnx.ml":  # shapes are the same in all versions, and inferred since the third
            version = max(version, 3)
        try:
            schema = onnx.defs.get_schema(node.op_type, version, domain)
        except onnx.defs.SchemaError:
            return {}
        inputs = [name for name in node.input if name]
        if not all(name in self.constants or name in self.types for name in inputs):
            return {}
        if any(a.name not in schema.attributes for a in node.attribute):  # which its row refuses by name
            kept = {name: value for name, value in attributes_of(node).items() if name in schema.attributes}
            node = helper.make_node(node.op_type, node.input, node.output, name=node.name, domain=node.domain, **kept)
        known = {name: self.type_of(name) for name in inputs}
        shown = {
            name: to_tensor(name, self.constants[name])
            for name in inputs
            if name in self.constants and self.constants[name].size <= SHOWN
        }
        imports = [helper.make_opsetid(name, number) for name, number in self.opsets.items()]
        try:
            return onnx.shape_inference.infer_node_outputs(schema, node, known, shown, opset_imports=imports)
        except ONNX_ERRORS as error:
            text = " ".join(str(error).split())
            raise BadModel(f"shape inference fails: {text}", node=node.name) from None

    def type_of(self, name: str) -> onnx.TypeProto:
        """The type of a tensor that is known or has been visited. Raises Unsupported for what an operator without a row makes."""
        if name not in self.constants:
            if name not in self.types:
                raise Unsupported(
                    "the type of a tensor is not known", tensor=name, remedy="compile the part of the model before it"
                )
            return self.types[name]
        array = self.constants[name]
        return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    def _constants(self, node: onnx.NodeProto, inside: bool) -> list[str] | None:
        """The names of new constants that the outputs of a node are, or None where they are not known."""
        if node.domain not in STANDARD or node.op_type in RANDOM or any(a.HasField("g") for a in node.attribute):
            return None
        if not self.bare and any(name in self.actual for name in node.input):
            return None
        arrays = self._values(node)
        if arrays is None:
            return None
        names = []
        for name, array in zip(node.output, arrays, strict=True):
            used = bool(name) and (name in self.constants or name in self.types or (inside and name in self.taken))
            names.append(self.fresh(name) if used else name)
            if name:
                self.constants[names[-1]] = array
                self.taken.add(names[-1])
        if node.op_type == "DequantizeLinear":
            found = _integers(node, [self.constants[name] for name in node.input if name])
            if found is not None:
                self.integers[names[0]] = found
        return names

    def _values(self, node: onnx.NodeProto) -> list[Any] | None:
        if node.op_type in ("Shape", "Size"):
            shape = self.shape(node.input[0])
            if shape is None:
                return None
            if node.op_type == "Size":
                return [np.asarray(np.prod(shape, dtype=np.int64))]
            own = attributes_of(node)
            return [np.asarray(shape[own.get("start", 0) : own.get("end", len(shape))], np.int64)]
        if node.op_type == "Constant":
            return [constant_of(node)]
        if not all(name in self.constants for name in node.input if name):
            return None
        arrays = [self.constants[name] if name else None for name in node.input]
        if node.op_type == "DequantizeLinear":
            narrow = _narrow(node, arrays)
            return [_dequantised(node, arrays) if narrow is None else narrow]
        if node.op_type == "Transpose" and isinstance(arrays[0], Vectors | Matrix):
            return [arrays[0].transpose(attributes_of(node).get("perm"))]
        if node.op_type == "Cast" and attributes_of(node)["to"] == onnx.TensorProto.FLOAT:
            half = halves(arrays[0]) if isinstance(arrays[0], np.ndarray) else arrays[0]
            if isinstance(half, Matrix):
                return [half]
        outputs = [gs.Variable(name) for name in node.output]
        stand_in = gs.Node(node.op_type, node.name, attributes_of(node), [], outputs)
        if not self._affordable(stand_in, arrays):
            return None
        try:
            return evaluate(stand_in, [np.asarray(a) if isinstance(a, Matrix) else a for a in arrays], self.opset)
        except CannotFold:
            return None  # the row of the operator may still know what to do

    def _affordable(self, node: gs.Node, arrays: list[np.ndarray | None]) -> bool:
        """Whether the results of a node are small and soon computed; it is asked before any of it is."""
        fill, value = node.op == "ConstantOfShape", node.attrs.get("value")
        width = (4 if value is None else np.asarray(value).itemsize) if fill else 8
        known = {t.name: (None, width) for t in node.outputs}
        size = sizes.written(node, arrays, self.opset, known)
        if fill and size is not None and size <= self.fill:  # one element, until it is packed
            self.fill -= size
            return True
        given = sum(array.nbytes for array in arrays if array is not None)
        if size is None or size > max(LARGE, 2 * given) or size > self.room:
            return False
        if sizes.too_long(node, arrays, size, node.op in SUMMED):
            return False
        self.room -= max(0, size - given)
        return True


def _read(graph: onnx.GraphProto) -> set[str]:
    """What nodes of a graph and of its bodies read, and what they give."""
    found = {value.name for value in graph.output}
    for node in graph.node:
        found.update(node.input)
        for a in node.attribute:
            for inner in [a.g] if a.HasField("g") else a.graphs:
                found |= _read(inner)
    return found


def _extents(kind: onnx.TypeProto) -> tuple[int, ...] | None:
    dims = kind.tensor_type.shape.dim
    known = kind.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims)
    return tuple(d.dim_value for d in dims) if known else None


def bounded(name: str, extents: Sequence[int], node: str | None = None) -> None:
    """Raises BadModel where a tensor has negative extents, Unsupported where it has too many axes or elements.

    `node` makes it; an input has none.
    """
    for axis, extent in enumerate(extents):
        if extent < 0:
            raise BadModel(
                "a negative extent", node=node, tensor=name, axis=axis, found=extent,
                remedy="the operands or attributes of the node do not fit: export the model again",
            )  # fmt: skip
    smaller = "smaller inputs, or the part without this node" if node else "smaller inputs"
    if len(extents) > MOST_AXES:
        raise Unsupported(
            "a tensor has too many axes", node=node, tensor=name, expected=f"at most {MOST_AXES}", found=len(extents),
            remedy="merge axes by a Reshape ahead" + (", or compile the part without this node" if node else ""),
        )  # fmt: skip
    if prod(extents) > MOST_ELEMENTS:
        raise Unsupported(
            "a tensor is too large", node=node, tensor=name, expected=f"at most {MOST_ELEMENTS} elements",
            found=prod(extents), remedy=f"compile the model with {smaller}",
        )  # fmt: skip


def settled(node: onnx.NodeProto, extents: tuple[int, ...] | None, opset: int) -> onnx.NodeProto:
    """What stands for a node in the inference of types, where ONNX's own is not what runtimes compute.

    GroupNormalization of opset 18 to 20 was deprecated afterwards, and is not inferred; MeanVarianceNormalization has a default
    that inference overlooks; before opset 22 pools with ceil_mode count a window that begins in the end padding. STFT
    is onesided by default, which inference overlooks. GreaterOrEqual and LessOrEqual have no inference before opset 16.
    """
    if node.op_type in BARE and opset < 16 and node.domain in STANDARD:
        return helper.make_node(BARE[node.op_type], node.input, node.output, name=node.name)
    if node.op_type == "STFT" and node.domain in STANDARD and "onesided" not in attributes_of(node):
        return helper.make_node("STFT", node.input, node.output, name=node.name, onesided=1)
    pool = node.op_type in ("MaxPool", "AveragePool", "LpPool") and opset < 22
    if node.domain not in STANDARD or not (pool or node.op_type in ("GroupNormalization", "MeanVarianceNormalization")):
        return node
    if not pool:
        return helper.make_node("Identity", node.input[:1], node.output[:1], name=node.name)
    own = attributes_of(node)
    if own.get("ceil_mode") != 1 or not extents or own.get("auto_pad", "NOTSET") not in ("", "NOTSET"):
        return node
    kernel = list(own["kernel_shape"])
    rank = len(kernel)
    strides, dilations, pads = own.get("strides"), own.get("dilations"), own.get("pads")
    strides, dilations = (list(given) if given else [1] * rank for given in (strides, dilations))
    pads = list(pads) if pads else [0] * 2 * rank
    ends = []
    for d, size in enumerate(extents[2:]):
        reach = dilations[d] * (kernel[d] - 1) + 1
        count = -(-(size + pads[d] + pads[rank + d] - reach) // strides[d]) + 1
        count -= (count - 1) * strides[d] >= size + pads[d]
        ends.append(max((count - 1) * strides[d] + reach - size - pads[d], 0))
    changed = {**own, "ceil_mode": 0, "pads": [*pads[:rank], *ends]}
    return helper.make_node(node.op_type, node.input, node.output, name=node.name, **changed)


def _spread(node: onnx.NodeProto, operands: list) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, scale and zero point of DequantizeLinear, the latter two ready to broadcast."""
    values, scale = operands[0], operands[1]
    zero = operands[2] if len(operands) > 2 and operands[2] is not None else np.zeros(scale.shape, values.dtype)
    own = attributes_of(node)
    axis, block = own.get("axis", 1), own.get("block_size", 0)
    if block:
        scale, zero = (np.repeat(a, block, axis).take(range(values.shape[axis]), axis) for a in (scale, zero))
    elif scale.size > 1:
        view = [1] * values.ndim
        view[axis] = -1
        scale, zero = scale.reshape(view), zero.reshape(view)
    else:
        scale, zero = scale.reshape(()), zero.reshape(())
    return values, scale, zero


def _dequantised(node: onnx.NodeProto, operands: list) -> np.ndarray:
    """(values - zero point) scale, per tensor, per axis or per block, as ONNX defines it."""
    values, scale, zero = _spread(node, operands)
    wide = np.int64 if values.dtype.kind in "iu" or values.dtype.name.lstrip("u").startswith("int") else np.float32
    levels = values.astype(wide) - zero.astype(wide)
    return (levels.astype(scale.dtype) * scale).astype(scale.dtype)


def _narrow(node: onnx.NodeProto, operands: list) -> Blocks | None:
    """The constant as kernels for narrow weights read it, where it is a matrix that they may take."""
    values, scale = operands[:2]
    zero = operands[2] if len(operands) > 2 else None
    own = attributes_of(node)
    axis, block = own.get("axis", 1), own.get("block_size", 0)
    if any(isinstance(array, Lazy) for array in operands) or values.ndim != 2 or own.get("output_dtype", 0) > 1:
        return None
    return blocks(values, scale, zero, axis % 2, block)


def _integers(node: onnx.NodeProto, operands: list) -> Integers | None:
    """The integers of a dequantised constant, if int8 holds them and there is one scale a tensor or axis."""
    if attributes_of(node).get("block_size", 0) or operands[0].dtype.name not in ("int8", "uint8"):
        return None
    values, scale, zero = _spread(node, operands)
    levels = values.astype(np.int64) - zero.astype(np.int64)
    fits = levels.min(initial=0) >= -128 and levels.max(initial=0) <= 127
    return Integers(levels.astype(np.int8), scale) if fits and scale.dtype == np.float32 else None
