"""Sub-vectors of a layer's weights and the few that stand for them: k-means, then codes and codebook by what outputs feel.

Columns of a row of weights are cut into blocks (part, position) of `length` inputs each. With the second moments H of what a
layer reads and the target U (`rounding`), its squared error is tr (V - U) H (V - U)^T, V the weights that the codes mean.

    start    k-means of the blocks in the metric of their own part of H (Gong 2014: H = 1)
    assign   block by block, each block's error handed on to those that follow (as `rounding.gptq`, of vectors)
    descend  each block in turn to the code that is best given all others (error correction of Wu 2016, eq. 10)
    refit    all centroids of a book at once, by conjugate gradients on their normal equations (eq. 9)

Shapes: codes [g, o, m, p], book float64 [1 or m, k, l], u and v [g, o, m, p, l] for g groups of o outputs with m parts of
l inputs at p positions; h [g, m·p·l, m·p·l].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LLOYD = 30
ROUNDS = 4
GRADIENTS = 24
SETTLED = 1e-4
"""A round that lowers the error by less than this share is the last."""
STRIP = 1 << 22
"""Distances that are held at once."""


@dataclass(frozen=True)
class Cut:
    """How a view [g, o, c, p] is cut: c is m parts of l inputs."""

    groups: int
    outputs: int
    parts: int
    positions: int
    length: int

    @staticmethod
    def of(view: tuple[int, ...], most: int) -> Cut:
        """For sub-vectors of `most` inputs at most: their length divides the channels."""
        g, o, c, p = view
        length = next(n for n in range(min(most, c), 0, -1) if c % n == 0)
        return Cut(g, o, c // length, p, length)

    def blocks(self, view: np.ndarray) -> np.ndarray:
        """[g, o, c, p] (or c·p columns) as [g, o, m, p, l], float64."""
        split = view.reshape(self.groups, -1, self.parts, self.length, self.positions)
        return np.ascontiguousarray(split.transpose(0, 1, 2, 4, 3), np.float64)

    def moments(self, h: np.ndarray) -> np.ndarray:
        """h [g, c·p, c·p] with rows and columns in the order of blocks."""
        order = np.arange(h.shape[1]).reshape(self.parts, self.length, self.positions).transpose(0, 2, 1).ravel()
        return h[:, order[:, None], order]


def meant(codes: np.ndarray, book: np.ndarray) -> np.ndarray:
    """v: the sub-vectors that codes stand for."""
    which = (np.arange(codes.shape[2]) % len(book))[None, None, :, None]
    return book[which, codes]


def plain(u: np.ndarray, k: int, shared: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(codes, book) of least squared error of the weights themselves, by k-means."""
    return _start(u, None, k, shared, rng)


def corrected(
    u: np.ndarray, h: np.ndarray, k: int, shared: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(codes, book) that change what the layer puts out least."""
    codes, book = _start(u, h, k, shared, rng)
    tried = _assign(u, h, book)
    if _error(u, h, tried, book) < _error(u, h, codes, book):
        codes = tried
    before = _error(u, h, codes, book)
    for _ in range(ROUNDS):
        book = _refit(u, h, codes, book)
        codes = _descend(u, h, codes, book)
        now = _error(u, h, codes, book)
        if before - now <= SETTLED * before:
            break
        before = now
    return codes, book


def _flat(blocks: np.ndarray) -> np.ndarray:
    return blocks.reshape(*blocks.shape[:2], -1)


def _error(u: np.ndarray, h: np.ndarray, codes: np.ndarray, book: np.ndarray) -> float:
    d = _flat(meant(codes, book) - u)
    return float(((d @ h) * d).sum())


def _start(
    u: np.ndarray, h: np.ndarray | None, k: int, shared: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    g, _, m, p, n = u.shape
    codes, books = np.empty(u.shape[:4], np.uint8), []
    for part in [slice(None)] if shared else [slice(i, i + 1) for i in range(m)]:
        x = u[:, :, part]
        root = np.eye(n) if h is None else _root(h, part, (g, m, p, n))
        centroids, found = kmeans(x.reshape(-1, n) @ root, k, rng)
        books.append(np.linalg.solve(root.T, centroids.T).T)
        codes[:, :, part] = found.reshape(x.shape[:4])
    return codes, np.stack(books)


def _root(h: np.ndarray, part: slice, shape: tuple[int, int, int, int]) -> np.ndarray:
    """L with L L' the mean of H's diagonal blocks in these parts: x L has the metric of x there."""
    g, m, p, n = shape
    blocks = np.einsum("gbibj->gbij", h.reshape(g, m * p, n, m * p, n)).reshape(g, m, p, n, n)[:, part]
    return np.linalg.cholesky(blocks.mean((0, 1, 2)))


def kmeans(x: np.ndarray, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(centroids [at most k, n], the nearest of each row of x [r, n]): starts by k-means++ (Arthur 2007), then Lloyd's rounds.

    Centroids are as many as rows differ, at most k.
    """
    k = min(k, len(np.unique(x, axis=0)))
    chosen = np.empty((k, x.shape[1]))
    distance = np.full(len(x), np.inf)
    at = int(rng.integers(len(x)))
    for i in range(k):
        chosen[i] = x[at]
        distance = np.minimum(distance, np.square(x - x[at]).sum(1))
        total = np.cumsum(distance)
        at = min(int(np.searchsorted(total, rng.random() * total[-1], side="right")), len(x) - 1)
    before = np.inf
    found, error = nearest(x, chosen)
    for _ in range(LLOYD):
        now = float(error.sum())
        if before - now <= SETTLED * now:
            break
        before = now
        counts = np.bincount(found, minlength=k)
        sums = np.stack([np.bincount(found, x[:, j], k) for j in range(x.shape[1])], 1)
        empty = np.flatnonzero(counts == 0)
        chosen = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], chosen)
        chosen[empty] = x[np.argsort(-error, kind="stable")[: len(empty)]]
        found, error = nearest(x, chosen)
    return chosen, found


