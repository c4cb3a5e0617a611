"""The row of the fused Attention operator (opset 23)."""

from __future__ import annotations

from ..axes import Atom, Axis, Prod, Sum, extent
from ..table import Unreadable, Use, row


@row("Attention")
def attention(use: Use) -> None:
    """b h s d; b h t d; b h t v -> b h s v, contracting d; or b s h·d; b t h·d; b t h·v -> b s h·v.

    Each head of keys serves r heads of queries: h is then k·r. Width d sets the scale 1/sqrt(d) unless `scale` does.
    """
    if any(use.has(i) for i in (4, 5, 6)) or any(t.name for t in use.node.outputs[1:]):
        raise Unreadable("it has a cache or several outputs")
    (b, q, s, d), (b1, k, t, d1), (b2, k2, t1, v) = (_heads(use, i) for i in range(3))
    for a, other, i, at in ((b1, b, 1, 0), (b2, b, 2, 0), (t1, t, 2, -2), (k2, k, 2, 1), (d1, d, 1, -1)):
        use.tie(a, other, i, at)
    m, n = extent(q), extent(k)
    if not isinstance(m, int) or not isinstance(n, int) or m % n:
        raise Unreadable("its numbers of heads are not known")
    use.tie(q, Prod((k, Atom(m // n))), 0, 1)
    use.fix(t, why="a sum of exponentials")
    if use.attr("is_causal", 0):
        use.fix(s, why="a causal mask counts positions")
    if use.has(3):
        mask = use.ax(3)
        for a, base in zip(mask[::-1], (t, s, q, b), strict=False):
            if extent(a) != 1:
                use.fix(a, base, why="its mask")
    last = len(use.ax(0)) - 1
    if use.attr("scale"):
        use.contract(0, last)
    else:
        use.fix(d, why="its scale is a function of this axis")
    use.out([b, q, s, v] if last == 3 else [b, s, Prod((q, v))])
    if last == 2:
        use.follow("q_num_heads", q)
        use.follow("kv_num_heads", k)
    use.iterate(b, q, s, t, Sum((d, v)))


def _heads(use: Use, i: int) -> tuple[Axis, ...]:
    """Batch, heads, positions and width of input `i`."""
    xs = use.ax(i)
    if len(xs) == 4:
        return xs
    heads = use.attr("kv_num_heads" if i else "q_num_heads", 0)
    size = extent(xs[-1])
    if len(xs) != 3 or not heads or not isinstance(size, int) or size % heads:
        raise Unreadable("its heads are not known")
    h, width = use.divide(i, 2, heads, size // heads)
    return xs[0], h, xs[1], width
