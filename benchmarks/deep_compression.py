"""Deep Compression without retraining: archive size against accuracy for pruning rate x bits, on both trained networks.

    python benchmarks/deep_compression.py [--calibration FILE.npz] [--test FILE.npz] [--only NAME] [--write docs/weight-sharing.md]

Three recipes, each `fuse, <prune>, <cluster>` and then `onnxc.coding.pack`:

    plain       prune.magnitude(rate)   quant.cluster(bits, fit=weights)  Han, Mao, Dally 2016 but for retraining
    adapted     prune.obs(rate)         quant.cluster(bits, refit=true)   calibration images, no labels
    bounded     prune.obs(rate)         quant.cluster(bits=5, entropy, refit=true)     likewise; Choi, El-Khamy, Lee 2017

Accuracy is that of the unpacked archive in ONNX Runtime. Without files the bundled ones are used: 256 calibration
images, 1,000 test images. --write replaces the tables in the document.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import onnxc
from onnxc.coding import pack, unpack
from onnxc.runtime.evaluate import accuracy
from onnxc.runtime.reference import Session

ROOT = Path(__file__).resolve().parent.parent
MODELS = {"ResNet-20": "onnxc/data/resnet20_fashion.onnx", "slim VGG": "tests/data/vggslim_fashion.onnx"}
MARKS = "<!-- table: benchmarks/deep_compression.py -->\n", "<!-- end of table -->\n"
RATES = (0.0, 0.5, 0.6, 0.7, 0.8)
BITS = (2, 3, 4, 5)
ENTROPIES = (1.0, 1.5, 2.0, 2.5)
OBS = "prune.obs({rate}, scope=global)"
RECIPES = {
    "plain": ("prune.magnitude({rate})", "quant.cluster(bits={step}, fit=weights)", RATES, BITS, "bits"),
    "adapted": (OBS, "quant.cluster(bits={step}, refit=true)", RATES, BITS, "bits"),
    "bounded": (OBS, "quant.cluster(bits=5, entropy={step}, refit=true)", RATES[:3], ENTROPIES, "bits of entropy"),
}
LOSS = 0.01


def measure(model: onnxc.Model, test: dict[str, np.ndarray]) -> tuple[int, float]:
    """(bytes of the archive, accuracy of what comes out of it again)."""
    with tempfile.TemporaryDirectory() as folder:
        path, archive, back = (Path(folder) / name for name in ("m.onnx", "m.onnxz", "back.onnx"))
        model.save(path)
        size = pack(path, archive).after
        unpack(archive, back)
        logits = Session(onnxc.load(back).to_proto()).run({"image": test["image"]})["logits"]
    return size, accuracy(logits, test["labels"])


def table(path: Path, recipe: str, data: str, test: dict[str, np.ndarray], base: float) -> tuple[str, list[tuple]]:
    """The table of one model and recipe, and every (bytes, accuracy, rate, step)."""
    first, second, rates, steps, unit = RECIPES[recipe]
    points = []
    lines = [f"| {recipe}: zeros | {' | '.join(f'{step} {unit}' for step in steps)} |", f"|---|{'---|' * len(steps)}"]
    for rate in rates:
        passes = "fuse" if rate == 0 else f"fuse, {first.format(rate=rate)}"
        pruned = onnxc.run_passes(path, passes, data=data, check="shapes").model
        cells = []
        for step in steps:
            done = onnxc.run_passes(pruned, second.format(step=step), data=data, check="shapes").model
            size, share = measure(done, test)
            points.append((size, share, rate, step))
            text = f"{size / 1000:.1f} kB {share:.1%}"
            cells.append(f"**{text}**" if share >= base - LOSS else text)
        lines.append(f"| {rate:.0%} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n", points


def section(name: str, data: str, test: dict[str, np.ndarray], recipes: list[str], found: dict) -> str:
    path = ROOT / MODELS[name]
    packed, base = measure(onnxc.load(path), test)
    whole = path.stat().st_size
    text = f"### {name}\n\nAs given: {whole / 1000:.1f} kB, {packed / 1000:.1f} kB packed, {base:.1%}.\n"
    print(text, flush=True)
    with np.load(data) as arrays:
        calibration = len(arrays["image"])
    images = {"test": len(test["image"]), "calibration": calibration}
    found[name] = {"images": images, "file": whole, "packed": packed, "accuracy": base}
    for recipe in recipes:
        rows, points = table(path, recipe, data, test, base)
        keys = ("bytes", "accuracy", "zeros", "step")
        found[name][recipe] = [dict(zip(keys, p, strict=True)) for p in points]
        kept = [p for p in points if p[1] >= base - LOSS]
        best = "No point of it loses at most 1 point.\n"
        if kept:
            size, share, rate, step = min(kept)
            best = (
                f"Best with at most 1 point of loss: {rate:.0%} zeros, {step} {RECIPES[recipe][4]}, {size / 1000:.1f} kB "
                f"({whole / size:.1f} times smaller than the file), {share:.1%}.\n"
            )
        print(best, flush=True)
        text += f"\n{rows}\n{best}"
    return text + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", default=str(ROOT / "onnxc/data/fashion_calib.npz"))
    parser.add_argument("--test", default=str(ROOT / "onnxc/data/fashion_test.npz"))
    parser.add_argument("--only", default="", help="models whose name holds this")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="which, separated by commas")
    parser.add_argument("--json", type=Path, help="all points go here; those of other models and recipes in it stay")
    parser.add_argument("--write", help="the document whose tables are replaced")
    given = parser.parse_args()
    with np.load(given.test) as arrays:
        test = dict(arrays)
    recipes = given.recipes.split(",")
    points = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    text = ""
    for name in MODELS:
        if given.only in name:
            text += section(name, given.calibration, test, recipes, points)
    if given.json:
        given.json.write_text(json.dumps(points, indent=1) + "\n")
    if given.write:
        document = Path(given.write)
        head, rest = document.read_text(encoding="utf-8").split(MARKS[0])
        document.write_text(head + MARKS[0] + text + MARKS[1] + rest.split(MARKS[1], 1)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
