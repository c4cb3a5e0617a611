"""Whole networks: compiled libraries equal ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper


def with_random_weights(model: onnx.ModelProto, most: int = 1 << 20) -> onnx.ModelProto:
    """Random weights in place of the light models' constant fills, so that a swapped channel is noticed.

    A fill of (o, i, ...) becomes normal values of variance 2/fan-in, so that activations keep their size; vectors
    vary around their fill. Fills of more than `most` elements stay fills: hundreds of megabytes gain nothing.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    rng = np.random.default_rng(3)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    nodes = []
    for node in made.graph.node:
        shape = constants.get(node.input[0]) if node.op_type == "ConstantOfShape" else None
        if shape is None or shape.prod() > most:
            if (
                shape is not None and len(shape) > 1
            ):  # with logits of millions a Softmax would see rounding errors alone
                value = np.float32([(0.01 if len(shape) == 2 else 1) / np.prod(shape[1:])])
                node = helper.make_node(node.op_type, node.input, node.output, value=numpy_helper.from_array(value))
            nodes.append(node)
            continue
        if len(shape) > 1:
            values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            values = 1 + 0.1 * rng.standard_normal(shape)
        made.graph.initializer.append(numpy_helper.from_array(values.astype("f"), node.output[0]))
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del made.graph.node[:]
    made.graph.node.extend(kept)
    return made


def test_trained(same_as_ort, trained_path):
    report, _ = same_as_ort(onnx.load(trained_path), 1e-4)
    assert all(row["kernel"] for row in report.kernels)
    assert report.seconds < 60


def test_trained_batch(same_as_ort, trained_path):
    same_as_ort(onnx.load(trained_path), 1e-4, shapes={"image": (3, 1, 28, 28)})


def test_equal_specs_compile_once(same_as_ort, trained_path):
    report, _ = same_as_ort(onnx.load(trained_path), 1e-4)
    pairs = {(row["spec"], row["function"]) for row in report.kernels}
    assert len(pairs) == len({spec for spec, _ in pairs}) == len({function for _, function in pairs})
    assert len({row["node"] for row in report.kernels}) == len(report.kernels)
    if "resnet20" in trained_path.name:
        assert len(pairs) < len(report.kernels)


@pytest.mark.slow
def test_light(same_as_ort, light_path):
    report, _ = same_as_ort(with_random_weights(onnx.load(light_path)), 1e-4)
    assert report.kernels
