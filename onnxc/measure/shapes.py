"""Shapes in which a model is compiled: as they are wished for, else such that the model runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..ir.model import Model
from ..runtime.feeding import Wishes, feed

Shapes = Mapping[str, tuple[int, ...]]


def settled(model: Model, sets: Sequence[Shapes], *, data: object = None, seed: int = 0) -> list[Shapes]:
    """Each set of wishes (by input, or by symbol) with a shape for every input that has open axes beyond its first.

    What is wished for nobody is that of `data`, or found by trying (see `runtime.feeding`). Raises OnnxcError.
    """
    opened = [t.name for t in model.inputs if t.shape is None or any(not isinstance(d, int) for d in t.shape[1:])]
    names = {t.name for t in model.inputs}
    if all(set(wished) <= names and set(opened) <= set(wished) for wished in sets):
        return list(sets)
    proto = model.to_proto()
    made = []
    for wished in sets:
        found = feed(proto, data, Wishes(wished), seed=seed, samples=1).shapes()
        made.append({n: wished.get(n, s) for n, s in found.items() if n in opened or n in wished} | {})
    return made
