# ruff: noqa: E501  graphs and tables read better on one line
"""Shape arithmetic: extents that are computed in the graph tie axes together or freeze them, never go stale."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxc.ir.analysis import analyse
from onnxc.ir.files import load
from tests.ops.harness import close, exact_atoms, prune
from tests.strategies import feeds


def model(
    body: str, output: str = "float[2, 3] y", opset: int = 17, inputs: str = "float[2, 3, 4, 4] x", **weights
) -> onnx.ModelProto:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> g ({inputs}) => ({output}) {{ {body} }}')
    rng = np.random.default_rng(0)
    for name, w in weights.items():
        values = rng.standard_normal(w).astype(np.float32) * 0.4 if isinstance(w, tuple) else np.asarray(w)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return proto


HEAD = "h = GlobalAveragePool(z) f = Flatten(h) y = Gemm<transB=1>(f, last)"
CHAINS = {
    # two tensors of one extent: the target of one is computed from the other, so both must change together
    "reshape to another's shape": (
        [8],
        model("a = Conv(x, w) b = Conv(x, v) s = Shape(b) r = Reshape(a, s) z = Mul(r, b)" + HEAD, w=(8, 3, 1, 1), v=(8, 3, 1, 1), last=(3, 8)),
    ),
    "reshape to another's shape, never joined": (
        [8],
        model("a = Conv(x, w) b = Conv(x, v) s = Shape(b) z = Reshape(a, s) hb = GlobalMaxPool(b) fb = Flatten(hb) yb = Gemm<transB=1>(fb, other)"
              + HEAD, output="float[2, 3] y, float[2, 3] yb", w=(8, 3, 1, 1), v=(8, 3, 1, 1), last=(3, 8), other=(3, 8)),
    ),
    "expand to another's shape": (
        [8],
        model("a = Conv(x, w) m = Conv(x, v) g = GlobalAveragePool(m) s = Shape(a) z = Expand(g, s) ha = GlobalMaxPool(a) fa = Flatten(ha) ya = Gemm<transB=1>(fa, other)"
              + HEAD, output="float[2, 3] y, float[2, 3] ya", w=(8, 3, 1, 1), v=(8, 3, 1, 1), last=(3, 8), other=(3, 8)),
    ),
    "flatten by shape, gather, unsqueeze, concat": (
        [6],
        model("a = Conv(x, w) s = Shape(a) n = Gather(s, zero) u = Unsqueeze(n, axes) t = Concat<axis=0>(u, minus) f = Reshape(a, t) y = Gemm<transB=1>(f, last)",
              w=(6, 3, 1, 1), last=(3, 96), zero=np.int64(0), axes=np.array([0]), minus=np.array([-1])),
    ),
    "channels in the target by gather": (
        [6],
        model("a = Conv(x, w) s = Shape(a) c = Gather(s, one) u = Unsqueeze(c, axes) t = Concat<axis=0>(head, u, tail) f = Reshape(a, t) z = Transpose<perm=[0, 1, 2]>(f) r = ReduceMean<axes=[2], keepdims=0>(z) y = Gemm<transB=1>(r, last)",
              w=(6, 3, 1, 1), last=(3, 6), one=np.int64(1), axes=np.array([0]), head=np.array([0]), tail=np.array([-1])),
    ),
    "channels times pixels, computed": (
        [],  # products of extents are data: frozen
        model("a = Conv(x, w) s = Shape<start=1>(a) c = ReduceProd<keepdims=1>(s) t = Concat<axis=0>(two, c) f = Reshape(a, t) y = Gemm<transB=1>(f, last)",
              w=(6, 3, 1, 1), last=(3, 96), two=np.array([2])),
    ),
    "an extent scales the result": (
        [],
        model("a = Conv(x, w) s = Shape<start=1, end=2>(a) c = Cast<to=1>(s) d = Sqrt(c) b = Div(a, d) z = Relu(b)" + HEAD, w=(6, 3, 1, 1), last=(3, 6)),
    ),
    "an extent is a result": (
        [],
        model("z = Conv(x, w) s = Shape(z)" + HEAD, output="float[2, 3] y, int64[4] s", w=(6, 3, 1, 1), last=(3, 6)),
    ),
    "an extent is a result, through Gather": (
        [],
        model("z = Conv(x, w) q = Shape(z) s = Gather(q, one)" + HEAD, output="float[2, 3] y, int64 s", w=(6, 3, 1, 1), last=(3, 6), one=np.int64(1)),
    ),
    "another's extent bounds a slice": (
        [],
        model("a = Conv(x, w) b = Conv(x, v) s = Shape<start=1, end=2>(b) z = Slice(a, zero, s, one) hb = GlobalMaxPool(b) fb = Flatten(hb) yb = Gemm<transB=1>(fb, other)"
              + HEAD, output="float[2, 3] y, float[2, 3] yb", w=(8, 3, 1, 1), v=(6, 3, 1, 1), last=(3, 6), other=(3, 6), zero=np.array([0]), one=np.array([1])),
    ),
    "a bound behind the end": (
        [4, 8],
        model("a = Conv(x, w) z = Slice(a, start, stop, one)" + HEAD, w=(12, 3, 1, 1), last=(3, 8), start=np.array([-8]), stop=np.array([2**40]), one=np.array([1])),
    ),
    "two windows of one tensor share a bound": (
        [4, 8],
        model("a = Conv(x, w) b = Slice(a, zero, cut, one) c = Slice(a, cut, stop, one) hb = GlobalMaxPool(b) fb = Flatten(hb) yb = Gemm<transB=1>(fb, other) z = Relu(c)" + HEAD,
              output="float[2, 3] y, float[2, 3] yb", w=(12, 3, 1, 1), last=(3, 8), other=(3, 4), zero=np.array([0]), cut=np.array([4]), stop=np.array([12]), one=np.array([1])),
    ),
    "one target serves two": (
        [6, 6],
        model("a = Conv(x, w) b = Conv(x, v) fa = Reshape(a, t) fb = Reshape(b, t) ya = Gemm<transB=1>(fa, last) yb = Gemm<transB=1>(fb, last) y = Add(ya, yb)",
              w=(6, 3, 1, 1), v=(6, 3, 1, 1), last=(3, 96), t=np.array([2, 96])),
    ),
    "broadcast with an unknown extent": (
        [],
        model("a = Conv(x, w) z = Add(a, m)" + HEAD, inputs="float[2, 3, 4, 4] x, float[1, C, 1, 1] m", w=(2, 3, 1, 1), last=(3, 2)),
    ),
    "squeeze that names no axis": (
        [],
        model("a = Conv(x, w) h = GlobalAveragePool(a) f = Squeeze(h) y = Gemm<transB=1>(f, last)", w=(6, 3, 1, 1), last=(3, 6)),
    ),
    "tile by an extent": (
        [2],
        model("a = Conv(x, w) s = Shape(a) c = Slice(s, one, two) t = Concat<axis=0>(ones, c, ones2) z = Tile(k, t) v = Add(z, a) h = GlobalAveragePool(v) f = Flatten(h) y = Gemm<transB=1>(f, last)",
              w=(2, 3, 1, 1), k=(1, 1, 1, 1), last=(3, 2), one=np.array([1]), two=np.array([2]), ones=np.array([1]), ones2=np.array([1, 1])),
    ),
    "range over an extent": (
        [],
        model("z = Conv(x, w) s = Shape(z) c = Gather(s, one) r = Range(zero, c, one) i = Cast<to=1>(r) m = ReduceMean<keepdims=0>(i) h = GlobalAveragePool(z) f = Flatten(h) g = Gemm<transB=1>(f, last) y = Add(g, m)",
              w=(6, 3, 1, 1), last=(3, 6), one=np.int64(1), zero=np.int64(0)),
    ),
    "resize to another's size": (
        [8],
        model('a = Conv<strides=[2, 2]>(x, w) b = Conv(x, v) s = Shape<start=2>(b) p = Shape<end=2>(a) t = Concat<axis=0>(p, s) r = Resize(a, "", "", t) z = Add(r, b)' + HEAD,
              w=(8, 3, 1, 1), v=(8, 3, 1, 1), last=(3, 8)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_shape_arithmetic(name):
    import onnxruntime as ort

    expected, proto = CHAINS[name]
    ir = load(proto)
    found = exact_atoms(analyse(ir))
    assert sorted(a.size for a in found) == expected
    rng = np.random.default_rng(1)
    for _ in range(3):
        pruned, twin, _ = prune(ir, rng)
        results = [
            ort.InferenceSession(m.to_proto().SerializeToString(), providers=["CPUExecutionProvider"]).run(
                None, feeds(proto)
            )
            for m in (pruned, twin)
        ]
        for a, b in zip(*results, strict=True):
            assert close(a, b)
