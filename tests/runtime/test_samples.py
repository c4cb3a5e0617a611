"""Which axis of each input counts samples: by names, by places, by outputs, by what is said."""

import pytest

from onnxc.ir.errors import BadOption
from onnxc.runtime.samples import sample_axes


@pytest.mark.parametrize(
    "inputs, outputs, expected",
    [
        ({"x": ("N", 3, "H", "W")}, (), {"x": 0}),
        ({"x": (None, 3)}, (), {"x": 0}),
        ({"x": ("batch", "time", 5), "h": (1, "batch", 8)}, (), {"x": 0, "h": 1}),
        ({"x": ("n", "b", 20), "h": (2, "b", 16)}, (), {"x": 1, "h": 1}),
        ({"x": ("n", "b", 20)}, (), {"x": 1}),
        ({"x": ("s77", "s12", 20), "h": (2, "s12", 16)}, (), {"x": 1, "h": 1}),
        ({"x": ("time", "batch", 5), "n": ("batch",)}, (), {"x": 1, "n": 0}),
        ({"x": ("batch", "samples"), "rate": ()}, (), {"x": 0, "rate": None}),
        ({"x": (None, None), "state": (2, None, 128), "rate": ()}, (), {"x": 0, "state": 1, "rate": None}),
        ({"ids": ("unk__3", 16), "types": ("unk__4", 16)}, (), {"ids": 0, "types": 0}),
        ({"ids": ("N", "T"), "table": (7, 3)}, (), {"ids": 0, "table": None}),
        ({"feat": ("n", 85), "edges": (2, "e")}, (), {"feat": None, "edges": None}),
        ({"x": ("N", 85), "edges": (2, "E")}, (), {"x": None, "edges": None}),
        ({"feat": ("num_nodes", 8), "k": ()}, (), {"feat": None, "k": None}),
        ({"frames": ("seq_len", 576), "h": (1, 1, 128)}, (), {"frames": None, "h": None}),
        ({"x": ("s77", 3)}, (("s77", 10),), {"x": 0}),
        ({"x": ("dim0", 3)}, ((1, 10),), {"x": None}),
        ({"x": ("batch", 3)}, ((1, 10),), {"x": 0}),
        ({"x": ("height", "width", 3)}, (), {"x": None}),
        ({"x": (4, 3), "y": (4, 5)}, (), {"x": 0, "y": 0}),
        ({"x": (1, 576), "state": (2, 1, 128)}, (), {"x": None, "state": None}),
        ({"x": (), "y": None}, (), {"x": None, "y": 0}),
    ],
)
def test_what_counts_samples(inputs, outputs, expected):
    assert sample_axes(inputs, outputs) == expected


def test_it_can_be_said():
    inputs = {"x": ("n", 85), "h": (1, "n", 8), "edges": (2, "e")}
    assert sample_axes(inputs, told="n") == {"x": 0, "h": 1, "edges": None}
    assert sample_axes({"x": ("N", 3)}, told="none") == {"x": None}
    with pytest.raises(BadOption, match="no axis of an input has this name, expected e, n, none, found q"):
        sample_axes(inputs, told="q")
