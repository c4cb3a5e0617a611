"""--io int8: inputs and outputs as the integers that the model quantises them to."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import parser

from onnxc.codegen import compile_model
from onnxc.codegen.prepare.ends import Scaled, integer_ends
from onnxc.ir.errors import BadOption, Unsupported
from onnxc.runtime.emulate import open_library

from .conftest import run_ort

MODEL = """<ir_version: 8, opset_import: ["": 17]>
  g (float[1, 4, 4, 2] x, float[4] z) => (float[1, 3, 4, 4] y, float[4] w)
  <float s = {0.5}, int8 o = {3}, float t = {0.25}, uint8 p = {100}, int8[3, 2, 1, 1] k = {1, -2, 3, 4, -5, 6},
   float ks = {0.1}, int8 kz = {0}> {
    c = Transpose<perm = [0, 3, 1, 2]>(x) q = QuantizeLinear(c, s, o) d = DequantizeLinear(q, s, o)
    kd = DequantizeLinear(k, ks, kz) v = Conv(d, kd) r = QuantizeLinear(v, t, p) y = DequantizeLinear(r, t, p)
    w = Neg(z) }"""


def test_the_model_with_integer_ends_is_the_model():
    model = parser.parse_model(MODEL)
    made, ends = integer_ends(model)
    onnx.checker.check_model(made)
    assert ends == {"x": Scaled(0.5, 3), "y": Scaled(0.25, 100)}
    x = np.random.default_rng(0).normal(0, 20, (1, 4, 4, 2)).astype(np.float32)
    z = np.arange(4, dtype=np.float32)
    levels = np.clip(np.rint(x / 0.5) + 3, -128, 127).astype(np.int8)
    found, wanted = run_ort(made, {"x": levels, "z": z}), run_ort(model, {"x": x, "z": z})
    assert found["y"].dtype == np.uint8
    assert np.array_equal((found["y"].astype(np.float32) - 100) * np.float32(0.25), wanted["y"])
    assert np.array_equal(found["w"], wanted["w"])


def test_the_library_says_what_its_integers_stand_for(tmp_path):
    model = parser.parse_model(MODEL)
    compile_model(model, tmp_path, name="net", io="int8")
    header = (tmp_path / "net.h").read_text()
    assert "#define NET_INPUT0_SCALE 0.5f" in header and "#define NET_INPUT0_ZERO_POINT (3)" in header
    assert "#define NET_OUTPUT0_SCALE 0.25f" in header and "NET_INPUT1_SCALE" not in header
    rows = json.loads((tmp_path / "manifest.json").read_text())["outputs"]
    assert rows[0]["dtype"] == "uint8" and (rows[0]["scale"], rows[0]["zero_point"]) == (0.25, 100)
    assert open_library(tmp_path).inputs["x"][1] == np.int8


def test_what_is_refused():
    plain = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[4] x) => (float[4] y) { y = Neg(x) }')
    with pytest.raises(Unsupported, match="quantised"):
        integer_ends(plain)
    with pytest.raises(BadOption):
        compile_model(plain, "nowhere", name="net", io="int4")
