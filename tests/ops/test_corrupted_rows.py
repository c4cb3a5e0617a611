"""Corrupt a row of the table on purpose: the checks of tests/ops must notice.

Each corruption replaces one row by a wrong one. At least one of that operator's cases must then fail its shape check, its
list of free axes, or the comparison with the zeroed twin; with the list left aside (`blind`), one of the other two.
"""

import numpy as np
import onnxruntime as ort
import pytest

import onnxc.ir.ops  # noqa: F401  the rows enter themselves
from onnxc.ir.axes import Atom, Prod, Sum
from onnxc.ir.errors import OnnxcError
from onnxc.ir.masks import Minus
from onnxc.ir.table import ROWS, Use
from tests.ops.cases import CASES
from tests.ops.harness import check_pruning, check_shapes

RIGHT = dict(ROWS)


def silent(method):
    """The right row, with one kind of statement ignored."""

    def corrupt(op):
        def wrong(use: Use) -> None:
            setattr(use, method, lambda *a, **k: None)
            RIGHT[op](use)

        return wrong

    return corrupt


def after(change):
    """The right row, then `change(use)`."""

    def corrupt(op):
        def wrong(use: Use) -> None:
            RIGHT[op](use)
            change(use)

        return wrong

    return corrupt


def swapped(p: int, q: int):
    """Two axes of the first output change places."""

    def change(use: Use) -> None:
        axes = list(use.outs[0])
        axes[p], axes[q] = axes[q], axes[p]
        use.out(axes)

    return after(change)


def thawed(op):
    """The right row, but what it makes anew is free, and nothing is frozen."""

    def wrong(use: Use) -> None:
        use.fix = lambda *a, **k: None
        use.fixed = lambda size, why="": Atom(size)
        RIGHT[op](use)

    return wrong


def turned(use: Use) -> None:
    """Products and sums of the first output the wrong way round."""
    use.out([type(a)(a.parts[::-1]) if isinstance(a, (Prod, Sum)) else a for a in use.outs[0]])


def first_axes(use: Use) -> None:
    use.out(use.ax(0))


def stale(use: Use) -> None:
    use.facts.operands.clear()
    use.facts.attrs.clear()


def contracts_nothing(use: Use) -> None:
    use.facts.contracted.clear()


def forgets_the_zero_point(use: Use) -> None:
    use.facts.zero_points.clear()


def loose(use: Use) -> None:
    """The output's axes are new ones of the same extents: a forgotten tie."""
    from onnxc.ir.axes import extent

    use.out([Atom(extent(a)) for a in use.outs[0]])


CORRUPTIONS = {
    "Conv: contracts nothing": ("Conv", after(contracts_nothing)),
    "Conv: ties nothing": ("Conv", silent("tie")),
    "Conv: output axes swapped": ("Conv", swapped(0, 1)),
    "Conv: group stays": ("Conv", after(stale)),
    "Conv: bias untied": ("Conv", silent("bind")),
    "Conv: spatial axes free": ("Conv", thawed),
    "QLinearConv: no zero point": ("QLinearConv", after(forgets_the_zero_point)),
    "ConvTranspose: contracts nothing": ("ConvTranspose", after(contracts_nothing)),
    "Gemm: contracts nothing": ("Gemm", after(contracts_nothing)),
    "Gemm: output axes swapped": ("Gemm", swapped(0, 1)),
    "MatMul: ties nothing": ("MatMul", silent("tie")),
    "Einsum: contracts nothing": ("Einsum", after(contracts_nothing)),
    "Add: forgotten tie": ("Add", after(loose)),
    "Concat: forgotten tie": ("Concat", after(loose)),
    "Concat: summands the wrong way round": ("Concat", after(turned)),
    "Flatten: factors the wrong way round": ("Flatten", after(turned)),
    "Reshape: stale target": ("Reshape", after(stale)),
    "Reshape: factors the wrong way round": ("Reshape", after(turned)),
    "Transpose: passes its axes through": ("Transpose", after(first_axes)),
    "DepthToSpace: blocks free": ("DepthToSpace", thawed),
    "Split: stale sizes": ("Split", after(stale)),
    "Slice: stale bounds": ("Slice", after(stale)),
    "Slice: forgotten tie": ("Slice", after(loose)),
    "Gather: the gathered axis is free": ("Gather", silent("fix")),
    "Softmax: its axis is free": ("Softmax", silent("fix")),
    "LayerNormalization: no statistic": ("LayerNormalization", silent("statistic")),
    "GroupNormalization: no statistic": ("GroupNormalization", silent("statistic")),
    "ReduceMean: no statistic": ("ReduceMean", silent("statistic")),
    "ReduceSum: contracts nothing": ("ReduceSum", after(contracts_nothing)),
    "ArgMax: its axis is free": ("ArgMax", silent("fix")),
    "TopK: its axis is free": ("TopK", silent("fix")),
    "MaxPool: spatial axes free": ("MaxPool", thawed),
    "BatchNormalization: parameters untied": ("BatchNormalization", silent("bind")),
    "DequantizeLinear: scales untied": ("DequantizeLinear", silent("bind")),
    "Tile: repeats the wrong way round": ("Tile", after(turned)),
    "Pad: ends free": ("Pad", thawed),
    "Resize: stale sizes": ("Resize", after(stale)),
}
FAILURES = (AssertionError, OnnxcError, ValueError, TypeError, IndexError, KeyError, *(
    kind for kind in vars(ort.capi.onnxruntime_pybind11_state).values() if isinstance(kind, type) and issubclass(kind, Exception)
))  # fmt: skip


def noticed(op: str, blind: bool) -> bool:
    """Whether some check fails, among the cases of `op`."""
    for case in (c for c in CASES if c.op == op):
        for check in (lambda c: check_shapes(c, symbolic=False), lambda c: check_pruning(c, rounds=6, blind=blind)):
            try:
                check(case)
            except FAILURES:
                return True
    return False


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupted_row_is_noticed(name, monkeypatch):
    op, corrupt = CORRUPTIONS[name]
    monkeypatch.setitem(ROWS, op, corrupt(op))
    assert noticed(op, blind=False)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupted_row_is_noticed_by_its_numbers(name, monkeypatch):
    op, corrupt = CORRUPTIONS[name]
    monkeypatch.setitem(ROWS, op, corrupt(op))
    assert noticed(op, blind=True)


def test_bounds_from_the_end_are_rendered():
    from onnxc.ir.masks import _follows, _render

    a, b = Atom(3), Atom(4)
    keep = {a: np.array([True, False, True])}
    assert _render([Minus(Sum((a, b))), 7], keep) == [-6, 7]
    assert _follows(Minus(a), keep) and not _follows(Minus(b), keep)
