"""LSTM, GRU and RNN: directions, layouts, lengths, states, peepholes."""

from tests.ops.harness import Case, ints

CASES = [
    Case("y, h, c = LSTM<hidden_size=5>(x, w_, r)", [2, 4, 5], x=(3, 2, 4), w_=(1, 20, 4), r=(1, 20, 5)),
    Case(
        'y = LSTM<hidden_size=3, direction="bidirectional">(x, w_, r, b, , h, c, p)',
        [2, 3, 4],
        x=(3, 2, 4),
        w_=(2, 12, 4),
        r=(2, 12, 3),
        b=(2, 24),
        h=(2, 2, 3),
        c=(2, 2, 3),
        p=(2, 9),
    ),
    Case(
        ", h = GRU<hidden_size=5, linear_before_reset=1>(x, w_, r, b, n)",
        [2, 4, 5],
        symbolic=False,
        x=(3, 2, 4),
        w_=(1, 15, 4),
        r=(1, 15, 5),
        b=(1, 30),
        n=ints(3, 2).astype("i4"),
    ),
    Case("y = GRU<hidden_size=5>(x, w_, r)", [2, 4, 5], x=(3, 2, 4), w_=(1, 15, 4), r=(1, 15, 5)),
    Case("y, h = RNN<hidden_size=5>(x, w_, r, b)", [2, 4, 5], x=(3, 2, 4), w_=(1, 5, 4), r=(1, 5, 5), b=(1, 10)),
    Case(
        "y, h = RNN<hidden_size=5, layout=1>(x, w_, r)",
        [2, 4, 5],
        runtime="onnx",
        x=(2, 3, 4),
        w_=(1, 5, 4),
        r=(1, 5, 5),
    ),
]
