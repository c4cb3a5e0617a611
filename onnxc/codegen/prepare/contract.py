"""What a static model must be when `match/` and `lower/` get it; a breach is a fault of ours and ends the compilation with one line.

prepare -> match: nodes stand in an order in which they can run, what they read is there, one node makes each tensor, every
extent is a number, and what is said of constants is said of constants that are held
"""

from __future__ import annotations

from collections.abc import Iterable

from onnxc.codegen.prepare.record import StaticModel
from onnxc.ir.errors import VerificationError

REMEDY = "this is a fault of onnxc: report it with the model"


def check_static(static: StaticModel) -> StaticModel:
    """`static` as it came. Raises VerificationError where a later stage would meet what it does not look for."""
    there = {name for name, _, _ in static.inputs} | set(static.constants)
    if len(there) < len(static.inputs) + len(static.constants):
        raise VerificationError(
            "an input is a constant too", expected="inputs and constants of names of their own", remedy=REMEDY
        )
    for node in static.nodes:
        for name in node.input:
            if name and name not in there:
                raise VerificationError(
                    "a node reads what no earlier one makes", node=node.name, tensor=name, remedy=REMEDY
                )
        for name in node.output:
            if name in there:
                raise VerificationError("two nodes make this tensor", node=node.name, tensor=name, remedy=REMEDY)
            if name:
                there.add(name)
                _extents(name, static.types.get(name, ((), ""))[0])
    for name, shape, _ in (*static.inputs, *static.outputs):
        _extents(name, shape)
    _among("an output is made by nobody", (name for name, _, _ in static.outputs), there)
    _among("a weight is no constant", static.weights, static.constants)
    _among("a weight has no user", static.weights, static.users)
    _among("integers of what is no weight", static.integers, static.weights)
    return static


def _extents(name: str, shape: tuple) -> None:
    if not all(isinstance(extent, int) and extent >= 0 for extent in shape):
        raise VerificationError(
            "an extent is no number", tensor=name, expected="a static shape", found=shape, remedy=REMEDY
        )


def _among(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    missing = sorted(set(names) - set(known))
    if missing:
        raise VerificationError(what, tensor=missing[0], remedy=REMEDY)
