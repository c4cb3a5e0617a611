"""What stages of codegen hand on is checked at the border: spoiled records are told, sound ones pass."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper, parser

from onnxc.codegen.memory.arena import ALIGN, Overlap, Tenant, aligned, assign
from onnxc.codegen.memory.contract import check_assignment, check_plan
from onnxc.codegen.memory.plan import MemoryPlan, Place
from onnxc.codegen.prepare.contract import check_static
from onnxc.codegen.prepare.static import make_static
from onnxc.ir.errors import VerificationError


@pytest.fixture(scope="module")
def static():
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,8] x) => (float[N,8] y) { h = MatMul(x, w) y = Relu(h) }'
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((8, 8), np.float32), "w"))
    return make_static(proto)


def test_a_static_model_is_told_where_it_is_not_sound(static):
    assert check_static(static) is static and len(static.nodes) == 2
    x, (name, shape, dtype) = static.inputs[0], static.outputs[0]
    for changes, reason in (
        ({"nodes": static.nodes[::-1]}, "h: a node reads what no earlier one makes"),
        ({"nodes": [*static.nodes, static.nodes[0]]}, "two nodes make this tensor"),
        ({"constants": {}, "weights": set()}, "w: a node reads what no earlier one makes"),
        ({"inputs": [x, ("w", (8, 8), "float32")]}, "an input is a constant too"),
        ({"types": {"h": ((1, None), "float32")}}, "h: an extent is no number"),
        ({"outputs": [(name, (-1, 8), dtype)]}, "y: an extent is no number"),
        ({"outputs": [("z", shape, dtype)]}, "z: an output is made by nobody"),
        ({"weights": {"v"}}, "v: a weight is no constant"),
        ({"users": {}}, "w: a weight has no user"),
        ({"integers": {"q": None}}, "q: integers of what is no weight"),
    ):
        with pytest.raises(VerificationError) as refusal:
            check_static(replace(static, **changes))
        assert reason.split(": ")[-1] in str(refusal.value) and reason.split(": ")[0] in str(refusal.value)


TENANTS = st.lists(
    st.builds(
        lambda size, first, n: Tenant(size, first, first + n), st.integers(0, 300), st.integers(0, 9), st.integers(0, 4)
    ),
    max_size=12,
)


@given(tenants=TENANTS, at=st.integers(0, 11), to=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_assignments_hold_and_one_that_is_moved_onto_another_is_noticed(tenants, at, to):
    offsets, total = assign(tenants)
    check_assignment(tenants, offsets, total)
    if at >= len(tenants) or not tenants[at].size:
        return
    spoiled = list(offsets)
    spoiled[at] = to * ALIGN
    mine = tenants[at]
    shared = spoiled[at] + mine.size > total or any(
        t.size and k != at and t.first <= mine.last and mine.first <= t.last
        and o < spoiled[at] + mine.size and spoiled[at] < o + t.size
        for k, (t, o) in enumerate(zip(tenants, offsets, strict=True))
    )  # fmt: skip
    if shared:
        with pytest.raises(VerificationError, match=r"outside of the arena|share bytes"):
            check_assignment(tenants, spoiled, total)
    else:
        check_assignment(tenants, spoiled, total)
    with pytest.raises(VerificationError, match="outside of the arena"):
        check_assignment(tenants, [o + (k == at) for k, o in enumerate(offsets)], total + aligned(1))


def test_a_result_lies_over_an_operand_only_as_its_kernel_allows():
    x, y = Tenant(100, 0, 1), Tenant(128, 1, 2)
    check_assignment([x, y], [0, 0], 128, [Overlap(0, 1, same=True)])
    check_assignment([x, y], [64, 0], 164, [Overlap(0, 1, same=False, ahead=64)])
    for offsets, rules in (([0, 0], []), ([64, 0], [Overlap(0, 1, same=True)]), ([0, 0], [Overlap(0, 1, False, 64)])):
        with pytest.raises(VerificationError, match="share bytes"):
            check_assignment([x, y], offsets, 192, rules)


def test_a_plan_is_told_where_an_operand_has_no_place_or_an_output_no_writer():
    x, w, y = Place("input", 0), Place("weight", 0), Place("output", 0)

    def plan(*places: Place, copies: tuple = ()) -> MemoryPlan:
        return MemoryPlan([("kernel0", list(places))], list(copies), arena=128, weights=[np.ones(3)])

    check_plan(plan(x, w, y), 1, 1, 1, 64)
    check_plan(plan(x, w, Place("arena", 64), copies=((0, Place("arena", 64), 12),)), 1, 1, 1, 64)
    for spoiled, reason in (
        (plan(x, Place("buffer", 0), y), "kernel0 has an operand without a place, found buffer 0"),
        (plan(x, Place("weight", 1), y), "found weight 1"),
        (plan(x, w, y, Place("arena", 256)), "found arena 256"),
        (plan(x, w, y, Place("arena", 0)), "found arena 0"),
        (plan(Place("input", 1), w, y), "found input 1"),
        (plan(x, w), "an output is written by nobody"),
        (plan(x, w, y, copies=((0, Place("buffer", 2), 12),)), "a copy has an operand without a place"),
    ):
        with pytest.raises(VerificationError, match=reason):
            check_plan(spoiled, 1, 1, 1, 64)
