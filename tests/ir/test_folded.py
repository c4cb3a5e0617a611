"""Extents that hang on computed ones are known where costs are counted."""

from onnx import parser

from onnxc.ir.cost import cost
from onnxc.ir.files import load
from onnxc.ir.verify import verify

TEXT = """<ir_version: 8, opset_import: ["": 17]>
  g (float[N,T,4] x, float[9,4] table) => (float[A,B] y)
  <float[4,8] w = {WEIGHTS}, int64 one = {1}, int64[1] axis = {0}, int64[1] zero = {0}, int64[1] four = {4}> {
    s = Shape(x) t = Gather(s, one) e = Unsqueeze(t, axis) part = Slice(table, zero, e, zero)
    h = Add(x, part) n = Gather(s, axis) m = Mul(n, e) target = Concat<axis = 0>(m, four) flat = Reshape(h, target)
    y = MatMul(flat, w) }""".replace("WEIGHTS", ", ".join(["0.5"] * 32))


def test_products_behind_computed_extents_are_counted():
    model = load(parser.parse_model(TEXT))
    model.shapes = {"x": (1, 6, 4), "table": (9, 4)}
    assert cost(model, verify(model)).macs == 6 * 4 * 8
    model.shapes = {"x": (2, 7, 4), "table": (9, 4)}
    assert cost(model, verify(model)).macs == 2 * 7 * 4 * 8
