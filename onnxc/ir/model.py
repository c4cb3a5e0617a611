"""Model: a facade over an onnx-graphsurgeon graph that keeps it well formed.

Rules: tensor and node names are unique and are the keys; weights are read-only arrays that are replaced, never written
into; weights that stand in Constant nodes are initialisers; intermediate shapes are not stored, they are derived
(`onnxc.ir.analysis`); a copy shares the weight arrays. Loading stands in `onnxc.ir.files`, saving in
`onnxc.ir.writing`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .escape import card
from .graph import CAPTURED, DOMAIN, STANDARD, Names, Tensor, copy_graph, position, read_only, stable_topological_order
from .qtype import stored_bytes

if TYPE_CHECKING:
    from .lean import Lean

__all__ = ["CAPTURED", "DOMAIN", "STANDARD", "Model", "Tensor", "dtype_name", "read_only"]


def dtype_name(dtype: object) -> str:
    """`float32` of a NumPy type or of ONNX's number for one, `sequence` or the like of what is no tensor; `?` for none."""
    if isinstance(dtype, int):
        return "float32" if dtype == onnx.TensorProto.FLOAT else onnx.TensorProto.DataType.Name(dtype).lower()
    if isinstance(dtype, onnx.ValueInfoProto):
        return (dtype.type.WhichOneof("value") or "?").removesuffix("_type")
    return "?" if dtype is None else str(np.dtype(dtype))  # type: ignore[call-overload]


