"""Functions that call functions: how many nodes they stand for is asked before anything writes them out."""

import time

import onnx
import pytest
from onnx import helper

from onnxc.ir.errors import BadModel
from onnxc.ir.files import load
from tests.ir.test_external import info

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]


def chain(levels: int, fan: int, inside=lambda call: [call]) -> onnx.ModelProto:
    """f0 is a Relu, and each further function calls the one before it `fan` times."""
    functions = []
    for level in range(levels):
        nodes = [helper.make_node("Relu", ["t0"], ["t1"])]
        if level:
            nodes = [
                node
                for i in range(fan)
                for node in inside(helper.make_node(f"f{level - 1}", [f"t{i}"], [f"t{i + 1}"], domain="local"))
            ]
        last = nodes[-1].output[0]
        functions.append(helper.make_function("local", f"f{level}", ["t0"], [last], nodes, OPSETS))
    graph = helper.make_graph(
        [helper.make_node(f"f{levels - 1}", ["x"], ["y"], domain="local")], "g", [info("x")], [info("y")]
    )
    return helper.make_model(graph, functions=functions, opset_imports=OPSETS, ir_version=8)


@pytest.mark.parametrize("levels, fan", [(10, 10), (31, 2), (400, 2), (3, 1100)])
def test_calls_that_stand_for_too_many_nodes(levels, fan):
    start = time.process_time()
    with pytest.raises(BadModel, match="too many nodes, expected at most 1000000"):
        load(chain(levels, fan))
    assert time.process_time() - start < 10


def test_calls_within_bodies_count():
    def inside(call):
        body = helper.make_graph([call], "b", [], [info(call.output[0])])
        made = helper.make_node("If", ["t0"], [call.output[0]], then_branch=body, else_branch=body)
        return [made]

    with pytest.raises(BadModel, match="too many nodes"):
        load(chain(12, 2, inside))


def test_calls_within_bounds_are_taken():
    assert len(load(chain(10, 3)).functions) == 10
    assert len(load(chain(3000, 1)).functions) == 3000


def test_functions_that_call_each_other():
    for levels in (1, 2, 5):
        proto = chain(levels, 1)
        proto.functions[0].node[0].op_type, proto.functions[0].node[0].domain = f"f{levels - 1}", "local"
        with pytest.raises(BadModel, match="functions call each other in a circle"):
            load(proto)
