"""Fixtures of the code generator's tests: compile, load, compare with ONNX Runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

pytest.importorskip("tvm")

if shutil.which("gcc") is None:
    pytest.skip("compiling needs gcc", allow_module_level=True)


def run_ort(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of ONNX Runtime on one thread."""
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = min(max(copy.ir_version, 4), 10)
    level = onnxruntime.GraphOptimizationLevel
    # exact sums whatever the machine; the optimiser fails on some models by that, which are then run node by node
    for precise, optimised in (("1", level.ORT_ENABLE_ALL), ("0", level.ORT_DISABLE_ALL)):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.graph_optimization_level = optimised
        options.add_session_config_entry("session.x64quantprecision", precise)
        try:
            session = onnxruntime.InferenceSession(
                copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
        except onnxruntime.capi.onnxruntime_pybind11_state.Fail:
            if precise == "0":
                raise
    raise AssertionError


def random_feeds(library, seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded inputs of a library's shapes and dtypes."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for name, (shape, dtype) in library.inputs.items():
        values = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 3, shape)
        feeds[name] = np.asarray(values).astype(dtype)
    return feeds


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference, relative to the largest magnitude."""
    return float(np.abs(found - wanted).max() / max(float(np.abs(wanted).max()), 1e-30))


@pytest.fixture(scope="session")
def small_model() -> onnx.ModelProto:
    """Convolution, sigmoid, pooling; names that C would not take."""
    made = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
      g (float[N,3,8,8] x) => (float[N,6,8,8] y, float[N,6,1,1] z) {
        c = Conv<pads=[1,1,1,1]>(x, w) y = Sigmoid(c) z = GlobalAveragePool(y) }""")
    made.graph.input[0].name = made.graph.node[0].input[0] = 'in"put:0/*'
    weights = np.random.default_rng(1).standard_normal((6, 3, 3, 3)).astype("f")
    made.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return made


@pytest.fixture(scope="session")
def shared_model() -> onnx.ModelProto:
    """Each family of kernels, with enough to do that threads share it; weights of few values, which are worth coding."""
    made = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
      g (float[N,3,32,32] x) => (float[N,24,30,30] y, float[N,10] z) {
        a = Conv<pads=[1,1,1,1]>(x, w0) b = Relu(a) c = Conv<pads=[1,1,1,1], group=24>(b, w1) d = Conv(c, w2)
        e = Add(d, b) f = Conv<group=2>(e, w3) y = Softmax<axis=1>(f) h = Transpose<perm=[0,2,3,1]>(f) i = Exp(h)
        j = ReduceMax<axes=[1,2],keepdims=0>(i) z = MatMul(j, w4) }""")
    rng = np.random.default_rng(3)
    shapes = [(24, 3, 3, 3), (24, 1, 3, 3), (24, 24, 1, 1), (24, 12, 3, 3), (24, 10)]
    for i, shape in enumerate(shapes):
        weights = rng.choice(np.array([-0.2, -0.05, 0, 0.1, 0.25], "f"), shape)
        made.graph.initializer.append(numpy_helper.from_array(weights, f"w{i}"))
    return made


@pytest.fixture
def same_as_ort(tmp_path) -> Callable:
    """A function (model, tolerance=1e-5, **options) that compiles, compares with ORT and returns (report, library)."""
    from onnxc.codegen import compile_model
    from onnxc.runtime.library import Library

    def check(model: onnx.ModelProto, tolerance: float = 1e-5, **options):
        report = compile_model(model, tmp_path / "out", name="net", check="shapes", **options)
        library = Library(tmp_path / "out")
        feeds = random_feeds(library)
        found, wanted = library.run(feeds), run_ort(model, feeds)
        assert found.keys() == wanted.keys()
        for name in wanted:
            assert found[name].shape == wanted[name].shape
            assert found[name].dtype == wanted[name].dtype
            assert np.isfinite(wanted[name]).all()
            assert error(found[name], wanted[name]) <= tolerance, name
        return report, library

    return check


def counting(model: onnx.ModelProto, folder):
    """The report for a machine that counts bits in vectors of 16 words: what is chosen differs between machines."""
    from onnxc.codegen import compile_model

    return compile_model(model, folder / "counting", name="net", target="znver4", check="shapes")


@pytest.fixture
def counted(same_as_ort, tmp_path) -> Callable:
    """As `same_as_ort`, on this machine, with the report of one that counts bits in vectors."""

    def check(model: onnx.ModelProto, tolerance: float = 1e-5):
        _, library = same_as_ort(model, tolerance)
        return counting(model, tmp_path), library

    return check
