"""What a model wants to be fed, and random feeds for it."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from onnxc.ir.errors import BadData, Unsupported
from onnxc.runtime.draw import random_feeds
from onnxc.runtime.specs import TensorSpec, check_feeds, input_specs
from onnxc.runtime.values import Values

from .graphs import affine, model


def test_inputs_with_a_default_are_not_asked_for():
    proto = model("g (float[N,3] x, float[1] two) => (float[N,3] y) { y = Mul(x, two) }", two=np.float32([2]))
    assert list(input_specs(proto)) == ["x"]


def test_symbols_unknown_extents_and_unknown_rank():
    proto = affine()
    shape = proto.graph.input[0].type.tensor_type.shape
    assert input_specs(proto)["x"] == (("N", 3), np.float32, Values(), 0)
    shape.dim[1].dim_value = -1
    shape.dim[0].Clear()
    assert input_specs(proto)["x"].shape == (None, None)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert input_specs(proto)["x"].shape is None


def test_inputs_that_are_no_tensors():
    proto = affine()
    value = proto.graph.input[0]
    value.CopyFrom(helper.make_tensor_value_info("x", onnx.TensorProto.STRING, ["N"]))
    assert input_specs(proto)["x"][:2] == (("N",), np.dtype(object))
    value.CopyFrom(helper.make_tensor_sequence_value_info("x", onnx.TensorProto.FLOAT, ["N", 3]))
    assert input_specs(proto)["x"] == ((None, "N", 3), np.float32, Values(), None)
    value.type.CopyFrom(helper.make_sequence_type_proto(value.type))
    with pytest.raises(Unsupported, match=r"x: this input cannot be fed, expected a tensor, .* found sequence"):
        input_specs(proto)
    value.type.CopyFrom(helper.make_tensor_type_proto(onnx.TensorProto.UNDEFINED, [1]))
    with pytest.raises(Unsupported, match="found no type"):
        input_specs(proto)


def test_what_divides_integers_is_never_zero():
    """ONNX Runtime divides integers by 0 as C does: the process ends."""
    proto = model(
        "g (int32[N,8] a, int32[N,8] b, float[N,8] c) => (int32[N,8] y) { d = Identity(b) q = Div(a, d) y = Mod(q, d) }"
    )
    specs = input_specs(proto)
    assert [spec.values.low for spec in specs.values()] == [0, 1, 0]
    feeds = random_feeds(specs, batch=4)
    assert (feeds["a"] == 0).any() and (feeds["b"] == 1).all()
    proto = model("g (float[N,8] a, float[N,8] b) => (float[N,8] y) { y = Div(a, b) }")
    assert not any(spec.values.low for spec in input_specs(proto).values())


DIMS = st.one_of(st.integers(1, 4), st.none(), st.sampled_from(["N", "S", "T"]))
DTYPES = st.sampled_from(["float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool", "complex64"])
SPECS = st.builds(
    lambda shape, dtype, below: TensorSpec(tuple(shape), np.dtype(dtype), Values(0, below)),
    st.lists(DIMS, max_size=3),
    DTYPES,
    st.integers(0, 100),
)


@given(
    inputs=st.dictionaries(st.sampled_from("abcd"), SPECS, min_size=1), seed=st.integers(0, 9), batch=st.integers(1, 4)
)
def test_random_feeds_fit_and_repeat(inputs, seed, batch):
    feeds = random_feeds(inputs, seed, batch, {"S": 5})
    assert check_feeds(feeds, inputs).keys() == inputs.keys()
    again = random_feeds(dict(reversed(inputs.items())), seed, batch, {"S": 5})
    for name, array in feeds.items():
        assert np.array_equal(array, again[name])
        assert array.dtype.kind not in "iu" or (array.min(initial=0) >= 0 and array.max(initial=0) < 128)
        for extent, dim in zip(array.shape, inputs[name].shape):
            assert not isinstance(dim, str) or extent == {"S": 5}.get(dim, extent)


def test_sizes_name_a_symbol_or_an_axis():
    inputs = {"x": TensorSpec(("N", 3, None, "W"), np.dtype("float32"))}
    assert random_feeds(inputs, batch=2)["x"].shape == (2, 3, 64, 64)
    assert random_feeds(inputs, sizes={"x[2]": 8, "W": 9})["x"].shape == (1, 3, 8, 9)
    with pytest.raises(BadData, match="unknown rank"):
        random_feeds({"x": TensorSpec(None, np.dtype("float32"))})


def test_feeds_are_checked():
    inputs = input_specs(affine())
    x = np.ones((2, 3), np.float32)
    assert list(check_feeds({"x": x, "labels": x}, inputs)) == ["x"]
    for feeds, said in [
        ({}, "no array for this input"),
        ({"x": x.astype(int)}, "wrong type"),
        ({"x": x[0]}, "wrong number of axes"),
        ({"x": x[:, :1]}, r"x\[1\]: wrong extent, expected 3, found 1"),
    ]:
        with pytest.raises(BadData, match=said):
            check_feeds(feeds, inputs)


@pytest.mark.parametrize("shape", [(2**40, 2**40), (2**62, 2**62), (1,) * 200, (None,) * 200, (2**29,), ("n", 2**40)])
def test_inputs_that_are_too_large_to_draw(shape):
    with pytest.raises(BadData, match=r"x: random data are not drawn for this input, .* axes; give --data"):
        random_feeds({"x": (shape, np.dtype(np.float32))})
