"""What the issue asks of trained networks: accuracy at a budget, without labels."""

import numpy as np
import pytest

from onnxc import load, run_passes
from onnxc.runtime.reference import Session


def accuracy(model, test) -> float:
    with np.load(test) as data:
        logits = Session(model.to_proto()).run({"image": data["image"]})["logits"]
        return float((logits.argmax(1) == data["labels"]).mean())


@pytest.mark.slow
def test_resnet20_at_60_per_cent_keeps_its_accuracy(resnet20_path, calib_data_path):
    result = run_passes(resnet20_path, "lowrank(macs=0.6, samples=128)", data=str(calib_data_path), check="shapes")
    rows = result.report.rows
    assert rows[-1].after.macs <= 0.605 * rows[0].before.macs
    test = calib_data_path.parent / "fashion_test.npz"
    assert accuracy(result.model, test) >= accuracy(load(resnet20_path), test) - 0.01
