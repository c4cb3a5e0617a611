"""Rules by which the smallest of many candidates may be chosen, on candidates whose losses are known.

    python benchmarks/choosing.py [--draws 200] [--candidates FOLDER MODEL DATA.npz ...]

Made up: a network that is right in 90 % of the samples, and 24 candidates that change the class of 2 % and lose between none and 5 points in
truth: of one kind, where each smaller one makes more noise and loses more, and of two, cuts and codes, where codes lose a third of
what cuts do, at half the bytes and five times the noise. Seven in ten changes hit samples that are hard for all candidates.

--candidates: those of a folder of `onnxc auto MODEL --data ... -o FOLDER`, on DATA.npz, of which samples are drawn; what they lose by all of them is
the truth. (That some of these samples were seen by the passes counts for nothing here.)

The bound is one point. A rule chooses from what so many samples show; the table says how often the chosen one loses more in truth, how often none
is chosen, and the bytes that are left, by those of the smallest that keeps to the bound in truth (the whole network's where none is chosen).

Rules: the loss alone; the loss and its standard error; and besides the loss smoothed over all candidates by their noise and its standard
error; the same smoothed by noise or by how many answers change, whichever says less, as `auto` does (`search.found.figures`);
two standard errors; and of candidates that keep to the loss and its standard error by one half of the samples, and which none beats in
bytes and that sum, those confirmed by the other half, one after the other from the largest to the first that fails (fixed sequence:
Maurer, Hothorn and Lehmacher 1995), or from the smallest to the first that holds.
"""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from auto_networks import arrays

from onnxc.ir.files import load
from onnxc.runtime.evaluate import Judge
from onnxc.runtime.feeding import feed
from onnxc.runtime.reference import Runner
from onnxc.search.found import Point, doubted, figures

BOUND, RIGHT, CHANGED, HARD, FOLDS = 0.01, 0.9, 0.01, 0.7, 16
WHOLE = 1000.0
"""Bytes of the network as given, made up."""


@dataclass(frozen=True)
class Draw:
    """Which of some samples the network gets right [samples], each candidate [candidates, samples], and which of its answers are the
    network's."""

    was: np.ndarray
    now: np.ndarray
    same: np.ndarray

    def part(self, which: slice) -> Draw:
        """Some of the samples."""
        return Draw(self.was[which], self.now[:, which], self.same[:, which])


@dataclass(frozen=True)
class Case:
    """losses in truth, bytes and noises of the candidates; whole: the network's bytes; draw(samples, seed)."""

    losses: np.ndarray
    bytes: np.ndarray
    noises: np.ndarray
    whole: float
    draw: Callable[[int, int], Draw]


def _made(losses: np.ndarray, sizes: np.ndarray, noises: np.ndarray) -> Case:
    def draw(samples: int, seed: int) -> Draw:
        rng = np.random.default_rng(seed)
        was, hard = rng.random(samples) < RIGHT, rng.random(samples)
        rows = []
        for lost in losses:
            u = np.where(rng.random(samples) < HARD, hard, rng.random(samples))
            rows.append(np.where(was, u > (CHANGED + lost) / RIGHT, u < CHANGED / (1 - RIGHT)))
        now = np.array(rows)
        return Draw(was, now, now == was)

    return Case(losses, sizes, noises, WHOLE, draw)


def _kinds() -> dict[str, Case]:
    falling, rising = np.geomspace(900, 100, 24), np.geomspace(0.01, 1, 24)
    half = np.linspace(0, 0.05, 12)
    return {
        "one kind": _made(np.linspace(0, 0.03, 24), falling, rising),
        "two kinds": _made(
            np.concatenate([half, half / 3]),
            np.concatenate([falling[::2], falling[::2] / 2]),
            np.concatenate([rising[::2], rising[::2] * 5]),
        ),
    }


def searched(folder: Path, model: Path, data: Path) -> Case:
    """The candidates of a search of a classifier."""
    results = json.loads((folder / "search.json").read_text())["results"]
    given = load(model)
    proto, runner = given.to_proto(), Runner(optimise=False)
    judge = Judge(runner, feed(proto, arrays(data), None, seed=0, runner=runner), proto, 1 << 20)
    labels = np.concatenate([y for y in judge.labels if y is not None])

    def classes(rows: list[dict[str, np.ndarray]]) -> np.ndarray:
        return np.concatenate([next(iter(row.values())).argmax(1) for row in rows])

    made = [r for key, r in results.items() if json.loads(key)[0] == "recipe" and "model" in r]
    answers = [classes(judge.run(onnx.ModelProto.FromString(base64.b64decode(r["model"])))) for r in made]
    first, now = classes(judge.outputs), np.array(answers)
    whole = Draw(first == labels, now == labels, now == first)

    def draw(samples: int, seed: int) -> Draw:
        chosen = np.random.default_rng(seed).permutation(len(labels))[:samples]
        return Draw(whole.was[chosen], whole.now[:, chosen], whole.same[:, chosen])

    sizes, noises = (np.array([float(r[what]) for r in made]) for what in ("bytes", "noise"))
    return Case(whole.was.mean() - whole.now.mean(1), sizes, noises, float(results['["given"]']["bytes"]), draw)


