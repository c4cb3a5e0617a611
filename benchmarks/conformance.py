"""ONNX's operator cases through `compile` and the library: which operators are computed right, refused, or wrong?

    python benchmarks/conformance.py [--share 0.2 --seed 7] [--only REGEX] [--json FILE] [--processes 2] [--update]

A run of all cases writes results/conformance.json and docs/conformance.md; with --update a run of some does, in which the other
cases keep what was recorded of them.
Verdicts: "right" (types, shapes and values as the case expects, within its tolerances), "wrong", "refused" (one line with the
reason), "internal error" (any other exception), "crash" (the library or the compiler ends its process, writes past an
output, or takes over LIMIT seconds). Cases run in worker processes; one that ends is started anew for the next case.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
from node_cases import Case, cases

LIMIT = 120  # seconds for a case
VERDICTS = ("right", "refused", "wrong", "internal error", "crash")
ROOT = Path(__file__).parents[1]
RESULT, PAGE = ROOT / "benchmarks/results/conformance.json", ROOT / "docs/conformance.md"
HEAD = """# Which operators compile

ONNX's own cases for its operators (`onnx.backend.test`), those whose tensors hold numbers (but for Unique): each
goes through `compile`, and the library's outputs are compared with what the case expects, types, shapes and values within the
case's tolerances or 2^-22 of the largest value (2^-10 in float16 and 2^-7 in bfloat16, whose steps are that wide: what is expected
is rounded after every operator, the library's values at the end). Operands that set shapes or choose what is computed (the target of
Reshape, the axes of a reduction, the region that Resize crops) are constants of the model, as they are in nearly all networks.
Made by `python benchmarks/conformance.py`.

