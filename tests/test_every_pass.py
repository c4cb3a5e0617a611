"""Every registered pass on random networks: verified, its claim held on data, ORT takes the result, same bytes twice; and bytes,
parameters and multiply-adds never rise unless the report says so."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

import onnxc
from onnxc.ir.errors import OnnxcError
from onnxc.passes.registry import available, make
from onnxc.recipe import parse
from onnxc.report import RISE, PipelineReport
from onnxc.runtime.reference import Runner
from tests.strategies import build, feeds

OPTIONS = {
    "prune.magnitude": {"sparsity": 0.5},
    "prune.width": {"alpha": 0.5},
    "quant.product": {"centroids": 2},
    "lowrank.svd": {"rank": 2},
    **{f"compact.{form}": {"ends": False} for form in ("fire", "separable")},
    **{f"lowrank.{form}": {"rank": 1} for form in ("auto", "channel", "cp", "separable", "spatial", "tucker")},
}
"""Options that make a pass do something on the small layers of random networks."""
SKIP = {
    "prune.resolution": "it changes the interface, and random networks end in fully connected layers",
    "compact.inverted_residual": "random networks are too narrow for it to save; tests/passes/test_compact.py has wider ones",
    "compact.shuffle": "random networks have few 1x1 convolutions of even channels; likewise",
    "quant.vectors": "random networks are too narrow for it to save; tests/passes/test_quant_vectors.py has a wide one",
    "quant.embedding": "random networks have no tables; tests/passes/test_quant_embedding.py draws some",
}
PASSES = [name for name in available() if name not in SKIP and not name.startswith("train.")]  # those: tests/torch
AFTER = {
    "quant.floats": "quant",
    "quant.qonnx": "quant.binary",
    "quant.recognise": "quant.binary, quant.qonnx",
    "prune.dead": "prune.magnitude(sparsity=0.9, scope=global)",
    "portable": "quant.pow2",
}
"""What makes for a pass what it works on, where random networks hold none."""
MOST, FEW = (
    0.65,
    {
        "prune.blocks": 0.2,
        "quant.smooth": 0.1,
        "prune.dead": 0.4,
        "compact.fire": 0.5,
        "compact.separable": 0.5,
        "quant.equalise": 0.3,
    },
)
"""Of how many networks a pass must change something at least, for the test to mean anything: few have a branch that can
be left out, a product behind a normalisation, or channels that give nothing; and equalise leaves a network as it is where
int8 errs no less for it, half of them."""
SLOW = ("quant.binary", "quant.qonnx", "quant.recognise", "quant.equalise", "prune.obs", "quant.blockfloat")
COSTS = {"bytes": "bytes", "params": "parameters", "macs": "MACs"}
SHRINK = [name for name in PASSES if name.split(".")[0] in ("prune", "lowrank", "clean")]
"""Passes that exist to make models smaller: none of their costs may rise at all, but for what a shape makes known. `fuse` makes
them faster, and may copy a weight that two layers share, which is told."""
MANY = {name: 30 if name in SLOW else 56 for name in PASSES}
"""Networks of the slow test; no two passes see the same ones."""


def make_pass(name: str):
    return make(name, OPTIONS.get(name))


def run(name: str, seed: int) -> tuple[onnxc.Model, bool]:
    """The result on network `seed`, and whether the pass itself edited anything."""
    proto = build(seed, 2 + seed % 5, 13 + seed % 6)
    passes = [*(parse(AFTER[name]) if name in AFTER else ()), make_pass(name)]
    result = onnxc.run_passes(proto, passes, seed=seed)
    rises_are_told(result.report, name, str(passes[-1]))
    return result.model, bool(result.report.rows[-1].edits)


def rises_are_told(report: PipelineReport, name: str, asked: str) -> None:
    """What costs more than before a pass is warned of; what `SHRINK`s never does."""
    told = " ".join(report.warnings())
    for row in report.rows:
        for unit, said in COSTS.items():
            was, now = getattr(row.before, unit), getattr(row.after, unit)
            if now > was * (1 + RISE):
                known = row.claim.kind == "exact" and unit == "macs"  # extents that were open
                assert (f"{row.name} raises {said}" in told) != known, (name, unit, was, now)
                assert name not in SHRINK or known or row.name != asked, (name, unit, was, now)


def check(name: str, seeds: range) -> None:
    changed = 0
    for seed in seeds:
        try:
            model, edited = run(name, seed)
        except OnnxcError as e:
            pytest.fail(f"{name} on network {seed}: {e}")
        changed += edited
        proto = build(seed, 2 + seed % 5, 13 + seed % 6)
        out = Runner(optimise=True)(model.to_proto(), feeds(proto, seed))
        assert all(np.isfinite(v).all() for v in out.values() if v.dtype.kind == "f"), f"{name} on network {seed}"
    assert changed >= FEW.get(name, MOST) * len(seeds), f"only {changed} of {len(seeds)} networks changed"


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_keeps_its_word_on_random_networks(name):
    check(name, range(3))


@pytest.mark.slow
@pytest.mark.parametrize("name", PASSES)
def test_a_pass_keeps_its_word_on_many_random_networks(name):
    first = 1000 + zlib.crc32(name.encode())
    check(name, range(first, first + MANY.get(name, 80)))


def test_all_passes_together_see_two_thousand_networks():
    assert sum(MANY.values()) >= 2000


@pytest.mark.parametrize("name", PASSES)
def test_the_same_input_options_and_seed_give_the_same_bytes(name):
    first, second = (run(name, 7)[0].to_proto().SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
