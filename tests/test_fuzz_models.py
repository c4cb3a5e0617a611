"""A short run of tests/fuzz/models.py, and what longer ones have found: mutated models are transformed or refused in a line."""

import importlib.util
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxc
from onnxc.codegen import compile_model
from onnxc.ir.errors import BadModel, NotTaken, OnnxcError, Unsupported
from onnxc.ir.verify import verify
from onnxc.measure.inspect import inspect
from onnxc.measure.shapes import settled
from onnxc.runtime.reference import Session

FUZZ = Path(__file__).resolve().parent / "fuzz"


@pytest.mark.slow
def test_mutated_models_are_transformed_or_refused():
    sys.path.insert(0, str(FUZZ))
    try:
        spec = importlib.util.spec_from_file_location("fuzz_models", FUZZ / "models.py")
        models = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(models)
        said = models.run(400, seed=1, seconds=40)
        made = models.run(30, seed=501, seconds=10, what=models.compiled)
    finally:
        sys.path.remove(str(FUZZ))
    done = sum(times for text, times in said.items() if text.startswith("done"))
    assert len(said) > 30 and done > sum(said.values()) // 8
    assert any(text.startswith("done") for text in made)


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> {text}')


def test_attributes_that_refer_to_a_function_outside_of_one_are_refused():
    proto = model("g (float[2,3] x) => (int64[n] y) { y = Shape <start = 0> (x) }")
    proto.graph.node[0].attribute[0].ref_attr_name = "first"
    with pytest.raises(
        BadModel, match="node Shape: an attribute takes its value from that of a function, outside of one"
    ):
        onnxc.load(proto)


def test_whatever_inference_raises_is_the_models_fault():
    proto = model("g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }")
    proto.graph.node[0].op_type = "EyeLike"
    proto.graph.node[0].attribute.append(onnx.helper.make_attribute("dtype", 0))
    with pytest.raises(OnnxcError, match="strict shape inference fails") as said:
        onnxc.run_passes(proto, "clean", check="shapes")
    assert said.value.exit_status == 2


# inference follows no Range: that the second axis is 1 comes out when it is folded
DECLARED = """g (float[2,3] x) => (float[2,5] y) <int64 one = {1}, int64 two = {2}> {
    a = Range(one, two, one)  y = ReduceMean(x, a) }"""


def test_outputs_that_are_declared_wrongly_are_corrected_by_a_run():
    result = onnxc.run_passes(model(DECLARED), "clean")
    assert result.report.remarks == ["output y is declared 2×5, and is 2×1: corrected"]
    assert result.model.outputs[0].shape == [2, 1]
    with pytest.raises(OnnxcError, match="the model as given declares an output that it does not have") as said:
        onnxc.run_passes(model(DECLARED), "clean", check="shapes")
    assert said.value.exit_status == 2


# the table has no row for the loss, and inference no rank for what it reads until a pass has taken both Reshapes out
DECLARED_RANK = """g (float[3,5] x, int64[3] t) => (float[2] y) { s = Constant<value = int64[3] {0,0,-1}>()
    a = Reshape(x, s)  n = Shape(x)  c = Reshape(a, n)  y = NegativeLogLikelihoodLoss<reduction = "sum">(c, t) }"""


def test_outputs_whose_rank_onnx_alone_knows_are_the_models_fault():
    proto = model(DECLARED_RANK)
    proto.opset_import[0].version = 13
    with pytest.raises(
        OnnxcError, match=r"y: strict shape inference fails.*the model as given declares an output"
    ) as e:
        onnxc.run_passes(proto, "clean", check="shapes")
    assert e.value.exit_status == 2


def test_an_output_of_no_tensor_is_not_compared():
    proto = model("g (float[2,3,4,5] x, float[3] s, float[3] b, float[3] m, float[3] v) => (float[2,3,4,5] y, float[32] n) "
                  "{ y, n, o = BatchNormalization <training_mode = -1> (x, s, b, m, v) }")  # fmt: skip
    with pytest.raises(OnnxcError, match="n: this output is not compared, expected a tensor, found nothing"):
        onnxc.run_passes(proto, "clean")


MAPPED = """g (seq(float[H,W]) xs) => (seq(int64[2]) ys) {
    ys = SequenceMap <body = b (float[H,W] x) => (int64[2] s) { s = Shape(x) }> (xs) }"""


@pytest.mark.parametrize("domain", ["", "local"])
def test_bodies_of_nodes_that_run_them_in_ways_of_their_own(domain):
    proto = model(MAPPED)
    if domain:  # a function that has the body as well, and uses none
        proto.graph.node[0].domain = domain
        proto.opset_import.append(onnx.helper.make_opsetid(domain, 1))
        inner = model(MAPPED).graph.node[0]
        opsets = [onnx.helper.make_opsetid("", 18)]
        proto.functions.append(onnx.helper.make_function(domain, "SequenceMap", ["xs"], ["ys"], [inner], opsets))
    assert len(onnxc.run_passes(proto, "quant", check="shapes").model.nodes) == 1


