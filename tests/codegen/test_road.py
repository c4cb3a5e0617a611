"""The road of a model: through clean and fuse for each set of shapes, its large weights held once beside what kernels read."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxc
from onnxc.codegen import compile_model, library
from onnxc.compiling import optimiser
from onnxc.ir.digest import digest
from onnxc.ir.errors import BadOption

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
