"""exp, sigmoid, tanh and erf in compiled code: accurate over all floats, right at infinities and NaN."""

from __future__ import annotations

import numpy as np
from onnx import parser
from scipy import special

from onnxc.codegen import compile_model
from onnxc.runtime.library import Library

FUNCTIONS = {"Exp": np.exp, "Sigmoid": special.expit, "Tanh": np.tanh, "Erf": special.erf}
SMALLEST = 2.4e-38  # below 2^-125 results are zero


def points() -> np.ndarray:
    small = np.logspace(-30, 2, 3000)
    special_ones = [np.inf, -np.inf, np.nan, 0.0, -0.0, 88.72283, 88.73, 1e30, -1e30, 3e38]
    parts = [np.linspace(-110, 110, 100_001), np.linspace(-5, 5, 50_001), small, -small, special_ones]
    return np.concatenate(parts).astype(np.float32)


def test_against_double_precision(tmp_path):
    x = points()
    outputs = ", ".join(f"float[{x.size}] {name}" for name in FUNCTIONS)
    nodes = " ".join(f"{name} = {name}(x)" for name in FUNCTIONS)
    head = '<ir_version: 8, opset_import: ["": 17]>'
    compile_model(
        parser.parse_model(f"{head} g (float[{x.size}] x) => ({outputs}) {{ {nodes} }}"), tmp_path, name="net"
    )
    library = Library(tmp_path)
    found, mirrored = dict(library(x=x)), library(x=-x)
    for name in ("Tanh", "Erf"):  # odd, to the last bit and where they are saturated
        assert np.array_equal(mirrored[name], -found[name], equal_nan=True), name
    for name, function in FUNCTIONS.items():
        with np.errstate(all="ignore"):
            exact = function(x.astype(np.float64))
            wanted = exact.astype(np.float32)
            error = np.abs(found[name] - exact) / np.abs(exact)
        normal = np.isfinite(wanted) & (np.abs(exact) > SMALLEST)
        assert normal.sum() > 50_000 and error[normal].max() < 4e-7, name
        assert np.array_equal(found[name][~np.isfinite(wanted)], wanted[~np.isfinite(wanted)], equal_nan=True), name
        tiny = np.isfinite(wanted) & ~normal
        assert np.abs(found[name][tiny]).max() <= SMALLEST, name