Left out are two cases whose values contradict the text of their operator, as ONNX Runtime leaves them out (`DISPUTED` in
`benchmarks/node_cases.py`): Resize by align_corners and scales that do not divide, where the text counts the resized tensor's
length and the values an unrounded product.
"""
ROUNDING = {"float16": 2.0**-10, "bfloat16": 2.0**-7}  # steps of the type
USUAL = 2.0**-22  # of float32, twice
Row = dict[str, str]


def draw(share: float = 1.0, seed: int = 0, only: str = "") -> list[Case]:
    """The cases whose name matches `only`, or a share of them drawn by `seed`, in the order of their names."""
    named = [case for name, case in sorted(cases().items()) if re.search(only, name)]
    if share >= 1:
        return named
    picked = np.random.default_rng(seed).permutation(len(named))[: round(share * len(named))]
    return [named[i] for i in sorted(picked)]


def judge(case: Case) -> Row:
    """Compiles one case, runs the library in a process of its own, compares."""
    from onnxc.codegen import compile_model
    from onnxc.ir.errors import OnnxcError, VerificationError
    from onnxc.runtime.apart import run_apart

    def row(verdict: str, why: str = "") -> Row:
        return {"case": case.name, "operator": case.operator, "verdict": verdict, "why": why}

    with tempfile.TemporaryDirectory(prefix="onnxc-") as folder:
        try:
            compile_model(case.model, folder, name="case", check="shapes")
        except OnnxcError as error:
            return row("refused", str(error))
        except Exception as error:
            return row("internal error", f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}")
        try:
            found = run_apart(folder, [case.inputs])[0]
        except OnnxcError as error:
            damage = isinstance(error, VerificationError) and re.search(
                "ends its process|past an output|not end", str(error)
            )
            return row("crash" if damage else "wrong", str(error))
    why = next((f"{name}: {what}" for name in case.outputs if (what := differs(case, name, found.get(name)))), "")
    return row("wrong" if why else "right", why)


def differs(case: Case, name: str, found: np.ndarray | None) -> str:
    """What is wrong with an output; "" if it is as the case expects."""
    wanted = case.outputs[name]
    if found is None:
        return "missing"
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return f"{found.dtype} {list(found.shape)} where {wanted.dtype} {list(wanted.shape)} is expected"
    if wanted.dtype.kind in "biu" or "int" in wanted.dtype.name:
        count = int((found != wanted).sum())
        return f"{count} of {wanted.size} differ" if count else ""
    kind = np.complex128 if wanted.dtype.kind == "c" else np.float64
    a, b = found.astype(kind), wanted.astype(kind)
    with np.errstate(invalid="ignore"):
        largest = np.abs(b[np.isfinite(b)]).max(initial=0)  # sums that should cancel leave a rounding of their parts
        atol = max(case.atol, ROUNDING.get(wanted.dtype.name, USUAL) * largest)
        bad = ~np.isclose(a, b, rtol=case.rtol, atol=atol, equal_nan=True)
        return f"{int(bad.sum())} of {a.size} differ, by up to {np.abs(a - b)[bad].max():.3g}" if bad.any() else ""


class Worker:
    """A process that judges cases by name, one at a time."""

    def __init__(self) -> None:
        self.case: Case | None = None
        self.pipe: Connection
        self.start()

    def start(self) -> None:
        """Forks a process that has all cases and imports at hand."""
        context = get_context("fork")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, self.pipe), daemon=False)
        self.process.start()
        other.close()

    def give(self, case: Case) -> None:
        """Begins a case."""
        self.case, self.since = case, time.monotonic()
        self.pipe.send(case.name)

    def answer(self) -> Row | None:
        """The row of the case, once there is one; a process that ended or takes too long gives a crash."""
        why = ""
        if self.pipe.poll():
            try:
                row = self.pipe.recv()
                self.case = None
                return row
            except EOFError:
                self.process.join()
                code = self.process.exitcode or 0
                why = f"the compiler ends by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        elif time.monotonic() - self.since > LIMIT:
            why = f"takes over {LIMIT} s"
        if not why:
            return None
        case, self.case = self.case, None
        self.stop()
        self.start()
        return {"case": case.name, "operator": case.operator, "verdict": "crash", "why": why}

    def stop(self) -> None:
        """Ends the process."""
        self.pipe.close()
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.join()


def _serve(pipe: Connection, parents: Connection) -> None:
    parents.close()  # or the end of the parent would not be seen here
    known = cases()
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            pipe.send(judge(known[pipe.recv()]))


def run(wanted: Sequence[Case], processes: int = 2) -> Iterator[Row]:
    """Rows (case, operator, verdict, why) as they come."""
    from onnxc.codegen.tvm_api import tvm_modules

    tvm_modules()  # imported once, ahead of the forks
    left = list(reversed(wanted))
    workers = [Worker() for _ in range(min(processes, len(left)))]
    try:
        while left or any(worker.case for worker in workers):
            for worker in workers:
                if worker.case is None and left:
                    worker.give(left.pop())
            busy = [worker for worker in workers if worker.case]
            wait([worker.pipe for worker in busy], 1)
            for worker in busy:
                row = worker.answer()
                if row is not None:
                    yield row
    finally:
        for worker in workers:
            worker.stop()


def by_operator(rows: Sequence[Row]) -> dict[str, Counter]:
    """Counts of verdicts for each operator."""
    found: dict[str, Counter] = {}
    for row in rows:
        found.setdefault(row["operator"], Counter())[row["verdict"]] += 1
    return dict(sorted(found.items()))


def table(counts: dict[str, Counter]) -> str:
    """Markdown: operators that are right in all cases in one line, the others a line each."""
    whole = [name for name, count in counts.items() if set(count) == {"right"}]
    lines = ["| operator | cases | right | refused | wrong | internal error | crash |", "|---|---|---|---|---|---|---|"]
    for name, count in [("all", sum(counts.values(), Counter())), *counts.items()]:
        if name not in whole:
            cells = [str(count[verdict]) for verdict in VERDICTS]
            lines.append(f"| {name} | {count.total()} | {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\nRight in all cases: {', '.join(whole)}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--update", action="store_true")
    given = parser.parse_args()
    wanted = draw(given.share, given.seed, given.only)
    start, rows = time.perf_counter(), []
    for row in run(wanted, given.processes):
        rows.append(row)
        if row["verdict"] != "right":
            print(f"{row['verdict']:15} {row['case']:50} {row['why'][:200]}", flush=True)
    judged = len(rows)
    if given.update:
        rows += recorded({row["case"] for row in rows})
    rows.sort(key=lambda row: row["case"])
    print(table(by_operator(rows)))
    print(f"{judged} of {len(cases())} cases in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    if given.json:
        write(given.json, rows)
    elif given.update or (given.share >= 1 and not given.only):
        write(RESULT, rows)
        some = f", {judged} of them judged in the last run and the others in one before" if judged < len(rows) else ""
        title = f"onnx {onnx.__version__}, {len(rows)} cases{some}."
        PAGE.write_text(f"{HEAD}\n{title}\n\n{table(by_operator(rows))}", encoding="utf-8")


def recorded(without: set[str]) -> list[Row]:
    """Rows of the recorded run for all cases but these."""
    known = {row["case"]: row for row in json.loads(RESULT.read_text(encoding="utf-8"))["not_right"]}
    right = {"verdict": "right", "why": ""}
    return [
        {"case": name, "operator": case.operator} | {key: known.get(name, right)[key] for key in right}
        for name, case in cases().items()
        if name not in without
    ]


def write(path: Path, rows: Sequence[Row]) -> None:
    """Counts by operator, and a row with the reason for every case that is not right, as JSON."""
    made = {
        "onnx": onnx.__version__,
        "cases": len(rows),
        "verdicts": dict(Counter(row["verdict"] for row in rows)),
        "operators": {name: dict(count) for name, count in by_operator(rows).items()},
        "not_right": [
            {"case": row["case"], "verdict": row["verdict"], "why": row["why"][:160]}
            for row in rows
            if row["verdict"] != "right"
        ],
    }
    path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
