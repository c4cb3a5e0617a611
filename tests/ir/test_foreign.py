"""Operators that no table knows: said in every report, with a remedy where a domain's are known by sight."""

from __future__ import annotations

import onnx
import pytest

import onnxc
from onnxc.ir.errors import NotTaken
from onnxc.ir.part import advice
from onnxc.ir.table import followed
from onnxc.measure.inspect import inspect
from onnxc.passes.quant.products import refusal


def model(domain: str) -> onnx.ModelProto:
    """One matrix product between two operators of `domain`."""
    proto = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17, "{domain}" : 1]>
        g (float[N, 8] x) => (float[N, 4] y) <float[8, 4] w = {{{", ".join(["0.5"] * 32)}}}>
        {{ a = {domain}.Turn (x)  b = MatMul (a, w)  y = {domain}.Turn (b) }}""")
    for i, node in enumerate(proto.graph.node):
        node.name = f"n{i}"
    return proto


@pytest.mark.parametrize("passes", ["prune", "lowrank"])
def test_a_report_says_which_operators_were_left_alone(passes):
    report = onnxc.run_passes(model("org.acme"), passes, check="shapes").report
    assert report.remarks == [
        "2 org.acme.Turn: not in the operator table; they keep their dimensions, and their MACs are not counted",
        "1 product has extents or turns that only a run tells; its MACs are counted too low (n1)",
    ]
    last = report.rows[-1]
    assert not last.edits and (last.refusals or last.notes)
    assert not any("behind the cut" in note for note in last.notes)  # nothing was cut


def test_a_product_between_them_is_left_in_float_for_the_type_that_it_reads():
    found = onnxc.load(model("org.acme"))
    assert refusal(found.nodes[1], {}) == "what it reads is of a type that is not known"
    assert (
        refusal(found.nodes[1], {"a": onnx.TensorProto.BFLOAT16})
        == "the numbers that it reads are bfloat16, not float32"
    )


def test_what_onnx_runtime_does_not_know_needs_no_other_inputs():
    with pytest.raises(NotTaken, match=r"not a registered function/op.*--check shapes"):
        onnxc.run_passes(model("org.acme"), "clean")


def test_a_layout_for_one_processor_has_a_remedy():
    laid_out = onnxc.load(model("com.microsoft.nchwc"))
    remedy = advice(laid_out, ["n0"])
    assert "level extended" in remedy
    assert remedy in inspect(laid_out).remarks
    assert remedy in onnxc.run_passes(laid_out, "clean", check="shapes").report.remarks


def test_operators_of_the_table_bodies_and_functions_are_no_remark():
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[N, 8] x, bool c) => (float[N, 8] y)
        {
            a = own.twice (x)
            y = If (c) <then_branch = t () => (float[N, 8] p) { p = Relu (a) }, else_branch = e () => (float[N, 8] q) { q = Neg (a) }>
        }
        <domain: "own", opset_import: ["" : 17]>
        twice (x) => (y) { y = Add (x, x) }""")
    assert onnxc.run_passes(proto, "clean", check="shapes").report.remarks == []


def test_inference_follows_no_contents_of_an_input_of_gibibytes():
    """ONNX writes out the elements of an integer vector that it follows, a hundred bytes each."""
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (int64[2147483648] s, int64[2] t) => (int64[4] y)
        { a = Shape (s)  b = Gather (s, t)  c = Cast <to = 7> (s)  d = Slice (c, a, a, a)  y = Concat <axis = 0> (t, b) }""")
    shapes = {v.name: v.type.tensor_type.shape for v in followed(proto).value_info}
    assert shapes["b"].dim[0].dim_value == 2
    assert [p.name for p in onnxc.run_passes(proto, "clean", check="shapes").report.rows][-1:] == ["clean"]
