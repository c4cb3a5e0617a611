"""Shapes in which a model is compiled: as they are wished for, else such that the model runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..ir.errors import BadOption
from ..ir.model import Model
from ..runtime.feeding import Wishes, arrays_of, feed
from ..runtime.samples import sample_axes
from ..runtime.specs import check_array, input_specs

Shapes = Mapping[str, tuple[int, ...]]


def settled(model: Model, sets: Sequence[Shapes], *, data: object = None, seed: int = 0) -> list[Shapes]:
    """Each set of wishes (by input, or by symbol) with a shape for every input that has open axes beyond that of samples.

    What is wished for nobody is that of `data`, or found by trying (see `runtime.feeding`). Raises OnnxcError.
    """
    opened = _opened(model)
    names = {t.name for t in model.inputs}
    if all(set(wished) <= names and set(opened) <= set(wished) for wished in sets):
        return list(sets)
    proto = model.to_proto()
    made: list[Shapes] = []
    for wished in sets:
        found = feed(proto, data, Wishes(wished), seed=seed, samples=1).shapes()
        made.append({n: wished.get(n, s) for n, s in found.items() if n in opened or n in wished})
    return made


def said(model: Model, sets: Sequence[Shapes], chosen: Sequence[Shapes]) -> list[str]:
    """What to tell of shapes that nobody wished for."""
    texts = []
    for wished, found in zip(sets, chosen, strict=True):
        some = [f"{n} {'x'.join(map(str, shape))}" for n, shape in found.items() if n not in wished]
        if some and not set(wished) - {t.name for t in model.inputs}:
            texts.append(f"Shapes that the model was found to take: {', '.join(some)}; --shape says others")
    return texts


def fixed(model: Model, wishes: Wishes) -> Model:
    """The model with inputs that are given in `wishes.arrays` as initialisers: `model` itself where there are none.

    Raises BadOption, BadData, Unsupported."""
    if not wishes.arrays:
        return model
    specs = input_specs(model.to_proto(weights=False), values=False)
    specs = {t.name: specs[t.name] for t in model.inputs}
    arrays, _ = arrays_of(specs, wishes)
    made = model.copy()
    symbols: dict[str, int] = {}
    for name in wishes.arrays:
        if name not in arrays:
            raise BadOption("one number does not say the extents of this input", tensor=name, expected=specs[name],
                            remedy=f"give all of it: --input {name}=F.npy")  # fmt: skip
        check_array(name, arrays[name].shape, arrays[name].dtype, specs[name], symbols)
        old = next(t for t in made.inputs if t.name == name)
        made.graph.inputs = [t for t in made.inputs if t is not old]
        new = made.constant(f"{name}_fixed", arrays[name])
        outputs = made.outputs
        made.replace_uses(old, new)
        made.graph.outputs = [new if t is old else t for t in outputs]
    return made


def _opened(model: Model) -> list[str]:
    """The inputs that would not become static by one sample: the first axis counts samples in most."""
    shapes = {
        t.name: None if t.shape is None else tuple(d if isinstance(d, int) else str(d) for d in t.shape)
        for t in model.inputs
    }
    axes = sample_axes(shapes)
    return [
        name
        for name, shape in shapes.items()
        if shape is None or any(not isinstance(d, int) and (axis or axes[name] != 0) for axis, d in enumerate(shape))
    ]
