"""Tables as text: what is drawn without rich is what rich draws."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from onnxc.cli import tables

CELLS = st.text("ab 1.:%×é", max_size=9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data(), st.integers(20, 90))
def test_plain_tables_are_those_of_rich(data, width):
    count = data.draw(st.integers(1, 5))
    columns = [tables.Column(data.draw(CELLS), data.draw(st.booleans())) for _ in range(count)]
    rows = data.draw(st.lists(st.tuples(*[CELLS] * count), max_size=4))
    drawn, plain = tables.draw(columns, rows, width), tables._plain
    try:
        tables._plain = lambda *_: None
        assert drawn == tables.draw(columns, rows, width)
    finally:
        tables._plain = plain
