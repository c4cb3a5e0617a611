"""Shapes that a model is compiled in, where the model leaves them open."""

import pytest

from onnxc.ir.errors import BadOption
from onnxc.ir.files import load
from onnxc.measure.shapes import settled
from tests.runtime.graphs import model

TEXT = "g (float[N,T,4] x, float[N,T] z) => (float[N,T,4] y, float[N,T] q) { y = Relu(x) q = Relu(z) }"


def test_wishes_by_input_and_by_symbol_and_none():
    loaded = load(model(TEXT))
    assert settled(loaded, [{"T": (9,)}]) == [{"x": (1, 9, 4), "z": (1, 9)}]
    assert settled(loaded, [{"x": (1, 9, 4), "z": (1, 9)}]) == [{"x": (1, 9, 4), "z": (1, 9)}]
    assert settled(loaded, [{"x": (1, 9, 4)}]) == [{"x": (1, 9, 4), "z": (1, 9)}]
    assert settled(loaded, [{}]) == [{"x": (1, 16, 4), "z": (1, 16)}]
    with pytest.raises(BadOption, match="names no input and no symbol"):
        settled(loaded, [{"Q": (9,)}])


def test_a_model_without_open_axes_is_left_alone():
    assert settled(load(model("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")), [{}]) == [{}]
