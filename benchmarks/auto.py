"""`onnxc auto` beside the best list of one pass, on the bundled networks and on those of a folder: bytes for a drop of at most 1 %.

    python benchmarks/auto.py [--models DIR] [--only NAME [--data FILE.npz]] [--lists] [--minutes M] [--folder DIR] [--nncf PYTHON] [--write]

All choose by the same samples and the same rule (a drop and its standard error of at most 1 %; what `auto` chooses keeps to that smoothed
over its candidates besides, and so do lists in a second column) and are reported on others, and so are the
peers: ONNX Runtime's static quantisation (the best of three
calibrations), onnxsim's `recommend_quantization` (the boldest of five budgets that keeps to the drop), and NNCF's
`quantize_with_accuracy_control` (by a Python that has it). They all get the float model after clean, fuse; a model that is quantised
already by quant.floats. Lists of one pass: few bits as they were trained or made, 8-bit integers (nearest and gptq), shared values of 1 to 6
bits, 16 to 256 sub-vectors a layer, blocks of 8, 4 and 2 bits, fixed point of 8 to 4 bits, cuts of 10 to 70 % of the channels, low rank at five energies. Of the lists
by hand that the docs show the smallest that keeps to the drop; and of each of them its bytes as a bound on a search of its own. As few samples
tell little of how much is lost, the other way round as well: of at most four fifths of the bytes of the best list, what loses least.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from auto_networks import Network, arrays, networks

import onnxc
from onnxc.ir.errors import OnnxcError
from onnxc.passes.opset import raise_opset
from onnxc.recipe import resolve
from onnxc.report import finite
from onnxc.search import Budget, Search
from onnxc.search.found import Point, doubted, figures, points
from onnxc.search.work import Worker

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/auto.json"
DROP = 0.01
SINGLE = [
    "quant.recognise",
    "quant.binary",
    "quant",
    "quant(rounding=gptq)",
    *(f"quant.cluster(bits={b}, refit=true)" for b in (1, 2, 3, 4, 5, 6)),
    *(f"quant.product(codebook=layer,centroids={c})" for c in (256, 128, 64, 32, 16)),
    *(f"quant.blockwise(bits={b})" for b in (8, 4, 2)),
    *(f"quant.fixed(bits={b})" for b in (8, 6, 4)),
    "quant.vectors",
    *(f"prune(ratio={r})" for r in (0.1, 0.2, 0.3, 0.5, 0.7)),
    *(f"lowrank(energy={e})" for e in (0.99, 0.97, 0.95, 0.9, 0.8)),
]
BY_HAND = ["prune(ratio=0.3), fuse, quant", "prune(macs=0.5), fuse, quant", "fuse, quant.recognise"]
FIFTH_LESS = 0.8
"""Share of the bytes of the best list of one pass at which losses are compared."""
SMALLER = 0.9
"""Share of the bytes that a list by hand leaves at most, of those that count."""
RATIOS = {
    "bytes_by_single": ("auto", "single"),
    "bytes_by_single_alike": ("auto", "single_alike"),
    "bytes_alone_by_single": ("auto_alone", "single"),
}
"""What `auto` chooses by the best list of one pass that keeps to the drop by its own loss and standard error; by the best that is judged
as auto judges its own, smoothed over the candidates; and the smallest of auto's candidates by their own loss, by the first list."""
CALIBRATIONS = ("MinMax", "Percentile", "Entropy")
BUDGETS = (0.5, 0.3, 0.2, 0.1, 0.05)
"""Relative L2 errors, boldest first."""