class Model:
    """An ONNX model: graph, opsets, model-local functions and metadata.

    `graph` is a `onnx_graphsurgeon.Graph`; its nodes and tensors may be edited directly or with the helpers below.
    `declared` holds type and shape of those intermediate tensors that ONNX inference cannot derive (outputs of foreign
    operators), as ValueInfoProto by name; `reserved` the names that subgraph bodies use inside;
    `shapes` the extents of inputs, by name, at which costs are counted where the model leaves them open; `lax` whether ONNX's
    inference, which objected to the model that a runtime runs, is asked no more; `remarks` what reading it overlooked.

    A body (If, Loop, Scan) stays an opaque GraphProto attribute. The outer tensors that it captures stand behind the
    node's own inputs, and `node.attrs[CAPTURED]` holds the names by which the body calls them: readers, dead code and
    freezing need no special case, and export renames inside the body where a captured tensor has been replaced.
    """

    def __init__(
        self,
        graph: gs.Graph,
        *,
        opsets: dict[str, int],
        ir_version: int = 8,
        functions: Iterable[onnx.FunctionProto] = (),
        metadata: dict[str, str] | None = None,
        producer: tuple[str, str, str, int, str] = ("", "", "", 0, ""),
        declared: dict[str, onnx.ValueInfoProto] | None = None,
        reserved: Iterable[str] = (),
        shapes: dict[str, tuple[int, ...]] | None = None,
    ):
        self.graph = graph
        self.shapes = dict(shapes or {})
        self.lax = False
        self.remarks: list[str] = []
        self.opsets = dict(opsets)
        self.ir_version = ir_version
        self.functions = {(f.domain, f.name): f for f in functions}
        self.metadata = dict(metadata or {})
        self.producer = producer
        self.declared = dict(declared or {})
        self.reserved = frozenset(reserved)
        self._near = 0

    def _repr_html_(self) -> str:
        ops = Counter(node.op for node in self.nodes).most_common()
        weights = self.constants().values()
        rows = [
            ("inputs", ", ".join(f"{t.name} {dtype_name(t.dtype)} {list(t.shape or ())}" for t in self.inputs)),
            ("outputs", ", ".join(f"{t.name} {dtype_name(t.dtype)} {list(t.shape or ())}" for t in self.outputs)),
            ("nodes", f"{len(self.nodes)}: " + ", ".join(f"{n} {op}" for op, n in ops)),
            ("stored", f"{sum(stored_bytes(t.values) for t in weights):,} bytes in {len(weights)} arrays"),
            ("opset", self.opset),
        ]
        return card(self.graph.name or "model", rows)

    # what is in it

    @property
    def opset(self) -> int:
        """The version of the standard operator set."""
        return self.opsets.get("", self.opsets.get("ai.onnx", 0))

    @property
    def nodes(self) -> list[gs.Node]:
        return self.graph.nodes

    @property
    def inputs(self) -> list[gs.Variable]:
        return self.graph.inputs

    @property
    def outputs(self) -> list[Tensor]:
        return self.graph.outputs

    @cached_property
    def _names(self) -> Names:
        return Names(self.names() | {""})

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the outer graph by name: inputs, then in order of use, then outputs."""
        found: dict[str, Tensor] = {t.name: t for t in self.inputs}
        for node in self.nodes:
            for t in (*node.inputs, *node.outputs):
                if t.name:
                    found.setdefault(t.name, t)
        for t in self.outputs:
            found.setdefault(t.name, t)
        return found

    def constants(self) -> dict[str, gs.Constant]:
        """Every initialiser by name, in order of use."""
        return {name: t for name, t in self.tensors().items() if isinstance(t, gs.Constant)}

    def is_output(self, tensor: Tensor) -> bool:
        return any(tensor is t for t in self.outputs)

    def is_standard(self, node: gs.Node, *ops: str) -> bool:
        """Whether `node` is a standard operator (one of `ops`, if any are named)."""
        return node.domain in STANDARD and (not ops or node.op in ops)

    def function(self, node: gs.Node) -> onnx.FunctionProto | None:
        """The model-local function that `node` calls, or None."""
        return self.functions.get((node.domain or "", node.op))

    # edits

    def fresh(self, stem: str) -> str:
        """A name that no tensor and no node bears: `stem`, else `stem_1`, `stem_2`, ..."""
        return self._names.fresh(stem)

    def names(self) -> set[str]:
        """Every name that a node or a tensor bears, here or within a body."""
        return {n.name for n in self.nodes} | set(self.tensors()) | self.reserved

    def reserve(self, names: Iterable[str]) -> None:
        """A body of a node uses these names inside: none of them is made fresh any more."""
        self.reserved = self.reserved.union(names)
        for name in self.reserved:
            self._names.take(name)

    def constant(self, stem: str, values: np.ndarray | np.generic) -> gs.Constant:
        """A new initialiser; `values` becomes read-only."""
        return gs.Constant(self.fresh(stem), read_only(values))

    def variable(self, stem: str) -> gs.Variable:
        """A new intermediate tensor; its type and shape are derived, never stored."""
        return gs.Variable(self.fresh(stem))

    def node(
        self,
        op: str,
        inputs: Iterable[Tensor],
        outputs: Iterable[gs.Variable] | None = None,
        *,
        name: str | None = None,
        attrs: dict | None = None,
        domain: str | None = None,
        before: gs.Node | None = None,
    ) -> gs.Node:
        """Make a node and put it into the graph (ahead of `before`, else at the end); one fresh output by default."""
        name = self.fresh(name or op)
        if outputs is None:
            outputs = [self.variable(f"{name}_out")]
        node = gs.Node(op, name, dict(attrs or {}), list(inputs), list(outputs), domain=domain)
        at = len(self.nodes) if before is None else self._place(before)
        self.nodes.insert(at, node)
        return node

    def remove(self, node: gs.Node) -> None:
        """Take `node` out of the graph and cut its ties to its tensors."""
        node.inputs.clear()
        node.outputs.clear()
        del self.nodes[self._place(node)]

    def behind(self, node: gs.Node) -> gs.Node | None:
        """The node that stands right behind `node`, or None."""
        at = self._place(node) + 1
        return self.nodes[at] if at < len(self.nodes) else None

    def _place(self, node: gs.Node) -> int:
        self._near = position(self.nodes, node, self._near)
        if self._near < 0:
            raise ValueError(f"node {node.name} is not in the model")
        return self._near

    def replace_uses(self, old: Tensor, new: Tensor, among: Container[str] | None = None) -> None:
        """Let every reader of `old`, or those whose names are `among` these, read `new`. A graph output keeps its name: see `bypass`."""
        # gs finds and removes by equality, one reader at a time; by identity, all at once and from where the last one stood
        # it is linear, also for a node of many inputs
        readers = [n for n in old.outputs if among is None or n.name in among]
        kept = [] if among is None else [n for n in old.outputs if n.name not in among]
        list.clear(old.outputs)
        list.extend(old.outputs, kept)
        for node in readers:
            at = position(node.inputs, old, getattr(node.inputs, "near", 0))
            if at >= 0:
                list.__setitem__(node.inputs, at, new)
                list.append(new.outputs, node)
                node.inputs.near = at

    def bypass(self, node: gs.Node, source: Tensor) -> bool:
        """Remove `node` and let the readers of its first output read `source`.

        A graph output keeps its name: the producer of `source` then writes it, which needs a source that is neither a
        graph input, an initialiser nor itself a graph output. Returns False, with nothing changed, where that fails or
        where `node` has another output that is used.
        """
        out = node.outputs[0]
        if any(t.outputs or self.is_output(t) for t in node.outputs[1:]):
            return False
        if not self.is_output(out):
            self.replace_uses(out, source)
            self.remove(node)
            return True
        if not isinstance(source, gs.Variable) or not source.inputs or self.is_output(source):
            return False
        producer = source.inputs[0]
        if position(self.nodes, producer, self._near) < 0:
            return False
        self.remove(node)
        self.replace_uses(source, out)
        producer.outputs[next(i for i, t in enumerate(producer.outputs) if t is source)] = out
        return True

    def set_free(self, t: gs.Variable) -> gs.Variable:
        """A new tensor that what made `t` makes, and that whoever read `t` reads: a graph output keeps its name, and nothing makes it."""
        (maker,) = t.inputs
        made = self.variable(f"{t.name}_made")
        maker.outputs[next(i for i, out in enumerate(maker.outputs) if out is t)] = made
        self.replace_uses(t, made)
        return made

    def set_weight(self, node: gs.Node, i: int, values: np.ndarray) -> gs.Constant:
        """Give input `i` of `node` new contents, for this use only: an initialiser with other readers is split."""
        old = node.inputs[i]
        alone = isinstance(old, gs.Constant) and len(old.outputs) == 1 and not self.is_output(old)
        name = old.name if alone else self.fresh(old.name or f"{node.name}_in{i}")
        new = node.inputs[i] = gs.Constant(name, read_only(values))
        return new

    def drop_dead(self) -> int:
        """Remove nodes that no output needs; returns how many."""
        wanted = {id(t) for t in self.outputs}
        kept: list[gs.Node] = []
        dead: list[gs.Node] = []
        for node in reversed(self.nodes):
            if any(id(t) in wanted for t in node.outputs):
                kept.append(node)
                wanted.update(map(id, node.inputs))
            else:
                dead.append(node)
        for node in dead:
            node.inputs.clear()
            node.outputs.clear()
        if dead:
            self.graph.nodes[:] = kept[::-1]
        return len(dead)

    def sort(self) -> None:
        """Order the nodes so that producers stand ahead of readers, keeping the order there is where it is legal.

        Raises BadModel on a cycle.
        """
        self.graph.nodes[:] = stable_topological_order(self.nodes)

    # copies

    def copy(self) -> Model:
        """A model that can be edited without touching this one; weight arrays are shared."""
        made = Model(
            copy_graph(self.graph),
            opsets=self.opsets,
            ir_version=self.ir_version,
            functions=self.functions.values(),
            metadata=self.metadata,
            producer=self.producer,
            declared=self.declared,
            reserved=self.reserved,
            shapes=self.shapes,
        )
        made.lax, made.remarks = self.lax, list(self.remarks)
        return made

    def adopt(self, other: Model) -> None:
        """Become `other`: its graph, opsets, functions and declared types. `other` must not be used any more."""
        self.graph = other.graph
        self.opsets, self.functions = other.opsets, other.functions
        self.declared, self.reserved = other.declared, other.reserved
        self.shapes = other.shapes or self.shapes
        self.__dict__.pop("_names", None)

    def to_proto(self, *, weights: bool = True) -> onnx.ModelProto:
        """The model as ONNX. With weights=False large weights become inputs: enough for checker and inference."""
        from .writing import to_proto

        return to_proto(self, weights=weights)

    def lean(self) -> Lean:
        """The model as ONNX beside its own weight arrays: for a runtime in this process, which needs no copies."""
        from .writing import lean

        return lean(self)

    def save(self, path) -> None:
        """Write the model, whole or not at all; beyond 2 GiB with external data beside it."""
        from .writing import save

        save(self, path)
