"""Rows of LSTM, GRU and RNN: hidden units are one axis of every weight, of the state and of the result."""

from __future__ import annotations

from ..axes import Atom, Axis, Prod, Sum
from ..table import Unreadable, Use, row

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@row("LSTM", "GRU", "RNN")
def recurrent(use: Use) -> None:
    """t b i; d g·h i; d g·h h; d 2g·h; b; d b h; d b h; d 3·h  ->  t d b h, d b h, d b h, contracting i and h.

    g gates stand one behind the other, so unit j is row j of each. Layout 1 has the batch first: b t i, b d h, b t d h.
    """
    recurrence(use, GATES[use.node.op])


@row("com.microsoft.DynamicQuantizeLSTM")
def quantised_lstm(use: Use) -> None:
    """LSTM with W as d i g·h and R as d h g·h, with scales and zero points; nothing of it can be cut."""
    for i in (0, 1, 2, 8, 9, 10, 11):
        use.fix(*use.ax(i), why="scales of its input and state are statistics of the whole tensor")
    recurrence(use, 4, turned=True)


def recurrence(use: Use, gates: int, turned: bool = False) -> None:
    """State the axes of a recurrent layer; `turned`: the weights have their gates last."""
    if len(use.ax(0)) != 3 or len(use.ax(1)) != 3:
        raise Unreadable("its input or weight has not three axes")
    first = use.attr("layout", 0)
    t, b, inputs = use.ax(0) if not first else (use.ax(0)[1], use.ax(0)[0], use.ax(0)[2])
    directions = use.ax(1)[0]
    hidden = use.ax(2)[1 if turned else 2]
    use.fix(directions, why="its directions")
    use.fix(t, why="positions follow each other")

    def stacked(count: int) -> Axis:
        return Prod((Atom(count, f"gates of {use.node.name}"), hidden)) if count > 1 else hidden

    rows, state = stacked(gates), (b, directions, hidden) if first else (directions, b, hidden)
    use.bind(1, directions, *((inputs, rows) if turned else (rows, inputs)))
    use.bind(2, directions, *((hidden, rows) if turned else (rows, hidden)))
    use.bind(3, directions, stacked(2 * gates))
    use.bind(4, b)
    use.bind(5, *state)
    if use.node.op != "GRU":
        use.bind(6, *state)
        use.bind(7, directions, stacked(3))
    use.follow("hidden_size", hidden)
    use.contract(0, 2)
    use.contract(2, 1 if turned else 2)
    use.out((b, t, directions, hidden) if first else (t, directions, b, hidden))
    for j in range(1, len(use.node.outputs)):
        use.out(state, j)
    use.iterate(t, b, directions, rows, Sum((inputs, hidden)))
