"""Sums of products said as matrix products: Einsum, DFT, STFT.

Einsum("bij,bjk->bik", x, y)   ->   MatMul(x, y)
DFT(x)                         ->   x times the matrix of cos and -sin
"""

from __future__ import annotations

from math import prod

import numpy as np

from onnxc.codegen.prepare.build import Build, rewrites

MOST_POINTS = 8192  # of a transform: its matrix has their square


@rewrites("Einsum")
def einsum(b: Build) -> str:
    """Operands are joined from the left, each time as one batched product; letters that nobody wants any more are summed."""
    text = b.attribute("equation").replace(" ", "")
    left, arrow, result = text.partition("->")
    ranks = [len(b.shape(name)) for name in b.node.input]
    terms, most = left.split(","), 0
    for term, rank in zip(terms, ranks, strict=True):
        most = max(most, rank - len(term.replace("...", ""))) if "..." in term else most
    extra = [f"<{i}>" for i in range(most)]

    def letters(term: str, rank: int) -> list[str]:
        before, dots, after = term.partition("...")
        count = rank - len(before) - len(after)
        return [*before, *(extra[most - count :] if dots else []), *after]

    operands = [(name, letters(term, rank)) for name, term, rank in zip(b.node.input, terms, ranks, strict=True)]
    if arrow:
        wanted = letters(result, len(result.replace("...", "")) + most)
    else:
        every = [one for _, term in operands for one in term]
        wanted = [*extra, *sorted({one for one in every if every.count(one) == 1 and one not in extra})]
    operands = [_diagonal(b, x, term) for x, term in operands]
    (x, term), *rest = operands
    for i, (other, others) in enumerate(rest):
        later = {one for _, own in rest[i + 1 :] for one in own} | set(wanted)
        x, term = _product(b, x, term, other, others, later)
    x, term = _summed(b, x, term, set(wanted))
    return b.transpose(x, *(term.index(one) for one in wanted))


def _diagonal(b: Build, x: str, term: list[str]) -> tuple[str, list[str]]:
    """x with a letter that stands twice taken on the diagonal."""
    while len(set(term)) < len(term):
        letter = next(one for one in term if term.count(one) > 1)
        i, j = [k for k, one in enumerate(term) if one == letter][:2]
        order = [i, j, *(k for k in range(len(term)) if k not in (i, j))]
        x = b.transpose(x, *order)
        n, m, *others = b.shape(x)
        x = b("Gather", b.reshape(x, (n * m, *others)), b.constant(np.arange(n) * (n + 1), np.int64), axis=0)
        term = [letter, *(term[k] for k in order[2:])]
    return x, term


def _summed(b: Build, x: str, term: list[str], wanted: set[str]) -> tuple[str, list[str]]:
    axes = [i for i, one in enumerate(term) if one not in wanted]
    if not axes:
        return x, term
    if b.walk.opset < 13:
        x = b("ReduceSum", x, axes=axes, keepdims=0)
    else:
        x = b("ReduceSum", x, b.constant(axes, np.int64), keepdims=0)
    return x, [one for one in term if one in wanted]


def _product(b: Build, x: str, own: list[str], y: str, other: list[str], later: set[str]) -> tuple[str, list[str]]:
    """The product of two operands; letters in neither the other operand nor `later` are summed."""
    x, own = _summed(b, x, own, later | set(other))
    y, other = _summed(b, y, other, later | set(own))
    sizes = dict(zip(other, b.shape(y))) | {one: n for one, n in zip(own, b.shape(x)) if n != 1 or one not in other}
    batch = [one for one in own if one in other and one in later]
    summed = [one for one in own if one in other and one not in later]
    rows, columns = ([one for one in term if one not in batch + summed] for term in (own, other))

    def shaped(name: str, term: list[str], order: list[str], groups: list[list[str]]) -> str:
        extents = dict(zip(term, b.shape(name)))
        wide = [sizes[one] for one in order]
        name = b.transpose(name, *(term.index(one) for one in order))
        if wide != [extents[one] for one in order]:  # extents of 1 are repeated
            name = b("Expand", name, b.constant(wide, np.int64))
        return b.reshape(name, [prod(sizes[one] for one in group) for group in groups])

    left = shaped(x, own, [*batch, *rows, *summed], [batch, rows, summed])
    right = shaped(y, other, [*batch, *summed, *columns], [batch, summed, columns])
    made = b("MatMul", left, right)
    return b.reshape(made, [sizes[one] for one in (*batch, *rows, *columns)]), [*batch, *rows, *columns]


def _matrix(points: int, bins: int, inverse: bool) -> np.ndarray:
    """(points, bins): powers of the root of unity; the inverse divides by their number."""
    turns = np.outer(np.arange(points), np.arange(bins)) % points / points
    found = np.exp((2j if inverse else -2j) * np.pi * turns)
    return found / points if inverse else found


