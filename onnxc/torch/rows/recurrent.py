"""LSTM, GRU and RNN, step by step: [time, batch, ...], forward, reverse or both."""

from __future__ import annotations

import torch

from ..table import Call, row
from .quantised import in_8_bits

ACTIVATIONS = {
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu,
    "softsign": torch.nn.functional.softsign, "softplus": torch.nn.functional.softplus,
    "affine": None, "hardsigmoid": None, "leakyrelu": None, "thresholdedrelu": None, "elu": None, "scaledtanh": None,
}  # fmt: skip


def _activations(call: Call, default: list[str], directions: int) -> list:
    names = [n.lower() for n in call.get("activations") or default * directions]
    found = []
    for n in names:
        f = ACTIVATIONS.get(n)
        if f is None or call.get("activation_alpha") or call.get("activation_beta"):
            raise call.refuse("this activation of a recurrent layer", found=n)
        found.append(f)
    each = len(default)
    return [found[i * each : (i + 1) * each] for i in range(directions)]


def _lstm(call, x, state, w, r, b, p, f):
    h, c = state
    gates = x @ w.T + h @ r.T + b
    i, o, forget, cell = gates.chunk(4, -1)
    if p is not None:
        pi, po, pf = p.chunk(3, -1)
        i, forget = i + pi * c, forget + pf * c
    i, forget = f[0](_clipped(call, i)), f[0](_clipped(call, forget))
    forget = 1 - i if call.get("input_forget", 0) else forget
    c = forget * c + i * f[1](_clipped(call, cell))
    o = f[0](_clipped(call, o + po * c if p is not None else o))
    return o * f[2](c), c


def _gru(call, x, state, w, r, b, p, f):
    (h,) = state
    n = h.shape[-1]
    wb, rb = b
    gx, gh = x @ w.T + wb, h @ r[: 2 * n].T + rb[: 2 * n]
    z, reset = f[0](_clipped(call, gx[..., :n] + gh[..., :n])), f[0](_clipped(call, gx[..., n : 2 * n] + gh[..., n:]))
    if call.get("linear_before_reset", 0):
        inner = reset * (h @ r[2 * n :].T + rb[2 * n :])
    else:
        inner = (reset * h) @ r[2 * n :].T + rb[2 * n :]
    new = f[1](_clipped(call, gx[..., 2 * n :] + inner))
    return ((1 - z) * new + z * h,)


def _rnn(call, x, state, w, r, b, p, f):
    return (f[0](_clipped(call, x @ w.T + state[0] @ r.T + b)),)


def _clipped(call, x):
    bound = call.get("clip")
    return x if bound is None else x.clamp(-bound, bound)


def _lstm_in_8_bits(call, x, state, *rest):
    h = in_8_bits(call, state[0])
    return _lstm(call, x, (h, state[1]), *rest)


CELLS = {
    "DynamicQuantizeLSTM": (_lstm_in_8_bits, ["Sigmoid", "Tanh", "Tanh"], 4),
    "LSTM": (_lstm, ["Sigmoid", "Tanh", "Tanh"], 4),
    "GRU": (_gru, ["Sigmoid", "Tanh"], 3),
    "RNN": (_rnn, ["Tanh"], 1),
}


@row("LSTM", "GRU", "RNN")
def recurrent(call: Call, x, w, r, b=None, lengths=None, h0=None, c0=None, peep=None):
    cell, default, gates = CELLS[call.op]
    batch_first = call.get("layout", 0)
    if batch_first:
        x, h0, c0 = x.transpose(0, 1), *(None if t is None else t.transpose(0, 1) for t in (h0, c0))
    n, directions = r.shape[-1], w.shape[0]
    functions = _activations(call, default, directions)
    zeros = x.new_zeros(x.shape[1], n)
    ys, hs, cs = [], [], []
    for d in range(directions):
        backward = call.get("direction", "forward") == "reverse" or d == 1
        halves = (x.new_zeros(2 * gates * n) if b is None else b[d]).split(gates * n)
        bias = halves if call.op == "GRU" else halves[0] + halves[1]
        state: tuple = (zeros if h0 is None else h0[d],)
        state = (*state, zeros if c0 is None else c0[d]) if call.op.endswith("LSTM") else state
        weights = (w[d], r[d], bias, None if peep is None else peep[d], functions[d])
        y, state = _run(call, cell, x, state, weights, lengths, backward)
        ys.append(y)
        hs.append(state[0])
        cs.append(state[-1])
    y, h, c = torch.stack(ys, 1), torch.stack(hs), torch.stack(cs)
    if batch_first:
        y, h, c = y.permute(2, 0, 1, 3), h.transpose(0, 1), c.transpose(0, 1)
    return (y, h, c)[: call.outputs]


def _run(call, cell, x, state, weights, lengths, backward):
    """One direction; sequences that have ended keep their state, and their outputs are zero."""
    times = range(x.shape[0])
    found = [None] * x.shape[0]
    for t in reversed(times) if backward else times:
        new = cell(call, x[t], state, *weights)
        if lengths is None:
            state, found[t] = new, new[0]
            continue
        live = (t < lengths).to(x.device)[:, None]
        state = tuple(torch.where(live, a, b) for a, b in zip(new, state))
        found[t] = torch.where(live, new[0], torch.zeros_like(new[0]))
    return torch.stack(found), state
