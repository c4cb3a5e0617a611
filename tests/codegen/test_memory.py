"""The arena where results lie over operands, and the order of calls."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxc.codegen import compile_model
from onnxc.codegen.memory.arena import Overlap, Tenant, assign, largest_live_set
from onnxc.codegen.memory.order import best_order


@st.composite
def chains(draw) -> tuple[list[Tenant], list[Overlap]]:
    """Tensors of a chain with side branches, of which some results may lie over their operand."""
    count = draw(st.integers(2, 9))
    tenants = [Tenant(draw(st.integers(1, 500)), i, i + draw(st.sampled_from([1, 1, 1, 3]))) for i in range(count)]
    overlaps = []
    for x, y in itertools.pairwise(range(count)):
        if tenants[x].last == tenants[y].first and draw(st.booleans()):
            overlaps.append(Overlap(x, y, draw(st.booleans()), max(0, tenants[y].size - tenants[x].size)))
    return tenants, overlaps


@given(chains())
@settings(max_examples=60, deadline=None)
def test_only_what_may_lies_over_another(drawn):
    tenants, overlaps = drawn
    offsets, total = assign(tenants, overlaps, 4)
    allowed = {(o.x, o.y): o for o in overlaps}
    assert total >= largest_live_set(tenants, overlaps)
    for i, j in itertools.permutations(range(len(tenants)), 2):
        a, b = tenants[i], tenants[j]
        assert offsets[i] % 4 == 0 and offsets[i] + a.size <= total
        if a.last < b.first or b.last < a.first:
            continue
        apart = offsets[i] + a.size <= offsets[j] or offsets[j] + b.size <= offsets[i]
        over = allowed.get((i, j)) or allowed.get((j, i))
        if not apart:
            assert over is not None
            distance = offsets[over.x] - offsets[over.y]
            assert distance == 0 if over.same else distance >= over.ahead


def test_results_that_grow_lie_ahead_of_their_operand():
    tenants = [Tenant(64, 0, 1), Tenant(128, 1, 2), Tenant(128, 2, 3)]
    overlaps = [Overlap(0, 1, False, 64), Overlap(1, 2, True)]
    assert assign(tenants, overlaps, 16) == ([64, 0, 0], 128)
    assert assign(tenants, (), 16)[1] == 256


def test_the_order_that_keeps_least_alive():
    """f and g make large tensors of which h and k leave little: one after the other."""
    reads = [frozenset(), frozenset(), frozenset({0}), frozenset({1}), frozenset({2, 3})]
    writes = [frozenset({i}) for i in range(5)]
    sizes = {0: 100, 1: 100, 2: 1, 3: 1, 4: 1}
    order = best_order(reads, writes, sizes, [0] * 5)
    assert order.index(2) < order.index(1) or order.index(3) < order.index(0)
    assert sorted(order) == list(range(5))
    assert best_order(reads[:1], writes[:1], sizes, [0]) == [0]


def test_a_large_weight_that_several_products_read_is_packed_once(tmp_path):
    """As of the steps of an unrolled loop; beyond a MB constants are told apart by where they lie, not by their bytes."""
    text = """g (float[1,512] x) => (float[1,512] y) <int64[1] z = {0}, int64[1] k = {512}, int64[1] one = {1}> {
        a = MatMul(x, w) b = Slice(a, z, k, one) c = MatMul(b, w) d = Slice(c, z, k, one) e = MatMul(d, w)
        y = Slice(e, z, k, one) }"""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    w = np.random.default_rng(0).normal(size=(512, 520)).astype(np.float32) / 20
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    assert compile_model(proto, tmp_path, name="net").weights_bytes < 1.2 * w.nbytes
