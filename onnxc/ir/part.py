"""A part of a model: what lies between tensors that become its inputs, and tensors that become its outputs.

part(x -> conv -> boxes -> NonZero -> y, until=["boxes"])     ->     x -> conv -> boxes
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Sequence

import onnx
import onnx_graphsurgeon as gs

from . import foreign
from .errors import BadOption
from .model import Model, Tensor
from .verify import verify


def part(model: Model, begin: Sequence[str] = (), until: Sequence[str] = ()) -> Model:
    """The part of `model` that computes the tensors `until` (its outputs, where none are named) from the tensors `begin` and
    those of its inputs that are still needed. A node's name stands for its outputs.

    Raises BadOption for a name that nothing has, for a constant, and where outputs do not depend on a tensor of `begin`.
    """
    if not begin and not until:
        return model
    made = model.copy()
    tensors = made.tensors()
    if until:
        made.graph.outputs = [t for name in until for t in _named(made, tensors, name)]
    if begin:
        verified = verify(made)
        for name in begin:
            for t in _named(made, tensors, name):
                _opened(made, t, verified)
    made.drop_dead()
    read = {id(t) for node in made.nodes for t in node.inputs} | {id(t) for t in made.outputs}
    for name in begin:
        for t in _named(made, tensors, name):
            if id(t) not in read:
                raise BadOption("no output needs the tensor", tensor=t.name, remedy="leave it out of --from")
    made.graph.inputs = [t for t in made.inputs if id(t) in read]
    return made


def _named(model: Model, tensors: dict[str, Tensor], name: str) -> list[gs.Variable]:
    found = tensors.get(name)
    if isinstance(found, gs.Variable):
        return [found]
    nodes = {n.name: n for n in model.nodes}
    if name in nodes:
        return [t for t in nodes[name].outputs if t.name]
    if found is not None:
        raise BadOption("a constant cannot be where a part begins or ends", tensor=name)
    near = difflib.get_close_matches(name, [*tensors, *nodes], 1)
    raise BadOption("no tensor or node has this name", found=name, remedy=f"did you mean {near[0]}?" if near else None)


def _opened(model: Model, t: gs.Variable, verified) -> None:
    """The tensor becomes an input: what made it makes another one that nobody reads."""
    if not t.inputs:
        return
    maker = t.inputs[0]
    at = next(i for i, out in enumerate(maker.outputs) if out is t)
    maker.outputs[at] = model.variable(f"{t.name}_before")
    shape, kind = verified.analysis.shape(t.name), verified.types.get(t.name)
    if kind is None:
        raise BadOption("the type of the tensor is not known", tensor=t.name, remedy="begin at another one")
    t.dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    t.shape = None if shape is None else [f"{t.name}_{i}" if d is None else d for i, d in enumerate(shape)]
    model.graph.inputs = [*model.inputs, t]


MOST_NAMED = 8


def advice(model: Model, nodes: Sequence[str]) -> str | None:
    """What can be compiled of a model without `nodes` and what comes after them, as options; None where they are not known. Where operators
    have a remedy of their own (`ir.foreign`), it is that.

    A name with a slash stands for a node of a body, of which the node that holds it counts.
    """
    if known := foreign.remedy(model):
        return known
    stopped = [
        n for n in model.nodes if n.name and any(n.name == name or name.startswith(f"{n.name}/") for name in nodes)
    ]
    if not stopped:
        return None
    after: set[int] = {id(t) for n in stopped for t in n.outputs}
    told: dict[str, None] = {}
    moved: dict[int, bool] = {id(t): True for t in model.inputs}
    gone = set(map(id, stopped))
    for n in model.nodes:
        reads = [t for t in n.inputs if isinstance(t, gs.Variable) and t.name]
        if id(n) in gone or any(id(t) in after for t in reads):
            after.update(id(t) for t in n.outputs)
            told.update((t.name, None) for t in reads if t.inputs and id(t) not in after and moved.get(id(t)))
        else:
            found = n.op not in ("Shape", "Size") and any(moved.get(id(t)) for t in reads)
            moved.update((id(t), found) for t in n.outputs)
    told.update((t.name, None) for t in model.outputs if t.inputs and id(t) not in after)
    if told:
        first = [t.name for n in stopped for t in n.inputs if t.name in told]
        some = list(told) if len(told) <= MOST_NAMED else (first or list(told))[:MOST_NAMED]
        return "compile the part before: " + " ".join(f"--until {shlex.quote(name)}" for name in some)
    outputs = [t.name for n in stopped for t in n.outputs if t.outputs]
    if not outputs:
        return None
    return "compile the part after: " + " ".join(f"--from {shlex.quote(name)}" for name in outputs)