def peers(local: Worker, nncf: str | None) -> dict[str, Callable[[], list[bytes]]]:
    """name -> what makes its candidates, boldest first."""
    model = onnxc.load(local.fused.to_proto())
    raise_opset(model, 13)
    whole = model.to_proto().SerializeToString()  # peers write into what they are given
    name = model.inputs[0].name
    first, second, _ = (part.arrays() for part in local.spec.parts)
    labels = second.get("labels")
    if labels is None:  # what the model as given says
        labels = np.concatenate([next(iter(row.values())).argmax(1) for row in local.judges[1].outputs])

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
            np.savez(folder / "v.npz", **{name: second[name], "labels": labels})
            script = Path(__file__).with_name("nncf_peer.py")
            files = [folder / f for f in ("m.onnx", "c.npz", "v.npz")]
            argv = [
                str(nncf),
                script,
                *files,
                str(DROP),
                folder / "o.onnx",
                local.task.name if local.task else "classification",
            ]
            more = {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
            subprocess.run(argv, check=True, capture_output=True, env=os.environ | more)
            return [(folder / "o.onnx").read_bytes()]

    found: dict[str, Callable[[], list[bytes]]] = {"ort": ort, "onnxsim": onnxsim}
    return found | ({"nncf": controlled} if nncf else {})


def judged(local: Worker, source: bytes) -> dict:
    model = onnxc.load(source)
    return {**local._costs(model), **local._qualities(model.to_proto())}


def lost(given: dict, row: dict, metric: str, part: str) -> float:
    """All metrics here are better where they are higher."""
    return given[part][metric] - row[part][metric]


def surely(given: dict, row: dict, metric: str) -> float:
    """What is lost by the samples that choose, and its standard error more."""
    return lost(given, row, metric, "metrics") + doubted(given, row, "metrics")


def told(result: dict, given: dict, metric: str, text: str) -> dict:
    return {
        "passes": text,
        "bytes": result["bytes"],
        "macs": result["macs"],
        "snr_db": result["snr_db"],
        metric: result["held"][metric],
        "drop": lost(given, result, metric, "held"),
        "drop_error": doubted(given, result, "held"),
        "drop_chosen_by": lost(given, result, metric, "metrics"),
        "drop_chosen_by_error": doubted(given, result, "metrics"),
    }


def best_of(local: Worker, given: dict, metric: str, make: Callable[[], list[bytes]]) -> tuple[dict | None, str]:
    """The smallest of a peer's candidates that keeps to the drop, else the one that loses least; or why there is none."""
    try:
        made = [judged(local, source) for source in make()]
    except subprocess.CalledProcessError as error:
        return None, f"fails: {(error.stderr or b'').decode()[-200:].strip()}"
    except Exception as error:
        return None, f"fails: {type(error).__name__}: {str(error)[:120]}"
    within = [r for r in made if surely(given, r, metric) <= DROP]
    best = min(within, key=lambda r: r["bytes"]) if within else min(made, key=lambda r: surely(given, r, metric))
    return best, "" if within else "none keeps to the drop"


def peers_rows(search: Search, nncf: str | None) -> dict:
    """What the peers make of a network, by the same samples as the search; kept with its measurements."""
    row = {}
    for name, make in peers(search.local, nncf).items():
        job = ("peer", name)
        if job not in search.state:
            result, text = best_of(search.local, search.given, search.metric, make)
            what = f"{name} {text}".strip()
            search.state.put(
                job, told(result, search.given, search.metric, what) if result is not None else {"passes": text}
            )
            search.state.save()
        row[name] = search.state[job]
        print(name, row[name], flush=True)
    return row


def searching(network: Network, budget: Budget, minutes: float | None, folder: Path | None) -> Search:
    return onnxc.auto(network.model, network.data, task=network.task, budget=budget, minutes=minutes, folder=folder)


def lists(search: Search, texts: list[str]) -> dict[str, dict]:
    """What pass lists make of the network, of those that are not refused; kept with the search's own measurements."""
    rows = {}
    for text in texts:
        job = ("recipe", text)
        if job not in search.state:
            try:
                search.state.put(job, search.local.do(job))
            except OnnxcError as error:
                search.state.put(job, {"failed": str(error)})
        rows[text] = search.state[job]
    return {t: r for t, r in rows.items() if "failed" not in r}


def about(text: str) -> tuple[float, float]:
    """(the share of the bytes that a list of one pass may leave, that which it leaves at least)."""
    bits = re.search(r"(?:cluster|blockwise|fixed)\(bits=(\d)", text)
    vectors = re.search(r"centroids=(\d+)", text)
    ratio = re.search(r"prune\(ratio=([\d.]+)", text)
    if ratio:
        return (1 - float(ratio[1])) ** 2, (1 - float(ratio[1])) ** 2
    if vectors:
        return math.log2(int(vectors[1])) / 4 / 32, 1 / 32
    return int(bits[1]) / 32 if bits else 0.5 if "lowrank" in text else 0.25, 1 / 32


def alike(search: Search, text: str, row: dict) -> float:
    """What a list is taken to lose where it is judged as the search judges its own candidates, smoothed over them."""
    made = [p for p in search._made() if p.text != text]
    return figures(search.given, [*made, Point(text, (), "", row)], search.metric, search.higher)[text]["drop"]


def smallest(search: Search, texts: list[str], rule: Callable[[str, dict], float]) -> dict[str, dict]:
    """The smallest of such lists that by a rule keeps to the drop: those that are larger than one that does are not judged."""
    best: dict[str, dict] = {}
    given, local = search.given, search.local
    for text in sorted(texts, key=about):
        most = min((r["bytes"] for r in best.values()), default=given["bytes"] + 1)
        row, job = None, ("single", text)
        if job in search.state:
            row = search.state[job]
        elif ("recipe", text) in search.state:
            row = search.state["recipe", text]
        elif about(text)[1] * given["bytes"] < most:
            try:
                model = local._pipeline(resolve(text)).transform(local.given).model
            except OnnxcError:
                continue
            costs = local._costs(model)
            row = {**costs, **local._qualities(model.to_proto())} if costs["bytes"] < most else None
            if row is not None:
                search.state.put(job, row)
        if row is not None and "failed" not in row and row["bytes"] < most and rule(text, row) <= DROP:
            best = {text: row}
    return best


def by_budget(
    network: Network, search: Search, lists: dict[str, dict], of: dict[str, Any], share: float = 1.0
) -> list[dict]:
    """Of each list: what takes at most such a share of its bytes and loses least, of what the search has made; where that loses more than
    the list, of what a search makes that is bound to these bytes. more: what is lost of the metric beside the list."""
    found, given, metric = [], search.given, search.metric
    for text, row in lists.items():
        budget = Budget(bytes=share * float(row["bytes"]) / given["bytes"])
        got = points(given, search._made(), budget, metric, search.higher)
        own = (
            got.best is None or bool(got.misses) or got.drop(got.best, "metrics") > lost(given, row, metric, "metrics")
        )
        if own:
            bound = searching(network, budget, **of).run()
            better = bound.best and bound.drop(bound.best, "metrics") <= (
                got.drop(got.best, "metrics") if got.best else math.inf
            )
            got = bound if better or got.misses else got
        if got.best is not None:
            best = got.best.result
            found.append(
                {
                    "list": told(row, given, metric, text),
                    "auto": told(best, given, metric, got.best.text),
                    "more": {part: lost(row, best, metric, part) for part in ("metrics", "held")},
                    "more_error": {part: doubted(row, best, part) for part in ("metrics", "held")},
                    "own_search": own,
                    "met": not got.misses,
                }
            )
    return found


def measured(
    network: Network, minutes: float | None, folder: Path | None, nncf: str | None, lists_alone: bool = False
) -> dict:
    """The row of one network; peers and bounds on bytes are left out where it is compared with lists alone."""
    begun, cpu = time.perf_counter(), time.process_time()
    search = searching(network, Budget(drop=DROP), minutes, folder)
    found = search.run()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    search.local.ended.clear()
    given, of = found.given, found.metric
    heads = "".join(f"{p}, " for p in search.local.head)
    texts = [heads + text for text in SINGLE]
    singles = smallest(search, texts, lambda _, row: surely(given, row, of))
    same = smallest(search, texts, lambda text, row: alike(search, text, row))
    hand = lists(search, [heads + text for text in BY_HAND])
    hand = {text: r for text, r in hand.items() if r["bytes"] <= SMALLER * given["bytes"]}
    row = {
        "given": {"passes": "", "bytes": given["bytes"], "macs": given["macs"], of: given["held"][of]},
        "metric": of,
        "samples": [part.samples for part in search.local.spec.parts],
        "minutes": minutes,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "tried": found.tried,
        "met": not found.misses,
    }
    if found.best is not None:
        row["auto"] = told(found.best.result, given, of, found.best.text)
    for text, one in same.items():
        row["single_alike"] = told(one, given, of, text)
    for name, some in (("single", singles), ("by_hand", hand)):
        kept = {t: r for t, r in some.items() if surely(given, r, of) <= DROP and r["bytes"] <= given["bytes"]}
        if kept:
            text = min(kept, key=lambda t: kept[t]["bytes"])
            row[name] = told(kept[text], given, of, text)
    again = {"minutes": minutes, "folder": folder}
    row["fifth_less"] = by_budget(network, search, singles, again, FIFTH_LESS)
    if not lists_alone:
        row |= peers_rows(search, nncf)
        row["budgets"] = by_budget(network, search, hand, again)
    alone = [p for p in search._made() if surely(given, p.result, of) <= DROP]
    if alone:
        best = min(alone, key=lambda p: (p.result["bytes"], p.text))
        row["auto_alone"] = told(best.result, given, of, best.text)
    for key, (ours, theirs) in RATIOS.items():
        if ours in row and theirs in row:
            row[key] = row[ours]["bytes"] / row[theirs]["bytes"]
    return row


NAMES = {
    "resnet20": "resnet20", "vggslim": "vggslim", "binary": "binary", "detector": "scenes, detector (mAP)",
    "unet": "scenes, U-Net (mIoU)", "kws": "keyword spotting, given in 8 bits", "vww": "visual wake words",
    "ic": "image classification, agreement", "ad": "anomaly detection, given in 8 bits (AUC)",
}  # fmt: skip


def plus_minus(value: float, error: float) -> str:
    """In points, with a standard error."""
    return f"{100 * value + 0.0:.1f} ± {100 * error:.1f}"


def table(rows: dict[str, dict]) -> str:
    """The tables of the docs."""

    def cell(row: dict, what: str) -> str:
        one = row.get(what)
        if one is None:
            return "none keeps to it"
        if "bytes" not in one:
            return "fails"
        beyond = " (beyond)" if one.get("passes", "").endswith("none keeps to the drop") else ""
        return f"{one['bytes'] / 1e3:.1f} kB, {100 * one[row['metric']]:.1f} %{beyond}"

    heads = [
        (
            "network",
            "as given",
            "auto",
            "best list of one pass",
            "by hand",
            "by the best list's",
            "both smoothed",
            "both by their own loss",
            "drop held apart",
            "CPU s",
        ),
        ("network", "auto", "ONNX Runtime", "NNCF", "onnxsim"),
        ("network", "list by hand", "what it gives", "auto, as many bytes at most"),
        (
            "network",
            "best list of one pass",
            "its bytes",
            "auto, a fifth less at most",
            "lost more, by those that choose",
            "held apart",
        ),
    ]
    parts: list[list[tuple[str, ...]]] = [[], [], [], []]
    for key in sorted((k for k, row in rows.items() if "samples" in row), key=[*NAMES, *rows].index):
        row, name = rows[key], NAMES.get(key, key)
        auto = row.get("auto", {})
        lost = plus_minus(auto["drop"], auto["drop_error"]) if auto else ""
        ratios = [f"{row[ratio]:.2f}" if ratio in row else "" for ratio in RATIOS]
        own = [cell(row, what) for what in ("given", "auto", "single", "by_hand")]
        parts[0].append((name, *own, *ratios, lost, f"{row['cpu_seconds']:.0f}"))
        if "ort" in row:
            parts[1].append((name, *(cell(row, what) for what in ("auto", "ort", "nncf", "onnxsim"))))
        for pair in row.get("budgets", ()):
            told_ = [
                f"{p['bytes'] / 1e3:.1f} kB, {0.0 - 100 * round(p['drop_chosen_by'], 6):+.1f}, {0.0 - 100 * round(p['drop'], 6):+.1f}"
                for p in (pair["list"], pair["auto"])
            ]
            parts[2].append((name, f"`{pair['list']['passes']}`", *told_))
        for pair in row.get("fifth_less", ()):
            more = (plus_minus(pair["more"][part], pair["more_error"][part]) for part in ("metrics", "held"))
            sizes = (f"{pair[what]['bytes'] / 1e3:.1f} kB" for what in ("list", "auto"))
            parts[3].append((name, f"`{pair['list']['passes']}`", *sizes, *more))
    made = [
        "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines))
        for head, lines in zip(heads, parts, strict=True)
    ]
    return "\n\n".join(made)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", type=Path, help="a folder with MLPerf Tiny's networks (auto_networks.py)")
    options.add_argument("--only", help="one network")
    options.add_argument("--data", type=Path, help="other samples for it")
    options.add_argument("--lists", action="store_true", help="beside lists alone: neither peers nor bounds on bytes")
    options.add_argument("--minutes", type=float, help="for each search; else as long as it takes")
    options.add_argument("--folder", type=Path, help="where what is measured is kept, and gone on from")
    options.add_argument("--nncf", metavar="PYTHON", help="a Python that has nncf, for accuracy control")
    options.add_argument("--write", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    options.add_argument("--table", action="store_true", help="print the docs' tables of what was written")
    given = options.parse_args()
    if given.table:
        print(table(json.loads(RESULTS.read_text())))
        return
    if given.data is not None and given.only is None:
        options.error("--data is of --only one network")
    for name, read in networks(given.models).items():
        if given.only in (None, name):
            network = read()
            if given.data is not None:
                network, name = replace(network, data=arrays(given.data)), f"{name}, {given.data.stem}"
            kept = None if given.folder is None else given.folder / name
            row = finite(measured(network, given.minutes, kept, given.nncf, given.lists))
            print(name, json.dumps(row, indent=1), flush=True)
            if given.write:
                rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
                RESULTS.write_text(json.dumps(rows | {name: row}, indent=1) + "\n")


if __name__ == "__main__":
    main()
