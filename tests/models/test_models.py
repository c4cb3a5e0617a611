"""Every model at hand through the passes: cleaned and fused without a change, pruned like its twin, quantised to run."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxc
from benchmarks.models import LIGHT, NAMES, PACKAGES, NotToBeHad, path_of
from onnxc.ir.masks import apply_masks
from onnxc.ir.verify import verify
from onnxc.passes.prune.coupling import groups
from onnxc.passes.prune.select import balance, masks
from onnxc.passes.prune.twin import zeroed
from onnxc.runtime.draw import random_feeds
from onnxc.runtime.reference import Runner
from onnxc.runtime.specs import input_specs
from tests.filling import fill

LARGE = {"light_vgg19", "light_bvlc_alexnet", "light_zfnet512", "tumor_vgg16"}


def marks(name: str) -> list:
    found = [pytest.mark.slow] if name in LIGHT or name in LARGE else []
    return found + ([pytest.mark.download, pytest.mark.slow] if name in PACKAGES else [])


@pytest.fixture(params=[pytest.param(n, marks=marks(n)) for n in NAMES])
def path(request):
    try:
        return path_of(request.param)
    except NotToBeHad as e:
        pytest.skip(str(e))


def sample(path) -> dict[str, np.ndarray]:
    return random_feeds(input_specs(onnx.load(path)), seed=3)


def random_masks(model: onnxc.Model, analysis) -> dict:
    """A random third of every group goes; of channels in a window (LRN) the last, so that neighbours stay neighbours."""
    rng = np.random.default_rng(1)
    found = groups(model, analysis)
    rated = {g.atom: -np.arange(g.size) if g.atom.soft else rng.random(g.size) for g in found}
    counts = balance({g.atom: max(1, int(g.size * 0.7)) for g in found}, analysis.balanced)
    return masks(found, rated, counts)


def test_a_pruned_model_equals_its_zeroed_twin(path):
    model = onnxc.run_passes(path, "clean", check="shapes").model
    model = fill(model) if path.stem in LIGHT else model
    analysis = verify(model).analysis
    keep = random_masks(model, analysis)
    assert keep
    twin, batch = zeroed(model, analysis, keep), sample(path)
    expected = Runner(optimise=False)(twin.to_proto(), batch)
    weights = sum(v.values.size for v in model.constants().values())
    apply_masks(model, analysis, keep)
    verify(model)
    assert sum(v.values.size for v in model.constants().values()) < 0.9 * weights
    found = Runner(optimise=False)(model.to_proto(), batch)
    for name, want in expected.items():
        level = np.abs(want).max()
        assert level > 0
        assert np.abs(found[name] - want).max() <= 1e-4 * level, name


@pytest.mark.parametrize("passes", ["prune(ratio=0.3)", "fuse,prune,quant"])
def test_pruned_and_quantised_models_run_and_infer_strictly(path, passes, tmp_path):
    result = onnxc.run_passes(path, passes, check="shapes")
    out = tmp_path / "out.onnx"
    result.model.save(out)
    onnx.shape_inference.infer_shapes(onnx.load(out), strict_mode=True, check_type=True)
    got = Runner(optimise=True)(onnx.load(out), sample(path))
    assert all(np.isfinite(v).all() for v in got.values() if v.dtype.kind == "f")
    assert sum(len(r.edits) for r in result.report.rows) > 0
