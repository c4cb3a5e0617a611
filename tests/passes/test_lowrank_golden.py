"""lowrank.svd on golden cases, without the digests: eigenvectors differ in the last bit between machines."""

import re

import numpy as np
import pytest

from onnxc.ir.files import load
from onnxc.ir.verify import verify
from onnxc.passes.base import apply
from onnxc.passes.registry import make
from onnxc.runtime.reference import Session
from tests import golden

CASES = golden.cases("lowrank")


@pytest.mark.parametrize("name", CASES)
def test_golden(name, update_golden):
    text = (golden.ROOT / "lowrank" / f"{name}.onnx.txt").read_text(encoding="utf-8")
    before = load(golden.read(text))
    after, report = apply(make("lowrank.svd", {"rank": 3}), before)
    golden.compare("lowrank", name, re.sub("#[0-9a-f]{8}", "", golden.text_of(after, report)), update=update_golden)
    verify(after, like=before)
    (y,) = Session(after.to_proto(), optimise=False).run(golden.feeds(before)).values()
    assert np.isfinite(y).all()
    assert bool(report.edits) != name.startswith("do_not_")
