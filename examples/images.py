"""Writes the first COUNT bundled test images as raw floats, and their labels as bytes: images.py COUNT FOLDER."""

import sys
from pathlib import Path

import numpy as np

import onnxc

count, folder = int(sys.argv[1]), Path(sys.argv[2])
with np.load(Path(onnxc.__file__).parent / "data/fashion_test.npz") as data:
    data["image"][:count].astype("<f4").tofile(folder / "images.bin")
    data["labels"][:count].astype("u1").tofile(folder / "labels.bin")
print(f"{count} images in {folder}")
