"""Recipes of the README on the bundled network: nothing that a reader copies ends more than a point below what it began with."""

import re
from importlib.resources import files
from pathlib import Path

import numpy as np

import onnxc
from onnxc.ir.files import load
from onnxc.runtime.evaluate import accuracy
from onnxc.runtime.reference import Session

TEXT = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
DATA = files("onnxc") / "data"
POINT = 0.01


def recipes() -> list[str]:
    """Of every `onnxc passes` command with data, and every call of run_passes."""
    commands = re.findall(r'^\$ onnxc passes \S+ -p "([^"]+)" --data', TEXT, re.M)
    return commands + re.findall(r'run_passes\(\w+, "([^"]+)", data=', TEXT)


def test_recipes_of_the_readme_keep_the_accuracy_within_a_point():
    found = recipes()
    assert len(found) >= 3
    with np.load(str(DATA / "fashion_test.npz")) as archive:
        image, labels = archive["image"], archive["labels"]

    def right(model) -> float:
        return accuracy(Session(model.to_proto()).run({"image": image})["logits"], labels)

    network = str(DATA / "resnet20_fashion.onnx")
    least = right(load(network)) - POINT - 1e-9
    for recipe in found:
        model = onnxc.run_passes(network, recipe, data=str(DATA / "fashion_calib.npz"), check="shapes").model
        assert right(model) >= least, recipe
