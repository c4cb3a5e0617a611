"""Operators of ai.onnx.ml against ONNX Runtime: trees, linear models, scalers, drawn at random."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxc.codegen import compile
from onnxc.ir.errors import OnnxcError

from .conftest import run_ort
from .programs import Programs

ML = "ai.onnx.ml"


def model(op: str, x: np.ndarray, outputs: dict[str, int], opset: int = 3, **attributes) -> onnx.ModelProto:
    """One node that reads x; `outputs`: name -> element type."""
    node = helper.make_node(op, ["x"], list(outputs), domain=ML, name="it", **attributes)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    made = [helper.make_tensor_value_info(name, k, None) for name, k in outputs.items()]
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", kind, x.shape)], made)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def trees(rng, features: int, targets: int, prefix: str, modes: list[str], least: float = -1.0) -> dict:
    """A few random trees as attributes of opset 3."""
    made: dict[str, list] = {f"nodes_{k}": [] for k in (
        "treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids", "missing_value_tracks_true")}  # fmt: skip
    for key in ("treeids", "nodeids", "ids", "weights"):
        made[f"{prefix}_{key}"] = []

    def grow(tree: int, depth: int) -> int:
        own = len([t for t in made["nodes_treeids"] if t == tree])
        is_leaf = depth == 0 or rng.random() < 0.2
        values = (tree, own, int(rng.integers(features)), float(rng.integers(-3, 4)) / 2,
                  "LEAF" if is_leaf else str(rng.choice(modes)), 0, 0, int(rng.integers(2)))  # fmt: skip
        at = len(made["nodes_treeids"])
        for key, value in zip(list(made)[:8], values, strict=True):
            made[key].append(value)
        if is_leaf:
            for target in sorted(rng.choice(targets, rng.integers(1, targets + 1), replace=False)):
                weight = float(np.float32(rng.uniform(least, 1.0)))
                for key, value in zip(("treeids", "nodeids", "ids", "weights"), (tree, own, int(target), weight)):
                    made[f"{prefix}_{key}"].append(value)
        else:
            made["nodes_truenodeids"][at] = grow(tree, depth - 1)
            made["nodes_falsenodeids"][at] = grow(tree, depth - 1)
        return own

    for tree in range(int(rng.integers(1, 5))):
        grow(tree, int(rng.integers(1, 5)))
    return made


def drawn(rng):
    """(name, model, x) of every operator, with attributes at random."""
    numbers = {"y": TensorProto.FLOAT}
    both = {"label": TensorProto.INT64, "scores": TensorProto.FLOAT}
    for i in range(10):
        features, targets = int(rng.integers(1, 5)), int(rng.integers(1, 4))
        x = (rng.integers(-4, 5, (int(rng.integers(1, 7)), features)) / 2).astype(np.float32)
        x[rng.random(x.shape) < 0.1] = np.nan
        modes = [["BRANCH_LEQ"], ["BRANCH_LT", "BRANCH_GTE", "BRANCH_GT"], ["BRANCH_EQ", "BRANCH_NEQ", "BRANCH_LEQ"]][
            i % 3
        ]
        own = trees(rng, features, targets, "target", modes)
        own |= {"n_targets": targets, "aggregate_function": str(rng.choice(["SUM", "AVERAGE", "MIN", "MAX"]))}
        if (
            rng.random() < 0.5 and own["aggregate_function"] != "AVERAGE"
        ):  # ONNX Runtime adds it or not, ONNX always does
            own["base_values"] = rng.standard_normal(targets).astype(np.float32).tolist()
        if targets > 1 and rng.random() < 0.3:
            own["post_transform"] = str(rng.choice(["SOFTMAX", "LOGISTIC"]))
        yield f"regressor {i}", model("TreeEnsembleRegressor", x, numbers, **own), x
        classes = int(rng.integers(3, 5))
        own = trees(rng, features, classes, "class", modes)
        own |= {"classlabels_int64s": rng.permutation(20)[:classes].tolist()}
        own["post_transform"] = str(rng.choice(["NONE", "SOFTMAX", "LOGISTIC"]))
        yield f"classifier {i}", model("TreeEnsembleClassifier", x, both, **own), x
        own = trees(rng, features, 1, "class", modes, 0.0) | {"classlabels_int64s": [7, 3]}
        if i % 2:
            own["class_ids"] = [1] * len(own["class_ids"])
        yield f"two classes {i}", model("TreeEnsembleClassifier", x, both, **own), x
    for i in range(4):
        features, targets = int(rng.integers(1, 5)), int(rng.integers(2, 4))
        x = rng.standard_normal((int(rng.integers(1, 4)), features)).astype(np.float32)
        flat = rng.standard_normal(targets * features).astype(np.float32).tolist()
        offsets = rng.standard_normal(targets).astype(np.float32).tolist()
        own = {"coefficients": flat, "intercepts": offsets, "targets": targets}
        yield f"linear {i}", model("LinearRegressor", x, numbers, 1, **own), x
        own = {"coefficients": flat, "intercepts": offsets, "classlabels_ints": list(range(targets)), "multi_class": 1}
        own["post_transform"] = str(rng.choice(["NONE", "SOFTMAX", "LOGISTIC"]))
        yield f"linear classes {i}", model("LinearClassifier", x, both, 1, **own), x
        node = model("ArrayFeatureExtractor", x, numbers, 1)
        picks = rng.integers(0, features, 3)
        node.graph.node[0].input.append("picks")
        node.graph.initializer.append(onnx.numpy_helper.from_array(picks, "picks"))
        yield f"features {i}", node, x
        column = rng.standard_normal((2, features)).astype(np.float32).tolist()
        yield f"scaler {i}", model("Scaler", x, numbers, 1, offset=column[0], scale=column[1]), x
        yield f"binarizer {i}", model("Binarizer", x, numbers, 1, threshold=float(rng.normal())), x
        yield f"normalizer {i}", model("Normalizer", x, numbers, 1, norm=("MAX", "L1", "L2")[i % 3]), x
        holes = np.where(rng.random(x.shape) < 0.4, np.float32(np.nan if i % 2 else 1), x)
        own = {"imputed_value_floats": column[0], "replaced_value_float": float("nan") if i % 2 else 1.0}
        yield f"imputer {i}", model("Imputer", holes, numbers, 1, **own), holes
        ids = rng.integers(0, 6, (3, 2))
        own = {"keys_int64s": [1, 3, 4], "values_int64s": [10, 30, 40], "default_int64": int(rng.integers(9))}
        yield f"labels {i}", model("LabelEncoder", ids, {"y": TensorProto.INT64}, 2, **own), ids
        own = {"keys_int64s": [0, 5], "values_floats": [0.5, -2.0], "default_float": 0.25}
        yield f"labels as floats {i}", model("LabelEncoder", ids, numbers, 2, **own), ids
        yield f"one hot {i}", model("OneHotEncoder", ids, numbers, 1, cats_int64s=[4, 0, 2]), ids


def test_models_of_classical_learning_give_the_numbers_of_onnx_runtime(tmp_path):
    programs, cases = Programs(tmp_path), {name: (one, x) for name, one, x in drawn(np.random.default_rng(11))}
    for name, (one, _) in cases.items():
        assert programs.add(name, one) is None, name
    programs.build()
    for name, (one, x) in cases.items():
        wanted, found = run_ort(one, {"x": x}), programs.run(name, {"x": x})
        for key, value in wanted.items():
            assert found[key].dtype == value.dtype, name
            np.testing.assert_allclose(found[key].reshape(value.shape), value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_two_classes_with_a_score_each_are_refused(tmp_path):
    """ONNX Runtime gives them the label 1 where the second score is above 0, even where the first is larger."""
    rng = np.random.default_rng(0)
    own = trees(rng, 2, 2, "class", ["BRANCH_LEQ"]) | {"classlabels_int64s": [0, 1]}
    own["class_ids"] = [i % 2 for i in range(len(own["class_ids"]))]
    both = {"label": TensorProto.INT64, "scores": TensorProto.FLOAT}
    refused = Programs(tmp_path).add("it", model("TreeEnsembleClassifier", np.zeros((2, 2), np.float32), both, **own))
    assert "export one score for both classes" in str(refused)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nodes_falsenodeids": [0, 0, 0]}, "path without an end"),
        ({"nodes_featureids": [9, 0, 0]}, "other features"),
        ({"post_transform": "PROBIT"}, "post_transform = PROBIT"),
    ],
)
def test_trees_that_would_leave_their_tables_are_refused(change, said, tmp_path):
    own = {
        "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0], "nodes_values": [0.0, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0], "target_weights": [1.0, 2.0], "n_targets": 1,
    }  # fmt: skip
    x = np.zeros((2, 3), np.float32)
    refused = Programs(tmp_path).add(
        "it", model("TreeEnsembleRegressor", x, {"y": TensorProto.FLOAT}, **(own | change))
    )
    assert isinstance(refused, OnnxcError)
    assert said in str(refused)


def test_maps_are_arrays_by_the_order_of_keys():
    """As scikit-learn's classifiers are exported: opset 9, where Equal knows no floats, and a list of maps at the end."""
    nodes = [
        helper.make_node("Normalizer", ["x"], ["n"], domain=ML, name="n", norm="L1"),
        helper.make_node("ZipMap", ["n"], ["y"], domain=ML, name="z", classlabels_int64s=[7, 2, 5]),
    ]
    scores = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    made = helper.make_value_info("y", helper.make_sequence_type_proto(scores))
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, [2, 3])], [made])
    opsets = [helper.make_opsetid("", 9), helper.make_opsetid(ML, 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=4)
    y = compile(proto, name="net")(x=np.array([[1, 2, 5], [3, 3, 2]], "f"))["y"]
    assert np.allclose(y, [[2 / 8, 5 / 8, 1 / 8], [3 / 8, 2 / 8, 3 / 8]])
