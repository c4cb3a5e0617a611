"""Binary and few-bit weights and inputs without training: SNR of the logits and accuracy, weights by inputs.

    python benchmarks/binary.py [--models NAME ...] [--samples N] [--json FILE]

Every cell starts from the float model (`clean,fuse`), sees the same calibration images and is scored in ONNX Runtime on
test images that calibration has not seen; the first and the last layer and 1x1 shortcuts stay in float. The last rows are
what `quant.recognise` makes of a network that was trained to be binary.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from models import path_of

import onnxc
from onnxc.ir.cost import cost
from onnxc.ir.difference import Difference
from onnxc.ir.verify import verify
from onnxc.runtime.evaluate import accuracy
from onnxc.runtime.reference import Session

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = {
    "admm 3": ("admm, weight_bits=3", 3), "residual 3": ("residual, weight_bits=3", 3),
    "residual 2": ("residual, weight_bits=2", 2), "ternary": ("ternary", 2), "bwn": ("bwn", 1),
    "float": ("none", 32), "hashing": ("hashing", 1),
}  # fmt: skip
INPUTS = {
    "float": ("none", 32),
    **{f"order {k}": (f"horq, bits={k}", k) for k in (1, 2, 3, 4)},
    **{f"uniform {b}": (f"uniform, bits={b}", b) for b in (2, 3, 4, 8)},
}
Data = dict[str, np.ndarray]


def differences(reference: dict, other: dict) -> dict[str, Difference]:
    """The `Difference` of each output."""
    return {name: Difference().add(array, other[name]) for name, array in reference.items()}


def data(name: str, count: int | None = None) -> Data:
    with np.load(ROOT / f"onnxc/data/{name}.npz") as found:
        return {k: v[:count] for k, v in found.items()}


def score(model: onnxc.Model, test: Data, real: Data | None) -> tuple[Data, dict]:
    """Outputs on the test images; accuracy, SNR against the float model's, bit operations and bytes."""
    got = Session(model.to_proto()).run({"image": test["image"]})
    name = next(iter(got))
    price = cost(model, verify(model))
    found = {"accuracy": round(100 * accuracy(got[name], test["labels"]), 2), "bops": price.bops, "bytes": price.bytes}
    if real is not None:
        found["snr_db"] = round(differences(real, got)[name].snr_db, 2)
    return got, found


def table(name: str, calib: Data, test: Data, save) -> dict:
    """All cells of a model; `save` is called with what there is after each."""
    model = onnxc.run_passes(path_of(name), "clean,fuse", check="shapes").model
    real, base = score(model, test, None)
    rows = []
    for w, (weights, weight_bits) in WEIGHTS.items():
        for a, (inputs, input_bits) in INPUTS.items():
            if w == a == "float":
                continue
            start = time.process_time()
            recipe = f"quant.binary(weights={weights}, inputs={inputs})"
            made = onnxc.run_passes(model, recipe, data=calib, check="shapes").model
            seconds = round(time.process_time() - start, 1)
            found = score(made, test, real)[1]
            rows.append({"weights": w, "inputs": a, "weight_bits": weight_bits, "input_bits": input_bits, **found,
                         "seconds": seconds})  # fmt: skip
            save(summary(base, rows))
            print(f"{name:18} {w:10} {a:10} {found['snr_db']:6.2f} dB {found['accuracy']:6.2f} %", flush=True)
    return summary(base, rows)


def summary(base: dict, rows: list[dict]) -> dict:
    """All rows, and that of least bit operations within a point of the float model's accuracy."""
    near = [r for r in rows if r["accuracy"] >= base["accuracy"] - 1 and r["input_bits"] <= 8 and r["weight_bits"] <= 8]
    return {"float": base, "rows": rows, "best": min(near, key=lambda r: (r["bops"], r["bytes"]), default=None)}


def recognised(test: Data) -> dict:
    """The trained binary network as it came and as bits."""
    path = path_of("binary_fashion")
    before = onnxc.load(path)
    after = onnxc.run_passes(path, "quant.recognise", data=data("fashion_calib")).model
    real, base = score(before, test, None)
    got, found = score(after, test, real)
    name = next(iter(got))
    return {
        "before": {**base, "file_bytes": path.stat().st_size},
        "after": {**found, "snr_db": str(found["snr_db"]), "file_bytes": len(after.to_proto().SerializeToString())},
        "predictions_alike": float((real[name].argmax(1) == got[name].argmax(1)).mean()),
        "images": len(test["image"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=["resnet20_fashion", "vggslim_fashion"])
    parser.add_argument("--samples", type=int, default=128, help="calibration images")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    calib, test = data("fashion_calib", args.samples), data("fashion_test")
    calib.pop("labels", None)
    found = {"samples": args.samples, "recognise": recognised(test), "models": {}}

    def save(name: str, part: dict) -> None:
        found["models"][name] = part
        if args.json:
            args.json.write_text(json.dumps(found, indent=1) + "\n")

    for name in args.models:
        table(name, calib, test, partial(save, name))
        best = found["models"][name]["best"]
        print(name, "float", found["models"][name]["float"], "best", best)


if __name__ == "__main__":
    main()
