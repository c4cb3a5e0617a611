"""Bits product by product, for `quant.int8(bits=auto)`: by how much each disturbs the model's outputs alone (Wu 2020).

A product's noise at b bits is the noise of the outputs, relative to their power, when it alone reads its input in eight
bits and its weight in b. Noises of different products hardly correlate, so that their sum estimates the whole. Then

- under a mean number of bits per weight, the cheapest steps down come first: least noise added for each bit saved;
- under a least SNR (ahead of a Softmax that closes the model), products stay in float, those with the most noise for
  their shares of all work and all weights first, until the sum is low enough.
  Sums, pools and activations between products make noise as well, which is not seen: the pass measures what is reached,
  and asks for more until it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.difference import Difference
from ...ir.model import Model, Tensor
from ...ir.qtype import QType
from ...ir.verify import verify
from ..base import Context
from . import affine, products

CHOICES = (8, 6, 4, 3)
FLOAT = 32
SAMPLES = 16


@dataclass
class Candidate:
    """A product: weights it holds, multiplications for each sample, relative noise power at so many bits."""

    name: str
    weights: int
    work: int
    noise: Callable[[int], float]
    bits: int = 8

    def now(self) -> float:
        return 0.0 if self.bits == FLOAT else self.noise(self.bits)


def choose(found: list[Candidate], mean: float | None, snr: float | None) -> dict[str, int]:
    """name -> bits of its weights, FLOAT for what stays as it is."""
    for c in found:
        c.bits = 8
    allowed = np.inf if snr is None else 10 ** (-snr / 10)
    if snr is not None:
        work, weights = (max(1, sum(n)) for n in zip(*((c.work, c.weights) for c in found), strict=True))
        for c in sorted(found, key=lambda c: c.noise(8) / (c.work / work + c.weights / weights), reverse=True):
            if sum(one.now() for one in found) <= allowed:
                break
            c.bits = FLOAT
    total = sum(c.weights for c in found)
    while mean is not None and sum(c.bits * c.weights for c in found) > mean * total:
        spare = allowed - sum(c.now() for c in found)
        step = _cheapest(found, spare) if spare > 0 else None
        if step is None:
            break
        step[0].bits = step[1]
    return {c.name: c.bits for c in found}


def _cheapest(found: list[Candidate], spare: float) -> tuple[Candidate, int] | None:
    """The step down of least noise for each bit saved that adds at most `spare`."""
    steps = [(c, b) for c in found for b in CHOICES if b < c.bits != FLOAT and c.noise(b) - c.now() <= spare]
    return min(steps, key=lambda s: (s[0].noise(s[1]) - s[0].now()) / ((s[0].bits - s[1]) * s[0].weights), default=None)


def candidates(model: Model, inputs: dict[str, QType], ctx: Context) -> list[Candidate]:
    """The products of `model`, each measured alone. inputs: the quantiser of what each reads."""
    feeds = {k: v for k, v in next(iter(ctx.batches(SAMPLES))).items() if k != "labels"}
    names = [_ahead_of_softmax(model, t) for t in model.outputs]
    real = _run(ctx, model, feeds, names)
    analysis = verify(model).analysis
    found = []
    for node in model.nodes:
        if node.name in inputs:
            shape = [n if isinstance(n, int) else 1 for n in analysis.shape(node.outputs[0].name) or ()]
            p = products.read(node)
            positions = prod(shape[2:] if node.op.startswith("Conv") else shape[1:-1])
            noise = cache(partial(_noise, model, node.name, inputs[node.name], real=real, feeds=feeds, ctx=ctx))
            found.append(Candidate(node.name, p.weight.size, p.weight.size * positions, noise))
    return found


def _run(ctx: Context, model: Model, feeds: dict[str, np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
    assert ctx.runner is not None  # `inputs` was measured by it
    return ctx.runner(model.lean(), feeds, names)


def _ahead_of_softmax(model: Model, t: Tensor) -> str:
    """Where the noise of an output is measured: probabilities near 0 and 1 hide it, all but for undecided samples."""
    maker = t.inputs[0] if isinstance(t, gs.Variable) and t.inputs else None
    source = maker.inputs[0] if maker is not None and model.is_standard(maker, "Softmax") else t
    return source.name if isinstance(source, gs.Variable) else t.name


def _noise(model: Model, name: str, x: QType, bits: int, *, real: dict, feeds: dict, ctx: Context) -> float:
    """The mean over outputs of noise power by signal power with this product alone quantised."""
    work = model.copy()
    node = next(n for n in work.nodes if n.name == name)
    p = products.read(node)
    scales = affine.weight_scales(p.weight, p.axis, bits)
    q = QType(bits, True, scales, np.zeros(scales.shape, np.int8), p.axis)
    alpha = np.float32(node.attrs.get("alpha", 1.0) or 1.0)
    work.set_weight(node, 1, affine.dequantise(affine.quantise(p.weight, q), q) / alpha)
    scale, zero = (work.constant(f"mixed_{k}", v) for k, v in zip(("scale", "zero"), affine.parameters(x), strict=True))
    stored = work.variable("mixed_stored")
    work.node("QuantizeLinear", [node.inputs[0], scale, zero], [stored], before=node)
    node.inputs[0] = work.node("DequantizeLinear", [stored, scale, zero], before=node).outputs[0]
    got = _run(ctx, work, feeds, list(real))
    shares = [Difference().add(y, got[key], key).noise for key, y in real.items() if y.dtype.kind == "f"]
    return float(np.mean(shares)) if shares else 0.0
