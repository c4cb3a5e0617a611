"""clean and fuse on whole models: equal outputs, verified, stable, and no more nodes than onnxslim leaves."""

from __future__ import annotations

import time
from importlib.util import find_spec

import numpy as np
import pytest

from onnxc.ir.files import load
from onnxc.ir.model import Model
from onnxc.ir.text import dump
from onnxc.ir.verify import verify
from onnxc.passes.base import Context
from onnxc.passes.clean import Clean
from onnxc.passes.fuse import Fuse
from onnxc.runtime.reference import Session
from tests.apart import differences
from tests.conftest import LIGHT, TRAINED

# Hundreds of megabytes of weights once they are written.
HEAVY = {"light_vgg19", "light_bvlc_alexnet", "light_zfnet512"}
PATHS = [*LIGHT, *TRAINED.values()]
MODELS = [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if p.stem in HEAVY else []) for p in PATHS]


def optimised(model: Model) -> Model:
    """Both passes, verified before, between and after."""
    work = model.copy()
    for p in (Clean(), Fuse()):
        p.run(work, Context(verify(work)))
    verify(work, like=model)
    return work


@pytest.mark.parametrize("path", MODELS)
def test_equal_outputs_and_no_batch_norm_behind_a_convolution(path):
    before = load(path)
    after = optimised(before)
    rng = np.random.default_rng(0)
    shapes = {t.name: [d if isinstance(d, int) else 2 for d in t.shape] for t in before.inputs}
    feeds = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    # what stands ahead of the last softmax tells more than a softmax of 1,000 equal scores
    inner = {
        n.inputs[0].name for m in (before, after) for n in m.nodes if n.op == "Softmax" and m.is_output(n.outputs[0])
    }
    inner = sorted(name for name in inner if name in before.tensors() and name in after.tensors())
    a, b = (
        Session(m.to_proto(), optimise=False, outputs=inner).run(feeds, [*(t.name for t in before.outputs), *inner])
        for m in (before, after)
    )
    assert all(d.max_rel <= 1e-5 for d in differences(a, b).values())
    for node in after.nodes:
        maker = node.inputs[0].inputs[0] if node.inputs and node.inputs[0].inputs else None
        if node.op == "BatchNormalization" and maker is not None:
            assert maker.op != "Conv" or len(maker.outputs[0].outputs) > 1
    assert not {"Identity", "Dropout", "ConstantOfShape", "Unsqueeze"} & {n.op for n in after.nodes}


@pytest.mark.parametrize("path", MODELS)
def test_a_second_run_changes_nothing(path):
    once = optimised(load(path))
    assert dump(optimised(once)) == dump(once)


@pytest.mark.parametrize("path", MODELS)
def test_no_more_nodes_than_onnxslim(path):
    onnxslim = pytest.importorskip("onnxslim", reason="a peer, from the extra `bench`")
    slim = onnxslim.slim(str(path))
    # neither side leaves a Constant node, so nodes compare as they stand
    assert not any(n.op_type == "Constant" for n in slim.graph.node)
    assert len(optimised(load(path)).nodes) <= len(slim.graph.node)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("onnxslim") is None, reason="a peer, from the extra `bench`")
def test_no_slower_than_onnxslim():
    import onnxslim

    (path,) = (p for p in LIGHT if p.stem == "light_resnet50")

    def seconds(f) -> float:
        start = time.process_time()
        f()
        return time.process_time() - start

    rounds = [
        (seconds(lambda: optimised(load(path)).to_proto()), seconds(lambda: onnxslim.slim(str(path)))) for _ in range(4)
    ]
    ours, theirs = (min(times) for times in zip(*rounds[1:], strict=True))
    assert ours <= theirs


@pytest.mark.parametrize(
    "path", [p for p in PATHS if p.stem in ("light_resnet50", "resnet20_fashion")], ids=lambda p: p.stem
)
def test_two_runs_give_the_same_bytes(path):
    first, second = (optimised(load(path)).to_proto().SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
