"""Rules by which the smallest of many candidates may be chosen, on made-up ones whose losses are known.

    python benchmarks/choosing.py [--draws 200]

A network that is right in 90 % of the samples, and 24 candidates that change the class of 2 % and lose between none and 5 points in
truth: of one kind, where each smaller one makes more noise and loses more, and of two, cuts and codes, where codes lose a third of
what cuts do, at half the bytes and five times the noise. Seven in ten changes hit samples that are hard for all candidates. The bound
is one point. A rule chooses from what so many samples show; the table says how often the chosen one loses more in truth, how often none
is chosen, and the bytes that are left, by those of the smallest that keeps to the bound in truth (the whole network's where none is chosen).

Rules: the loss alone; the loss and its standard error; `auto`'s (`search.found.figures`); two standard errors; and of candidates
that keep to the loss and its standard error by one half of the samples, and which none beats in bytes and that sum, those confirmed
by the other half, one after the other from the largest to the first that fails (fixed sequence: Maurer, Hothorn and Lehmacher 1995),
or from the smallest to the first that holds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxc.search.found import Point, doubted, figures

BOUND, RIGHT, CHANGED, HARD, FOLDS = 0.01, 0.9, 0.01, 0.7, 16
WHOLE = 1000.0
"""Bytes of the network as given."""


@dataclass(frozen=True)
class Case:
    """losses in truth, bytes and noises of the candidates."""

    losses: np.ndarray
    bytes: np.ndarray
    noises: np.ndarray


def _kinds() -> dict[str, Case]:
    falling, rising = np.geomspace(900, 100, 24), np.geomspace(0.01, 1, 24)
    half = np.linspace(0, 0.05, 12)
    one = Case(np.linspace(0, 0.03, 24), falling, rising)
    two = Case(
        np.concatenate([half, half / 3]),
        np.concatenate([falling[::2], falling[::2] / 2]),
        np.concatenate([rising[::2], rising[::2] * 5]),
    )
    return {"one kind": one, "two kinds": two}


def drawn(case: Case, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of so many samples the network gets right, and each candidate."""
    rng = np.random.default_rng(seed)
    was, hard = rng.random(samples) < RIGHT, rng.random(samples)
    now = []
    for lost in case.losses:
        u = np.where(rng.random(samples) < HARD, hard, rng.random(samples))
        now.append(np.where(was, u > (CHANGED + lost) / RIGHT, u < CHANGED / (1 - RIGHT)))
    return was, np.array(now)


def _result(right: np.ndarray) -> dict:
    folds = right[: len(right) // FOLDS * FOLDS].reshape(FOLDS, -1)
    return {
        "metrics": {"accuracy": float(folds.mean())},
        "without": {"metrics": [float(np.delete(folds, k, 0).mean()) for k in range(FOLDS)]},
    }


@dataclass
class Seen:
    """What samples show of the candidates: losses, their standard errors, and what `auto` takes them to lose."""

    losses: np.ndarray
    errors: np.ndarray
    auto: np.ndarray


def seen(case: Case, was: np.ndarray, now: np.ndarray) -> Seen:
    """What these samples show."""
    given = _result(was)
    rows = zip(case.bytes, case.noises, now, strict=True)
    made = [Point(str(k), (), "", {"bytes": b, "noise": n, **_result(r)}) for k, (b, n, r) in enumerate(rows)]
    losses = [given["metrics"]["accuracy"] - p.result["metrics"]["accuracy"] for p in made]
    taken = figures(given, made, "accuracy", True)
    errors = [doubted(given, p.result, "metrics") for p in made]
    return Seen(np.array(losses), np.array(errors), np.array([taken[p.text]["drop"] for p in made]))


def smallest(case: Case, upper: np.ndarray) -> int | None:
    """The smallest candidate that keeps to the bound by `upper`."""
    kept = np.flatnonzero(upper <= BOUND)
    return int(kept[np.argmin(case.bytes[kept])]) if len(kept) else None


def confirmed(case: Case, was: np.ndarray, now: np.ndarray, largest_first: bool) -> int | None:
    """Chosen by one half of the samples, confirmed by the other."""
    first, second = (seen(case, was[k::2], now[:, k::2]) for k in (0, 1))
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


RULES: dict[str, Callable[[Case, np.ndarray, np.ndarray, Seen], int | None]] = {
    "loss alone": lambda case, was, now, of: smallest(case, of.losses),
    "and its standard error": lambda case, was, now, of: smallest(case, of.losses + of.errors),
    "`auto`": lambda case, was, now, of: smallest(case, of.auto),
    "and two standard errors": lambda case, was, now, of: smallest(case, of.losses + 2 * of.errors),
    "half confirm, largest first": lambda case, was, now, of: confirmed(case, was, now, True),
    "half confirm, smallest first": lambda case, was, now, of: confirmed(case, was, now, False),
}


def measured(case: Case, samples: int, draws: int) -> dict[str, tuple[float, float, float]]:
    """rule -> (share of draws beyond the bound, share with none chosen, bytes by the best's)."""
    found: dict[str, list[int | None]] = {rule: [] for rule in RULES}
    for seed in range(draws):
        was, now = drawn(case, samples, seed)
        of = seen(case, was, now)
        for rule, choose in RULES.items():
            found[rule].append(choose(case, was, now, of))
    best = case.bytes[case.losses <= BOUND].min()
    rows = {}
    for rule, chosen in found.items():
        lost = [0.0 if k is None else case.losses[k] for k in chosen]
        left = [WHOLE if k is None else case.bytes[k] for k in chosen]
        rows[rule] = (float(np.mean(np.array(lost) > BOUND)), chosen.count(None) / draws, float(np.mean(left) / best))
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--draws", type=int, default=200)
    options.add_argument("--samples", type=int, nargs="*", default=[480, 2048, 4976], help="that choose")
    given = options.parse_args()
    kinds = _kinds()
    columns = [(name, samples) for name in kinds for samples in given.samples]
    rows = {at: measured(kinds[at[0]], at[1], given.draws) for at in columns}
    print("| rule |", " | ".join(f"{name}, {samples:,}" for name, samples in columns), "|")
    print("|---" * (1 + len(columns)) + "|")
    for rule in RULES:
        cells = (rows[at][rule] for at in columns)
        print(f"| {rule} |", " | ".join(f"{a:.0%}, {b:.0%}, {c:.2f}" for a, b, c in cells), "|")


if __name__ == "__main__":
    main()
