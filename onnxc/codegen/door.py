"""The model that is compiled: as it came, or as passes leave it for each set of shapes; its large weights are never copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx

from onnxc.ir.digest import digest
from onnxc.ir.errors import BadOption
from onnxc.ir.lean import Lean
from onnxc.ir.model import Model

LARGE = 2048  # bytes
Shapes = Mapping[str, tuple[int, ...]]
Optimise = Callable[["onnx.ModelProto | Model", "Shapes | None"], "onnx.ModelProto | Model"]
"""(model, shapes of its inputs): the model that is compiled in its place, which computes the same."""


@dataclass(frozen=True)
class Source:
    """`given`: what is compiled and what a library is compared with; `optimise` what is made of it ahead, if anything."""

    given: onnx.ModelProto | Model
    optimise: Optimise | None = None

    @classmethod
    def of(cls, model, optimise: Optimise | None) -> Source:
        """A Model, a ModelProto, or whatever `to_proto()` makes one of. Raises BadOption for others."""
        if not isinstance(model, onnx.ModelProto | Model):
            found = type(model).__name__
            model = model.to_proto() if hasattr(model, "to_proto") else None
            if not isinstance(model, onnx.ModelProto):
                raise BadOption("compile_model takes a ModelProto or a Model", found=found)
        return cls(model, optimise)

    def part(self, proto: onnx.ModelProto) -> Source:
        """Another model that is compiled in the same way."""
        return Source(proto, self.optimise)

    def lean(self, shapes: Shapes | None) -> Lean:
        """What is compiled for these shapes."""
        return _lean(self.given if self.optimise is None else self.optimise(self.given, shapes))

    @cached_property
    def proto(self) -> onnx.ModelProto:
        """The model as it came, with all its weights."""
        return self.given if isinstance(self.given, onnx.ModelProto) else self.given.to_proto()

    @property
    def beside(self) -> Lean:
        """The model as it came, its large weights uncopied."""
        return Lean(self.given, {}) if isinstance(self.given, onnx.ModelProto) else self.given.lean()

    def digest(self) -> str:
        """`onnxc.ir.digest.digest` of `proto`."""
        if isinstance(self.given, onnx.ModelProto):
            return digest(self.given)
        made = _lean(self.given)
        return digest(made.proto, made.arrays)


def _lean(model: onnx.ModelProto | Model) -> Lean:
    """The model beside its large weights, those too that lie where a runtime does not take them as they are."""
    if isinstance(model, onnx.ModelProto):
        return Lean(model, {})
    made = model.lean()
    more = {
        t.name: t.values
        for t in model.constants().values()
        if t.name not in made.arrays
        and t.values.nbytes > LARGE
        and t.values.dtype.kind in "biuf"
        and t.values.dtype.isnative
        and t.values.flags.c_contiguous
        and type(t.values.dtype).__module__ == "numpy.dtypes"
    }
    return Lean(made.proto, {**made.arrays, **more})
