"""The axis algebra by itself."""

from onnxc.ir.axes import Atom, Sum, atoms, extent, find, settle
from onnxc.ir.unify import split_sum, tie


def test_an_axis_cut_one_by_one_nests_without_a_limit():
    """Windows that are split off a rest again and again: 3,000 levels, read back as one flat axis."""
    rest = whole = Atom(3001)
    for n in range(3000, 0, -1):
        _, rest = split_sum(rest, (1, n))
    assert extent(whole) == 3001 and sum(1 for _ in atoms(whole)) == 3001
    settle([whole])
    assert len(find(whole).parts) == 3001 and all(type(p) is Atom for p in find(whole).parts)


def test_sums_of_other_parts_are_tied_by_a_common_refinement():
    """6+2 met with 3+5: the pieces are 3, 3 and 2, in this order, whichever side is refined."""
    for left, right in (((6, 2), (3, 5)), ((3, 5), (6, 2))):
        a, b = (Sum([Atom(n) for n in sizes]) for sizes in (left, right))
        tie(a, b)
        assert [p.size for p in atoms(a)] == [p.size for p in atoms(b)] == [3, 3, 2]
        assert all(x is y for x, y in zip(atoms(a), atoms(b), strict=True))
