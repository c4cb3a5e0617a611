"""The axis algebra by itself."""

from onnxc.ir.axes import Atom, atoms, extent, find, settle
from onnxc.ir.unify import split_sum


def test_an_axis_cut_one_by_one_nests_without_a_limit():
    """Windows that are split off a rest again and again: 3,000 levels, read back as one flat axis."""
    rest = whole = Atom(3001)
    for n in range(3000, 0, -1):
        _, rest = split_sum(rest, (1, n))
    assert extent(whole) == 3001 and sum(1 for _ in atoms(whole)) == 3001
    settle([whole])
    assert len(find(whole).parts) == 3001 and all(type(p) is Atom for p in find(whole).parts)
