"""LSTM, GRU and RNN step by step: one product for the inputs of all steps, then one with the state for each step.

    LSTM(x, w, r, b)   ->   x w' + b for all steps; for each step: gates = part + h r', c = f c + i g, h = o tanh(c)

Steps behind a sequence's length keep its state and give 0, so that the other direction needs nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxc.codegen.prepare.build import Build, rewrites

DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
# parameters that an activation takes from activation_alpha and activation_beta, with their defaults
ALPHA = {"LeakyRelu": 0.01, "Elu": 1.0, "ThresholdedRelu": 1.0, "HardSigmoid": 0.2, "Affine": 1.0, "ScaledTanh": 1.0}
BETA = {"HardSigmoid": 0.5, "Affine": 0.0, "ScaledTanh": 1.0}


class _Activation:
    """One function of a gate, behind the bound of `clip`."""

    def __init__(self, b: Build, name: str, alphas: Iterator[float], betas: Iterator[float], clip: float | None):
        self.b, self.name, self.clip = b, name, clip
        known = {one.lower(): one for one in (*ALPHA, "Relu", "Tanh", "Sigmoid", "Softsign", "Softplus")}
        if name.lower() not in known:
            raise b.refusal(f"activation {name} is not known")
        self.name = known[name.lower()]
        self.alpha = next(alphas, ALPHA[self.name]) if self.name in ALPHA else None
        self.beta = next(betas, BETA[self.name]) if self.name in BETA else None

    def __call__(self, x: str) -> str:
        b = self.b
        if self.clip is not None:
            x = b("Min", b("Max", x, b.like(-self.clip, x)), b.like(self.clip, x))
        if self.name == "Affine":
            return b("Add", b("Mul", x, b.like(self.alpha, x)), b.like(self.beta, x))
        if self.name == "ScaledTanh":
            return b("Mul", b("Tanh", b("Mul", x, b.like(self.beta, x))), b.like(self.alpha, x))
        return b(self.name, x, alpha=self.alpha, beta=self.beta)


class _Layer:
    """One direction: weights of each gate, and how a step goes. `state` is h, and c for LSTM, each (batch, hidden)."""

    def __init__(self, b: Build, direction: int, functions: list[_Activation]):
        self.b, self.direction, self.functions = b, direction, functions
        self.op, self.hidden = b.node.op_type, b.shape(b.input(2))[-1]
        self.gates = GATES[self.op]
        self.late = bool(b.attribute("linear_before_reset", 0)) if self.op == "GRU" else False
        self.coupled = bool(b.attribute("input_forget", 0)) if self.op == "LSTM" else False
        self.w, self.r = (b.transpose(self.part(b.input(i)), 1, 0) for i in (1, 2))
        wide = self.gates * self.hidden
        bias = self.part(b.input(3)) if b.input(3) else b.like(np.zeros(2 * wide), b.input(1))
        self.bias_x, self.bias_h = b.cut(bias, 0, 0, wide), b.cut(bias, 0, wide, 2 * wide)
        self.peephole = self.part(b.input(7)) if self.op == "LSTM" and b.input(7) else None

    def part(self, x: str) -> str:
        """What a tensor with a leading axis of directions holds for this one."""
        shape = self.b.shape(x)
        return self.b.reshape(self.b.cut(x, 0, self.direction, self.direction + 1), shape[1:])

    def inputs(self, x: str) -> str:
        """(length, batch, gates hidden): the share of the inputs in all gates, biases with it where they only add."""
        b, (length, batch, width) = self.b, self.b.shape(x)
        bias = self.bias_x if self.late else b("Add", self.bias_x, self.bias_h)
        made = b("Add", b("MatMul", b.reshape(x, (length * batch, width)), self.w), bias)
        return b.reshape(made, (length, batch, self.gates * self.hidden))

    def gate(self, x: str, i: int, count: int = 1) -> str:
        """Gate i, or `count` of them, of (batch, gates hidden)."""
        return self.b.cut(x, len(self.b.shape(x)) - 1, i * self.hidden, (i + count) * self.hidden)

    def step(self, x: str, state: list[str]) -> list[str]:
        """The next state from the inputs' share (batch, gates hidden)."""
        return {"RNN": self._rnn, "GRU": self._gru, "LSTM": self._lstm}[self.op](x, state)

    def _rnn(self, x: str, state: list[str]) -> list[str]:
        b = self.b
        return [self.functions[0](b("Add", x, b("MatMul", state[0], self.r)))]

    def _gru(self, x: str, state: list[str]) -> list[str]:
        b, h, (f, g) = self.b, state[0], self.functions
        if self.late:
            known = b("Add", b("MatMul", h, self.r), self.bias_h)
            both = f(b("Add", self.gate(x, 0, 2), self.gate(known, 0, 2)))
            z, r = self.gate(both, 0), self.gate(both, 1)
            new = g(b("Add", self.gate(x, 2), b("Mul", r, self.gate(known, 2))))
        else:
            both = f(b("Add", self.gate(x, 0, 2), b("MatMul", h, self.gate(self.r, 0, 2))))
            z, r = self.gate(both, 0), self.gate(both, 1)
            new = g(b("Add", self.gate(x, 2), b("MatMul", b("Mul", r, h), self.gate(self.r, 2))))
        return [b("Add", b("Mul", b("Sub", b.like(1, z), z), new), b("Mul", z, h))]

    def _lstm(self, x: str, state: list[str]) -> list[str]:
        b, (h, c), (f, g, last) = self.b, state, self.functions
        total = b("Add", x, b("MatMul", h, self.r))
        i, o, forget, new = (self.gate(total, k) for k in range(4))
        if self.peephole is not None:
            i = b("Add", i, b("Mul", self.gate(self.peephole, 0), c))
            forget = b("Add", forget, b("Mul", self.gate(self.peephole, 2), c))
        i = f(i)
        forget = b("Sub", b.like(1, i), i) if self.coupled else f(forget)
        c = b("Add", b("Mul", forget, c), b("Mul", i, g(new)))
        if self.peephole is not None:
            o = b("Add", o, b("Mul", self.gate(self.peephole, 1), c))
        return [b("Mul", f(o), last(c)), c]


