"""Models whose work nobody knows, or that is too much: a run ends, or is not begun, with one line that says so."""

import numpy as np
import pytest
from onnx import parser

from onnxc import run_passes
from onnxc.ir.errors import BadModel, Unsupported, VerificationError
from onnxc.runtime import watch
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
    monkeypatch.setattr(watch, "SECONDS", 0.5)
    feeds = {"x": np.ones(1, np.float32), "p": np.array(True)}
    endless = model(text.replace("COUNT", str(2**33)))
    with pytest.raises(VerificationError, match=r"has not ended, expected a run of at most 0\.5 s; use --check shapes"):
        Session(endless).run(feeds)
    assert np.isinf(Session(model(text.replace("COUNT", "200"))).run(feeds)["y"])
    run_passes(endless, "clean", check="shapes")


def test_a_loop_whose_tensor_doubles_is_ended(monkeypatch):
    monkeypatch.setattr(watch, "ROOM", 1 << 26)
    proto = model(
        """(float[256] x) => (float[n] y) { n = Constant<value = int64 {COUNT}>() t = Constant<value = bool {1}>()
        y = Loop(n, t, x) <body = b (int64 i, bool k, float[m] s) => (bool k2, float[l] s2) {
            k2 = Identity(k) s2 = Concat<axis = 0>(s, s) }> }""".replace("COUNT", "24")
    )
    with pytest.raises(
        VerificationError, match="loops take too much memory, expected at most 64 MiB; use --check shapes"
    ):
        Session(proto).run({"x": np.ones(256, np.float32)})


def test_activations_beyond_the_machine_are_not_begun():
    text = """(float[1] x) => (float[1] y) {
        a = Constant<value = int64[1] {LONG}>() b = Expand(x, a) c = Add(b, x) y = ReduceMean<axes = [0]>(c) }"""
    with pytest.raises(BadModel, match=r"more than this machine's memory, expected .*; use --check shapes"):
        run_passes(model(text.replace("LONG", str(2**42))), "clean")
    run_passes(model(text.replace("LONG", "4096")), "clean")


OFTEN = """<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y)
    <int64 n = {4611686018427387904}, bool go = {BEGIN}> { y = Loop (n, go, x) <body = b (int64 i, bool c, float[2] s) =>
    (bool d, float[2] t) { BODY t = Add(s, s) }> }"""


@pytest.mark.parametrize(
    "begin, body, ends",
    [
        ("1", "d = Identity(c)", False),
        ("1", "e = Identity(c) d = Identity(e)", False),
        ("0", "d = Identity(c)", True),
        ("1", "three = Constant<value = int64 {3}>() d = Less(i, three)", True),
    ],
)
def test_a_loop_of_too_many_rounds_is_not_begun(begin, body, ends):
    proto = parser.parse_model(OFTEN.replace("BEGIN", begin).replace("BODY", body))
    if ends:
        assert run_passes(proto, "clean").report.check == "data"
        return
    with pytest.raises(
        Unsupported, match="a Loop runs too often for ONNX Runtime, expected at most 10000000000 rounds"
    ):
        run_passes(proto, "clean")
    assert run_passes(proto, "clean", check="shapes").model.nodes
