"""The range of an option, declared with its type: checked when a pass is made, shown by `onnxc passes --list PASS`.

bits: Annotated[int, Range(2, 8)] = 8
strength: Annotated[float | None, Range(above=0, high=1)] = None
"""

from __future__ import annotations

import typing
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """The numbers that an option may be: from `low` to `high`, both among them, above `above`, below `below`.

    Other values that its type allows (none, a word) are not looked at.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def holds(self, value: object) -> bool:
        """Whether `value` is no number, or one within; NaN never is."""
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return True
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and value == value
        )

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        ends = (("at least", self.low), ("above", self.above), ("at most", self.high), ("below", self.below))
        return " and ".join(f"{word} {end:g}" for word, end in ends if end is not None)


_KNOWN: dict[type, dict[str, Range]] = {}


def ranges(cls: type) -> dict[str, Range]:
    """The ranges that a class declares, by option."""
    if cls in _KNOWN:
        return _KNOWN[cls]
    found = _KNOWN[cls] = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        for extra in getattr(hint, "__metadata__", ()):
            if isinstance(extra, Range):
                found[name] = extra
    return found
