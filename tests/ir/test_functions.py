"""Functions of domain ai.onnxc: their bodies against NumPy in ONNX Runtime, their rows, their cost, their refusals."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxc.ir import functions
from onnxc.ir.analysis import analyse
from onnxc.ir.axes import atoms
from onnxc.ir.cost import cost
from onnxc.ir.errors import DimensionError, Unsupported
from onnxc.ir.files import load
from onnxc.ir.model import DOMAIN, Model
from onnxc.ir.numbers import number_bits
from onnxc.ir.verify import verify
from onnxc.runtime.reference import Session
from tests.ops.harness import free_atoms

OPSETS = (11, 12, 13, 17, 18, 21, 23)


def conv(opset: int = 13, shape=(6, 4, 3, 3)) -> Model:
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g (float[N,4,8,8] x) => (float[N,M,P,Q] y) {{ y = Conv(x, w) }}"""
    proto = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return load(proto)


def shared(opset: int, bits: int, rows: int = 1) -> Model:
    """The convolution with its weight behind a Lookup."""
    rng = np.random.default_rng(bits)
    model = conv(opset)
    codebook = rng.normal(size=(rows, 1 << bits)).astype(np.float32)
    numbers = rng.integers(0, 1 << bits, model.nodes[0].inputs[1].values.shape)
    made = functions.lookup(model, "w", numbers, codebook, bits)
    model.nodes[-1].inputs[1] = made
    return model


def plain(model: Model) -> Model:
    """The twin: the weight itself instead of the function."""
    twin = model.copy()
    node = twin.nodes[0]
    twin.replace_uses(node.outputs[0], twin.constant("real", functions.weight(node)))
    twin.remove(node)
    return twin


def run(model: Model, optimise: bool) -> np.ndarray:
    x = np.random.default_rng(1).normal(size=(2, 4, 8, 8)).astype(np.float32)
    return Session(model.to_proto(), optimise=optimise).run({"x": x})["y"]


@given(st.lists(st.integers(0, 255), max_size=70), st.integers(1, 8))
def test_packing_is_undone_by_unpacking(numbers, bits):
    numbers = np.array(numbers, np.uint8) & ((1 << bits) - 1)
    packed = functions.pack_bits(numbers, bits)
    assert packed.shape == (-(-len(numbers) // 8), bits)
    assert np.array_equal(functions.unpack_bits(packed, len(numbers)), numbers)


def test_packing_in_several_chunks(monkeypatch):
    monkeypatch.setattr(functions, "CHUNK", 64)
    numbers = np.random.default_rng(0).integers(0, 8, 1001).astype(np.uint8)
    assert np.array_equal(functions.unpack_bits(functions.pack_bits(numbers, 3), 1001), numbers)


def test_the_stream_is_lowest_bit_first():
    assert functions.pack_bits(np.array([1, 2, 3, 4, 5, 6, 7, 0]), 3).tolist() == [[0b11010001, 0b01011000, 0b00011111]]


@pytest.mark.parametrize("opset", OPSETS)
def test_every_width_runs_as_its_twin(opset):
    for bits in range(1, 9):
        model = shared(opset, bits, rows=1 + bits % 3 if bits % 3 != 1 else 1)
        verify(model)
        for optimise in (False, True):
            assert np.array_equal(run(model, optimise), run(plain(model), optimise)), bits


@pytest.mark.parametrize("opset", OPSETS)
def test_unpack_bits_gives_the_numbers(opset):
    for bits in range(1, 9):
        numbers = np.random.default_rng(bits).integers(0, 1 << bits, (5, 7))
        text = f'''<ir_version: 8, opset_import: ["" : {opset}, "{DOMAIN}" : 1]>
            g (uint8[R,B] p) => (int32[A,C] y) {{ y = {DOMAIN}.UnpackBits(p, s) }}'''
        proto = onnx.parser.parse_model(text)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([5, 7]), "s"))
        proto.functions.append(functions.function("UnpackBits", opset))
        onnx.checker.check_model(proto, full_check=True)
        assert np.array_equal(Session(proto).run({"p": functions.pack_bits(numbers, bits)})["y"], numbers)


@pytest.mark.parametrize("opset", OPSETS)
def test_hashed_weights_run_as_their_twin(opset):
    model = conv(opset)
    codebook = np.random.default_rng(0).normal(size=50).astype(np.float32)
    model.nodes[-1].inputs[1] = functions.hashed(model, "w", codebook, (6, 4, 3, 3))
    verify(model)
    assert np.array_equal(run(model, False), run(plain(model), False))
    assert cost(model, verify(model)).params == 50


def test_hashing_spreads_evenly():
    place, sign = functions.hash_places(100_000, 100)
    counts = np.bincount(place, minlength=100)
    assert abs(counts - 1000).max() < 200 and abs(sign.mean()) < 0.02


def test_the_runtime_folds_the_function_away(tmp_path):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "o.onnx"), 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    model = shared(13, 5)
    ort.InferenceSession(model.to_proto().SerializeToString(), options, ["CPUExecutionProvider"])
    assert [n.op_type for n in onnx.load(tmp_path / "o.onnx").graph.node] == ["Conv"]


def test_axes_are_frozen_and_shapes_known():
    model = shared(13, 3)
    analysis = analyse(model)
    assert analysis.shape("w_shared") == (6, 4, 3, 3) and analysis.shape("y") == ("N", 6, 6, 6)
    assert all(a.frozen for axis in analysis.axes["w_shared"] for a in atoms(axis))
    assert not any(a.size == 6 for a in free_atoms(analysis))
    assert analysis.facts["w_lookup"].known


def test_a_channel_count_that_does_not_fit_is_named():
    model = shared(13, 3)
    model.nodes[0].inputs[2].values = np.array([6, 5, 3, 3])
    with pytest.raises(DimensionError, match=r"x\[1\]|w_shared\[1\]"):
        analyse(model)


def test_bits_and_bytes_are_those_of_the_indices():
    before, after = conv(), shared(13, 3)
    a, b = (cost(m, verify(m)) for m in (before, after))
    assert number_bits(after.nodes[-1].inputs[1]) == 3
    assert b.params == a.params + 8 and b.macs == a.macs and b.bops * 32 == a.bops * 3
    assert b.bytes == a.params * 3 // 8 + 8 * 4 + 4 * 8


def test_a_saved_model_keeps_its_function(tmp_path):
    model = shared(18, 7)
    model.save(tmp_path / "m.onnx")
    again = load(tmp_path / "m.onnx")
    assert (DOMAIN, "Lookup") in again.functions and again.opsets[DOMAIN] == 1
    assert np.array_equal(run(again, True), run(model, True))


def test_no_body_below_opset_11():
    with pytest.raises(Unsupported, match="opset 11 or newer"):
        functions.function("Lookup", 10)


def test_another_function_of_that_name_is_not_replaced():
    model = conv()
    other = functions.function("UnpackBits", 13)
    other.name = "Lookup"
    model.functions[DOMAIN, "Lookup"] = other
    with pytest.raises(Unsupported, match="another function"):
        functions.declare(model, "Lookup")
