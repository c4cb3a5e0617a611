"""The road of a model: through clean and fuse for each set of shapes, its large weights held once beside what kernels read."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

import onnxc
from onnxc.codegen import compile_model, library
from onnxc.codegen.kernels import FAMILIES
from onnxc.codegen.kernels.spec import BINARY, FLOAT32, KernelSpec, Refusal
from onnxc.codegen.lower import packing
from onnxc.codegen.prepare.static import make_static
from onnxc.codegen.prepare.stored import Levels, Stored
from onnxc.codegen.target import resolve
from onnxc.compiling import optimiser
from onnxc.ir.digest import digest
from onnxc.ir.errors import BadOption, VerificationError

from .conftest import run_ort


@pytest.fixture(scope="module")
def shaped() -> onnx.ModelProto:
    """A model whose shapes are computed, with a BatchNormalization to fold."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
      g (float[N,4,H,8] x) => (float[N,K] y) <int64[1] at = {0}, int64[1] rest = {-1}, float[4] one = {1,2,1,2}> {
        c = Conv<pads=[1,1,1,1]>(x, w) b = BatchNormalization(c, one, one, one, one) s = Shape(b) n = Gather(s, at)
        t = Concat<axis=0>(n, rest) y = Reshape(b, t) }""")
    for i, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{i}"
    weights = np.random.default_rng(0).standard_normal((4, 4, 3, 3)).astype("f")
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return model


def test_passes_run_for_each_set_of_shapes(shaped, tmp_path, monkeypatch):
    seen = []
    before = library.make_static

    def noted(proto, shapes, arrays):
        seen.append(
            ([node.op_type for node in proto.graph.node], proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value)
        )
        return before(proto, shapes, arrays)

    monkeypatch.setattr(library, "make_static", noted)
    shapes = [{"x": (1, 4, 6, 8)}, {"x": (2, 4, 5, 8)}]
    compile_model(onnxc.load(shaped), tmp_path, name="net", shapes=shapes, optimise=optimiser())
    assert [extent for _, extent in seen[:2]] == [6, 5]
    assert all("Shape" not in ops and "BatchNormalization" not in ops for ops, _ in seen[:2])
    made = library.Library(tmp_path)
    for one in shapes:
        feeds = {"x": np.random.default_rng(1).standard_normal(one["x"]).astype("f")}
        np.testing.assert_allclose(made.run(feeds)["y"], run_ort(shaped, feeds)["y"], rtol=1e-4, atol=1e-5)


def test_what_the_passes_refuse_is_compiled_as_it_came(shaped, monkeypatch):
    def refuse(*_, **__):
        raise BadOption("no such luck")

    monkeypatch.setattr("onnxc.pipeline.run_passes", refuse)
    notes: list[str] = []
    assert optimiser("shapes", 0, notes.append)(shaped, {"x": (1, 4, 6, 8)}) is shaped
    assert "without clean,fuse: no such luck" in notes[0]
    with pytest.warns(UserWarning, match="without clean,fuse: no such luck"):
        onnxc.compile(onnx.parser.parse_model(TINY), check="shapes")


TINY = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }"""


def test_the_digest_of_a_model_with_its_weights_beside_it_is_that_of_the_whole(shaped):
    model = onnxc.load(shaped)
    model.constants()["w"].values = np.zeros((64, 4, 3, 3), "f")
    lean = model.lean()
    assert lean.arrays
    assert digest(lean.proto, lean.arrays) == digest(model.to_proto())


def test_large_weights_are_held_twice_at_most(tmp_path):
    """Once as the model's, once as kernels read them."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
      g (float[1,2048] x) => (float[1,4096] y) { y = Gemm<transB=1>(x, w) }""")
    weights = np.random.default_rng(0).standard_normal((4096, 2048), dtype="f")
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    loaded = onnxc.load(model)
    compile_model(onnxc.load(shaped_free()), tmp_path / "warm", name="net", check="shapes")  # what TVM holds for good
    tracemalloc.start(1)
    try:
        compile_model(loaded, tmp_path / "net", name="net", check="shapes")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.25 * weights.nbytes


def shaped_free() -> onnx.ModelProto:
    """Next to nothing."""
    return parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[4] x) => (float[4] y) { y = Relu(x) }')


