"""Inputs whose values decide shapes: a refusal names them, and a library for one value of them can be made."""

import onnx
import pytest
from onnx import parser

from onnxc.codegen.prepare.static import make_static
from onnxc.ir.errors import BadOption, Unsupported
from onnxc.ir.files import load
from onnxc.measure.shapes import fixed, said, settled
from onnxc.runtime.feeding import Numbers, Wishes

HEAD = '<ir_version: 8, opset_import: ["" : 17]> '
KINDS = {
    "k": "g (float[2,9] x, int64[1] k) => (float[2,K] y) <int64[1] one = {1}> { n = Concat <axis = 0> (one, k) y = Tile(x, n) }",
    "hw": "g (float[1,3,H,W] x, int64[2] hw) => (float[1,3,A,B] y) <int64[2] head = {1, 3}> "
    '{ size = Concat <axis = 0> (head, hw) y = Resize (x, "", "", size) }',
    "trips": 'g (float[2] x, int64 trips) => (float[K] y) { y = Loop (trips, "", x) '
    "<body = b (int64 i, bool go, float[K] s) => (bool on, float[L] r) { on = Identity(go) r = Concat <axis = 0> (s, s) }> }",
    "sr": "g (float[1,8] x, int64 sr) => (float[1,T] y) <int64 full = {16000}, int64[1] two = {2}, int64[1] four = {4}, "
    "int64[1] none = {0}, int64[1] one = {1}> { c = Equal(sr, full) y = If (c) "
    "<then_branch = t () => (float[1,4] a) { a = Slice(x, none, four, one) },"
    " else_branch = e () => (float[1,2] b) { b = Slice(x, none, two, one) }> }",
}


def proto(name: str) -> onnx.ModelProto:
    return parser.parse_model(HEAD + KINDS[name])


@pytest.mark.parametrize("name", KINDS)
def test_the_refusal_names_the_input_and_fixing_it_helps(name):
    made = proto(name)
    (shapes,) = settled(load(made), [{}])
    with pytest.raises(Unsupported) as refused:
        make_static(made, shapes)
    assert refused.value.remedy == f"fix what decides it, a library for each value: --input {name}=..."
    value = {"k": (3,), "hw": (5, 6), "trips": (2,), "sr": (8000,)}[name]
    known = fixed(load(made), Wishes(arrays={name: Numbers(value)}))
    assert [t.name for t in known.inputs] == ["x"]
    (shapes,) = settled(known, [{}])
    wanted = {"k": (2, 27), "hw": (1, 3, 5, 6), "trips": (8,), "sr": (1, 2)}[name]
    assert make_static(known.to_proto(), shapes).outputs[0][1] == wanted


def test_what_is_found_in_the_numbers_of_other_inputs_is_not_said_to_be_decided_by_one():
    text = "g (float[9] x, int64[1] k) => (float[1,K] y) { i = NonZero(x) z = Cast <to = 1> (i) y, j = TopK(z, k) }"
    with pytest.raises(Unsupported, match="compile the part of the model before"):
        make_static(parser.parse_model(HEAD + text), {})


def test_numbers_for_inputs():
    model = load(parser.parse_model(HEAD + "g (int64[N] i, float[2,3] w) => (int64[N] y) { y = Identity(i) }"))
    held = {t.name: t.values for t in fixed(model, Wishes(arrays={"i": Numbers((4, 5))})).constants().values()}
    assert [v.tolist() for v in held.values()] == [[4, 5]]
    for numbers, why in (((1.5, 2), "does not fit the type"), ((7,), "one number does not say the extents")):
        with pytest.raises(BadOption, match=why):
            fixed(model, Wishes(arrays={"i": Numbers(numbers)}))
    with pytest.raises(BadOption, match="another number of elements"):
        fixed(model, Wishes(arrays={"w": Numbers((1, 2))}))
    with pytest.raises(BadOption, match="there is no such input"):
        fixed(model, Wishes(arrays={"q": Numbers((1,))}))


def test_graphs_of_nodes_and_edges_are_compiled_at_extents_that_run():
    text = """g (float[n,4] x, int64[2,e] edges) => (float[m,4] y) <int64 zero = {0}> {
        at = Gather(edges, zero) h = Gather(x, at) y = Relu(h) }"""
    model = load(parser.parse_model(HEAD + text))
    chosen = settled(model, [{}])
    assert chosen == [{"x": (16, 4), "edges": (2, 16)}]
    assert said(model, [{}], chosen) == [
        "Shapes that the model was found to take: x 16x4, edges 2x16; --shape says others"
    ]
    assert said(model, [{"n": (16,)}], chosen) == []
    assert settled(model, [{"n": (7,)}])[0]["x"] == (7, 4)


@pytest.mark.parametrize("op", ["GreaterOrEqual", "LessOrEqual"])
def test_comparisons_that_onnx_does_not_infer_have_the_shapes_of_others(op):
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 13]>
      g (float[1,4] x, float[3,1] t) => (bool[3,4] y) {{ y = {op}(x, t) }}""")
    assert make_static(model).outputs == [("y", (3, 4), "bool")]


def test_names_within_a_definition_are_not_those_of_the_model():
    """ONNX defines DynamicQuantizeLinear by nodes that make tensors y and y_scale."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 13]>
      g (float[1,4] x) => (float[1,4] y) { q, s, z = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, z) }""")
    static = make_static(model)
    made = [name for node in static.nodes for name in node.output]
    assert made.count("y") == 1 and len(made) == len(set(made))


def test_text_is_refused_in_words():
    model = parser.parse_model(HEAD + "g (string[2] t) => (string[2] u) { u = Identity(t) }")
    with pytest.raises(Unsupported, match="t: text, which a C library does not hold"):
        make_static(model)
