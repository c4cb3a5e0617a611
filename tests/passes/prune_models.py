"""Small networks for the pruning tests, as ONNX text, with seeded weights where the text only declares them."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper, parser

from onnxc.ir.files import load
from onnxc.ir.model import Model


def network(text: str, seed: int = 0, **weights: tuple[int, ...] | np.ndarray) -> Model:
    """`text` is a graph body with its interface; weights are arrays, or shapes to fill with random numbers."""
    graph = parser.parse_graph(text)
    rng = np.random.default_rng(seed)
    for name, given in weights.items():
        values = (
            given if isinstance(given, np.ndarray) else rng.normal(size=given) / np.sqrt(max(np.prod(given[1:]), 1))
        )
        graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return load(proto)


def chain(seed: int = 0, width: int = 8, scales: np.ndarray | None = None, pad: int = 0) -> Model:
    """Conv 3->width, BatchNormalization, Relu, Conv width->4, as one pair of layers."""
    one = np.ones(width)
    rng = np.random.default_rng(seed + 1)
    return network(
        f"""g (float[N, 3, 6, 6] x) => (float[N, 4, {2 + 2 * pad}, {2 + 2 * pad}] y) {{
            [first] a = Conv<pads=[0,0,0,0]>(x, w1)
            [norm] b = BatchNormalization(a, scale, shift, mean, var)
            [relu] c = Relu(b)
            [second] y = Conv<pads=[{pad},{pad},{pad},{pad}]>(c, w2, b2)
        }}""",
        seed,
        w1=(width, 3, 3, 3), w2=(4, width, 3, 3), b2=(4,),
        scale=one if scales is None else scales, shift=rng.normal(size=width), mean=rng.normal(size=width) / 4, var=one,
    )  # fmt: skip


TOYS = {
    "concat of concats": lambda: network(
        """g (float[N, 3, 4, 4] x) => (float[N, 5, 4, 4] y) {
            [a] a = Conv(x, wa)
            [b] b = Conv(x, wb)
            [inner] ab = Concat<axis=1>(a, b)
            [c] c = Conv(ab, wc)
            [outer] abc = Concat<axis=1>(ab, c, ab)
            [head] y = Conv(abc, wh)
        }""",
        wa=(4, 3, 1, 1), wb=(6, 3, 1, 1), wc=(8, 10, 1, 1), wh=(5, 28, 1, 1),
    ),
    "split after concat": lambda: network(
        """g (float[N, 3, 4, 4] x) => (float[N, 5, 4, 4] y) <int64[3] sizes = {3, 5, 4}> {
            [a] a = Conv(x, wa)
            [b] b = Conv(x, wb)
            [joined] ab = Concat<axis=1>(a, b)
            [split] p, q, r = Split<axis=1>(ab, sizes)
            [reads_p] u = Conv(p, wp)
            [reads_q] v = Conv(q, wq)
            [reads_r] t = Conv(r, wr)
            [first] uv = Add(u, v)
            [y] y = Add(uv, t)
        }""",
        wa=(4, 3, 1, 1), wb=(8, 3, 1, 1), wp=(5, 3, 1, 1), wq=(5, 5, 1, 1), wr=(5, 4, 1, 1),
    ),
    "reshape": lambda: network(
        """g (float[N, 3, 4, 4] x) => (float[N, 5] y) <int64[2] flat = {0, -1}, int64[4] back = {0, 8, 4, 4}> {
            [a] a = Conv(x, wa)
            [flatten] f = Reshape(a, flat)
            [unflatten] b = Reshape(f, back)
            [relu] c = Relu(b)
            [again] d = Reshape(c, flat)
            [head] y = Gemm(d, wh, bh)
        }""",
        wa=(8, 3, 1, 1), wh=(128, 5), bh=(5,),
    ),
    "single channel outputs": lambda: network(
        """g (float[N, 3, 4, 4] x) => (float[N, 1, 4, 4] y) {
            [wide] a = Conv(x, wa)
            [one] b = Conv(a, wb)
            [spread] c = Conv(b, wc)
            [gate] d = Mul(c, b)
            [head] y = Conv(d, wh)
        }""",
        wa=(8, 3, 1, 1), wb=(1, 8, 1, 1), wc=(6, 1, 1, 1), wh=(1, 6, 1, 1),
    ),
    "parameters used twice": lambda: network(
        """g (float[N, 8] x) => (float[N, 4] y) {
            [in] a = Gemm(x, w, b)
            [relu] r = Relu(a)
            [same] c = Gemm(r, w, b)
            [again] d = Gemm(c, w, b)
            [head] y = Gemm(d, wh, bh)
        }""",
        w=(8, 8), b=(8,), wh=(8, 4), bh=(4,),
    ),
    "shuffled groups": lambda: network(
        """g (float[N, 3, 4, 4] x) => (float[N, 5, 4, 4] y) <int64[5] five = {0, 2, 4, 4, 4}, int64[4] four = {0, 8, 4, 4}> {
            [a] a = Conv(x, wa)
            [grouped] b = Conv<group=2>(a, wb)
            [split] c = Reshape(b, five)
            [swap] d = Transpose<perm=[0, 2, 1, 3, 4]>(c)
            [joined] e = Reshape(d, four)
            [depthwise] f = Conv<group=8>(e, wf)
            [head] y = Conv(f, wh)
        }""",
        wa=(8, 3, 1, 1), wb=(8, 4, 1, 1), wf=(8, 1, 1, 1), wh=(5, 8, 1, 1),
    ),
}  # fmt: skip


def mobile(width: int, blocks: int = 4) -> Model:
    """Blocks of 1x1 to 4 * width, depthwise and 1x1 to width, each with a shortcut but the first."""
    weights, lines, x = {"h": (3, width, 1, 1)}, [], "x"
    for k in range(blocks):
        n = 4 * width
        weights |= {f"e{k}": (n, width, 1, 1), f"d{k}": (n, 1, 3, 3), f"p{k}": (width, n, 1, 1)}
        lines.append(f"E{k} = Conv({x}, e{k}) R{k} = Relu(E{k}) D{k} = Conv<group={n}, pads=[1,1,1,1]>(R{k}, d{k})")
        lines.append(f"S{k} = Relu(D{k}) P{k} = Conv(S{k}, p{k})" + (f" x{k} = Add({x}, P{k})" if k else ""))
        x = f"x{k}" if k else f"P{k}"
    body = " ".join(lines)
    text = f"g (float[N,{width},6,6] x) => (float[N,3,6,6] y) {{ {body} y = Conv({x}, h) }}"
    return network(text, **weights)
