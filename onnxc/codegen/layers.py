"""What each call of a program is: the nodes that it stands for, its kernel and schedule, multiply-adds, and the bytes that it moves.

Made for `--profile` and the page of `compile --report`, before buffers have their places: then a place says whose bytes it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onnxc.codegen.c.header import tensor_bytes
from onnxc.codegen.memory.plan import MemoryPlan, Place
from onnxc.codegen.origins import Nodes, named
from onnxc.codegen.prepare.record import StaticModel

GENERAL = "general schedule"


@dataclass(frozen=True)
class CallRow:
    """One call of a library. `nodes` of the model that it stands for; `family` "general schedule" where no kernel of ours takes
    it. `macs` are multiply-adds (0 where no kernel counts them), `bits` those of activations and weights, `bytes` of activations
    that are read and written, `weight_bytes` of constants; each tensor counts once. `refused`: why families declined. `key` and
    `others`, the kernels that it might have, are of `onnxc.codegen.candidates`, where those are tried."""

    function: str
    nodes: Nodes
    family: str
    schedule: str
    spec: str
    macs: int
    bits: tuple[int, int]
    channels: tuple[int, int, int]
    bytes: int
    weight_bytes: int
    cycles: float
    refused: tuple[str, ...] = ()
    key: str = ""
    others: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def call_rows(
    static: StaticModel,
    plan: MemoryPlan,
    nodes: Sequence[Nodes],
    kernels: Sequence[Mapping[str, Any]],
    general: Mapping[str, float],
) -> list[CallRow]:
    """A row for each call of the plan, whose buffers have no places yet. `nodes`: of each call; `general`: predicted cycles of the
    functions without a kernel."""
    known = {node.name for node in static.nodes if node.name}
    order = {node.name: i for i, node in enumerate(static.nodes)}
    taken: set[int] = set()
    rows = []
    for (function, places), mine in zip(plan.calls, nodes, strict=True):
        entry = _entry(function, mine, kernels, taken)
        names = tuple(sorted(named(mine, known), key=lambda name: order.get(name, len(order))))
        moved = {place: _bytes(place, static, plan) for place in places}
        weights = sum(count for place, count in moved.items() if place.space == "weight")
        rows.append(
            CallRow(
                function=function, nodes=names, family=entry["kernel"] if entry else _family(function),
                schedule=entry["schedule"] if entry else "", spec=entry["spec"] if entry else "",
                macs=entry["macs"] if entry else 0, bits=entry["bits"] if entry else (0, 0),
                channels=entry["channels"] if entry else (0, 0, 0), bytes=sum(moved.values()) - weights, weight_bytes=weights,
                cycles=entry["cycles"] if entry else general.get(function, 0.0),
                refused=tuple(f"{r['rule']} {r['reason']}" for r in entry["refused"]) if entry else (),
                key=entry["key"] if entry else "", others=entry["others"] if entry else (),
            )
        )  # fmt: skip
    return rows


def _entry(
    function: str, nodes: Nodes, kernels: Sequence[Mapping[str, Any]], taken: set[int]
) -> Mapping[str, Any] | None:
    """The row of the report that a call is: of its function, and of its nodes where several layers share that."""
    fitting = [i for i, row in enumerate(kernels) if row["function"] == function and i not in taken]
    if not fitting:
        return None
    best = next((i for i in fitting if kernels[i]["nodes"] == nodes), fitting[0])
    taken.add(best)
    return kernels[best]


def _family(function: str) -> str:
    for stem in ("pack", "pool"):
        if function.startswith(stem) and function[len(stem) :].isdigit():
            return f"bits.{stem}"
    if function.startswith("micro") and function[5:].isdigit():
        return "micro.between"
    return GENERAL


def _bytes(place: Place, static: StaticModel, plan: MemoryPlan) -> int:
    match place.space:
        case "input":
            return tensor_bytes(static.inputs[place.offset])
        case "output":
            return tensor_bytes(static.outputs[place.offset])
        case "weight":
            return plan.weights[place.offset].nbytes
    return plan.buffers[place.offset]
