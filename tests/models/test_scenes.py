"""The detector and the U-Net on scenes: what they are worth, and that the recipe of the docs keeps it."""

from pathlib import Path

import numpy as np
import pytest

import onnxc
from onnxc.runtime.scenes import SIDE, scenes

DATA = Path(__file__).resolve().parent.parent / "data"
NETWORKS = {"detector": ("detection", "boxes", "map50", 0.5), "unet": ("segmentation", "mask", "miou", 0.3)}


def test_they_are_small():
    sizes = [(DATA / f"scenes_{name}.onnx").stat().st_size for name in NETWORKS]
    assert sum(sizes) < 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_integers_keep_what_they_are_worth(name):
    task, labels, metric, least = NETWORKS[name]
    if task == "detection":
        pytest.importorskip("faster_coco_eval")
    made = scenes(200, 7, "test")
    data = {"image": made.image, "labels": getattr(made, labels)}
    report = onnxc.run_passes(DATA / f"scenes_{name}.onnx", "fuse, quant", data=data, task=task).report
    assert report.metrics[metric] > least
    assert abs(report.rows[-1].error[metric] - report.metrics[metric]) < 0.02
    assert made.image.shape[-1] == SIDE and np.isfinite(made.image).all()
