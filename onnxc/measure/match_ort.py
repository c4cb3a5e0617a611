"""Which kernels of ONNX Runtime do what a layer of a library does: those that stand for nodes of the layer.

ours: conv+relu, add     ORT: conv+relu+add     ->   conv+relu: the kernel; add: within it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..runtime.ort_profile import OrtNode


@dataclass(frozen=True)
class Beside:
    """`seconds` of ONNX Runtime's `kernels` for a layer, None where it has none of its own; `note` says why."""

    seconds: float | None
    kernels: tuple[str, ...]
    note: str


def beside(
    layers: Sequence[tuple[Sequence[str], bool]], kernels: Sequence[OrtNode]
) -> tuple[list[Beside], list[OrtNode]]:
    """For each layer (its nodes, whether the general schedule runs it) what ONNX Runtime has, and the kernels that are nobody's.

    A kernel counts once: with the layer that has the node it is called by, and of several with one that a kernel of ours runs, as a change
    of layout stands for the nodes that ask for it.
    """
    holders: dict[str, list[int]] = {}
    for i, (nodes, _) in sorted(enumerate(layers), key=lambda pair: pair[1][1]):
        for node in nodes:
            holders.setdefault(node, []).append(i)
    mine: dict[int, list[OrtNode]] = {}
    strangers = []
    for kernel in kernels:
        owner = next((holders[node][0] for node in kernel.nodes if node in holders), None)
        if owner is None:
            strangers.append(kernel)
        else:
            mine.setdefault(owner, []).append(kernel)
    found = []
    for i, (nodes, _) in enumerate(layers):
        own = mine.get(i, [])
        if own:
            found.append(Beside(sum(k.seconds for k in own), tuple(k.name for k in own), ""))
        else:
            others = [j for node in nodes for j in holders.get(node, []) if j != i and j in mine]
            note = (
                f"in that of layer {others[0] + 1}" if others else "no kernel of its own there" if nodes else "unknown"
            )
            found.append(Beside(None, (), note))
    return found, strangers
