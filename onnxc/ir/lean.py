"""A model as ONNX whose large weights stand beside it, uncopied: what a runtime in this process takes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx

NOWHERE = "held"
"""The `location` of weights that no file holds; all begin at its start."""


@dataclass(frozen=True)
class Lean:
    """proto: a model some of whose initialisers are external data at NOWHERE; arrays: these by name, read-only."""

    proto: onnx.ModelProto
    arrays: Mapping[str, np.ndarray]

    def whole(self) -> onnx.ModelProto:
        """A model that holds copies of all its weights."""
        import onnx

        made = onnx.ModelProto()
        made.CopyFrom(self.proto)
        for tensor in made.graph.initializer:
            if tensor.name in self.arrays:
                tensor.CopyFrom(onnx.numpy_helper.from_array(self.arrays[tensor.name], tensor.name))
        return made
