"""How far arrays are apart: absolute and relative error, signal to noise, agreement of the top class."""

from __future__ import annotations

import math

import numpy as np

from .errors import VerificationError


class Difference:
    """Running difference between arrays of a reference and others in their place, batch by batch: the outputs of two
    models, or weights before and after.

    - `max_abs`: max |a - b|, inf where just one of the two is NaN, or where infinities differ.
    - `max_rel`: max_abs / max |a|, both over all batches.
    - `noise`: sum (a - b)^2 / sum a^2, 0 where there is no difference, inf where only the reference is silent.
    - `snr_db`: the same as 10 log10(1 / noise): inf where there is no difference.
    - `top1`: share of rows with the same argmax, None for outputs that are no scores of a classifier, [n, classes].
      The classes are the second axis of images (rank 4 and more) and the last axis of everything else.
    """

    def __init__(self, scores: bool = True) -> None:
        """`scores`: whether rows of two axes are scores of classes."""
        self.max_abs, self._scores = 0.0, scores
        self.count = 0
        self._peak = self._signal = self._noise = 0.0
        self._rows = self._same = 0

    def add(self, reference: np.ndarray, other: np.ndarray, name: str = "output") -> Difference:
        """Take in one more batch. Raises `VerificationError` if shapes or kinds of type differ."""
        if reference.shape != other.shape or _kind(reference) != _kind(other):
            expected = f"{reference.dtype} {list(reference.shape)}"
            found = f"{other.dtype} {list(other.shape)}"
            raise VerificationError("the outputs differ in form", tensor=name, expected=expected, found=found)
        if reference.dtype.kind in "OUS":
            raise VerificationError("outputs of strings are not compared", tensor=name)
        self.count += reference.size
        if reference.size == 0:
            return self
        wide = np.complex128 if reference.dtype.kind == "c" else np.float64
        a, b = reference.astype(wide), other.astype(wide)
        # Equal infinities and a NaN on both sides are no difference; their subtraction would be NaN.
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore", over="ignore"):
            gap = np.where(same, 0.0, np.abs(a - b))
        gap[np.isnan(gap)] = math.inf
        level = np.abs(a[np.isfinite(a)])
        self.max_abs = max(self.max_abs, float(gap.max()))
        self._peak = max(self._peak, float(level.max(initial=0.0)))
        with np.errstate(over="ignore"):
            self._signal += float(np.square(level).sum())
            self._noise += float(np.square(gap).sum())
        self._add_top1(reference, other)
        return self

    def _add_top1(self, reference: np.ndarray, other: np.ndarray) -> None:
        if not self._scores or reference.dtype.kind != "f" or reference.ndim != 2 or reference.shape[1] < 2:
            return
        agree = reference.argmax(1) == other.argmax(1)
        self._rows += agree.size
        self._same += int(agree.sum())

    @property
    def max_rel(self) -> float:
        if self.max_abs == 0:
            return 0.0
        return self.max_abs / self._peak if self._peak else math.inf

    @property
    def noise(self) -> float:
        if self._noise == 0:
            return 0.0
        return self._noise / self._signal if self._signal else math.inf

    @property
    def snr_db(self) -> float:
        return decibels(self.noise)

    @property
    def top1(self) -> float | None:
        return self._same / self._rows if self._rows else None

    def to_dict(self) -> dict[str, float | bool | None]:
        """For JSON, which knows no infinity: those are None, and `exact` says that nothing differed."""
        figures = {"max_abs": self.max_abs, "max_rel": self.max_rel, "snr_db": self.snr_db, "top1": self.top1}
        finite = {key: value if value is not None and math.isfinite(value) else None for key, value in figures.items()}
        return {**finite, "exact": self.max_abs == 0}


def _kind(array: np.ndarray) -> str:
    # Signed or not, and how wide, may change; a float must not become an integer.
    return "i" if array.dtype.kind in "iu" else "f" if array.dtype.kind in "fV" else array.dtype.kind


def decibels(noise: float) -> float:
    """The signal-to-noise ratio in dB for noise power by signal power; no noise is inf, noise alone -inf."""
    if noise == 0:
        return math.inf
    return -10 * math.log10(noise) if math.isfinite(noise) else -math.inf


def snr(reference: np.ndarray, other: np.ndarray) -> str:
    """The signal-to-noise ratio of arrays of numbers in words: `exact`, or `SNR 41.3 dB`."""
    found = Difference().add(reference, other)
    return "exact" if found.noise == 0 else f"SNR {found.snr_db:.1f} dB"
