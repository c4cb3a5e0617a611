"""quant.int8 on golden cases. The inputs are multiples of 1/4, so that every range is exact on every machine."""

import numpy as np
import pytest

from onnxc.ir.files import load
from onnxc.ir.verify import verify
from tests import golden

from .quant_helpers import quantised, run, twin

CASES = golden.cases("quant")


def inputs(model) -> dict[str, np.ndarray]:
    made = {}
    for t in model.inputs:
        shape = [d if isinstance(d, int) else 4 for d in t.shape]
        made[t.name] = ((np.arange(np.prod(shape)) * 5 % 17 - 8) / 4).reshape(shape).astype(np.float32)
    return made


@pytest.mark.parametrize("name", CASES)
def test_golden(name, update_golden):
    text = (golden.ROOT / "quant" / f"{name}.onnx.txt").read_text(encoding="utf-8")
    before = load(golden.read(text))
    feeds = inputs(before)
    after, report = quantised(before, data=feeds)
    golden.compare("quant", name, golden.text_of(after, report), update=update_golden)
    verify(after, like=before)
    ours, theirs = run(after, feeds)["y"], run(twin(after), feeds)["y"]
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_there_are_negative_cases():
    assert sum(name.startswith("do_not_") for name in CASES) >= 2