def _result(right: np.ndarray, same: np.ndarray | None) -> dict:
    folds = right[: len(right) // FOLDS * FOLDS].reshape(FOLDS, -1)
    return {
        "metrics": {"accuracy": float(folds.mean())},
        "agreement": None if same is None else float(same.mean()),
        "without": {"metrics": [float(np.delete(folds, k, 0).mean()) for k in range(FOLDS)]},
    }


@dataclass
class Seen:
    """What samples show of the candidates: losses, their standard errors, and what is taken to be lost: smoothed by noise, and by
    how many answers change."""

    losses: np.ndarray
    errors: np.ndarray
    noise: np.ndarray
    changes: np.ndarray


def seen(case: Case, of: Draw) -> Seen:
    """What these samples show."""
    taken, errors, losses = [], np.zeros(0), np.zeros(0)
    for with_ in (False, True):
        given = _result(of.was, np.ones(len(of.was)) if with_ else None)
        rows = zip(case.bytes, case.noises, of.now, of.same, strict=True)
        made = [
            Point(str(k), (), "", {"bytes": b, "noise": n, **_result(r, s if with_ else None)})
            for k, (b, n, r, s) in enumerate(rows)
        ]
        drops = figures(given, made, "accuracy", True)
        taken.append(np.array([drops[p.text]["drop"] for p in made]))
        losses = np.array([given["metrics"]["accuracy"] - p.result["metrics"]["accuracy"] for p in made])
        errors = np.array([doubted(given, p.result, "metrics") for p in made])
    return Seen(losses, errors, *taken)


def smallest(case: Case, upper: np.ndarray) -> int | None:
    """The smallest candidate that keeps to the bound by `upper`."""
    kept = np.flatnonzero(upper <= BOUND)
    return int(kept[np.argmin(case.bytes[kept])]) if len(kept) else None


def confirmed(case: Case, draw: Draw, largest_first: bool) -> int | None:
    """Chosen by one half of the samples, confirmed by the other."""
    first, second = (seen(case, draw.part(slice(k, None, 2))) for k in (0, 1))
    upper, fresh = first.losses + first.errors, second.losses + second.errors
    kept = [int(k) for k in np.argsort(case.bytes) if upper[k] <= BOUND]
    chain = [k for n, k in enumerate(kept) if all(upper[j] > upper[k] for j in kept[:n])]
    best = None
    for k in chain[::-1] if largest_first else chain:
        holds = fresh[k] <= BOUND
        best = k if holds else best
        if holds != largest_first:
            break
    return best


RULES: dict[str, Callable[[Case, Draw, Seen], int | None]] = {
    "loss alone": lambda case, draw, of: smallest(case, of.losses),
    "and its standard error": lambda case, draw, of: smallest(case, of.losses + of.errors),
    "and smoothed by noise": lambda case, draw, of: smallest(case, of.noise),
    "and smoothed by changes or noise: `auto`": lambda case, draw, of: smallest(case, of.changes),
    "and two standard errors": lambda case, draw, of: smallest(case, of.losses + 2 * of.errors),
    "half confirm, largest first": lambda case, draw, of: confirmed(case, draw, True),
    "half confirm, smallest first": lambda case, draw, of: confirmed(case, draw, False),
}


def measured(case: Case, samples: int, draws: int) -> dict[str, tuple[float, float, float]]:
    """rule -> (share of draws beyond the bound, share with none chosen, bytes by the best's)."""
    found: dict[str, list[int | None]] = {rule: [] for rule in RULES}
    for seed in range(draws):
        draw = case.draw(samples, seed)
        of = seen(case, draw)
        for rule, choose in RULES.items():
            found[rule].append(choose(case, draw, of))
    best = case.bytes[case.losses <= BOUND].min()
    rows = {}
    for rule, chosen in found.items():
        lost = [0.0 if k is None else case.losses[k] for k in chosen]
        left = [case.whole if k is None else case.bytes[k] for k in chosen]
        rows[rule] = (float(np.mean(np.array(lost) > BOUND)), chosen.count(None) / draws, float(np.mean(left) / best))
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--draws", type=int, default=200)
    options.add_argument("--samples", type=int, nargs="*", default=[480, 2048, 4976], help="that choose")
    options.add_argument(
        "--candidates", nargs=3, type=Path, action="append", default=[], metavar=("FOLDER", "MODEL", "DATA")
    )
    given = options.parse_args()
    kinds = _kinds() | {model.stem: searched(folder, model, data) for folder, model, data in given.candidates}
    columns = [(name, samples) for name in kinds for samples in given.samples]
    rows = {at: measured(kinds[at[0]], at[1], given.draws) for at in columns}
    print("| rule |", " | ".join(f"{name}, {samples:,}" for name, samples in columns), "|")
    print("|---" * (1 + len(columns)) + "|")
    for rule in RULES:
        cells = (rows[at][rule] for at in columns)
        print(f"| {rule} |", " | ".join(f"{a:.0%}, {b:.0%}, {c:.2f}" for a, b, c in cells), "|")


if __name__ == "__main__":
    main()
