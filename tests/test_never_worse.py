"""Budgets hold in what is written: over random networks."""

from __future__ import annotations

import numpy as np
import pytest

import onnxc
from onnxc.ir.cost import cost
from onnxc.ir.errors import BadOption
from onnxc.ir.files import load
from onnxc.ir.verify import verify
from tests.strategies import build, feeds


def given(seed: int) -> tuple:
    proto = build(seed, 3, 14)
    arrays = [feeds(proto, k) for k in range(12)]
    return proto, {name: np.concatenate([a[name] for a in arrays]) for name in arrays[0]}


@pytest.mark.parametrize("recipe", ["prune({}=0.6)", "lowrank({}=0.8)", "prune({}=0.7, steps=2)"])
def test_budgets_hold_in_the_written_file(recipe, tmp_path):
    met = 0
    for seed in range(23, 25):
        proto, data = given(seed)
        whole = cost(load(proto), verify(load(proto)))
        for unit in ("macs", "params") if recipe.startswith("lowrank") else ("macs", "params", "bytes"):
            text = recipe.format(unit)
            np.savez(tmp_path / "data.npz", **data)
            try:
                result = onnxc.run_passes(proto, text, data=tmp_path / "data.npz", check="shapes")
            except BadOption:
                continue  # these layers cannot be so small
            path = tmp_path / "small.onnx"
            result.model.save(path)
            small = load(path)
            share = float(text.split("=")[1].split(",")[0].rstrip(")"))
            base = result.report.rows[-1].before if unit in ("macs", "bytes") else whole
            now = getattr(cost(small, verify(small)), unit)
            assert now <= share * getattr(base, unit) * (1 + 1e-9), (text, seed)
            met += 1
    assert met >= 1
