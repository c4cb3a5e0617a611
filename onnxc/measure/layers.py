"""What became of each layer: its cost, bits and channels before and after, what its output lost, and its weights' distribution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from ..ir.difference import Difference
from ..ir.model import Model
from ..ir.numbers import operand
from ..ir.verify import verify
from ..pipeline import Pipeline
from .inspect import Layer, layers_of

if TYPE_CHECKING:
    from ..runtime.data import Data

BINS = 25
SAMPLES = 16
MOST = 400
"""Layers whose outputs are compared; of larger models, the first."""


@dataclass(frozen=True)
class Fate:
    """One layer that holds weights. before, after: macs, bytes, bits and channels (of its output's second axis), None where it is
    not there; share: of the MACs as given. snr_db: of its output beside the one as given, None where shapes differ. weights: its
    weights' counts in 25 bins of one range before and after; low, high: that range."""

    name: str
    op: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    share: float
    snr_db: float | None
    weights: tuple[list[int], list[int]]
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def fates(given: Model, made: Model, data: Data | None = None) -> list[Fate]:
    """Each layer of a model, by name, beside what passes made of it; without data, outputs are not compared."""
    # weights and outputs are compared as they are once normalisations stand in the layers ahead of them
    folded = [Pipeline("fuse", check="shapes").transform(m).model for m in (given, made)]
    first, second = (dict(_layers(m)) for m in (given, made))
    values = [{name: w for name, (_, w) in _layers(m)} for m in folded]
    whole = sum(layer.macs for layer, _ in first.values()) or 1
    names = [n for n in values[0] if n in values[1]][:MOST]
    lost = _noise(folded[0], folded[1], names, data) if data is not None else {}
    found = []
    for name in dict.fromkeys([*first, *second]):
        (a, x), (b, y) = first.get(name, (None, None)), second.get(name, (None, None))
        x, y = values[0].get(name, x), values[1].get(name, y)
        low, high = _range([w for w in (x, y) if w is not None])
        counts = tuple(
            [] if w is None else np.histogram(w.astype(float), BINS, (low, high))[0].tolist() for w in (x, y)
        )  # differences overflow in less
        one = a or b
        assert one is not None
        share = a.macs / whole if a else 0.0
        found.append(Fate(name, one.op, _figures(a), _figures(b), share, lost.get(name), counts, low, high))
    return found


def _layers(model: Model) -> list[tuple[str, tuple[Layer, np.ndarray | None]]]:
    verified = verify(model)
    weights = {node.name: _weights(node) for node in model.nodes if verified.analysis.facts[node.name].iteration}
    return [(layer.name, (layer, weights[layer.name])) for layer in layers_of(model, verified) if layer.name in weights]


def _weights(node: gs.Node) -> np.ndarray | None:
    if len(node.inputs) < 2:
        return None
    numbers = operand(node, 3 if node.op.startswith("QLinear") else 1)
    if numbers is None or not numbers.constant:
        return None
    values = np.asarray(numbers.real(), np.float32).ravel()
    return values[np.isfinite(values)]


def _range(parts: list[np.ndarray]) -> tuple[float, float]:
    """Ends of what is finite, float64, the lower ahead of the higher."""
    finite = [w[np.isfinite(w)] for w in parts]
    ends = [(float(w.min()), float(w.max())) for w in finite if w.size]
    low, high = min((e[0] for e in ends), default=0.0), max((e[1] for e in ends), default=0.0)
    margin = max(0.5, abs(low) / 2)
    return (low, high) if high > low else (low - margin, low + margin)


def _figures(layer: Layer | None) -> dict[str, Any] | None:
    if layer is None:
        return None
    channels = layer.shape[1] if layer.shape is not None and len(layer.shape) > 1 else None
    channels = channels if isinstance(channels, int) else None
    return {"macs": layer.macs, "bytes": layer.bytes, "bits": layer.bits, "channels": channels}


def _noise(given: Model, made: Model, names: list[str], data: Data) -> dict[str, float]:
    """SNR of the outputs of layers, in dB, on a few samples."""
    from ..runtime.reference import Runner

    runner, pairs = Runner(optimise=False), {}
    for name in names:
        tensors = [next(n for n in m.nodes if n.name == name).outputs[0].name for m in (given, made)]
        pairs[name] = tensors
    kinds = [verify(m).types for m in (given, made)]
    pairs = {n: p for n, p in pairs.items() if all(kind.get(t) == 1 for kind, t in zip(kinds, p))}
    if not pairs:
        return {}
    runs = [runner.prepare(m.to_proto(), [p[k] for p in pairs.values()]) for k, m in enumerate((given, made))]
    seen: dict[str, Difference] = {}
    for batch in data.batches(SAMPLES, SAMPLES):
        one, two = (run(batch) for run in runs)
        for name, (a, b) in pairs.items():
            if one[a].shape == two[b].shape:
                seen.setdefault(name, Difference()).add(one[a], two[b], a)
    return {name: difference.snr_db for name, difference in seen.items()}


def explorer(found: list[Fate]) -> dict[str, Any]:
    """Node data for Google's Model Explorer: the SNR of each layer's output in dB, where it could be compared; low ones are red."""
    results = {f.name: {"value": round(f.snr_db, 2)} for f in found if f.snr_db is not None and np.isfinite(f.snr_db)}
    colours = [
        {"stop": 0, "bgColor": "#d2571b"},
        {"stop": 0.5, "bgColor": "#f0d060"},
        {"stop": 1, "bgColor": "#4a9d5b"},
    ]
    return {"results": results, "gradient": colours}
