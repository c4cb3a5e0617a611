# ruff: noqa: E501  graphs and tables read better on one line
"""Random networks: every shape agrees with strict inference and with ORT; pruned at random, they equal the zeroed twin."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings

from onnxc.ir.files import load
from onnxc.ir.verify import verify
from tests.ops.harness import close, prune
from tests.strategies import build, feeds, models


def session(proto: onnx.ModelProto, outputs=None):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def with_all_outputs(proto: onnx.ModelProto) -> onnx.ModelProto:
    every = onnx.ModelProto()
    every.CopyFrom(proto)
    known = {o.name for o in proto.graph.output}
    every.graph.output.extend(
        onnx.ValueInfoProto(name=o)
        for n in proto.graph.node
        for o in n.output
        if o and o not in known and n.op_type != "Constant"
    )
    return every


def check_shapes(proto: onnx.ModelProto) -> None:
    """Every tensor has a known shape (but for the batch), and it is the one that ORT computes."""
    model = load(proto)
    analysis = verify(model).analysis
    every = with_all_outputs(model.to_proto())
    names = [o.name for o in every.graph.output]
    for name, value in zip(names, session(every).run(names, feeds(proto)), strict=True):
        ours = analysis.shape(name)
        assert ours is not None and len(ours) == value.ndim, f"{name}: {ours}, really {value.shape}"
        for have, real in zip(ours, value.shape, strict=True):
            assert have == real or have in ("N", None), f"{name}: {ours}, really {value.shape}"


def check_twin(proto: onnx.ModelProto, seed: int) -> int:
    """Prune at random and compare; how many atoms lost indices."""
    model = load(proto)
    pruned, twin, changed = prune(model, np.random.default_rng(seed), share=0.4)
    given_ = feeds(proto, seed)
    got = session(pruned.to_proto()).run(None, given_)
    want = session(twin.to_proto()).run(None, given_)
    for info, a, b in zip(proto.graph.output, got, want, strict=True):
        assert close(a, b, 1e-4), f"{info.name}: off by {np.abs(a - b).max()} of {np.abs(b).max()}"
    return changed


def run_property(examples: int, check) -> list[int]:
    results = []

    @settings(max_examples=examples)
    @given(models())
    def each(proto):
        results.append(check(proto))

    each()
    return results


def check_all(proto: onnx.ModelProto) -> int:
    check_shapes(proto)
    return check_twin(proto, len(proto.graph.node))


@pytest.mark.parametrize(
    "examples", [pytest.param(100, id="quick"), pytest.param(200, id="full", marks=pytest.mark.slow)]
)
def test_random_networks(examples):
    changed = run_property(examples, check_all)
    assert len(changed) >= examples
    assert sum(c > 0 for c in changed) >= 0.6 * len(changed)
    assert np.mean(changed) >= 2


def test_the_same_numbers_give_the_same_graph():
    assert build(7, 5, 17).SerializeToString() == build(7, 5, 17).SerializeToString()
    assert build(7, 5, 17).SerializeToString() != build(8, 5, 17).SerializeToString()


def test_all_blocks_and_opsets_occur():
    seen = {n.op_type for seed in range(150) for n in build(seed, 6, 11 + seed % 11).graph.node}
    wanted = {
        "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Constant", "Conv", "ConvTranspose", "DepthToSpace", "Erf", "Flatten",
        "Gemm", "GlobalAveragePool", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "MatMul", "MaxPool", "PRelu", "Pad",
        "ReduceMean", "Reshape", "Resize", "Slice", "Softmax", "SpaceToDepth", "Split", "Squeeze", "Sum", "Transpose", "Where",
    }  # fmt: skip
    assert wanted <= seen
