"""LSTM, GRU and RNN: the products with the input for all steps at once, then one loop over the steps.

    p = X W' + Wb + Rb          (steps, batch, gates * hidden), one matrix product
    for t: g = p[t] + h R'; h, c = cell(g, h, c)

The recurrent weights stand transposed, (hidden, gates * hidden), so that the inner loop runs over vectors of gates. Steps
beyond a sample's length leave its state as it is, and give 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.loops import loops
from onnxc.codegen.operators.node import Node, Refused, dtype_of, shape_of
from onnxc.codegen.operators.table import row

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
CONSTANTS = {
    "Affine": (1.0, 0.0), "LeakyRelu": (0.01, 0.0), "ThresholdedRelu": (1.0, 0.0), "ScaledTanh": (1.0, 1.0),
    "HardSigmoid": (0.2, 0.5), "Elu": (1.0, 0.0),
}  # fmt: skip


def _activation(name: str, alpha: float, beta: float, kind: str) -> Callable:
    """The function of a gate."""
    x = tvm.tirx

    def c(value: float):
        return x.const(value, kind)

    known = {
        "sigmoid": x.sigmoid, "tanh": x.tanh,
        "relu": lambda v: x.Select(v < c(0), c(0), v),
        "affine": lambda v: v * c(alpha) + c(beta),
        "leakyrelu": lambda v: x.Select(v < c(0), v * c(alpha), v),
        "thresholdedrelu": lambda v: x.Select(v > c(alpha), v, c(0)),
        "scaledtanh": lambda v: x.tanh(v * c(beta)) * c(alpha),
        "hardsigmoid": lambda v: x.max(x.min(v * c(alpha) + c(beta), c(1)), c(0)),
        "elu": lambda v: x.Select(v < c(0), (x.exp(x.min(v, c(0))) - c(1)) * c(alpha), v),
        "softsign": lambda v: v / (c(1) + x.abs(v)),
        "softplus": lambda v: x.max(v, c(0)) + x.log(c(1) + x.exp(c(0) - x.abs(v))),
    }  # fmt: skip
    if name.lower() not in known:
        raise Refused(f"attribute activations has {name}, which is not known")
    return known[name.lower()]


@dataclass(frozen=True)
class Cell:
    """Extents and attributes of a layer."""

    op: str
    steps: int
    batch: int
    hidden: int
    directions: int
    functions: tuple
    clip: float | None
    forget: bool
    after: bool
    kind: str

    @property
    def gates(self) -> int:
        """How many gates a hidden unit has."""
        return GATES[self.op]


@row("RNN", "GRU", "LSTM")
def recurrent(n: Node, x, w, r, b=None, lengths=None, h0=None, c0=None, p=None):
    """A layer in one direction or both: all states, and the last (of an LSTM the last cells too)."""
    first = int(n.attribute("layout", 0))
    if first:  # (batch, steps, ...)
        x = n.do("permute_dims", x, [1, 0, 2])
        h0, c0 = (None if s is None else n.do("permute_dims", s, [1, 0, 2]) for s in (h0, c0))
    cell = _cell(n, x, r)
    d, k, kind = cell.directions, cell.hidden, cell.kind
    size = cell.gates * k
    inputs = n.reshape(x, (cell.steps * cell.batch, shape_of(x)[2]))
    weights, again = n.known(1), n.known(2)
    flat = (
        n.weight(np.ascontiguousarray(weights.reshape(d * size, -1).T)) if weights is not None
        else n.do("permute_dims", n.reshape(w, (d * size, shape_of(w)[2])), [1, 0])
    )  # fmt: skip
    product = n.reshape(n.do("matmul", inputs, flat), (cell.steps, cell.batch, d, size))
    turned = (
        n.weight(np.ascontiguousarray(again.transpose(0, 2, 1))) if again is not None
        else n.do("permute_dims", r, [0, 2, 1])
    )  # fmt: skip
    zero = n.const(np.zeros((d, 2 * size)), kind) if b is None else b
    state = n.const(np.zeros((d, cell.batch, k)), kind)
    counts = n.const(np.full(cell.batch, cell.steps), "int32") if lengths is None else n.cast(lengths, "int32")
    args = [product, turned, zero, counts, state if h0 is None else h0]
    if cell.op == "LSTM":
        args += [state if c0 is None else c0, n.const(np.zeros((d, 3 * k)), kind) if p is None else p]
    results = [((cell.steps, d, cell.batch, k), kind), ((d, cell.batch, k), kind)]
    results += [((d, cell.batch, k), kind)] if cell.op == "LSTM" else []
    made = list(loops(n, args, results, lambda T, *buffers: _body(T, cell, _directions(n), *buffers)))
    if first:
        made[0] = n.do("permute_dims", made[0], [2, 0, 1, 3])
        made[1:] = [n.do("permute_dims", part, [1, 0, 2]) for part in made[1:]]
    return tuple(made)


def _directions(n: Node) -> list[bool]:
    """Whether each direction runs backward."""
    return {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[n.attribute("direction", "forward")]


def _cell(n: Node, x, r) -> Cell:
    way = n.choice("direction", "forward", "reverse", "bidirectional")
    d, kind = 2 if way == "bidirectional" else 1, dtype_of(x)
    names = n.attribute("activations") or [*DEFAULTS[n.op]] * d
    alphas, betas = (list(n.attribute(f"activation_{side}") or []) for side in ("alpha", "beta"))
    functions = []
    for name in names:
        default = CONSTANTS.get(next((key for key in CONSTANTS if key.lower() == name.lower()), ""))
        takes_beta = name.lower() in ("affine", "scaledtanh", "hardsigmoid")
        alpha = (alphas.pop(0) if alphas else default[0]) if default else 0.0
        beta = (betas.pop(0) if betas else default[1]) if default and takes_beta else 0.0
        functions.append(_activation(name, alpha, beta, kind))
    each = len(functions) // d
    steps, batch, _ = shape_of(x)
    hidden = shape_of(r)[2]
    if n.attribute("hidden_size", hidden) != hidden:
        raise Refused("attribute hidden_size disagrees with the weights")
    return Cell(
        n.op, steps, batch, hidden, d, tuple(tuple(functions[i * each : (i + 1) * each]) for i in range(d)),
        n.attribute("clip"), bool(n.attribute("input_forget", 0)), bool(n.attribute("linear_before_reset", 0)), kind,
    )  # fmt: skip


def _body(T, cell: Cell, backward: list[bool], product, turned, bias, counts, h0, *rest):
    """The loop over steps of every direction."""
    cells, holes = (rest[0], rest[1]) if cell.op == "LSTM" else (None, None)
    made, last = rest[2:4] if cell.op == "LSTM" else rest[:2]
    final = rest[4] if cell.op == "LSTM" else None
    d, batch, k, kind = cell.directions, cell.batch, cell.hidden, cell.kind
    size, x = cell.gates * k, tvm.tirx
    same = 2 * k if cell.op == "GRU" else size  # gates whose product is with the state as it is
    zero = x.const(0, kind)
    gates = T.alloc_buffer((size,), kind)
    inner = T.alloc_buffer((size,), kind)
    with T.grid(d, batch, k) as (way, sample, unit):
        T.buffer_store(last, h0[way, sample, unit], (way, sample, unit))
        if cells is not None:
            T.buffer_store(final, cells[way, sample, unit], (way, sample, unit))
    for way in range(d):
        with T.serial(0, cell.steps) as turn, T.serial(0, batch) as sample:
            count = x.min(x.max(counts[sample], 0), cell.steps)
            step = count - 1 - turn if backward[way] else turn
            with T.If(turn < count):
                with T.Then():
                    step = x.max(step, 0)
                    with T.serial(0, size) as g:
                        T.buffer_store(gates, product[step, sample, way, g] + bias[way, g], (g,))
                        T.buffer_store(inner, bias[way, size + g], (g,))
                    _accumulate(
                        T,
                        inner,
                        lambda j, way=way: last[way, sample, j],
                        turned,
                        way,
                        k,
                        (0, size if cell.after else same),
                    )
                    step_of = _STEPS[cell.op]
                    step_of(T, cell, way, sample, gates, inner, turned, last, final, holes)
                    with T.serial(0, k) as unit:
                        T.buffer_store(made, last[way, sample, unit], (step, way, sample, unit))
                with T.Else(), T.serial(0, k) as unit:
                    T.buffer_store(made, zero, (turn, way, sample, unit))


TURNS = 8  # rows of the weights that are added at once


def _accumulate(T, total, state: Callable, turned, way: int, rows: int, columns: tuple[int, int]) -> None:
    """total[g] += sum over j of state(j) R'[j, g], for the gates g in `columns`: in vectors, several rows at once."""
    first, end = columns
    lanes = next(lanes for lanes in (16, 8, 4, 2, 1) if (end - first) % lanes == 0)

    def add(begin, count: int) -> None:
        with T.serial(0, (end - first) // lanes) as block, T.vectorized(0, lanes) as lane:
            g = first + block * lanes + lane
            value = total[g]
            for j in range(count):
                value = value + state(begin + j) * turned[way, begin + j, g]
            T.buffer_store(total, value, (g,))

    if rows // TURNS:
        with T.serial(0, rows // TURNS) as turn:
            add(turn * TURNS, TURNS)
    if rows % TURNS:
        add(rows - rows % TURNS, rows % TURNS)


def _clipped(cell: Cell, value):
    if not cell.clip:
        return value
    x = tvm.tirx
    return x.max(x.min(value, x.const(cell.clip, cell.kind)), x.const(-cell.clip, cell.kind))


def _rnn(T, cell: Cell, way: int, sample, gates, inner, turned, last, final, holes):
    """h = f(g)."""
    f = cell.functions[way][0]
    with T.serial(0, cell.hidden) as u:
        T.buffer_store(last, f(_clipped(cell, gates[u] + inner[u])), (way, sample, u))


def _lstm(T, cell: Cell, way: int, sample, gates, inner, turned, last, final, holes):
    """i, o, f from their gates and peepholes; c = f c + i g(c'); h = o h(c)."""
    k = cell.hidden
    f, g, h = cell.functions[way]
    with T.serial(0, k) as u:
        old = final[way, sample, u]
        i = f(_clipped(cell, gates[u] + inner[u] + holes[way, u] * old))
        keep = f(_clipped(cell, gates[2 * k + u] + inner[2 * k + u] + holes[way, 2 * k + u] * old))
        if cell.forget:
            keep = tvm.tirx.const(1, cell.kind) - i
        fresh = g(_clipped(cell, gates[3 * k + u] + inner[3 * k + u]))
        T.buffer_store(final, keep * old + i * fresh, (way, sample, u))
    with T.serial(0, k) as u:
        new = final[way, sample, u]
        o = f(_clipped(cell, gates[k + u] + inner[k + u] + holes[way, k + u] * new))  # what h reads is not bounded
        T.buffer_store(last, o * h(new), (way, sample, u))


def _gru(T, cell: Cell, way: int, sample, gates, inner, turned, last, final, holes):
    """z, r from their gates; h' from the state times r, before or after the product; h = (1 - z) h' + z h."""
    k, x = cell.hidden, tvm.tirx
    f, g = cell.functions[way]
    one = x.const(1, cell.kind)
    with T.serial(0, 2 * k) as u:
        T.buffer_store(gates, f(_clipped(cell, gates[u] + inner[u])), (u,))
    if cell.after:
        with T.serial(0, k) as u:
            value = gates[2 * k + u] + gates[k + u] * inner[2 * k + u]
            T.buffer_store(gates, g(_clipped(cell, value)), (2 * k + u,))
    else:  # inner[2k:] is the bias as yet
        _accumulate(T, inner, lambda j: gates[k + j] * last[way, sample, j], turned, way, k, (2 * k, 3 * k))
        with T.serial(0, k) as u:
            T.buffer_store(gates, g(_clipped(cell, gates[2 * k + u] + inner[2 * k + u])), (2 * k + u,))
    with T.serial(0, k) as u:
        z = gates[u]
        T.buffer_store(last, (one - z) * gates[2 * k + u] + z * last[way, sample, u], (way, sample, u))


_STEPS = {"RNN": _rnn, "LSTM": _lstm, "GRU": _gru}
