"""quant.product at several settings on the Fashion-MNIST networks: bytes, SNR and accuracy on images that chose nothing.

    python benchmarks/product.py --models FILE.onnx [FILE.onnx ...] --test FILE.npz [--write docs/weight-sharing.md]

256 calibration images; settings were chosen on the first half of the test images, figures are of the second half. Writes
benchmarks/results/product.json; --write puts the table into a document.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from plain import CALIB, Judge

import onnxc

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/product.json"
MARKS = "<!-- table: benchmarks/product.py -->\n", "<!-- end of table -->\n"
SETTINGS = (
    "codebook=layer,centroids=64", "codebook=layer,centroids=256", "codebook=layer,centroids=256,subvectors=8",
    "centroids=64", "centroids=64,subvectors=8",
)  # fmt: skip


def size(model) -> int:
    return sum(t.values.nbytes for t in model.constants().values())


def table(rows: list[dict]) -> str:
    text = "| network | `quant.product(...)` | bytes of weights | SNR | accuracy |\n|---|---|---|---|---|\n"
    for r in rows:
        snr = "-" if r["options"] == "float" else f"{r['snr_db']:.1f} dB"
        text += f"| {r['model']} | {r['options']} | {r['bytes']:,} | {snr} | {r['accuracy']:.1f} % |\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, nargs="+", default=[ROOT / "onnxc/data/resnet20_fashion.onnx"])
    parser.add_argument("--test", type=Path, default=ROOT / "onnxc/data/fashion_test.npz")
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    if given.write:
        head, rest = given.write.read_text(encoding="utf-8").split(MARKS[0])
        text = table(json.loads(RESULTS.read_text())["rows"])
        given.write.write_text(head + MARKS[0] + text + MARKS[1] + rest.split(MARKS[1], 1)[1], encoding="utf-8")
        return
    calib = {"image": np.load(ROOT / "onnxc/data/fashion_calib.npz")["image"][:CALIB]}
    rows = []
    for file in given.models:
        model = onnxc.run_passes(file, "fuse").model
        judge, name = Judge(model, given.test), file.stem.removesuffix("_fashion")
        rows.append({"model": name, "options": "float", "bytes": size(model), **judge(model)})
        for options in SETTINGS:
            made = onnxc.run_passes(model, f"quant.product({options})", data=calib, check="shapes").model
            rows.append({"model": name, "options": options, "bytes": size(made), **judge(made)})
            print(json.dumps(rows[-1]), flush=True)
            RESULTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