def _transformed(b: Build, x: str, matrix: np.ndarray, real_only: bool) -> str:
    """(..., points, 1 or 2), the last real and imaginary, times a complex (points, bins): (..., bins, 2 or 1)."""
    *lead, points, parts = b.shape(x)
    bins = matrix.shape[1]
    rows = np.zeros((points, parts, bins, 1 if real_only else 2))
    rows[:, 0, :, 0] = matrix.real
    if not real_only:
        rows[:, 0, :, 1] = matrix.imag
    if parts == 2:
        rows[:, 1, :, 0] = -matrix.imag
        if not real_only:
            rows[:, 1, :, 1] = matrix.real
    weights = b.like(rows.reshape(points * parts, -1), x)
    made = b("MatMul", b.reshape(x, (prod(lead), points * parts)), weights)
    return b.reshape(made, (*lead, bins, rows.shape[-1]))


@rewrites("DFT")
def dft(b: Build) -> str:
    """The discrete Fourier transform along an axis, of real or complex numbers, padded or cut to dft_length."""
    x, size, axis = b.needs(0), b.input(1), b.input(2)
    inverse, half = bool(b.attribute("inverse", 0)), bool(b.attribute("onesided", 0))
    rank = len(b.shape(x))
    if b.walk.opset < 20:
        return _along(b, x, size, b.attribute("axis", 1) % rank, inverse, half)
    if axis is None:
        return _along(b, x, size, rank - 2, inverse, half)
    if (known := b.known(axis)) is not None:
        return _along(b, x, size, int(known.reshape(-1)[0]) % rank, inverse, half)
    if half or size is not None:
        raise b.refusal("its axis is computed at run time", tensor=axis, remedy="make it a constant")
    made, axis = "", b.reshape(axis, ())
    for at in range(rank - 1):  # each of them, of which one is kept
        one = _along(b, x, None, at, inverse, half)
        named = b("Or", *(b("Equal", axis, b.like(k, axis)) for k in (at, at - rank)))
        made = b("Where", named, one, made) if made else one
    return made


def _along(b: Build, x: str, size: str | None, at: int, inverse: bool, half: bool) -> str:
    rank = len(b.shape(x))
    points = b.shape(x)[at]
    if size is not None:
        known = b.known(size)
        if known is None:
            raise b.refusal("its dft_length is computed at run time", tensor=size, remedy="make it a constant")
        points = int(known.reshape(-1)[0])
    if points > MOST_POINTS:
        raise b.refusal(f"a transform of {points} points is larger than {MOST_POINTS}")
    order = [*(i for i in range(rank - 1) if i != at), at, rank - 1]
    moved = b.transpose(x, *order)
    whole = inverse and half  # the spectrum of a real signal: the other half is its mirror
    given = b.shape(moved)[-2]
    if whole:
        if size is None:
            points = 2 * (given - 1)
        matrix = _half_inverse(points, given)
    else:
        moved = b.cut(moved, rank - 2, 0, min(given, points))
        matrix = _matrix(points, points // 2 + 1 if half else points, inverse)[: min(given, points)]
    made = _transformed(b, moved, matrix, real_only=whole)
    return b.transpose(made, *(order.index(i) for i in range(rank)))


def _half_inverse(points: int, given: int) -> np.ndarray:
    """(given, points): the inverse of a spectrum of which the first half is given; only its real part is wanted."""
    matrix = _matrix(points, points, True)[: min(given, points // 2 + 1)].copy()
    matrix[1 : (points + 1) // 2] *= 2
    return np.concatenate([matrix, np.zeros((given - len(matrix), points))])


@rewrites("STFT")
def stft(b: Build) -> str:
    """Transforms of windows of a signal (batch, length, 1 or 2): (batch, frames, bins, 2)."""
    x, step = (b.needs(i) for i in range(2))
    window, size = (b.input(i) for i in (2, 3))
    steps, sizes = b.known(step), b.known(size)
    if steps is None or (size is not None and sizes is None):
        raise b.refusal("its frame_step or frame_length is computed at run time", remedy="make it a constant")
    if len(b.shape(x)) == 2:
        x = b.reshape(x, (*b.shape(x), 1))
    length = b.shape(x)[1]
    points = int(sizes.reshape(-1)[0]) if sizes is not None else b.shape(window)[0] if window else length
    if points > MOST_POINTS:
        raise b.refusal(f"windows of {points} points are larger than {MOST_POINTS}")
    stride = int(steps.reshape(-1)[0])
    frames = 1 + (length - points) // stride
    at = np.arange(frames)[:, None] * stride + np.arange(points)
    cut = b("Gather", x, b.constant(at, np.int64), axis=1)  # (batch, frames, points, parts)
    if window is not None:
        cut = b("Mul", cut, b.reshape(b.cast(window, b.walk.element(cut)), (points, 1)))
    bins = points // 2 + 1 if b.attribute("onesided", 1) else points
    return _transformed(b, cut, _matrix(points, bins, False), False)