@rewrites("LSTM", "GRU", "RNN")
def recurrent(b: Build) -> list[str | None]:
    """Y (length, directions, batch, hidden), then the last h and c (directions, batch, hidden); layout 1 has batch first."""
    op, first = b.node.op_type, bool(b.attribute("layout", 0))
    way, clip = b.attribute("direction", "forward"), b.attribute("clip")
    b.attribute("hidden_size"), b.attribute("output_sequence")
    x = b.transpose(b.input(0), 1, 0, 2) if first else b.input(0)
    length, batch, _ = b.shape(x)
    count = b.shape(b.input(1))[0]
    names = b.attribute("activations") or DEFAULTS[op] * count
    alphas, betas = (iter(b.attribute(f"activation_{which}") or []) for which in ("alpha", "beta"))
    each = len(DEFAULTS[op])
    # the cell itself is not cut ahead of its activation, the third of LSTM: so does ONNX Runtime
    clips = [None if i % each == 2 else clip for i in range(len(names))]
    functions = [_Activation(b, name, alphas, betas, bound) for name, bound in zip(names, clips)]
    results, states = [], []
    for d in range(count):
        layer = _Layer(b, d, functions[d * each : (d + 1) * each])
        backward = way == "reverse" or d == 1
        state = [_initial(b, layer, i, batch, first) for i in ((5, 6) if op == "LSTM" else (5,))]
        made, state = _run(b, layer, x, state, length, backward)
        results.append(made)
        states.append(state)
    y = _joined(b, [b.reshape(one, (length, 1, batch, b.shape(one)[-1])) for one in results], 1) if b.wants(0) else None
    last = []
    for i in range(1, 3 if op == "LSTM" else 2):
        parts = [b.reshape(state[i - 1], (1, *b.shape(state[i - 1]))) for state in states]
        last.append(_joined(b, parts, 0) if b.wants(i) else None)
    if first:
        y = y and b.transpose(y, 2, 0, 1, 3)
        last = [part and b.transpose(part, 1, 0, 2) for part in last]
    return [y, *last]


def _initial(b: Build, layer: _Layer, i: int, batch: int, first: bool) -> str:
    given = b.input(i)
    if given is None:
        return b.like(np.zeros((batch, layer.hidden)), b.input(1))
    return layer.part(b.transpose(given, 1, 0, 2) if first else given)


def _joined(b: Build, parts: list[str], axis: int) -> str:
    return parts[0] if len(parts) == 1 else b("Concat", *parts, axis=axis)


def _run(b: Build, layer: _Layer, x: str, state: list[str], length: int, backward: bool) -> tuple[str, list[str]]:
    """h after each step (length, batch, hidden), and the last state."""
    shares, lengths = layer.inputs(x), b.input(4)
    batch, hidden = b.shape(state[0])
    if lengths is not None and (known := b.known(lengths)) is not None and (known == length).all():
        lengths = None
    lengths = lengths and b.reshape(lengths, (batch, 1))
    outputs = [""] * length
    for t in reversed(range(length)) if backward else range(length):
        share = b.reshape(b.cut(shares, 0, t, t + 1), (batch, b.shape(shares)[-1]))
        new = layer.step(share, state)
        if lengths is not None:
            active = b("Less", b.like(t, lengths), lengths)
            outputs[t] = b("Where", active, new[0], b.like(0, new[0]))
            state = [b("Where", active, now, before) for now, before in zip(new, state)]
        else:
            outputs[t], state = new[0], new
    parts = [b.reshape(one, (1, batch, hidden)) for one in outputs] if b.wants(0) else []
    return (_joined(b, parts, 0) if parts else state[0]), state
