"""A static ONNX model as a Relax module, node by node through the table of operators.

    t1 = Relu(t0)   ->   lv = relax.nn.relu(x0)

No name of the model gets into the module: inputs are x0, x1, ..., weights w0, w1, .... Tensors of types that are not computed
with (float16 and others, `operators.node.HELD`) are held in a wider one, and converted at inputs and outputs alone. What
cannot be taken is collected, so that all of a model's refusals come at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from onnxc.codegen import origins, regions
from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.narrow import is_narrow, pack, unpack
from onnxc.codegen.operators.node import Node, Refused, dtype_of, held, shape_of
from onnxc.codegen.operators.table import convert
from onnxc.codegen.prepare.matrices import HALVES, halves
from onnxc.codegen.prepare.record import StaticModel
from onnxc.codegen.prepare.stored import Lazy
from onnxc.codegen.prepare.walk import REGION
from onnxc.codegen.tvm_api import tvm_modules
from onnxc.ir.errors import Unsupported
from onnxc.runtime.elements import stored


@dataclass
class Imported:
    """`module["main"]` has the model's inputs and then its weights as parameters, and answers the outputs and then int32
    scalars, which are other than 0 where an index was out of range. `weights`, `users` and `integers` say of a weight's
    variable its array, the node that it is for, and the 8-bit integers that it is made of; `nodes` of a variable's name the nodes
    that it was emitted for."""

    module: Any
    weights: dict = field(default_factory=dict)
    users: dict = field(default_factory=dict)
    integers: dict = field(default_factory=dict)
    nodes: dict[str, origins.Nodes] = field(default_factory=dict)


def import_onnx(static: StaticModel) -> Imported:
    """The module of a static model: inference operators, straight-line bindings in `main`.

    Raises Unsupported for all nodes that no row takes, each with operator, reason and remedy.
    """
    m = tvm_modules()
    run = _Import(static)
    module = run.module()
    t = m.relax.transform
    module = m.tvm.transform.Sequential([t.CanonicalizeBindings(), t.DeadCodeElimination()])(module)
    params = list(module["main"].params)[len(static.inputs) :]
    made = Imported(module, nodes=run.builder.emitted)
    for param, (array, user, integers) in zip(params, run.stored, strict=True):
        made.weights[param], made.users[param] = array, user
        if integers is not None:
            made.integers[param] = integers
    return made


class _Import:
    """One walk over the nodes. `values`: tensor name -> expression; `stored`: (array, user, integers) of each weight."""

    def __init__(self, static: StaticModel):
        self.static, self.relax = static, tvm_modules().relax
        self.builder = origins.recorder()
        self.values: dict[str, object] = {}
        self.arrays: dict[str, np.ndarray] = {}
        self.stored: list[tuple] = []
        self.weights: list = []
        self.flags: list = []
        self.refusals: list[tuple[Node, Refused]] = []

    def module(self):
        relax, static = self.relax, self.static
        inputs = [
            relax.Var(f"x{i}", relax.TensorType(*stored(shape, dtype)))
            for i, (_, shape, dtype) in enumerate(static.inputs)
        ]
        with tvm.whole(self.builder), self.builder.function("main", inputs):
            with self.builder.dataflow():
                for var, (name, shape, dtype) in zip(inputs, static.inputs, strict=True):
                    self.values[name] = self._input(var, shape, dtype)
                for node in static.nodes:
                    self._node(node)
                self.builder.nodes = ()
                outputs = [self._output(name, shape, dtype) for name, shape, dtype in static.outputs]
                result = self.builder.emit_output(relax.Tuple([*outputs, *self.flags]))
            self.builder.emit_func_output(result)
        if self.refusals:
            raise refusal(self.refusals)
        module = self.builder.get()
        main = module["main"]
        module["main"] = relax.Function([*inputs, *self.weights], main.body, main.ret_ty, main.is_pure, main.attrs)
        return module

    def _as(self, value, dtype: str):
        return value if str(value.ty.dtype) == dtype else self.builder.emit(self.relax.op.astype(value, dtype))

    def _input(self, var, shape: tuple[int, ...], dtype: str):
        """An input in the type in which it is computed with."""
        if 0 in shape:
            return self._empty(shape, held(dtype))
        return unpack(self._plain(), var, shape, dtype) if is_narrow(dtype) else self._as(var, held(dtype))

    def _output(self, name: str, shape: tuple[int, ...], dtype: str):
        """An output in the type that the caller gets."""
        value = self._value(name)
        if value is None or 0 in shape:  # refused before, or nothing
            return self._empty(*stored(shape, dtype))
        return pack(self._plain(), value, shape, dtype) if is_narrow(dtype) else self._as(value, dtype)

    def _plain(self) -> Node:
        """Stands for the node that a conversion at the model's inputs and outputs is not."""
        return Node(onnx.NodeProto(), 1, (), (), self.arrays, self.builder, self.flags, self.add_weight)

    def _empty(self, shape: tuple[int, ...], dtype: str):
        return self.relax.const(np.zeros(shape, dtype), dtype)

    def _value(self, name: str):
        """The expression of a tensor, a constant's made when it is first read."""
        if name not in self.values and name in self.static.constants:
            array = self._array(name)
            if name in self.static.weights:
                found = self.add_weight(array, self.static.users.get(name, ""), self.static.integers.get(name))
            else:
                found = self.relax.const(array, array.dtype.name)
            self.values[name] = found
        return self.values.get(name)

    def _array(self, name: str) -> Any:
        """A constant's values in the type in which they are held: an array, or a `Lazy` one."""
        if name not in self.arrays:
            array = self.static.constants[name]
            dtype = held(array.dtype.name)
            if isinstance(array, Lazy):
                return array
            if dtype == "float32" and array.dtype.name in HALVES and isinstance(narrow := halves(array), Lazy):
                return narrow
            self.arrays[name] = np.asarray(array if dtype == array.dtype.name else array.astype(dtype), order="C")
        return self.arrays[name]

    def add_weight(self, array: np.ndarray, user: str, integers=None):
        """A new parameter of main that stands for an array."""
        var = self.relax.Var(f"w{len(self.weights)}", self.relax.TensorType(array.shape, array.dtype.name))
        self.weights.append(var)
        self.stored.append((array, user, integers))
        return var

    def _node(self, proto) -> None:
        static = self.static
        self.builder.nodes = (proto.name or f"{proto.op_type} of {proto.output[0]}",)
        if proto.domain == REGION:
            self._region(proto)
            return
        args = [self._value(name) if name else None for name in proto.input]
        results = [static.types.get(name) if name else None for name in proto.output]
        arrays = {name: self._array(name) for name in proto.input if name in static.constants}
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        opset = static.opsets.get(domain, 1)
        node = Node(proto, opset, args, results, arrays, self.builder, self.flags, self.add_weight)
        node.kinds = [self._kind(name) for name in proto.input]
        node.made_of = static.integers
        if any(name and arg is None for name, arg in zip(proto.input, args, strict=True)):
            return  # what it reads was refused before
        named = [(name, result) for name, result in zip(proto.output, results) if name]
        empty = [(name, result) for name, result in named if result is not None and 0 in result[0]]
        if named and len(empty) == len(named):  # nothing to compute
            self.values.update((name, self._empty(extents, held(dtype))) for name, (extents, dtype) in empty)
            return
        try:
            made = convert(node)
        except Refused as error:
            self.refusals.append((node, error))
            made = tuple(self._stand_in(result) for result in results)
        for name, value in zip(proto.output, made):
            if name and value is not None:
                self.values[name] = value

    def _region(self, proto) -> None:
        """A call of what stands for a Loop or an If; constants are parameters, or TVM would compute the call."""
        missing = [i for i, name in enumerate(proto.input) if not name]
        args = []
        for name in filter(None, proto.input):
            constant = name in self.static.constants
            if not constant and self._value(name) is None:
                return  # it was refused before
            array = np.asarray(self._array(name)) if constant else None
            if array is None and 0 in shape_of(self.values[name]):
                array = np.zeros(1, dtype_of(self.values[name]))
            args.append(self.values[name] if array is None else self.add_weight(np.atleast_1d(array), proto.name))
        results = [self.static.types[name] for name in proto.output]
        made, flag = regions.call(
            self.builder, proto.name, args, [(shape, held(dtype)) for shape, dtype in results], missing
        )
        self.flags.append(flag)
        for name, value, (shape, dtype) in zip(proto.output, made, results):
            self.values[name] = self._empty(shape, held(dtype)) if 0 in shape else value

    def _kind(self, name: str) -> str:
        """The model's type of a tensor."""
        if name in self.static.constants:
            return self.static.constants[name].dtype.name
        return self.static.types[name][1] if name in self.static.types else ""

    def _stand_in(self, result):
        """A tensor in the place of one that was refused, so that the nodes after it can be looked at."""
        if result is None:
            return None
        shape, dtype = result
        return self.builder.emit(self.relax.op.zeros(shape, held(dtype)))


def refusal(found: list[tuple[Node, Refused]]) -> Unsupported:
    """One error for all that was refused: each operator and reason once, with its nodes."""
    if len(found) == 1:
        node, error = found[0]
        return Unsupported(
            f"operator {node.op} cannot be compiled: {error.why}",
            node=node.name,
            remedy=error.remedy or "compile the part of the model without this node",
        )
    groups: dict[tuple[str, str], list[str]] = {}
    for node, error in found:
        groups.setdefault((node.op, error.why), []).append(node.name)
    parts = []
    for (op, why), names in groups.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        parts.append(f"operator {op} (node {', '.join(names[:3])}{more}): {why}")
    remedies = dict.fromkeys(error.remedy for _, error in found if error.remedy)
    remedy = "; ".join(remedies) or "compile the part of the model without these nodes"
    made = Unsupported(f"{len(found)} nodes cannot be compiled: " + "; ".join(parts), remedy=remedy)
    made.nodes = [node.name for node, _ in found]
    return made