def nearest(x: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the index of the nearest centroid, its squared distance) of each row."""
    found, error = np.empty(len(x), np.int64), np.empty(len(x))
    norms = np.square(centroids).sum(1)
    step = max(1, STRIP // len(centroids))
    for i in range(0, len(x), step):
        part = x[i : i + step]
        d = norms - 2 * part @ centroids.T
        best = d.argmin(1)
        found[i : i + step] = best
        error[i : i + step] = np.maximum(d[np.arange(len(part)), best] + np.square(part).sum(1), 0)
    return found, error


def _assign(u: np.ndarray, h: np.ndarray, book: np.ndarray) -> np.ndarray:
    """Codes block by block: with R'R = H^-1, R upper, block b's error e costs |e R_bb^-1|^2 once the later ones make up for it,
    by -e R_bb^-1 R_b,later."""
    g, _, m, p, n = u.shape
    codes, left = np.empty(u.shape[:4], np.uint8), _flat(u).copy()
    spread = np.linalg.cholesky(np.linalg.inv(h)).transpose(0, 2, 1)
    for b in range(m * p):
        here = slice(b * n, b * n + n)
        for i in range(g):
            inverse = np.linalg.inv(spread[i, here, here])
            centroids = book[b // p % len(book)]
            found, _ = nearest(left[i, :, here] @ inverse, centroids @ inverse)
            codes[i, :, b // p, b % p] = found
            error = (left[i, :, here] - centroids[found]) @ inverse
            left[i, :, b * n + n :] -= error @ spread[i, here, b * n + n :]
    return codes


def _descend(u: np.ndarray, h: np.ndarray, codes: np.ndarray, book: np.ndarray) -> np.ndarray:
    """Each block in turn to its best code given all others."""
    g, _, m, p, n = u.shape
    codes = codes.copy()
    for i in range(g):
        slope = (_flat(u)[i] - _flat(meant(codes, book))[i]) @ h[i]
        for b in range(m * p):
            here = slice(b * n, b * n + n)
            centroids, old = book[b // p % len(book)], codes[i, :, b // p, b % p]
            own = h[i, here, here]
            root = np.linalg.cholesky(own)
            ideal = centroids[old] + np.linalg.solve(own, slope[:, here].T).T
            new, _ = nearest(ideal @ root, centroids @ root)
            moved = np.flatnonzero(new != old)
            if len(moved):
                change = centroids[new[moved]] - centroids[old[moved]]
                slope[moved] -= change @ h[i, here]
                codes[i, :, b // p, b % p] = new
    return codes


def _refit(u: np.ndarray, h: np.ndarray, codes: np.ndarray, book: np.ndarray) -> np.ndarray:
    """Centroids of least error for these codes, a book at a time; conjugate gradients from where they are never go up."""
    _, _, m, p, n = u.shape
    book = book.copy()
    each = [np.arange(m)] if len(book) == 1 else [np.array([i]) for i in range(m)]
    for r, parts in enumerate(each):
        columns = (parts[:, None] * p * n + np.arange(p * n)).ravel()
        within = h[:, columns[:, None], columns]
        at = codes[:, :, parts]

        def gather(d: np.ndarray, within: np.ndarray = within, at: np.ndarray = at) -> np.ndarray:
            """P' (P d H): what moving the centroids by d changes in the gradient."""
            return _scatter(_flat(d[at]) @ within, at, len(d))

        slope = (_flat(u) - _flat(meant(codes, book))) @ h[:, :, columns]
        residual = _scatter(slope, at, book.shape[1])
        book[r] += _conjugate(gather, residual)
    return book


def _scatter(rows: np.ndarray, at: np.ndarray, k: int) -> np.ndarray:
    """Rows [g, o, blocks·l] summed by the code of each block: [k, l]."""
    flat = rows.reshape(at.size, -1)
    return np.stack([np.bincount(at.ravel(), flat[:, j], k) for j in range(flat.shape[1])], 1)


def _conjugate(apply, residual: np.ndarray) -> np.ndarray:
    """x with apply(x) = residual, from 0, in so many steps at most."""
    x, direction, size = np.zeros_like(residual), residual.copy(), float((residual**2).sum())
    least = 1e-12 * size
    for _ in range(GRADIENTS):
        if size <= least:
            break
        image = apply(direction)
        curve = float((direction * image).sum())
        if curve <= 0:
            break
        x += size / curve * direction
        residual = residual - size / curve * image
        size, before = float((residual**2).sum()), size
        direction = residual + size / before * direction
    return x
