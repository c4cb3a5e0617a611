"""The forms that a convolution can be factored into: closed-form starts, their errors by rank, and their stages.

A weight stands as w [g, o, c, i, j], float64: groups, outputs and inputs of one group, kernel rows and columns. A form
writes it as an einsum of factors, the last of which holds o. Each start is a projection, so that at full rank the
product is the weight itself and at a lower one the error is the energy left out.

    channel    w ~ grcij . gor                k x k to r, then 1 x 1           Denton 2014, Zhang 2015
    spatial    w ~ grci . gorj                k x 1 to r, then 1 x k           Jaderberg 2014
    tucker     w ~ gpc . gqpij . goq          1 x 1 to p, k x k to q, 1 x 1    Kim 2016
    cp         w ~ grc . gri . grj . gor      1 x 1, two depthwise, 1 x 1      Lebedev 2015
    separable  w ~ gcmij . gocm               depthwise, m of each, then 1 x 1 Howard 2017
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..layers.widths import WIDTHS

Rank = tuple[int, ...]
GRID = 24
"""Ranks of Tucker's two sides that are tried, on each side."""


@dataclass(frozen=True)
class Stage:
    """One convolution of a factored layer. weight: [outputs, inputs of one group, rows, columns].

    place: "pre" 1 x 1 on the input's grid, "k" the kernel, "k0" its rows, "k1" its columns, "post" 1 x 1 on the output's.
    """

    weight: np.ndarray
    groups: int
    place: str


@dataclass
class Start:
    """Ranks with the share of the energy that each leaves out, and what makes the factors at any of them."""

    ranks: list[Rank]
    errors: np.ndarray
    parts: tuple
    shape: tuple[int, ...]


