"""A short run of tests/fuzz/inputs.py: mutated manifests, recipes and arrays are taken or refused in one clear line."""

import importlib.util
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parent / "fuzz"


@pytest.fixture(scope="module")
def inputs():
    spec = importlib.util.spec_from_file_location("inputs", FUZZ / "inputs.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["inputs"] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FUZZ))


@pytest.mark.parametrize("kind", ["manifest", "recipe", "arrays"])
def test_mutated_inputs_are_taken_or_refused(inputs, kind):
    said = inputs.run(kind, 500, seed=1)
    assert len(said) > 10 and 0 < said["no error"] < 250
