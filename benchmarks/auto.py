"""`onnxc auto` beside the best list of one pass, on the bundled networks and on those of a folder: bytes for a drop of at most 1 %.

    python benchmarks/auto.py [--models DIR] [--only NAME] [--write]

Both choose by the same samples and are reported on others. Lists of one pass: 8-bit integers (nearest and gptq), shared values of 1 to 6
bits, blocks of 8, 4 and 2 bits, fixed point of 8 to 4 bits, cuts of 10 to 70 % of the channels, low rank at five energies; and the
list by hand that the docs show, prune(ratio=0.3), fuse, quant.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import onnxc
from onnxc.ir.errors import OnnxcError
from onnxc.report import finite

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
BY_HAND = ["prune(ratio=0.3), fuse, quant"]


def networks(folder: Path | None) -> dict[str, tuple[Path, Path]]:
    """name -> (model, labelled data)."""
    test = ROOT / "onnxc/data/fashion_test.npz"
    found = {
        "resnet20": (ROOT / "onnxc/data/resnet20_fashion.onnx", test),
        "vggslim": (ROOT / "tests/data/vggslim_fashion.onnx", test),
        "binary": (ROOT / "tests/data/binary_fashion.onnx", test),
    }
    if folder is not None:
        pairs = (("kws", "kws_int8.onnx", "kws.npz"), ("vww", "vww_float.onnx", "vww.npz"))
        found |= {name: (folder / model, folder / data) for name, model, data in pairs if (folder / data).exists()}
    return found


def measured(model: Path, data: Path) -> dict:
    """The row of one network."""
    begun = time.perf_counter()
    search = onnxc.auto(model, data, budget=onnxc.Budget(drop=DROP))
    found = search.run()
    seconds = time.perf_counter() - begun
    given, rows = found.given, {}
    for text in [*SINGLE, *BY_HAND]:
        try:
            rows[text] = search.local.do(("recipe", text))
        except OnnxcError as error:
            rows[text] = {"refused": str(error)}
    singles = {t: r for t, r in rows.items() if t in SINGLE and "refused" not in r}

    def lost(row: dict, part: str) -> float:
        return given[part][found.metric] - row[part][found.metric]

    kept = {t: r for t, r in singles.items() if lost(r, "metrics") <= DROP and r["bytes"] <= given["bytes"]}
    best = min(kept, key=lambda t: kept[t]["bytes"]) if kept else None
    row = {
        "given": {"bytes": given["bytes"], "macs": given["macs"], found.metric: given["held"][found.metric]},
        "seconds": seconds,
    }
    for name, result, text in (
        ("auto", found.best.result if found.best else None, found.best.text if found.best else ""),
        ("single", singles.get(best), best),
        ("by_hand", None if "refused" in rows[BY_HAND[0]] else rows[BY_HAND[0]], BY_HAND[0]),
    ):
        if result is not None:
            row[name] = {
                "passes": text,
                "bytes": result["bytes"],
                "macs": result["macs"],
                "snr_db": result["snr_db"],
                found.metric: result["held"][found.metric],
                "drop": lost(result, "held"),
                "drop_chosen_by": lost(result, "metrics"),
            }
    if "auto" in row and "single" in row:
        row["bytes_by_single"] = row["auto"]["bytes"] / row["single"]["bytes"]
    return row


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--models", type=Path, help="a folder with kws_int8.onnx and kws.npz, vww_float.onnx and vww.npz"
    )
    options.add_argument("--only", help="one network")
    options.add_argument("--write", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    given = options.parse_args()
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, (model, data) in networks(given.models).items():
        if given.only in (None, name):
            rows[name] = finite(measured(model, data))
            print(name, json.dumps(rows[name], indent=1), flush=True)
            if given.write:
                RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