def basis(m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left singular vectors [g, a, a] of m [g, a, b] and squared singular values [g, a], descending; signs fixed."""
    values, vectors = np.linalg.eigh(m @ m.transpose(0, 2, 1))
    values, vectors = np.maximum(values[:, ::-1], 0), vectors[:, :, ::-1]
    top = np.take_along_axis(vectors, np.abs(vectors).argmax(1)[:, None], 1)
    return vectors * np.where(top < 0, -1.0, 1.0), values


def pair(m: np.ndarray) -> tuple[tuple, np.ndarray]:
    """What `halves` needs of m [g, a, b], and the share of energy left out at ranks 1 ... min(a, b)."""
    tall = m.shape[1] > m.shape[2]
    vectors, values = basis(m.transpose(0, 2, 1) if tall else m)
    return (m, vectors, tall), left_out(values.sum(0))


def halves(parts: tuple, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """first [g, r, b] and second [g, a, r]; second @ first is the nearest matrix of that rank."""
    m, vectors, tall = parts
    v = vectors[:, :, :rank]
    return (v.transpose(0, 2, 1), m @ v) if tall else (v.transpose(0, 2, 1) @ m, v)


def left_out(energies: np.ndarray) -> np.ndarray:
    """1 - cumulative share, never below 0; zeros where there is no energy."""
    total = energies.sum()
    return np.maximum(0, 1 - np.cumsum(energies) / total) if total > 0 else np.zeros(len(energies))


def _grid(n: int) -> list[int]:
    """The ranks up to n that Tucker tries on a side: GRID of them, and the multiples of the widest of WIDTHS next to each."""
    even = [max(1, round(n * k / GRID)) for k in range(1, GRID + 1)]
    return sorted({*even, *(r // WIDTHS[0] * WIDTHS[0] for r in even if r >= WIDTHS[0])})


def taps(shape: tuple[int, ...], place: str) -> int:
    """Elements of the kernel of a stage at `place`, of a weight [g, o, c, i, j]."""
    i, j = shape[3:]
    return {"k": i * j, "k0": i, "k1": j}.get(place, 1)


class Form:
    """name; factors: einsum subscripts; features: einsum that spans rows over (c i j) for the last factor."""

    name: ClassVar[str]
    factors: ClassVar[tuple[str, ...]]
    planar: ClassVar[bool] = False

    def start(self, w: np.ndarray) -> Start:
        raise NotImplementedError

    def at(self, start: Start, rank: Rank) -> list[np.ndarray]:
        """The factors of this rank."""
        raise NotImplementedError

    def shapes(self, shape: tuple[int, ...], rank: Rank) -> list[tuple[int, int, int, str]]:
        """(groups, outputs and inputs of one, place) of every stage for a weight of this shape."""
        raise NotImplementedError

    def sizes(self, shape: tuple[int, ...], rank: Rank) -> list[tuple[int, str]]:
        """(weights, place) of every stage."""
        return [(g * o * c * taps(shape, place), place) for g, o, c, place in self.shapes(shape, rank)]

    def stages(self, factors: list[np.ndarray]) -> list[Stage]:
        raise NotImplementedError

    def features(self, factors: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """t [g, f, c·i·j] such that the weight is last @ t with last [g, o, f]."""
        raise NotImplementedError

    def compose(self, factors: list[np.ndarray]) -> np.ndarray:
        return np.einsum(f"{','.join(self.factors)}->gocij", *factors, optimize=True)

    def pulled(self, v: np.ndarray, factors: list[np.ndarray], k: int) -> np.ndarray:
        """The adjoint of `compose` in factor k, any but the last, at v [g, o, c, i, j]: in the shape of that factor."""
        rest = [n for n in range(len(factors)) if n != k]
        names = ",".join(["gocij", *(self.factors[n] for n in rest)])
        return np.einsum(f"{names}->{self.factors[k]}", v, *(factors[n] for n in rest), optimize=True)

    def full(self, shape: tuple[int, ...]) -> Rank:
        """The least rank that is exact for any weight."""
        raise NotImplementedError


def flat(a: np.ndarray, *tail: int) -> np.ndarray:
    """[g, n, ...] -> [g·n, ..., *tail]."""
    return a.reshape(a.shape[0] * a.shape[1], *a.shape[2:], *tail)


class Channel(Form):
    name, factors = "channel", ("grcij", "gor")

    def full(self, shape):
        return (min(shape[1], int(np.prod(shape[2:]))),)

    def start(self, w):
        parts, errors = pair(w.reshape(*w.shape[:2], -1))
        return Start([(r + 1,) for r in range(len(errors))], errors, parts, w.shape)

    def at(self, start, rank):
        first, second = halves(start.parts, rank[0])
        return [first.reshape(len(first), -1, *start.shape[2:]), second]

    def shapes(self, shape, rank):
        g, o, c = shape[:3]
        return [(g, rank[0], c, "k"), (g, o, rank[0], "post")]

    def stages(self, factors):
        first, second = factors
        return [Stage(flat(first), len(first), "k"), Stage(flat(second, 1, 1), len(first), "post")]

    def features(self, factors, shape):
        return factors[0].reshape(*factors[0].shape[:2], -1)


class Spatial(Form):
    name, factors, planar = "spatial", ("grci", "gorj"), True

    def full(self, shape):
        _g, o, c, i, j = shape
        return (min(o * j, c * i),)

    def start(self, w):
        g, o, c, i, j = w.shape
        parts, errors = pair(w.transpose(0, 1, 4, 2, 3).reshape(g, o * j, c * i))
        return Start([(r + 1,) for r in range(len(errors))], errors, parts, w.shape)

    def at(self, start, rank):
        g, o, c, i, j = start.shape
        first, second = halves(start.parts, rank[0])
        return [first.reshape(g, -1, c, i), second.reshape(g, o, j, -1).transpose(0, 1, 3, 2)]

    def shapes(self, shape, rank):
        g, o, c = shape[:3]
        return [(g, rank[0], c, "k0"), (g, o, rank[0], "k1")]

    def stages(self, factors):
        first, second = factors
        return [Stage(flat(first, 1), len(first), "k0"), Stage(flat(second)[:, :, None], len(first), "k1")]

    def features(self, factors, shape):
        g, _o, c, i, j = shape
        return np.einsum("grci,jk->grjcik", factors[0], np.eye(j)).reshape(g, -1, c * i * j)


class Tucker(Form):
    """Truncated at (p, q): the share left out is what the full core holds outside its corner [q, p]."""

    name, factors = "tucker", ("gpc", "gqpij", "goq")

    def full(self, shape):
        return (shape[2], shape[1])

    def start(self, w):
        g, o, c, _i, _j = w.shape
        left, _ = basis(w.reshape(g, o, -1))
        right, _ = basis(w.transpose(0, 2, 1, 3, 4).reshape(g, c, -1))
        core = np.einsum("gocij,goq,gcp->gqpij", w, left, right, optimize=True)
        energy = np.square(core).sum((0, 3, 4)).cumsum(0).cumsum(1)
        total = energy[-1, -1]
        steps = [_grid(c), _grid(o)]
        ranks = [(p, q) for p in steps[0] for q in steps[1]]
        errors = np.array([max(0.0, 1 - energy[q - 1, p - 1] / total) if total > 0 else 0.0 for p, q in ranks])
        return Start(ranks, errors, (w, left, right), w.shape)

    def at(self, start, rank):
        w, left, right = start.parts
        g, o, c, _i, _j = start.shape
        p, q = rank
        left, right = left[:, :, :q], right[:, :, :p]
        for _ in range(3 if p < c and q < o else 0):  # HOOI: each side anew from the other's projection
            side = np.einsum("gocij,gcp->gopij", w, right, optimize=True).reshape(g, o, -1)
            left = basis(side)[0][:, :, :q]
            side = np.einsum("gocij,goq->gcqij", w, left, optimize=True).reshape(g, c, -1)
            right = basis(side)[0][:, :, :p]
        core = np.einsum("gocij,goq,gcp->gqpij", w, left, right, optimize=True)
        return [right.transpose(0, 2, 1), core, left]

    def shapes(self, shape, rank):
        (g, o, c), (p, q) = shape[:3], rank
        return [(g, p, c, "pre"), (g, q, p, "k"), (g, o, q, "post")]

    def stages(self, factors):
        first, core, last = factors
        g = len(first)
        return [Stage(flat(first, 1, 1), g, "pre"), Stage(flat(core), g, "k"), Stage(flat(last, 1, 1), g, "post")]

    def features(self, factors, shape):
        t = np.einsum("gpc,gqpij->gqcij", *factors[:2], optimize=True)
        return t.reshape(*t.shape[:2], -1)


class CP(Form):
    """Starts from an orthogonal sum: the kernel in products of its row and column bases, each pattern's matrix by SVD.

    With u, v the singular bases of rows and columns, w = sum over (a, b) of M_ab [o, c] u_a v_b; the terms of all
    M_ab are orthonormal, so the largest ones are the best choice among them and their energies add. `refine` goes on.
    """

    name, factors, planar = "cp", ("grc", "gri", "grj", "gor"), True

    def full(self, shape):
        _g, o, c, i, j = shape
        return (i * j * min(o, c),)

    def start(self, w):
        g, o, c, i, j = w.shape
        rows, _ = basis(w.transpose(0, 3, 1, 2, 4).reshape(g, i, -1))
        columns, _ = basis(w.transpose(0, 4, 1, 2, 3).reshape(g, j, -1))
        m = np.einsum("gocij,gia,gjb->gaboc", w, rows, columns, optimize=True).reshape(-1, o, c)
        (_, vectors, tall), _ = pair(m)
        second = m @ vectors if tall else vectors
        first = vectors.transpose(0, 2, 1) if tall else vectors.transpose(0, 2, 1) @ m
        k = vectors.shape[2]
        energies = np.square(second).sum(1) * np.square(first).sum(2)
        order = np.argsort(-energies.reshape(g, i * j * k), axis=1, kind="stable")
        sorted_energies = np.take_along_axis(energies.reshape(g, -1), order, 1)
        errors = left_out(sorted_energies.sum(0))
        patterns = [np.repeat(rows.transpose(0, 2, 1), j, 1), np.tile(columns.transpose(0, 2, 1), (1, i, 1))]
        terms = [first.reshape(g, -1, c), *(np.repeat(p, k, 1) for p in patterns)]
        terms.append(second.reshape(g, i * j, o, k).transpose(0, 1, 3, 2).reshape(g, -1, o))
        return Start([(r + 1,) for r in range(len(errors))], errors, (terms, order), w.shape)

    def at(self, start, rank):
        terms, order = start.parts
        picked = [np.take_along_axis(t, order[:, : rank[0], None], 1) for t in terms]
        return [*picked[:3], picked[3].transpose(0, 2, 1)]

    def shapes(self, shape, rank):
        (g, o, c), r = shape[:3], rank[0]
        return [(g, r, c, "pre"), (g * r, 1, 1, "k0"), (g * r, 1, 1, "k1"), (g, o, r, "post")]

    def stages(self, factors):
        a, u, v, b = factors
        g, n = len(a), a.shape[0] * a.shape[1]
        return [
            Stage(flat(a, 1, 1), g, "pre"),
            Stage(u.reshape(n, 1, -1, 1), n, "k0"),
            Stage(v.reshape(n, 1, 1, -1), n, "k1"),
            Stage(flat(b, 1, 1), g, "post"),
        ]

    def compose(self, factors):
        t = np.einsum("grc,gri,grj->grcij", *factors[:3], optimize=True)  # then one product: einsum alone finds none
        made = factors[3] @ t.reshape(*t.shape[:2], -1)
        return made.reshape(*made.shape[:2], *t.shape[2:])

    def features(self, factors, shape):
        t = np.einsum("grc,gri,grj->grcij", *factors[:3], optimize=True)
        return t.reshape(*t.shape[:2], -1)


class Separable(Form):
    name, factors = "separable", ("gcmij", "gocm")

    def full(self, shape):
        _g, o, _c, i, j = shape
        return (min(o, i * j),)

    def start(self, w):
        g, o, c, i, j = w.shape
        parts, _ = pair(w.transpose(0, 2, 1, 3, 4).reshape(g * c, o, i * j))
        _m, vectors, _ = parts
        first, second = halves(parts, vectors.shape[2])
        energies = (np.square(first).sum(2) * np.square(second).sum(1)).sum(0)
        return Start([(r + 1,) for r in range(len(energies))], left_out(energies), parts, w.shape)

    def at(self, start, rank):
        g, o, c, i, j = start.shape
        first, second = halves(start.parts, rank[0])
        return [first.reshape(g, c, -1, i, j), second.reshape(g, c, o, -1).transpose(0, 2, 1, 3)]

    def shapes(self, shape, rank):
        (g, o, c), m = shape[:3], rank[0]
        return [(g * c, m, 1, "k"), (g, o, c * m, "post")]

    def stages(self, factors):
        d, p = factors
        g, c, m, i, j = d.shape
        return [
            Stage(d.reshape(g * c * m, 1, i, j), g * c, "k"),
            Stage(p.reshape(-1, c * m, 1, 1), g, "post"),
        ]

    def features(self, factors, shape):
        g, _o, c, i, j = shape
        t = np.einsum("gcmij,cd->gcmdij", factors[0], np.eye(c), optimize=True)
        return t.reshape(g, -1, c * i * j)


FORMS: dict[str, Form] = {f.name: f for f in (Channel(), Spatial(), Tucker(), CP(), Separable())}