def one_bit(channels: int) -> onnx.ModelProto:
    """A layer whose weights are one bit and a scale for each output channel."""
    rng = np.random.default_rng(0)
    signs = np.sign(rng.standard_normal((channels, channels, 3, 3)))
    weights = (signs * (0.1 + np.arange(channels) / channels).reshape(-1, 1, 1, 1)).astype("f")
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
      g (float[1,{channels},6,6] x) => (float[1,{channels},6,6] y) {{ y = Conv<pads=[1,1,1,1]>(x, w) }}""")
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return onnxc.run_passes(model, "quant.recognise", check="shapes").model.to_proto()


def test_bits_stay_packed_from_file_to_kernel(tmp_path):
    """No array of floats, nor one of a byte a weight, is made of a one-bit layer."""
    model = one_bit(256)
    loaded = onnxc.load(model)
    assert [node.op for node in loaded.nodes] == ["Lookup", "Conv"]
    compile_model(onnxc.load(shaped_free()), tmp_path / "warm", name="net", check="shapes")
    tracemalloc.start(1)
    try:
        report = compile_model(loaded, tmp_path / "net", name="net", check="shapes")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "1-bit" in report.kernels[0]["spec"]
    assert peak < 2.3e6  # the floats alone are 2.36e6, and TVM takes most of it
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 256, 6, 6)).astype("f")}
    found, wanted = (run(feeds)["y"] for run in (library.Library(tmp_path / "net").run, lambda f: run_ort(model, f)))
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("rows", [1, 24, 12])
def test_a_stored_weight_is_what_its_lookup_makes(rows):
    rng = np.random.default_rng(2)
    numbers, codebook = rng.integers(0, 4, (24, 5, 3, 3)), rng.standard_normal((rows, 4)).astype("f")
    bits = (numbers.reshape(-1, 8, 1) >> np.arange(2) & 1).astype(np.uint8)
    packed = np.packbits(bits.reshape(-1, 16), axis=1, bitorder="little")
    made = Stored(packed, codebook, numbers.shape)
    right = np.take_along_axis(codebook, numbers.reshape(rows, -1), axis=1).reshape(numbers.shape)
    np.testing.assert_array_equal(np.asarray(made), right)
    np.testing.assert_array_equal(made[5:9], right[5:9])
    np.testing.assert_array_equal(made.reshape(24, -1), right.reshape(24, -1))
    assert (made.shape, made.size, made.dtype) == (right.shape, right.size, right.dtype)


@pytest.mark.parametrize(
    "found", [one for one in FAMILIES if one.name.startswith(("bits", "float32.packed"))], ids=lambda one: one.name
)
def test_weights_are_packed_in_parts_as_in_one_piece(found, monkeypatch):
    rng, shape = np.random.default_rng(3), (200, 64, 3, 3)
    spec = KernelSpec(
        n=1, h=6, w=6, c=64, oc=200, kh=3, kw=3, stride=(1, 1), pads=(1, 1, 1, 1), dilation=(1, 1), groups=1,
        x_shape=(1, 6, 6, 64), y_shape=(1, 6, 6, 200), weight=BINARY, activation=BINARY if "bits" in found.name else FLOAT32,
    )  # fmt: skip
    table = np.where(rng.random((200, 1)) < 0.5, [[-1, 1]], [[1, -1]]).astype(np.int8)
    stored = Stored(rng.integers(0, 256, (np.prod(shape) // 8, 1)).astype(np.uint8), table.astype("f"), shape)
    levels = Levels(stored, table)
    schedule = found.schedule(spec, resolve("native"))
    if isinstance(schedule, Refusal):
        pytest.skip(schedule.reason)
    monkeypatch.setattr(packing, "PART", 40 * 64 * 9)
    np.testing.assert_array_equal(
        packing.packed(found, spec, schedule, levels), found.pack(spec, schedule, np.asarray(levels))
    )


@pytest.mark.parametrize("kind", ["float16", "float32", "int64"])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_ranges_of_constants_are_known_whatever_inference_says(kind, shape):
    one = np.array([1, 7, 2], kind)
    nodes = [helper.make_node("Range", ["a", "b", "c"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])]
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    info = [helper.make_tensor_value_info(name, number, [3]) for name in "xy"]
    given = [numpy_helper.from_array(value.reshape(shape), name) for name, value in zip("abc", one)]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], given)
    static = make_static(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert static.constants["r"].tolist() == [1, 3, 5]


def test_a_model_that_is_not_sound_is_refused_by_name_ahead_of_everything():
    """By the checker, as the command does: an attribute that its operator has not, two outputs of a Constant."""
    for text in (
        "y = Relu<transB=1>(x)",
        "y, z = Constant<value_float=1.0>()",
        'y = ReduceSum<keepdims="a">(x)',
    ):
        proto = onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["": 17]> g (float[2, 2] x) => (float[2, 2] y) {{ {text} }}'
        )
        with pytest.raises(VerificationError, match="the ONNX checker refuses the model"):
            onnxc.compile(proto)
