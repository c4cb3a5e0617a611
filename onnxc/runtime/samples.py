"""Which axis of each input counts samples, read off names and places.

    x [N, 3, H, W]                          N, on axis 0: every open input has it there
    x [batch, time], state [2, batch, 128]  batch, on axis 0 and on axis 1: its name says so
    feat [n, 85], edges [2, e]              none: the first axes are different things, one sample is one run
    frames [time, 80]                       none: its name says something else
    x [n, b, 20], state [2, b, 16]          b, which both have
    input [?, ?], state [2, ?, 128]         the first and, of the state, the second

Distinct symbols are distinct axes, and one symbol has one extent in all inputs. Axes without a name on the first place of
all open inputs are taken for one. Where all extents are fixed, equal first extents are a batch of just that size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from onnxc.ir.errors import BadOption

Dim = int | str | None
Shape = tuple[Dim, ...] | None

SURE = re.compile(r"N|B|BS|bs|.*batch.*", re.IGNORECASE)
OTHER = re.compile(
    r".*(seq|len|time|height|width|frame|token|channel|node|edge|point|step|past|cache|audio|sample_?rate|text|image|phone"
    r"|char|word|box|anchor|class|rows?|cols?).*|[hwtlscek]|samples",
    re.IGNORECASE,
)
NAMELESS = re.compile(
    r"unk__\d+|unknown.*|None|.*dynamic_axes_\d+|[ds]\d+|dim_?\d+|.*_dim_\d+|dyn_?\d*|.*DynamicDimension.*",
    re.IGNORECASE,
)
NONE = "none"
"""What is said for: no axis counts samples."""


def sample_axes(
    inputs: Mapping[str, Shape], outputs: Sequence[Shape] = (), told: str | None = None
) -> dict[str, int | None]:
    """For each input the place of the axis that counts samples, or None.

    inputs and outputs: declared shapes (None: unknown rank, whose first axis counts). told: the symbol that counts samples,
    or "none". Raises BadOption where no input has that symbol.
    """
    if told is not None and told != NONE:
        found = {name: _place(shape, lambda d: d == told) for name, shape in inputs.items()}
        if all(axis is None for axis in found.values()):
            symbols = sorted({d for shape in inputs.values() for d in shape or () if isinstance(d, str)})
            raise BadOption("no axis of an input has this name", found=told, expected=", ".join([*symbols, NONE]))
        return found
    none = dict.fromkeys(inputs)
    if told == NONE:
        return none
    opened = {
        name: shape for name, shape in inputs.items() if shape is None or any(not isinstance(d, int) for d in shape)
    }
    if not opened:
        firsts = {shape[0] for shape in inputs.values() if shape}
        return {name: 0 if shape and len(firsts) == 1 else None for name, shape in inputs.items()}
    shared = _shared(opened)
    sure = {name: _place(shape, lambda d: d == shared if shared else _is_sure(d)) for name, shape in opened.items()}
    if any(axis is not None for axis in sure.values()) and not _strangers(opened, sure):
        return none | {name: 0 if shape is None else sure[name] for name, shape in opened.items()}
    axes = {name: _state(shape) if shape else 0 for name, shape in opened.items() if shape is None or shape}
    firsts = {shape[axis] if (shape := opened[name]) else None for name, axis in axes.items()}
    common = [d for d in set.intersection(*(set(shape or ()) for shape in opened.values())) if _is_nameless(d) and d]
    if len(firsts) > 1 and len(common) == 1:  # distinct symbols are distinct axes: the one that all inputs have
        return none | {name: _place(shape, lambda d: d == common[0]) for name, shape in opened.items()}
    alike = len(firsts) == 1 or all(map(_is_nameless, firsts))
    if not alike or any(isinstance(d, int) or OTHER.fullmatch(str(d)) for d in firsts) or _denied(firsts, outputs):
        return none
    return none | axes


def _state(shape: tuple[Dim, ...]) -> int:
    """Where the axis of samples of a nameless shape is: the second of [layers, ?, hidden], else the first."""
    return int(
        len(shape) == 3 and isinstance(shape[0], int) and not isinstance(shape[1], int) and isinstance(shape[2], int)
    )


def _is_nameless(dim: Dim) -> bool:
    return dim is None or NAMELESS.fullmatch(str(dim)) is not None


def _is_sure(dim: Dim) -> bool:
    return isinstance(dim, str) and SURE.fullmatch(dim) is not None


def is_batch(dim: Dim) -> bool:
    """Whether an axis is called as axes of samples are, or not at all."""
    return _is_sure(dim) or _is_nameless(dim)


def _shared(opened: Mapping[str, Shape]) -> str | None:
    """Of several names of samples, one that all inputs have: x [n, b, 20] beside h [2, b, 16] has b."""
    rows = [
        {d: k for k, d in reversed(list(enumerate(shape))) if isinstance(d, str)} for shape in opened.values() if shape
    ]
    found = [d for d in (rows[0] if rows else ()) if _is_sure(d) and all(d in row for row in rows)]
    return max(found, key=lambda d: ("batch" in d.lower(), d.lower().startswith("b"), -rows[0][d]), default=None)


def _strangers(opened: Mapping[str, Shape], sure: Mapping[str, int | None]) -> bool:
    """Whether a letter alone names the axis, and other inputs have first axes of another name: nodes and edges, say."""
    letters = {shape[axis] for n, shape in opened.items() if shape and (axis := sure[n]) is not None}
    if any("batch" in str(d).lower() for d in letters):
        return False
    return any(sure[name] is None and shape is not None for name, shape in opened.items())


def _place(shape: Shape, fits) -> int | None:
    return next((axis for axis, dim in enumerate(shape or ()) if fits(dim)), None)


def _denied(firsts: set[Dim], outputs: Sequence[Shape]) -> bool:
    """Whether all outputs say that they do not grow with that axis."""
    declared = [shape for shape in outputs if shape]
    named = {d for d in firsts if d is not None}
    return bool(declared) and all(isinstance(shape[0], int) and not named & set(shape) for shape in declared)
