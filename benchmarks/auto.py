"""`onnxc auto` beside the best list of one pass, on the bundled networks and on those of a folder: bytes for a drop of at most 1 %.

    python benchmarks/auto.py [--models DIR] [--only NAME] [--minutes M] [--nncf PYTHON] [--write]

Both choose by the same samples and are reported on others, and so are the peers: ONNX Runtime's static quantisation (the best of three
calibrations), onnxsim's `recommend_quantization` (the boldest of five budgets that keeps to the drop), and NNCF's
`quantize_with_accuracy_control` (by a Python that has it). They all get the float model after clean, fuse; a model that is quantised
already by quant.floats. Lists of one pass: 8-bit integers (nearest and gptq), shared values of 1 to 6
bits, blocks of 8, 4 and 2 bits, fixed point of 8 to 4 bits, cuts of 10 to 70 % of the channels, low rank at five energies; and the
list by hand that the docs show, prune(ratio=0.3), fuse, quant.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

import onnxc
from onnxc.ir.errors import OnnxcError
from onnxc.passes.opset import raise_opset
from onnxc.report import finite
from onnxc.search.work import Worker

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/auto.json"
DROP = 0.01
SINGLE = [
    "quant",
    "quant(rounding=gptq)",
    *(f"quant.cluster(bits={b}, refit=true)" for b in (1, 2, 3, 4, 5, 6)),
    *(f"quant.blockwise(bits={b})" for b in (8, 4, 2)),
    *(f"quant.fixed(bits={b})" for b in (8, 6, 4)),
    *(f"prune(ratio={r})" for r in (0.1, 0.2, 0.3, 0.5, 0.7)),
    *(f"lowrank(energy={e})" for e in (0.99, 0.97, 0.95, 0.9, 0.8)),
]
BY_HAND = ["prune(ratio=0.3), fuse, quant", "prune(macs=0.5), fuse, quant"]
CALIBRATIONS = ("MinMax", "Percentile", "Entropy")
BUDGETS = (0.5, 0.3, 0.2, 0.1, 0.05)
"""Relative L2 errors, boldest first."""


def networks(folder: Path | None) -> dict[str, tuple[Path, Path]]:
    """name -> (model, labelled data)."""
    test = ROOT / "onnxc/data/fashion_test.npz"
    found = {
        "resnet20": (ROOT / "onnxc/data/resnet20_fashion.onnx", test),
        "vggslim": (ROOT / "tests/data/vggslim_fashion.onnx", test),
        "binary": (ROOT / "tests/data/binary_fashion.onnx", test),
    }
    if folder is not None:
        pairs = (
            ("kws", "kws_int8.onnx", "kws.npz"),
            ("vww", "vww_float.onnx", "vww.npz"),
            ("ic", "ic_float.onnx", "ic.npz"),
        )
        found |= {name: (folder / model, folder / data) for name, model, data in pairs if (folder / data).exists()}
    return found


def arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a file; pictures of bytes as shares of 255."""
    with np.load(file) as found:
        return {n: a.astype(np.float32) / 255 if a.dtype == np.uint8 else a for n, a in found.items()}


def peers(local: Worker, nncf: str | None) -> dict[str, Callable[[], list[bytes]]]:
    """name -> what makes its candidates, boldest first."""
    model = onnxc.load(local.fused.to_proto())
    raise_opset(model, 13)
    whole = model.to_proto().SerializeToString()  # peers write into what they are given
    name = model.inputs[0].name
    first, second, _ = (part.arrays() for part in local.spec.parts)

    def ort() -> list[bytes]:
        from onnxruntime import quantization as q

        class Reader(q.CalibrationDataReader):
            def __init__(self) -> None:
                self.rows = iter([{name: first[name][i : i + 1]} for i in range(len(first[name]))])

            def get_next(self) -> dict | None:
                return next(self.rows, None)

        made = []
        for method in CALIBRATIONS:
            with tempfile.TemporaryDirectory() as folder:
                Path(f"{folder}/m.onnx").write_bytes(whole)
                q.quantize_static(
                    f"{folder}/m.onnx", f"{folder}/q.onnx", Reader(), quant_format=q.QuantFormat.QDQ, per_channel=True,
                    activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
                    calibrate_method=getattr(q.CalibrationMethod, method),
                )  # fmt: skip
                made.append(Path(f"{folder}/q.onnx").read_bytes())
        return made

    def onnxsim() -> list[bytes]:
        import onnxsim as peer

        rows = [{name: first[name][i : i + 1]} for i in range(32)]
        model = onnx.load_from_string(whole)
        made = [peer.recommend_quantization(model, budget, calibration_data=rows).quantized_model for budget in BUDGETS]
        return [m.SerializeToString() for m in made]

    def controlled() -> list[bytes]:
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            (folder / "m.onnx").write_bytes(whole)
            np.savez(folder / "c.npz", **{name: first[name]})
            np.savez(folder / "v.npz", **{name: second[name], "labels": second["labels"]})
            script = Path(__file__).with_name("nncf_peer.py")
            files = [folder / f for f in ("m.onnx", "c.npz", "v.npz")]
            subprocess.run([str(nncf), script, *files, str(DROP), folder / "o.onnx"], check=True, capture_output=True)
            return [(folder / "o.onnx").read_bytes()]

    found: dict[str, Callable[[], list[bytes]]] = {"ort": ort, "onnxsim": onnxsim}
    return found | ({"nncf": controlled} if nncf and "labels" in second else {})


