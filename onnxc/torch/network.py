"""A Model as a torch module: the same graph, the same names, weights that autograd sees and that go back into the Model.

    net = Network(model)
    loss = net({"image": x})["logits"].square().mean(); loss.backward()
    store(net, model)

What is trained (`parameters`): float initialisers of more than one element that stand where a weight may, and integers that
a DequantizeLinear or an integer product reads, as the reals that they stand for, rounded straight through (`grids`).
Constants that steer an operator (`STEERING`), masks of an attention (-1e4 and less) and statistics of a batch
normalisation, which are buffers, are not. Weights of fewer bits than float32 are kept in float32 and cast where they are
read. Weights that bodies of If, Loop and Scan store are parameters by the names of `ir.body_weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx
import torch

from onnxc.ir.body_weights import body_weights, inner_name, set_body_weights, stored
from onnxc.ir.errors import Unsupported, VerificationError
from onnxc.ir.model import Model, read_only

from . import rows
from .arithmetic import PRODUCTS
from .grids import Grid, grid_of
from .steps import Step, onnx_type, plain, steps, tensor
from .table import ROWS, Call

STEERING = {
    "Resize": (1, 2, 3), "Upsample": (1,), "Clip": (1, 2), "Pad": (2,), "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2), "OneHot": (2,), "Range": (0, 1, 2), "Pow": (1,), "NonMaxSuppression": (3, 4),
    "BatchNormalization": (3, 4), "Quantize": (1, 2, 3), "Dropout": (1,), "Where": (0,), "Cast": (0,),
    "DynamicQuantizeLSTM": (8, 9, 10, 11), "QLinearConv": (1, 2, 4, 5, 6, 7), "QLinearMatMul": (1, 2, 4, 5, 6, 7),
}  # fmt: skip
"""Inputs that are no weights, by operator."""
WEIGHTS = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1), "PRelu": (1,),
    "BatchNormalization": (1, 2), "LayerNormalization": (1, 2), "InstanceNormalization": (1, 2),
    "ResidualBinarize": (1,), "DynamicResidualBinarize": (1,),
}  # fmt: skip
"""Inputs that are weights even where they hold one number."""
MASKED = -1e4

assert rows


class Network(torch.nn.Module):
    """The torch module of a model. `forward(feeds, wanted)` returns tensors by name, the graph's outputs by default.

    feeds: arrays or tensors by input name. forms: by parameter name, a function of the tensor that is applied where it
    is read, so that a weight may be masked, rounded or binary while it is trained. learn_steps: the scales of quantisers
    are parameters too, as s = s0 exp(t), which keeps them positive.

    Raises Unsupported, before anything runs, where an operator has neither a row nor a body.
    """

    def __init__(self, model: Model | onnx.ModelProto, *, learn_steps: bool = False):
        super().__init__()
        proto = model.to_proto() if isinstance(model, Model) else model
        self.opsets = {o.domain: o.version for o in proto.opset_import}
        self.functions = {(f.domain, f.name): f for f in proto.functions}
        self.steps = steps(proto.graph.node, self.opsets)
        self.inputs = [i.name for i in proto.graph.input]
        self.outputs = {o.name: o.type.tensor_type.elem_type for o in proto.graph.output}
        self.forms: dict = {}
        self.smooth = False
        self.made: Callable[[torch.Tensor, bool, int], torch.Tensor] | None = None
        self.multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = torch.matmul
        self.last = next((s for s in reversed(self.steps) if s.op in PRODUCTS and s.domain == ""), None)
        self.kinds: dict[str, str] = {}
        self.fixed: dict[str, torch.Tensor] = {}
        self.stored: dict[str, torch.dtype] = {}
        self.grids: dict[str, Grid] = {}
        self.scales: dict[str, torch.Tensor] = {}
        self._memos: dict[int, dict] = {}
        self._bodies: dict[int, tuple] = {}
        self._inside: dict[int, dict[str, str]] = {}
        self._expanded: dict[int, list[Step]] = {}
        self._check(self.steps)
        self._sort_initialisers(proto.graph.initializer, learn_steps)
        self._fold()
        self.eval()

    # what is a weight

    def _sort_initialisers(self, initialisers: Iterable[onnx.TensorProto], learn_steps: bool) -> None:
        uses: dict[str, list[tuple[Step, int]]] = {}
        arrays = {}
        inner = self._read(self.steps, {}, uses, ())
        for name, t in (*((t.name, t) for t in initialisers), *inner.items()):
            self.kinds[name] = onnx.TensorProto.DataType.Name(t.data_type)
            arrays[name] = onnx.numpy_helper.to_array(t)
        for name, values in arrays.items():
            if name in inner and values.dtype.kind != "f":
                continue
            value, read = tensor(values, name), uses.get(name, [])
            if self._is_statistic(read):
                # the plain name may hold dots, which register_buffer refuses
                self._buffers[name] = value.float() if value.is_floating_point() else value
                self.stored[name] = value.dtype
            elif name not in inner and (grid := grid_of(self.kinds[name], value, read, arrays)) is not None:
                self.grids[name], self.fixed[f"{name}\0whole"] = grid, value
                self._parameters[name] = torch.nn.Parameter(torch.zeros(value.shape))
                self.stored[name] = value.dtype
            elif value.is_floating_point() and learn_steps and any(_is_step(s, i) for s, i in read):
                self.scales[name] = value.float()
                self._parameters[name] = torch.nn.Parameter(torch.zeros_like(value, dtype=torch.float32))
                self.stored[name] = value.dtype
            elif value.is_floating_point() and _is_weight(value, read):
                wide = value if value.dtype == torch.float64 else value.float()
                # channels last: the order in which torch's convolutions are fastest, and which their outputs take over
                order = torch.channels_last if wide.ndim == 4 else torch.contiguous_format
                self._parameters[name] = torch.nn.Parameter(wide.clone(memory_format=order))
                self.stored[name] = value.dtype
            elif name not in inner:
                self.fixed[name] = value
        self._initial = {name: t.detach().clone() for name, t in self.places().items()}

    def places(self) -> dict[str, torch.Tensor]:
        """What training moves, by name: parameters and statistics of the graph's own, not those of forms."""
        held = (*self._parameters.items(), *self._buffers.items())
        return {name: t for name, t in held if t is not None}

    def _read(
        self, todo: list[Step], names: Mapping[str, str], uses: dict, trail: tuple
    ) -> dict[str, onnx.TensorProto]:
        """Enter who reads each tensor, within bodies too, and return what the bodies store. `names`: what tensors of a scope are called
        in the whole model, where that is not their own name."""
        found: dict[str, onnx.TensorProto] = {}
        for step in todo:
            for i, name in enumerate(step.inputs):
                uses.setdefault(names.get(name, name), []).append((step, i))
            for key, body in step.attrs.items():
                if not isinstance(body, onnx.GraphProto) or not step.outputs:
                    continue
                here = (*trail, (step.outputs[0], key))
                own = {name: inner_name(here, name) for name in stored(body)}
                found.update((own[name], t) for name, t in stored(body).items())
                self._inside[id(body)] = own
                made = {*(i.name for i in body.input), *(o for n in body.node for o in n.output)} - set(own)
                local = {**names, **{name: inner_name(here, name) for name in made}, **own}
                found.update(self._read(self._graph(body)[0], local, uses, here))
        return found

    @staticmethod
    def _is_statistic(read) -> bool:
        return bool(read) and all(s.op == "BatchNormalization" and s.domain == "" and i in (3, 4) for s, i in read)

    def _settle(self, values: dict[str, torch.Tensor]) -> None:
        """The reals that stored integers stand for, once the scales are known."""
        places = self.places()
        for name, grid in self.grids.items():
            p = places[name]
            with torch.no_grad():
                p.copy_(grid.real(self.fixed[f"{name}\0whole"], values))
            self._initial[name] = p.detach().clone()

    def take_forms(self, forms: Mapping[str, torch.nn.Module]) -> None:
        """Read these parameters by these forms, whose own parameters and buffers are the network's from now on."""
        self.forms = dict(forms)
        for k, reading in enumerate(self.forms.values()):
            self.add_module(f"form {k}", reading)

    # running

    def values(self) -> dict[str, torch.Tensor]:
        """Every initialiser as the graph reads it: formed, cast, rounded."""
        found = dict(self.fixed)
        late = []
        for name, p in self.places().items():
            if name in self._buffers:
                found[name] = p
                continue
            p = self.forms[name](p) if name in self.forms else p
            if name in self.scales:
                p = self.scales[name] * torch.exp(p)
            if name in self.grids:
                late.append((name, p))
            else:
                found[name] = p.to(self.stored[name])
        for name, p in late:
            found[name] = self.grids[name].whole(p, found)
        return found

    def forward(self, feeds: Mapping, wanted: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
        """Run the graph; `wanted` may name any tensor."""
        env = self.values()
        for name in self.inputs:
            if name in feeds:
                x = feeds[name]
                env[name] = x if isinstance(x, torch.Tensor) else tensor(np.asarray(x), name)
        wanted = list(self.outputs if wanted is None else wanted)
        self._evaluate(self.steps, env, set(wanted))
        return {name: self._declared(name, env[name]) for name in wanted}

    def _declared(self, name: str, t: torch.Tensor) -> torch.Tensor:
        """Whole numbers held as floats become integers again at an output that says so, and floats that are cut short whole again."""
        kind = onnx.TensorProto.DataType.Name(self.outputs[name]) if name in self.outputs else ""
        if t.dtype == torch.bfloat16 and kind != "BFLOAT16":  # by autocast
            return t.float()
        return t.to({"INT8": torch.int8, "UINT8": torch.uint8}.get(kind, t.dtype)) if t.is_floating_point() else t

    def _evaluate(self, todo: list[Step], env: dict[str, torch.Tensor], keep: set[str] | None = None) -> None:
        last: dict[str, int] = {}
        keep = keep if keep is not None else set()
        if keep:
            last = {name: i for i, s in enumerate(todo) for name in (*s.inputs, *self._captured(s))}
        for i, step in enumerate(todo):
            if all(name in env for name in step.outputs if name):
                continue
            made = self._call(step, [env[n] if n else None for n in step.inputs], env)
            env.update((n, t) for n, t in zip(step.outputs, made) if n)
            for name in (*step.inputs, *self._captured(step)):
                if last.get(name) == i and name not in keep:
                    env.pop(name, None)

    def _captured(self, step: Step) -> list[str]:
        """Names that the bodies of a step read, their own among them."""
        found = []
        for body in _bodies_of(step):
            found += [o.name for o in body.output]
            for inner in self._graph(body)[0]:
                found += [*inner.inputs, *self._captured(inner)]
        return found

    def _call(self, step: Step, inputs: list, env: Mapping) -> tuple:
        f = ROWS.get((step.domain, step.op))
        if f is None:
            return self._body(step, inputs)
        run = lambda graph, given: self._scope(graph, given, env)  # noqa: E731
        call = Call(step, self.training, run, self.kinds, self._memos.setdefault(id(step), {}), self.smooth)
        call.multiply = self.multiply
        try:
            made = f(call, *inputs)
        except (RuntimeError, IndexError, TypeError, ValueError) as e:
            text = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
            raise VerificationError(f"{step.op} does not run in torch: {text}", node=str(step)) from e
        if self.made is not None and step.op in PRODUCTS and step.domain == "":
            made = self.made(made, step is self.last, 1 if step.op.startswith("Conv") else -1)
        return tuple(made) if isinstance(made, (tuple, list)) else (made,)

    def _scope(self, graph: onnx.GraphProto, given: list, outer: Mapping) -> list[torch.Tensor]:
        """The outputs of a body; it sees the names around it."""
        todo, constants = self._graph(graph)
        env = {**outer, **constants, **dict(zip((i.name for i in graph.input), given))}
        for step in todo:
            for name in step.outputs:
                env.pop(name, None)  # a name may be used again inside
        env.update((name, outer[n]) for name, n in self._inside.get(id(graph), {}).items() if n in outer)
        self._evaluate(todo, env)
        return [env[o.name] for o in graph.output]

    def _graph(self, graph: onnx.GraphProto):
        if id(graph) not in self._bodies:
            constants = {t.name: tensor(onnx.numpy_helper.to_array(t), t.name) for t in graph.initializer}
            self._bodies[id(graph)] = steps(graph.node, self.opsets), constants
        return self._bodies[id(graph)]

    def _body(self, step: Step, inputs: list) -> tuple:
        """An operator that a function of the model or of ONNX itself defines, by that function's body."""
        body, defaults = self._function(step, inputs)
        if id(step) not in self._expanded:
            opsets = {o.domain: o.version for o in body.opset_import} or self.opsets
            defaults = {**defaults, **{a.name: plain(a) for a in body.attribute_proto}}
            self._expanded[id(step)] = steps(body.node, opsets, {**defaults, **step.attrs})
        env = {n: t for n, t in zip(body.input, inputs) if t is not None}
        env.update({n: None for n in body.input if n not in env})
        env[""] = None
        self._evaluate(self._expanded[id(step)], env)
        return tuple(env.get(n) for n in body.output[: len(step.outputs)])

    def _function(self, step: Step, inputs: list | None) -> tuple[onnx.FunctionProto, dict]:
        ours = self.functions.get((step.domain, step.op))
        if ours is not None:
            return ours, {}
        memo = self._memos.setdefault(id(step), {})
        if "body" not in memo:
            memo["body"] = _schema_body(step, inputs)
        return memo["body"]

    # before running

    def _check(self, todo: list[Step], trail: tuple = ()) -> None:
        """Refuse an operator that nothing here computes."""
        for step in todo:
            if step.domain == "" and step.op in ("If", "Loop", "Scan"):
                for body in _bodies_of(step):
                    self._check(self._graph(body)[0], trail)
            if (step.domain, step.op) in ROWS:
                continue
            own = self.functions.get((step.domain, step.op))
            if own is not None and own.name not in trail:
                self._check(steps(own.node, {o.domain: o.version for o in own.opset_import}), (*trail, own.name))
            elif own is None and not _has_body(step):
                raise _unknown(step)

    def _fold(self) -> None:
        """What follows from constants alone is computed once."""
        moving = {*self._parameters, *self._buffers, *self.inputs}
        self.eval()
        with torch.no_grad():
            start = dict(self.fixed)
            for step in self.steps:
                still = not moving.intersection(n for n in step.inputs if n)
                if still and not _is_random(step) and not _bodies_of(step):
                    made = self._call(step, [start[n] if n else None for n in step.inputs], start)
                    start.update((n, t) for n, t in zip(step.outputs, made) if n)
                else:
                    moving.update(n for n in step.outputs if n)
            self.fixed = start
            scales = dict(self.scales.items())
            self._settle({**self.fixed, **scales})

    # back into the model

    def moved(self) -> dict[str, torch.Tensor]:
        """Initialisers that are no longer what they were, as the graph reads them, by name."""
        places = self.places()
        with torch.no_grad():
            values = self.values()
        return {
            name: values[name].detach().cpu() for name, before in self._initial.items()
            if name in self.forms or not torch.equal(places[name], before)
        }  # fmt: skip


def store(net: Network, model: Model) -> list[str]:
    """Put trained weights back into the graph they came from; returns the names of those that changed.

    Element types stay. Weights are replaced, never written into.
    """
    constants, inner, changed = model.constants(), body_weights(model), {}
    for name, value in net.moved().items():
        old = constants[name].values if name in constants else onnx.numpy_helper.to_array(inner[name])
        value = value.float() if value.dtype == torch.bfloat16 else value
        new = value.numpy().astype(old.dtype).reshape(old.shape)
        if not np.array_equal(new, old):
            changed[name] = read_only(new)
    for name in changed.keys() & constants.keys():
        constants[name].values = changed[name]
    set_body_weights(model, {name: new for name, new in changed.items() if name not in constants})
    return list(changed)


def _is_step(step: Step, i: int) -> bool:
    return i == 1 and step.op in ("QuantizeLinear", "DequantizeLinear", "Quantize")


def _is_weight(value: torch.Tensor, read: list[tuple[Step, int]]) -> bool:
    if not read or value.numel() == 0 or not torch.isfinite(value).all() or float(value.min()) <= MASKED:
        return False
    if any(i in STEERING.get(s.op, ()) for s, i in read):
        return False
    return value.numel() > 1 or any(i in WEIGHTS.get(s.op, ()) for s, i in read)


def _bodies_of(step: Step) -> list[onnx.GraphProto]:
    return [v for v in step.attrs.values() if isinstance(v, onnx.GraphProto)]


def _is_random(step: Step) -> bool:
    return step.op.startswith(("Random", "Bernoulli", "Multinomial"))


def _schema(step: Step):
    try:
        return onnx.defs.get_schema(step.op, step.opset, step.domain)
    except onnx.defs.SchemaError:
        return None


def _has_body(step: Step) -> bool:
    schema = _schema(step)
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def _unknown(step: Step) -> Unsupported:
    name = f"{step.domain}.{step.op}" if step.domain else step.op
    return Unsupported(
        f"training does not know the operator {name}", node=str(step),
        remedy="train a model without it, or leave out the passes train.*",
    )  # fmt: skip


def _schema_body(step: Step, inputs: list | None) -> tuple[onnx.FunctionProto, dict]:
    """The body that ONNX gives an operator, and its attributes' defaults."""
    schema = _schema(step)
    if schema is None or not _has_body(step):
        raise _unknown(step)
    defaults = {n: plain(a.default_value) for n, a in schema.attributes.items() if a.default_value.type}
    if not schema.has_context_dependent_function:
        return schema.function_body, defaults
    types = []
    for t in inputs or []:
        kind = onnx.TypeProto()
        if t is not None:
            kind.tensor_type.elem_type = onnx_type(t.dtype)
        types.append(kind.SerializeToString())
    text = schema.get_context_dependent_function(step.proto.SerializeToString(), types)
    body = onnx.FunctionProto.FromString(text)
    if not body.output:  # some bodies follow from shapes alone, which are not known to the schema here
        raise _unknown(step)
    return body, defaults
