"""quant.floats: what quant.int8 stored as integers stands for, in floats again."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxc
from onnxc.passes.quant.undo import floats
from onnxc.runtime.reference import Session

TEXT = """
<ir_version: 8, opset_import: ["" : %d]>
net (float[N,2,5,5] x) => (float[N,4] y)
{
  q = QuantizeLinear(x, sx, zx)
  d = DequantizeLinear(q, sx, zx)
  w = DequantizeLinear <axis = 0> (wq, sw, zw)
  b = DequantizeLinear <axis = 0> (bq, sb)
  c = Conv(d, w, b)
  r = QuantizeLinear(c, sr, zr)
  e = DequantizeLinear(r, %s, zr)
  g = GlobalAveragePool(e)
  y = Flatten(g)
}
"""


def model(opset: int = 13, back: str = "sr") -> onnx.ModelProto:
    proto, rng = parser.parse_model(TEXT % (opset, back)), np.random.default_rng(0)
    values = {
        "sx": np.float32(1 / 32), "zx": np.int8(3), "sr": np.float32(1 / 16), "zr": np.int8(-128), "other": np.float32(1),
        "wq": rng.integers(-127, 128, (4, 2, 3, 3)).astype(np.int8), "zw": np.zeros(4, np.int8),
        "sw": np.array([1, 2, 4, 8], np.float32) / 512, "bq": rng.integers(-900, 900, 4).astype(np.int32),
        "sb": np.array([1, 2, 4, 8], np.float32) / 512 / 32,
    }  # fmt: skip
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in values.items())
    return proto


def test_integers_become_the_floats_that_they_stand_for():
    given = model()
    result = onnxc.run_passes(given, "quant.floats", check="shapes")
    kinds = [n.op for n in result.model.nodes]
    assert kinds == ["Clip", "Conv", "Clip", "GlobalAveragePool", "Flatten"]
    x = (np.random.default_rng(1).integers(-100, 100, (3, 2, 5, 5)) / 32).astype(np.float32)  # is not rounded
    wide = np.concatenate([x, 100 * x])  # is cut off
    a, b = (Session(m, optimise=False).run({"x": wide})["y"] for m in (given, result.model.to_proto()))
    assert np.abs(a - b).max() <= 1 / 32 and np.abs(a).max() > 1  # half a step of sr
    clip = result.model.nodes[2]
    assert [float(t.values) for t in clip.inputs[1:]] == [0.0, 255 / 16]  # a Relu that only the quantiser held
    again = onnxc.run_passes(given, "quant.floats(activations=false)", check="shapes").model.to_proto()
    assert np.array_equal(Session(again, optimise=False).run({"x": wide})["y"], a)


@pytest.mark.parametrize("opset, back, reason", [(13, "other", "another scale"), (10, "sr", "from opset 11 on")])
def test_pairs_that_are_none_stay(opset, back, reason):
    proto = model(13, back)
    if opset < 11:
        proto.opset_import[0].version = opset
        for node in proto.graph.node:
            del node.attribute[:]
            if node.output[0] == "w":  # scales by channel came with opset 13
                node.input[:] = ["wq", "sx", "zx"]
            if node.output[0] == "b":
                node.input[:] = ["bq", "sx"]
    report = onnxc.run_passes(proto, "quant.floats", check="shapes").report.rows[-1]
    assert any(reason in r.reason for r in report.refusals) and report.edits


def test_blocks_have_scales_of_their_own():
    import onnx_graphsurgeon as gs

    w, s = np.arange(12, dtype=np.int8).reshape(2, 6), np.array([[1, 10, 100], [2, 20, 200]], np.float32)
    node = gs.Node("DequantizeLinear", "d", {"axis": 1, "block_size": 2}, [gs.Constant("w", w), gs.Constant("s", s)])
    assert np.array_equal(floats(node), w * np.repeat(s, 2, axis=1))


def test_what_int8_made_comes_back():
    """quant, quant.floats, quant: the noise of the second quantisation is of the size of the first."""
    from tests.strategies import build

    done = onnxc.run_passes(build(3, 4, 15), "quant, quant.floats, quant", seed=1)
    first, back, last = [row.error["snr_db"] for row in done.report.rows if row.name.startswith("quant")]
    assert back > first - 1 and last > first - 6