def judged(local: Worker, source: bytes) -> dict:
    model = onnxc.load(source)
    return {**local._costs(model), **local._qualities(model.to_proto())}


def peers_only(model: Path, data: Path, nncf: str | None) -> dict:
    """What the peers make of a network, by the same samples as `measured`."""
    local = onnxc.auto(model, arrays(data), budget=onnxc.Budget(drop=DROP)).local
    given = local.do(("given",))
    metric, row = next(iter(given["metrics"])), {}
    for name, make in peers(local, nncf).items():
        result, text = best_of(local, given, metric, make)
        row[name] = told(result, given, metric, name) if result is not None else {"passes": text}
        print(name, row[name], flush=True)
    return row


def lost(given: dict, row: dict, metric: str, part: str) -> float:
    return given[part][metric] - row[part][metric]


def told(result: dict, given: dict, metric: str, text: str) -> dict:
    return {
        "passes": text,
        "bytes": result["bytes"],
        "macs": result["macs"],
        "snr_db": result["snr_db"],
        metric: result["held"][metric],
        "drop": lost(given, result, metric, "held"),
        "drop_chosen_by": lost(given, result, metric, "metrics"),
    }


def best_of(local: Worker, given: dict, metric: str, make: Callable[[], list[bytes]]) -> tuple[dict | None, str]:
    """The smallest of a peer's candidates that keeps to the drop, else the one that loses least; or why there is none."""
    try:
        made = [judged(local, source) for source in make()]
    except Exception as error:
        return None, f"fails: {type(error).__name__}: {str(error)[:120]}"
    within = [r for r in made if lost(given, r, metric, "metrics") <= DROP]
    return (
        min(within, key=lambda r: r["bytes"]) if within else min(made, key=lambda r: lost(given, r, metric, "metrics"))
    ), ""


def measured(model: Path, data: Path, minutes: float | None, nncf: str | None) -> dict:
    """The row of one network."""
    begun, cpu = time.perf_counter(), time.process_time()
    search = onnxc.auto(model, arrays(data), budget=onnxc.Budget(drop=DROP), minutes=minutes)
    found = search.run()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    search.local.ended.clear()
    given, rows = found.given, {}
    head = [f"{p}, " for p in search.local.head]
    lists = [*SINGLE, *(h + text for h in head for text in SINGLE)]
    for text in [*lists, *BY_HAND]:
        try:
            rows[text] = search.local.do(("recipe", text))
        except OnnxcError as error:
            rows[text] = {"refused": str(error)}
    rows = {t: r for t, r in rows.items() if "refused" not in r and "failed" not in r}
    singles = {t: r for t, r in rows.items() if t in lists}

    of = found.metric
    kept = {t: r for t, r in singles.items() if lost(given, r, of, "metrics") <= DROP and r["bytes"] <= given["bytes"]}
    hand = [t for t in BY_HAND if t in rows and lost(given, rows[t], of, "metrics") <= DROP]
    row = {
        "given": {"bytes": given["bytes"], "macs": given["macs"], of: given["held"][of]},
        "seconds": seconds,
        "cpu_seconds": cpu,
        "tried": found.tried,
    }
    if found.best is not None:
        row["auto"] = told(found.best.result, given, of, found.best.text)
    for name, some in (("single", kept), ("by_hand", {t: rows[t] for t in hand})):
        if some:
            text = min(some, key=lambda t: some[t]["bytes"])
            row[name] = told(some[text], given, of, text)
    for name, make in peers(search.local, nncf).items():
        result, text = best_of(search.local, given, of, make)
        row[name] = told(result, given, of, name) if result is not None else {"passes": text}
    if "auto" in row and "single" in row:
        row["bytes_by_single"] = row["auto"]["bytes"] / row["single"]["bytes"]
    return row


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--models", type=Path, help="a folder with kws_int8.onnx and kws.npz, vww_float.onnx and vww.npz"
    )
    options.add_argument("--only", help="one network")
    options.add_argument("--minutes", type=float, help="for each search; else as long as it takes")
    options.add_argument(
        "--peers", action="store_true", help="measure the peers alone, beside what was measured before"
    )
    options.add_argument("--nncf", metavar="PYTHON", help="a Python that has nncf, for accuracy control")
    options.add_argument("--write", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    given = options.parse_args()
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, (model, data) in networks(given.models).items():
        if given.only in (None, name):
            if given.peers:
                rows[name] = rows.get(name, {}) | finite(peers_only(model, data, given.nncf))
            else:
                rows[name] = finite(measured(model, data, given.minutes, given.nncf))
            print(name, json.dumps(rows[name], indent=1), flush=True)
            if given.write:
                RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
