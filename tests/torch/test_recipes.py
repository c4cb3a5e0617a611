"""The recipes in examples: each is read, and runs as it stands but for its epochs and its data."""

from __future__ import annotations

from pathlib import Path

import pytest

import onnxc
from onnxc.recipe import read_toml
from tests.torch.test_training import images, small

FOLDER = Path(onnxc.__file__).parent.parent / "examples/recipes"
RECIPES = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}
NAMED = {"deep-compression", "early-prune", "horq", "mobile", "network-slimming", "tiny", "xnor"}


def test_every_recipe_says_its_command_and_stands_in_the_table():
    table = (FOLDER / "README.md").read_text()
    assert set(RECIPES) == NAMED
    for name, path in RECIPES.items():
        assert f"--recipe examples/recipes/{name}.toml" in path.read_text() and f"| {name}.toml |" in table


@pytest.mark.parametrize("name", sorted(NAMED))
def test_recipes_run(name):
    passes, settings = read_toml(RECIPES[name])
    for p in passes:
        for option, value in (("epochs", 1), ("early", 1), ("batch", 16), ("rate", 1e-3)):
            if hasattr(p, option):
                setattr(p, option, value)
    result = onnxc.run_passes(small(), passes, **{**settings, "data": images()})
    assert all(
        r.edits or r.trainings for r in result.report.rows if r.name.startswith(("train", "prune", "compact", "quant"))
    )
