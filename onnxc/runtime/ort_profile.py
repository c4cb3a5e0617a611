"""ONNX Runtime's own times of the nodes of a model, and which nodes of the model each of its kernels stands for.

    conv_nchwc (Conv and Relu in one)  ->  12.4 us, node conv

Its profile names kernels as the nodes of its optimised graph, which keep the name of one of the nodes that they were made of, with
something behind it (_nchwc, _token_3, /MatMulAddFusion), or are called by, or make, a tensor that the model has. What it put in
by itself (reorders) stands for none.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from onnxc.ir.errors import BadOption
from onnxc.ir.lean import Lean
from onnxc.runtime.reference import Session

SUFFIX = "_kernel_time"
MADE = re.compile(r"(_nchwc|_token_\d+|/duplicated|/MatMulAddFusion|_quant|_dequant)$")


@dataclass(frozen=True)
class OrtNode:
    """A kernel of ONNX Runtime: `seconds` in a run, and the names of the model's `nodes` that it is known to stand for."""

    name: str
    op: str
    seconds: float
    nodes: tuple[str, ...]


class OrtProfile:
    """A model in ONNX Runtime that keeps the times of its nodes."""

    def __init__(self, model: Lean, folder: Path, threads: int = 1):
        """`folder`: an empty one for its files. Raises VerificationError where ONNX Runtime does not take the model."""
        self.session = Session(model, threads=threads, profile=folder)
        self._folder = folder
        self._names = {node.name for node in model.proto.graph.node if node.name}
        self._makers = {name: node.name for node in model.proto.graph.node for name in node.output if name}

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One run, whose times count."""
        return self.session.run(feeds)

    def finish(self, skip: int) -> list[OrtNode]:
        """The kernels in the order in which they ran, with the middle of their times over all runs but the first `skip`.

        Raises BadOption where what ONNX Runtime wrote is not whole: it does not tell of a full disk.
        """
        try:
            events = json.loads(self.session.end_profiling().read_text())
            outputs = self._outputs()
        except (OSError, ValueError, DecodeError):
            raise BadOption(
                "ONNX Runtime could not write its profile", found=f"a file in {self._folder.parent} that is not whole",
                remedy="make room there, or name another folder in TMPDIR",
            ) from None  # fmt: skip
        runs = [e for e in events if e["name"] == "model_run"][skip:]
        times: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * len(runs))
        ends = iter(enumerate(runs))
        at, run = next(ends, (-1, None))
        for event in sorted((e for e in events if e.get("cat") == "Node"), key=lambda e: e["ts"]):
            while run is not None and event["ts"] > run["ts"] + run["dur"]:
                at, run = next(ends, (-1, None))
            if run is None or not event["name"].endswith(SUFFIX) or event["ts"] < run["ts"]:
                continue
            times[event["name"].removesuffix(SUFFIX), event["args"]["op_name"]][at] += event["dur"] * 1e-6
        return [OrtNode(name, op, middle(found), self._nodes(name, outputs)) for (name, op), found in times.items()]

    def _outputs(self) -> dict[str, list[str]]:
        """Node of the optimised graph -> what it makes."""
        graph = onnx.load(str(self._folder / "optimised.onnx"), load_external_data=False).graph
        return {node.name: list(node.output) for node in graph.node}

    def _nodes(self, name: str, outputs: Mapping[str, list[str]]) -> tuple[str, ...]:
        found = [self._makers[tensor] for tensor in outputs.get(name, ()) if tensor in self._makers]
        base = name
        while base not in self._names and MADE.search(base):
            base = MADE.sub("", base)
        named = [base] if base in self._names else [self._makers[base]] if base in self._makers else []
        return tuple(dict.fromkeys([*named, *found]))


def middle(times: list[float]) -> float:
    """The mean of the middle half: a median for clocks that tick in microseconds."""
    ordered = sorted(times)
    quarter = len(ordered) // 4
    kept = ordered[quarter : len(ordered) - quarter]
    return sum(kept) / len(kept) if kept else 0.0