def test_extents_that_no_file_can_hold_are_told():
    text = "g (float[4294967296,4294967296,4] x) => (float[2] y) { y = Flatten<axis = 3>(x) }"
    with pytest.raises(BadModel, match=r"y: an extent is larger than ONNX can write, expected below 2\^63"):
        onnxc.run_passes(model(text), "clean", check="shapes")


def test_a_pool_of_more_strides_than_axes_is_refused():
    pool = "MaxPool<ceil_mode = 1, kernel_shape = [5,5], strides = [3,3,2]>"
    with pytest.raises(OnnxcError, match="strides") as e:
        onnxc.run_passes(
            model(f"g (float[1,1,32,32] x) => (float[1,1,9,9] y) {{ y = {pool}(x) }}"), "clean", check="shapes"
        )
    assert e.value.exit_status == 2


@pytest.mark.parametrize(
    "text",
    [
        "g (float[2,2,2] x, int64[2,1] i) => (float[2,2] y) { y = GatherND<batch_dims = -3>(x, i) }",
        "g (float[2,3] x, float[3] s) => (float[2,3] y) { y = LayerNormalization<axis = 2147483648>(x, s) }",
        "g (float[2,3] x, bool c) => (float[2,3] y) { y = If(c) <then_branch = t () => (float[2,3] z) "
        "{ z = Softmax<axis = 2147483648>(x) }, else_branch = e () => (float[2,3] z) { z = Neg(x) }> }",
    ],
)
def test_axes_that_no_tensor_has_are_refused_ahead_of_inference(text):
    """ONNX's own inference reads beyond the shape, which may end the process."""
    with pytest.raises(BadModel, match=r"has an impossible (axis|batch_dims), expected -?\d+ to 64, found -?\d+"):
        onnxc.load(model(text))


def test_a_split_that_does_not_say_how_is_refused():
    text = "g (float[4] x) => (float[2] a) { a, b = Split<axis = 0>(x) }"
    with pytest.raises(
        BadModel, match="node Split: Split has neither lengths nor num_outputs, of which opset 18 needs one"
    ):
        onnxc.load(model(text))
    older = model(text)
    older.opset_import[0].version = 13
    assert len(onnxc.load(older).nodes) == 1


def test_outputs_that_split_does_not_say_are_refused_ahead_of_inference():
    with pytest.raises(BadModel, match="Split has other outputs than it says, expected 2, found 4"):
        onnxc.load(model("g (float[4] x) => (float[1] a) { a, b, c, d = Split<num_outputs = 2>(x) }"))


@pytest.mark.parametrize(
    "text",
    ["y = Cast<to = 99>(x)", "y = QuantizeLinear<output_dtype = 2147483648>(x, s)", "y = EyeLike<dtype = -1>(x)"],
)
def test_types_that_there_are_not_are_refused(text):
    with pytest.raises(BadModel, match=r"names no type, found (99|2147483648|-1)"):
        onnxc.load(model(f"g (float[2,2] x) => (float[2,2] y) <float s = {{0.5}}> {{ {text} }}"))


def test_elements_of_unknown_type_are_refused_at_any_depth():
    proto = model("g (seq(map(string, float[2])) x) => (float[2] y) { y = odd.Odd(x) }")
    proto.graph.input[0].type.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = 127
    with pytest.raises(BadModel, match="x: this tensor has an unknown type, found 127"):
        onnxc.load(proto)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("domain", "op", "attributes"),
    [
        ("", "EyeLike", {"dtype": 1}),
        ("", "RegexFullMatch", {"pattern": "a+"}),
        ("ai.onnx.ml", "LabelEncoder", {"keys_int64s": [1], "values_int64s": [2]}),
        ("ai.onnx.ml", "DictVectorizer", {"int64_vocabulary": [1]}),
    ],
)
def test_inputs_of_unknown_type_do_not_end_inference(domain, op, attributes, inside):
    """The inference of these four, and of tree ensembles, reads the type of their input, which nobody declares here."""
    node = onnx.helper.make_node(op, ["x"], ["z"], domain=domain, **attributes)
    proto = model("g (float[2,2] w, bool c) => (float[2,2] y) { x = odd.Odd(w) z = Identity(x) y = Relu(w) }")
    proto.opset_import[0].version = 20
    proto.opset_import.extend([onnx.helper.make_opsetid("odd", 1), onnx.helper.make_opsetid("ai.onnx.ml", 5)])
    if inside:
        empty = onnx.helper.make_graph([node], "b", [], [onnx.ValueInfoProto(name="z")])
        node = onnx.helper.make_node("If", ["c"], ["v"], then_branch=empty, else_branch=empty)
    proto.graph.node[1].CopyFrom(node)
    assert inspect(proto).unknown


