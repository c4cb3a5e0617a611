"""Kernels that are written down as TIR only where no cache holds what they compile to.

In the graph a function of the same operands and without a body stands for each. What a kernel is depends on its text (family, spec,
schedule, name and operands) and on the files of onnxc, whose digest is part of the cache's keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from onnxc.codegen.tvm_api import script_builder
from onnxc.ir.errors import VerificationError

OPAQUE = 8  # TVM's pattern of functions that nothing is fused with
REMEDY = "report it with the model"
_PLACES = re.compile(r" at 0x[0-9a-f]+")
_NAMELESS = re.compile(r"<lambda>|<locals>| object at 0x|\.\.\.")  # of which a text does not say all
Operand = tuple[tuple[int, ...], str]
"""Extents and element type."""


@dataclass(frozen=True)
class Later:
    """A kernel: `text` is all that it depends on, `write()` makes the PrimFunc, which has these `operands`."""

    text: str
    write: Callable[[], Any]
    operands: tuple[Operand, ...]

    def written(self) -> Any:
        """The PrimFunc. Raises VerificationError where it reads or writes other elements than it is given."""
        made = self.write()
        read = [(prod(int(extent) for extent in p.shape), str(p.dtype)) for p in made.params]
        given = [(prod(extents), kind) for extents, kind in self.operands]
        if read != given:
            raise VerificationError(
                "operands of a kernel", expected=str(read), found=f"{given} for {self.text}", remedy=REMEDY
            )
        return made


def kernel(walk: Any, family: Any, spec: Any, plan: Any, given: Sequence[Any], name: str) -> Any:
    """The kernel `name` of a lowering, or what stands for it in `walk.later`; `given` are its operands and the types of its results."""
    if walk.target.micro or walk.target.portable:  # nothing keeps those
        return family.emit(spec, plan, name)
    types = [getattr(one, "ty", one) for one in given]
    operands = tuple((tuple(int(extent) for extent in ty.shape.values), str(ty.dtype)) for ty in types)
    text = repr((family.name, spec, plan, name, operands))
    if _NAMELESS.search(text):
        return family.emit(spec, plan, name)
    T, made = script_builder()
    with made() as frame, T.prim_func(s_tir=True):
        T.func_name(name)
        for i, (extents, kind) in enumerate(operands):
            T.arg(f"a{i}", T.buffer(extents, kind))
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        T.evaluate(0)
    walk.later[name] = Later(_PLACES.sub("", text), lambda: family.emit(spec, plan, name), operands)
    return frame.get()


def all_written(functions: Mapping[str, Any]) -> dict[str, Any]:
    """The same functions, all of them as TIR."""
    return {name: f.written() if isinstance(f, Later) else f for name, f in functions.items()}
