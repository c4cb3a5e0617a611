"""The knapsack: one option of each layer, at the least cost, whose noises add up to no more than a cap.

    minimise  sum cost[i, j] x[i, j]      with  sum over j x[i, j] = 1,   sum noise[i, j] x[i, j] <= cap,   x in {0, 1}

Noise powers of different layers hardly correlate, so that their sum estimates the whole (Wu 2020). Solved by HiGHS (Huangfu and
Hall 2018) through scipy's `milp`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

GAP, NODES = 1e-3, 2000
"""Relative gap to the best bound, and nodes of the search tree: no clock decides, so that answers are the same everywhere."""


@contextmanager
def _quiet() -> Iterator[None]:
    """HiGHS prints remarks on its own search to the process's output, past Python, whatever it is told."""
    c = ctypes.CDLL(None)
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # nothing is open there
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        c.fflush(None)
        os.dup2(nowhere, 1)
        yield
    finally:
        c.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def choose(costs: Sequence[Sequence[float]], noises: Sequence[Sequence[float]], cap: float) -> list[int]:
    """The option of each layer. Where even the least noises exceed the cap, those are chosen."""
    if not costs:
        return []
    quietest = [min(range(len(n)), key=lambda j: (n[j], c[j])) for c, n in zip(costs, noises, strict=True)]
    if sum(n[j] for n, j in zip(noises, quietest, strict=True)) >= cap:
        return quietest
    from scipy.optimize import Bounds, LinearConstraint, milp

    # what alone exceeds the cap is no option: the numbers that are left are of one size
    fitting = [[j for j, noise in enumerate(n) if noise <= cap] for n in noises]
    flat = [(i, j) for i, js in enumerate(fitting) for j in js]
    cost = np.array([costs[i][j] for i, j in flat], float)
    noise = np.array([noises[i][j] for i, j in flat], float)
    owner = np.array([i for i, _ in flat])
    one = (owner == np.arange(len(costs))[:, None]).astype(float)
    with _quiet():
        found = milp(
            cost / max(float(np.abs(cost).max()), 1e-30),
            constraints=[LinearConstraint(one, 1, 1), LinearConstraint(noise[None] / cap, -np.inf, 1)],
            integrality=np.ones(len(flat)),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": GAP, "node_limit": NODES},
        )
    if found.x is None:
        return quietest
    return [js[int(np.argmax(found.x[owner == i]))] for i, js in enumerate(fitting)]