def test_inputs_of_known_type_are_inferred_as_ever():
    proto = model("g (float[2,3] w) => (y) { x = Relu(w) z = EyeLike(x) y = EyeLike<dtype = 7>(z) }")
    assert verify(onnxc.load(proto)).types["y"] == onnx.TensorProto.INT64


def deep(levels: int, older: bool) -> onnx.ModelProto:
    """A tree each of whose branches ends on one side."""
    up, leaf = list(range(1, levels)), list(range(levels, 2 * levels))
    if older:
        node = onnx.helper.make_node(
            "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, nodes_treeids=[0] * (2 * levels + 1),
            nodes_nodeids=[*range(2 * levels + 1)], nodes_featureids=[0] * (2 * levels + 1), nodes_values=[0.0] * (2 * levels + 1),
            nodes_modes=["BRANCH_LEQ"] * levels + ["LEAF"] * (levels + 1), nodes_truenodeids=leaf + [0] * (levels + 1),
            nodes_falsenodeids=up + [2 * levels] + [0] * (levels + 1), target_treeids=[0] * (levels + 1),
            target_nodeids=[*leaf, 2 * levels], target_ids=[0] * (levels + 1), target_weights=[1.0] * (levels + 1),
        )  # fmt: skip
    else:
        node = onnx.helper.make_node(
            "TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, tree_roots=[0], nodes_featureids=[0] * levels,
            nodes_splits=onnx.numpy_helper.from_array(np.zeros(levels, np.float32)), leaf_targetids=[0] * (levels + 1),
            nodes_modes=onnx.numpy_helper.from_array(np.zeros(levels, np.uint8)), nodes_trueleafs=[1] * levels,
            nodes_truenodeids=[*range(levels)], nodes_falsenodeids=[*up, levels], nodes_falseleafs=[0] * (levels - 1) + [1],
            leaf_weights=onnx.numpy_helper.from_array(np.ones(levels + 1, np.float32)),
        )  # fmt: skip
    proto = model("g (float[2,1] x) => (float[2,1] y) { y = Relu(x) }")
    proto.graph.node[0].CopyFrom(node)
    proto.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 3 if older else 5))
    return proto


@pytest.mark.parametrize("older", [True, False])
def test_trees_that_are_too_deep_never_reach_the_runtime(older):
    assert Session(deep(50, older)).run({"x": np.ones((2, 1), np.float32)})["y"].tolist() == [[1.0], [1.0]]
    with pytest.raises(Unsupported, match="a tree is too deep for ONNX Runtime, expected at most 4000 levels"):
        Session(deep(30_000, older))
    endless = deep(3, older)
    for a in endless.graph.node[0].attribute:
        if a.name == "nodes_falsenodeids":
            a.ints[1] = 0
    with pytest.raises(Unsupported, match="too deep"):
        Session(endless)


@pytest.mark.parametrize(
    ("inputs", "node"),
    [
        ("float[n,4] s", "t = Shape(s) u = Cast<to = 1>(t) e = Constant<value = float[2] {1,1}>() "
         "w = Concat<axis = 0>(e, u) y = Resize(x, , w)"),
        ("float[4] s", "y = Resize(x, , , s)"),
    ],
)  # fmt: skip
def test_what_resize_is_given_may_be_of_any_type(inputs, node):
    proto = model(f"g (float[1,2,4,4] x, {inputs}) => (y) {{ {node} }}")
    proto.graph.initializer.extend(
        onnx.helper.make_tensor("s", 1, [4], [1, 1, 8, 8]) for _ in range(inputs.startswith("float[4]"))
    )
    with suppress(OnnxcError):
        assert inspect(proto).outputs


@pytest.mark.parametrize(
    ("shape", "target", "found"),
    [
        ("0,3,4", [-1], "0"),
        ("2,3,4,0,2", [2, 3, 4, 0], "2x3x4x0"),
        ("2,0,3", [0, 5], "0x5"),
        ("0,3,4", [0, 3, 4], "0x3x4"),
        ("n,0,2", [7, 0], "7x0"),
    ],
)
def test_a_tensor_without_elements_takes_any_form_without_elements(shape, target, found):
    proto = model(f"g (float[{shape}] x, int64[{len(target)}] s) => (y) {{ y = Reshape<allowzero = 1>(x, s) }}")
    proto.graph.initializer.append(onnx.helper.make_tensor("s", 7, [len(target)], target))
    assert inspect(proto).outputs["y"] == f"float {found}".replace("x", "×")


