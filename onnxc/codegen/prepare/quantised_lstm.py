"""DynamicQuantizeLSTM, whose input and state become 8 bits as each step meets them, step by step in standard operators.

    x, sx, zx = DynamicQuantizeLinear(X);   p = (x - zx) (W - zw) * (sx sw) + Wb + Rb
    each step: q, s, z = DynamicQuantizeLinear(h);   gates = p[t] + (q - z) (R - zr) * (s sr)

The products are of integers in float32, exact below 2^24: an inner extent of 518 at the least.
"""

from __future__ import annotations

from onnxc.codegen.prepare.build import Build, rewrites
from onnxc.codegen.prepare.fused import MICROSOFT

PLAIN = {name.lower(): name for name in ("Sigmoid", "Tanh", "Relu", "Softsign", "Softplus")}


@rewrites("DynamicQuantizeLSTM", domain=MICROSOFT)
def _lstm(b: Build):
    (x, _, r), lengths = b.node.input[:3], b.known(b.input(4))
    steps, ways = b.shape(x)[0], b.shape(r)[0]
    if b.input(4) is not None and (lengths is None or (lengths != steps).any()):
        raise b.refusal("sequence_lens other than all steps", remedy="leave them out, or store LSTM: recurrent=weights")
    direction = b.attribute("direction", "forward")
    names = b.attribute("activations") or ["Sigmoid", "Tanh", "Tanh"] * ways
    functions = [PLAIN.get(name.lower(), "") for name in names]
    if "" in functions or b.attribute("activation_alpha") or b.attribute("activation_beta"):
        raise b.refusal(f"activations {', '.join(names)} are not known")
    b.attribute("hidden_size")
    whole = _integers(b, x)
    made = [
        _way(b, whole, way, functions[3 * way : 3 * way + 3], direction == "reverse" or way == 1) for way in range(ways)
    ]
    rows = [_joined(b, [one[0][t] for one in made], 1) for t in range(steps)]
    return [_joined(b, rows, 0), *(_joined(b, [one[i] for one in made], 0) for i in (1, 2))]


def _integers(b: Build, x: str) -> tuple[str, str]:
    """(q - z as floats, s) of DynamicQuantizeLinear(x)."""
    q, s, z = b.several("DynamicQuantizeLinear", 3, x)
    return b("Sub", b.cast(q, "float32"), b.cast(z, "float32")), s


def _joined(b: Build, parts: list[str], axis: int) -> str:
    return parts[0] if len(parts) == 1 else b("Concat", *parts, axis=axis)


def _part(b: Build, i: int, way: int) -> str | None:
    """What input `i` has for a direction, without that axis."""
    name = b.input(i)
    if name is None:
        return None
    shape = b.shape(name)
    return b.reshape(b.cut(name, 0, way, way + 1), shape[1:])


def _weights(b: Build, i: int, scale: int, way: int) -> tuple[str, str]:
    """The integers of a weight less their zero point, as floats, and their scale."""
    w, s, z = (_part(b, k, way) for k in (i, scale, scale + 1))
    if w is None or s is None:
        raise b.refusal("a weight or its scale is left out")
    w = b.cast(w, "float32")
    return w if z is None else b("Sub", w, b.cast(z, "float32")), s


def _way(b: Build, whole: tuple[str, str], way: int, functions: list[str], backward: bool):
    """(states by step [1, 1, batch, hidden], the last [1, batch, hidden], the last cells) of one direction."""
    steps, batch, inputs = b.shape(b.node.input[0])
    k = b.shape(b.node.input[2])[1]
    f, g, h_ = functions
    clip, forget = b.attribute("clip"), b.attribute("input_forget", 0)
    w, sw = _weights(b, 1, 8, way)
    r, sr = _weights(b, 2, 10, way)
    x, sx = whole
    p = b("Mul", b("MatMul", b.reshape(x, (steps * batch, inputs)), w), b("Mul", sx, sw))
    bias, holes = _part(b, 3, way), _part(b, 7, way)
    if bias is not None:
        p = b("Add", p, b("Add", b.cut(bias, 0, 0, 4 * k), b.cut(bias, 0, 4 * k, 8 * k)))
    h, c = _part(b, 5, way), _part(b, 6, way)
    if not steps:
        raise b.refusal("its input has no steps")

    def gate(function: str, gates: str, i: int, cell: str | None) -> str:
        value = b.cut(gates, 1, i * k, (i + 1) * k)
        if holes is not None and cell is not None and i < 3:
            value = b("Add", value, b("Mul", b.cut(holes, 0, i * k, (i + 1) * k), cell))
        if clip:
            value = b("Max", b("Min", value, b.like(clip, value)), b.like(-clip, value))
        return b(function, value)

    states = [""] * steps
    for t in reversed(range(steps)) if backward else range(steps):
        gates = b.cut(p, 0, t * batch, (t + 1) * batch)
        if h is not None:
            q, s = _integers(b, h)
            gates = b("Add", gates, b("Mul", b("MatMul", q, r), b("Mul", s, sr)))
        i = gate(f, gates, 0, c)
        fresh = b("Mul", i, gate(g, gates, 3, None))
        if c is not None:
            keep = b("Sub", b.like(1, i), i) if forget else gate(f, gates, 2, c)
            fresh = b("Add", b("Mul", keep, c), fresh)
        c = fresh
        h = b("Mul", gate(f, gates, 1, c), b(h_, c))
        states[t] = b.reshape(h, (1, 1, batch, k))
    assert h is not None and c is not None  # of the last step
    return states, b.reshape(h, (1, batch, k)), b.reshape(c, (1, batch, k))
