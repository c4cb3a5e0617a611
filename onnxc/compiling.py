"""compile: a model, cleaned and fused for each set of shapes with the claims of all passes tested, as a library."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import onnx

from . import __version__
from .codegen import cache, library
from .codegen.door import Optimise, Shapes
from .codegen.prepare.static import input_shapes
from .codegen.target import host_features
from .ir.digest import digest
from .ir.errors import OnnxcError
from .ir.files import load
from .ir.model import Model

_TESTERS = (
    "trial.py",
    "pipeline.py",
    "passes/base.py",
    "runtime/evaluate.py",
    "runtime/feeding.py",
    "runtime/reference.py",
)
PASSES = "clean,fuse"
QUANTISED = "clean,fuse,prune.dead"
"""For networks between quantisers: batch normalisations have been folded there, and channels that those had switched off
are left as weights that are all zero (a third of MLPerf Tiny's MobileNet)."""


def optimiser(check: str = "data", seed: int = 0, note: Callable[[str], None] | None = None) -> Optimise:
    """What `compile_model` makes of a model ahead: `PASSES` or `QUANTISED` at fixed extents, where nothing but numbers is left of
    its shapes.

    Claims are tested as `check` says, on inputs drawn by `seed`, once for the same bytes before and behind (`_tested`). A model that
    the passes do not take is compiled as it came, and `note` is told why.
    """

    def optimise(model: onnx.ModelProto | Model, shapes: Shapes | None) -> onnx.ModelProto | Model:
        from .passes import clean, fuse  # noqa: F401  nobody looks for the others then
        from .pipeline import run_passes

        made = model.copy() if isinstance(model, Model) else load(model)
        passes = QUANTISED if any(node.op == "QuantizeLinear" for node in made.nodes) else PASSES
        try:
            found = input_shapes(made.to_proto(weights=False), shapes, {t.name for t in made.inputs})
            for tensor in made.inputs:
                tensor.shape = list(found[tensor.name])
            if check == "data":
                return _tested(made, passes, seed)
            return run_passes(made, passes, check=check, seed=seed).model
        except OnnxcError as error:
            if note is not None:
                note(f"compiled as it came, without {passes}: {error}")
            return model

    return optimise


def _tested(model: Model, passes: str, seed: int) -> Model:
    """What `passes` make of a model, their claims tested on inputs drawn by `seed`. Where this user's cache says that they held between
    these two models, byte for byte, by the same files of onnxc and the same ONNX Runtime, they are not tested again."""
    from .pipeline import run_passes

    key = _key(model, passes, seed)
    kept = cache.load(key)
    if kept is not None:
        with suppress(OnnxcError):
            found = run_passes(model, passes, check="shapes", seed=seed).model
            if _digest(found) == kept[0]:
                return found
    found = run_passes(model, passes, check="data", seed=seed).model
    if key:
        cache.save(key, _digest(found), {})
    return found


def _key(model: Model, passes: str, seed: int) -> str:
    """The name of what the cache knows of a model; "" where there is no cache."""
    if cache.folder() is None:
        return ""
    made = [__version__, version("onnxruntime"), sorted(host_features()), passes, seed]
    found = hashlib.sha256(json.dumps(made).encode() + _digest(model))
    for file in _TESTERS:
        found.update(hashlib.sha256((Path(__file__).parent / file).read_bytes()).digest())
    return found.hexdigest()


def _digest(model: Model) -> bytes:
    lean = model.lean()
    return digest(lean.proto, lean.arrays).encode()


def once(optimise: Optimise) -> Optimise:
    """The same, done once for each model and set of shapes: for a model that is compiled several times."""
    made: dict[tuple, tuple] = {}

    def again(model: onnx.ModelProto | Model, shapes: Shapes | None) -> onnx.ModelProto | Model:
        key = (id(model), None if shapes is None else tuple(sorted(shapes.items())))
        if key not in made:
            made[key] = model, optimise(model, shapes)  # with the model, whose id counts while it lives
        return made[key][1]

    return again


def compile(model, out: str | os.PathLike | None = None, **options):
    """Compiles a model for this machine and loads it: NumPy in, NumPy out.

        library = onnxc.compile(model)
        logits = library(image=batch)["logits"]

    A model that is not sound is refused. It goes through clean and fuse first, for each set of shapes. Options and errors are those of
    `onnxc.codegen.compile`: name, target, shapes, threads, weights, check, data. Warns of what the model's file holds twice, and
    where both passes refused the model and it was compiled as it came.
    """
    from .pipeline import sound

    source = load(model).copy()  # where an output is declared wrongly, that is corrected
    sound(source)
    notes: dict[str, None] = dict.fromkeys(source.remarks)
    made = library.compile(
        source, out, optimise=optimiser(options.get("check", "data"), note=notes.setdefault), **options
    )
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return made