@pytest.mark.parametrize("shape", ["1,2,4,0", "0,2,4,3", "1,0,4,3"])
def test_a_shuffle_of_no_numbers_is_none(shape):
    proto = model(f"g (float[{shape}] x) => (y) {{ t = Transpose<perm = [0,2,1,3]>(x) y = Relu(t) }}")
    assert len(onnxc.run_passes(proto, "clean,prune", check="shapes").model.nodes) == 2


def test_a_pool_of_another_domain_is_none():
    proto = model("g (float[1,1,8,8] x) => (y) { z = other.MaxPool<ceil_mode = 1>() y = Relu(x) }")
    proto.opset_import.append(onnx.helper.make_opsetid("other", 1))
    assert inspect(proto).unknown


def test_random_inputs_of_wild_extents_without_elements_are_not_drawn():
    text = "g (float[1099511627776,0,1099511627776] x) => (y) { y = Relu(x) }"
    with pytest.raises(OnnxcError, match="random data are not drawn for this input"):
        onnxc.run_passes(model(text), "clean")


def test_what_a_pass_uncovers_in_a_model_that_nobody_takes_is_the_models_fault():
    """The Concat is found not to fit once the shape in front of it is a constant."""
    proto = model("""g (float[2,4,8] x) => (y) <int64[1] none = {0}> { s = Shape<start = 2>(x) t = Concat<axis = 0>(s, none)
        a, b = Split<axis = 2>(x, t) h = Concat<axis = 1>(a, a) y = Concat<axis = 2>(h, b) }""")
    with pytest.raises(OnnxcError, match="ONNX Runtime does not take the model as given either") as e:
        onnxc.run_passes(proto, "clean", check="shapes")
    assert e.value.exit_status == 2


def test_operators_that_a_pass_puts_in_and_onnx_runtime_does_not_know_yet_are_told():
    proto = model(
        "g (float[1,2,8,8] x) => (y) <float[3,2,3,3] w = {" + ",".join(["0.5"] * 54) + "}> { y = Conv(x, w) }"
    )
    proto.opset_import[0].version = 28
    with pytest.raises(
        Unsupported, match=r"pass quant.*QuantizeLinear.*as this pass needs it.*found a model of opset 28"
    ):
        onnxc.run_passes(proto, "quant")


def test_a_narrow_output_has_the_type_that_it_is_declared_with():
    """The Cast behind it, which makes it one that NumPy knows, takes any."""
    proto = model("g (float[2,3] x) => (float8e4m3fn[2,3] y) { y = Hardmax(x) }")
    with pytest.raises(NotTaken, match="does not match expected type"):
        Session(proto)


@pytest.mark.parametrize("operator", ["Loop", "Conv", "Reshape"])
def test_a_namesake_of_another_domain_is_none(tmp_path, operator):
    proto = model("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    proto.graph.node[0].op_type, proto.graph.node[0].domain = operator, "elsewhere"
    proto.opset_import.add(domain="elsewhere", version=1)
    with pytest.raises(Unsupported, match=f"no row for {operator} of domain elsewhere"):
        compile_model(proto, tmp_path / "out", name="net")


@pytest.mark.parametrize(
    "text, said",
    [
        ("g (float[2] x) => (float[2] y) { c = Constant() y = Add(x, c) }", "a Constant without a value"),
        (
            "g (float[2,3] x, int64[2] t) => (float y) { a = elsewhere.F(x) y = NegativeLogLikelihoodLoss(a, t) }",
            "no row for F",
        ),
        (
            "g (float[1,4] x, float[4,3] s) => (int64[n,3] y) { y = NonMaxSuppression(x, s) }",
            "do not fit NonMaxSuppression",
        ),
    ],
)
def test_what_nothing_is_known_of_is_refused(tmp_path, text, said):
    proto = model(text)
    proto.opset_import.add(domain="elsewhere", version=1)
    with pytest.raises((BadModel, Unsupported), match=said):
        compile_model(proto, tmp_path / "out", name="net")


def test_calls_with_too_many_inputs_are_told_without_places_in_source(tmp_path):
    proto = model("g (float[2] x) => (float[2] y) { y = local.F(x, x) }")
    body = onnx.helper.make_node("Relu", ["a"], ["b"])
    proto.functions.append(onnx.helper.make_function("local", "F", ["a"], ["b"], [body], list(proto.opset_import)))
    proto.opset_import.add(domain="local", version=1)
    with pytest.raises(BadModel, match="cannot be written out: Number of actual parameters cannot exceed"):
        compile_model(proto, tmp_path / "out", name="net")


def test_a_model_that_does_not_run_is_the_users():
    with pytest.raises(NotTaken) as said:
        settled(onnxc.load(model("g (double[A,B] x) => (double[A,B] y) { y = Hardmax(x) }")), [{}])
    assert said.value.exit_status == 2
