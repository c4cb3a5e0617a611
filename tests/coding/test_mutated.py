"""A short run of tests/fuzz/mutate.py: damaged archives give the original bytes or one clear error."""

import importlib.util
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parent.parent / "fuzz"


def mutate():
    spec = importlib.util.spec_from_file_location("mutate", FUZZ / "mutate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutate"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_archives_are_refused(c_decoder, seed):
    kinds = mutate().run(600, c_decoder, seed)
    assert sum(kinds.values()) == 600
    assert len(kinds) > 12
    # the damage gets as far as the decoder, not to the checksums alone
    assert any("stream" in text for text in kinds)
    assert kinds["no error"] < 60
