"""Models whose work nobody knows, or that is too much: a run ends, or is not begun, with one line that says so."""

import numpy as np
import pytest
from onnx import parser

from onnxc import run_passes
from onnxc.ir.errors import BadModel, VerificationError
from onnxc.runtime import reference
from onnxc.runtime.reference import Session


def model(text: str, opset: int = 17):
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')


LOOP = """Loop(n, c, x) <body = b (int64 i, bool k, float[1] s) => (bool k2, float[1] s2) {
    k2 = Identity(k) s2 = Add(s, s) }>"""
COUNTED = f"""(float[1] x) => (float[1] y) {{
    n = Constant<value = int64 {{COUNT}}>() c = Constant<value = bool {{1}}>() y = {LOOP} }}"""
INSIDE = f"""(float[1] x, bool p) => (float[1] y) {{ y = If(p) <
    then_branch = t () => (float[1] a) {{ n = Constant<value = int64 {{COUNT}}>() c = Constant<value = bool {{1}}>() a = {LOOP} }},
    else_branch = e () => (float[1] d) {{ d = Identity(x) }}> }}"""


@pytest.mark.parametrize("text", [COUNTED, INSIDE])
def test_a_loop_without_end_is_ended(monkeypatch, text):
    monkeypatch.setattr(reference, "SECONDS", 0.5)
    feeds = {"x": np.ones(1, np.float32), "p": np.array(True)}
    endless = model(text.replace("COUNT", str(2**40)))
    with pytest.raises(VerificationError, match=r"has not ended, expected a run of at most 0\.5 s; use --check shapes"):
        Session(endless).run(feeds)
    assert np.isinf(Session(model(text.replace("COUNT", "200"))).run(feeds)["y"])
    run_passes(endless, "clean", check="shapes")


def test_activations_beyond_the_machine_are_not_begun():
    text = """(float[1] x) => (float[1] y) {
        a = Constant<value = int64[1] {LONG}>() b = Expand(x, a) c = Add(b, x) y = ReduceMean<axes = [0]>(c) }"""
    with pytest.raises(BadModel, match=r"more than this machine's memory, expected .*; use --check shapes"):
        run_passes(model(text.replace("LONG", str(2**42))), "clean")
    run_passes(model(text.replace("LONG", "4096")), "clean")
