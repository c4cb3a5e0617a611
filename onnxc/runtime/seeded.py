"""Models that draw random numbers, made to draw the same ones in every run.

RandomNormalLike(x)   ->   RandomNormalLike(x, seed = of the name of its output)

A session draws on from run to run; one that has just been started draws from the seed on. So two models can be compared in
which the same tensors are drawn, whatever has become of the nodes beside them.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

DRAWS = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}


def _drawing(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that draw, at any depth."""
    from onnxc.ir.nodes import STANDARD, all_nodes

    return [n for n in all_nodes(proto) if n.op_type in DRAWS and n.domain in STANDARD]


def draws(proto: onnx.ModelProto) -> bool:
    """Whether runs of the model in one session differ in what they draw, with a seed of their own or without."""
    return bool(_drawing(proto))


def seeded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose draws have a seed, by the name of what they make."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(proto)
    for node in _drawing(made):
        if not any(a.name == "seed" for a in node.attribute):
            seed = float(zlib.crc32(node.output[0].encode()) % 2**20)
            node.attribute.append(onnx.helper.make_attribute("seed", seed))
    return made
