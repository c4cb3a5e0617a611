"""What `prepare/` hands on: a graph with static shapes, its constants beside it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx

from onnxc.codegen.prepare.walk import Integers


@dataclass
class StaticModel:
    """A graph with static shapes whose constants are held apart from its nodes.

    `inputs` and `outputs` are the user's (name, shape, dtype), `nodes` in an order in which they can run. `constants` are the
    arrays that nodes or outputs read; those named in `weights` are large, or operands that kernels pack, and are never
    folded. `regions` has what nodes of `walk.REGION` stand for, by their names. `users` says of a weight which node reads it
    first, `integers` which 8-bit integers it is made of, if it is.
    `lengths` says of outputs whose lengths data decide which other output holds their extents; their shapes are the most that they can be.
    `most`: how long data can make what nodes make, `shorter` what a user can do about it.
    `types` has (shape, dtype) of the tensors whose shape is known, `opsets` the version of each domain.
    """

    nodes: list[onnx.NodeProto]
    inputs: list[tuple[str, tuple[int, ...], str]]
    outputs: list[tuple[str, tuple[int, ...], str]]
    constants: dict[str, np.ndarray]
    weights: set[str]
    users: dict[str, str]
    integers: dict[str, Integers]
    types: dict[str, tuple[tuple[int, ...], str]]
    opsets: dict[str, int]
    regions: dict[str, StaticRegion] = field(default_factory=dict)
    lengths: dict[str, str] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)
    shorter: str = ""

    def forget(self) -> None:
        """Gives up the constants, which are lowered."""
        self.constants.clear()
        for region in self.regions.values():
            for body in region.bodies:
                body.forget()


@dataclass
class StaticRegion:
    """A Loop or If of the compiled program: `kind`, `states` and `rows` as in `prepare.loops.Region`; `bodies` are models whose inputs
    and outputs have the types in which tensors are held between nodes."""

    kind: str
    bodies: list[StaticModel]
    states: int
    rows: int
