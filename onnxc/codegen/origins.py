"""Which nodes of the model each call of a library stands for, followed by the variables through import, lowering and TVM's fusion.

    Conv c -> Relu r -> Tanh t -> Exp e   ->   kernel0(...): c, r; fused_tanh_exp(...): t, e

Import and lowering note for which nodes they emit a variable. TVM's legalisation keeps names; its fusion makes functions of
several calls, alike ones once, so each call of the fused main is computed again over symbols: what it computes was a variable of the
main before, with the nodes of that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from onnxc.codegen.tvm_api import name_of, tvm_modules

Nodes = tuple[str, ...]


@cache
def _recorder() -> type:
    class Recorder(tvm_modules().relax.BlockBuilder):  # type: ignore[misc]
        """A builder that notes for each variable the nodes that it was emitted for."""

        def __init__(self) -> None:
            super().__init__()
            self.nodes: Nodes = ()
            self.emitted: dict[str, Nodes] = {}

        def emit(self, expr, name_hint: str = ""):
            var = super().emit(expr, name_hint)
            self.emitted[name_of(var)] = self.nodes
            return var

    return Recorder


def recorder() -> Any:
    """A BlockBuilder whose `emitted` says of a variable's name for which `nodes` it was emitted."""
    return _recorder()()


def chain(
    var, definitions: Mapping[Any, Any], inner: Collection[Any], starts: Collection[Any], emitted: Mapping[str, Nodes]
) -> Nodes:
    """The nodes of what ends in `var`: its own, and where it is among the ends `starts` those of `inner` variables that lead there."""
    found: dict[str, None] = {}
    stack, seen = [var], set()
    while stack:
        now = stack.pop()
        if now in seen:
            continue
        seen.add(now)
        found.update(dict.fromkeys(emitted.get(name_of(now), ())))
        if var in starts:
            relax = tvm_modules().relax
            value = definitions.get(now)
            args = [value] if isinstance(value, relax.Var) else getattr(value, "args", ())
            stack += [arg for arg in args if isinstance(arg, relax.Var) and arg in inner]
    return tuple(reversed(found))


class Trail:
    """What a module is after each stage of `tvm_api.finish`, and what that says of its calls."""

    def __init__(self, emitted: Mapping[str, Nodes]):
        self.emitted = emitted
        self.stages: list[Any] = []

    def note(self, module) -> None:
        """Called after each stage."""
        self.stages.append(module)

    def calls(self) -> list[Nodes]:
        """The nodes of each call of the finished main, in its order; () where they are not known."""
        legal, grouped, flat, _ = self.stages
        nodes, bindings = self._grouped(legal, grouped), _bindings(flat["main"])
        if len(nodes) != len(bindings):  # something died on the way
            nodes = [()] * len(bindings)
        return [mine for mine, binding in zip(nodes, bindings) if _calls(binding.value)]

    def _grouped(self, legal, grouped) -> list[Nodes]:
        """For each binding of the grouped main, the nodes of all that it computes. Names are those of `legal` alone: a group's result has
        any."""
        known: dict[tuple, list[str]] = {}
        ids: dict[Any, Any] = {param: f"param {i}" for i, param in enumerate(legal["main"].params)}
        for binding in _bindings(legal["main"]):
            ids[binding.var] = name_of(binding.var)
            known.setdefault(_key(binding.value, ids), []).append(name_of(binding.var))
        symbols: dict[Any, Any] = {param: f"param {i}" for i, param in enumerate(grouped["main"].params)}

        def compute(function, ids: dict[Any, Any]) -> Iterator[list[str]]:
            """For each binding of a function, the variables of `legal` that it makes; `ids` has those of its parameters."""
            for binding in _bindings(function):
                inside = _group(binding.value, grouped)
                if inside is None:
                    names = known.get(_key(binding.value, ids), [])
                    mine = names.pop(0) if len(names) > 1 else "".join(names)
                    ids[binding.var] = mine or binding.var
                    yield [mine]
                    continue
                local = {p: ids.get(arg, arg) for p, arg in zip(inside.params, binding.value.args)}
                yield [name for names in compute(inside, local) for name in names]
                ids[binding.var] = local.get(inside.body.body, binding.var)

        return [
            tuple(dict.fromkeys(node for name in names for node in self.emitted.get(name, ())))
            for names in compute(grouped["main"], symbols)
        ]


def _bindings(function) -> list:
    return [binding for block in function.body.blocks for binding in block.bindings]


def _group(value, module):
    """The function of several calls that a binding calls, if it does."""
    m = tvm_modules()
    if not (isinstance(value, m.relax.Call) and isinstance(value.op, m.ir.GlobalVar)):
        return None
    found = module[value.op]
    return found if isinstance(found, m.relax.Function) else None


def _calls(value) -> bool:
    """Whether a binding is a call of a function."""
    m = tvm_modules()
    if not isinstance(value, m.relax.Call):
        return False
    return isinstance(value.op, m.ir.GlobalVar) or getattr(value.op, "name", "").startswith("relax.call_tir")


def _key(value, ids: Mapping[Any, Any]) -> tuple:
    """What a binding computes, by the symbols `ids` of the variables that it reads."""
    relax = tvm_modules().relax

    def symbol(part) -> Any:
        if isinstance(part, relax.Var):
            return ids.get(part, name_of(part))
        if isinstance(part, relax.Tuple):
            return tuple(symbol(field) for field in part.fields)
        return name_of(part) if isinstance(part, tvm_modules().ir.GlobalVar) else str(part)

    if isinstance(value, relax.Call):
        op = value.op
        return (getattr(op, "name", "") or symbol(op), *(symbol(arg) for arg in value.args))
    if isinstance(value, relax.TupleGetItem):
        return ("item", symbol(value.tuple_value), value.index)
    return ("same", symbol(value))


def named(nodes: Sequence[str], known: Collection[str]) -> Nodes:
    """Nodes by the names that a model has: what was made of a node is called as it, with /something behind."""
    found: dict[str, None] = {}
    for node in nodes:
        name = node
        while name not in known and "/" in name:
            name = name.rpartition("/")[0]
        found[name if name in known else node] = None
    return tuple(found)
