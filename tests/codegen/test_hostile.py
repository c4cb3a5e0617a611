"""Models and inputs made to do harm: memory beyond a tensor is not read, code and constants do not grow without bounds."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import subprocess
import time

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnxc.codegen import compile_model
from onnxc.codegen.prepare.static import make_static
from onnxc.codegen.program import lower_program
from onnxc.codegen.target import TARGETS
from onnxc.ir.errors import BadModel, Unsupported
from onnxc.runtime import library as libraries
from tests.passes.test_clean_sizes import BOMBS, bomb

from .conftest import run_ort
from .programs import Programs

PAGE = mmap.PAGESIZE
HEAD = '<ir_version: 8, opset_import: ["": 17]> g '
READERS = {  # what reads a tensor where a condition on the index holds
    "pad": "(float[3,4,5] x, float v) => (float[5,9,12] y) "
    "{ p = Constant<value_ints=[1, 2, 3, 1, 3, 4]>() y = Pad(x, p, v) }",
    "transposed": "(float[1,1,3,3] x, float[1,2,3,3] w) => (float[1,2,7,3] y) "
    "{ y = ConvTranspose<strides=[3, 2], pads=[1, 2, 1, 2]>(x, w) }",
    "triangle": "(float[2,8,8] x) => (float[2,8,8] y) { y = Trilu(x) }",
    "response": "(float[1,16,3,3] x) => (float[1,16,3,3] y) { y = LRN<size=5>(x) }",
    "places": "(float[1,2,6,6] x) => (float[1,2,5,5] y, int64[1,2,5,5] i) "
    "{ y, i = MaxPool<kernel_shape=[3, 3], strides=[2, 2], pads=[2, 2, 2, 2]>(x) }",
}  # fmt: skip


class Fenced:
    """Memory for tensors, between pages that nothing may touch."""

    def __init__(self) -> None:
        self.protect = ctypes.CDLL(None).mprotect
        self.protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self.kept: list[mmap.mmap] = []

    def put(self, data: bytes, *, last: bool, align: int) -> ctypes.c_void_p:
        """The address of a copy of `data` right behind the first fence, or right ahead of the `last`."""
        room = -(-max(len(data), 1) // PAGE) * PAGE
        memory = mmap.mmap(-1, room + 8 * PAGE)
        self.kept.append(memory)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for fence in (start, start + 4 * PAGE + room):
            assert self.protect(fence, 4 * PAGE, 0) == 0
        at = start + 4 * PAGE + ((room - len(data)) // align * align if last else 0)
        ctypes.memmove(at, data, len(data))
        return ctypes.c_void_p(at)


def run_fenced(programs: Programs, name: str, last: bool) -> None:
    """Runs a program whose tensors are 1 everywhere."""
    made, kernels, fenced = programs.made[name], vars(programs)["library"], Fenced()

    def one(shape, dtype) -> ctypes.c_void_p:
        return fenced.put(np.ones(shape, dtype).tobytes(), last=last, align=4)

    held = {
        "input": [one(shape, dtype) for _, shape, dtype in made.static.inputs],
        "output": [one(shape, dtype) for _, shape, dtype in made.static.outputs],
        "buffer": [fenced.put(bytes(size), last=last, align=64) for size in made.plan.buffers],
        "weight": [fenced.put(np.ascontiguousarray(w).tobytes(), last=last, align=64) for w in made.plan.weights],
    }
    for function, places in made.plan.calls:
        pointers = [held[place.space][place.offset] for place in places]
        if programs.functions[function].workspace:
            pointers.append(fenced.put(bytes(programs.functions[function].workspace), last=last, align=64))
        getattr(kernels, function)(*pointers)


def test_nothing_is_read_beyond_a_tensor(tmp_path):
    programs = Programs(tmp_path)
    for name, text in READERS.items():
        assert programs.add(name, parser.parse_model(HEAD + text)) is None
    programs.build()
    for name in READERS:
        for last in (False, True):
            child = os.fork()
            if not child:  # what reads beyond its tensor ends its process
                run_fenced(programs, name, last)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, f"{name}: reads {'be' * last}yond"


@pytest.mark.parametrize("text", BOMBS)
def test_a_folding_bomb_does_not_go_off(text):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    try:
        static = make_static(bomb(text, BOMBS[text]).to_proto())
        assert sum(np.asarray(a).nbytes for a in static.constants.values()) < 1 << 30
    except (Unsupported, BadModel) as error:
        assert "y" in error.node or "z" in error.node
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


CONV = "(float[1,4,8,8] x, float[4,4,3,3] w) => (y) { y = Conv<%s>(x, w) }"
EXTENTS = {
    CONV % "pads=[4294967296, 0, 0, 0]": "too large",
    CONV % "dilations=[2147483648, 1]": "a negative extent",
    "(float[1,4,8,8] x) => (y) { y = MaxPool<kernel_shape=[2147483648, 1]>(x) }": "a negative extent",
    "(float[1,4] x) => (y) { s = Constant<value_ints=[1048576, 1048576, 1, 1]>() y = Expand(x, s) }": "too large",
    "(float[1,4] x) => (y) { s = Constant<value_ints=[-20, 0, 0, 0]>() y = Pad(x, s) }": "a negative extent",
}


DIVIDED = """<ir_version: 10, opset_import: ["": 21]> g
    (float[2,4] x) => (int8[2,4] a, int8[2,4] b, int16[2,4] c, int8[2,4] i, float[2,4] d,
     float[2,4] e, float[2,4] f, float[2,4] k, float[2,4] h, float[2,4] s, float[2,4] j, float[2,4] p)
    <float zero = {0}, float half = {0.5}, float minus = {-0.0}, float[4] some = {0.1, 0, 0.2, inf},
     int8 z = {3}, int8[4] zs = {0, 1, 2, 3},
     int16 wide = {-7}, float[2,2] blocks = {0.5, 0, 0, 0.25}, float[2,2] ones = {1, 1, 1, 1}> {
      a = QuantizeLinear(x, zero, z) b = QuantizeLinear(x, some, zs) c = QuantizeLinear(x, minus, wide) d = Div(x, zero)
      e = Mul(x, minus) f = LeakyRelu<alpha = 0.0>(x) k = Celu<alpha = 0.0>(x) h = HardSigmoid<alpha = 0.0>(x)
      s = Celu<alpha = -1.0>(x) i = QuantizeLinear<axis = 1, block_size = 2, output_dtype = 3>(x, blocks)
      q = QuantizeLinear<axis = 1, block_size = 2, output_dtype = 22>(x, blocks)
      j = DequantizeLinear<axis = 1, block_size = 2>(q, ones) r = QuantizeLinear(x, half, z) p = DequantizeLinear(r, half, z) }"""


def test_scales_and_factors_of_zero_give_what_onnx_runtime_gives(tmp_path):
    model, specials = parser.parse_model(DIVIDED), [0, -0.0, np.nan, np.inf, -np.inf, 1, -1, 1e-40]
    x = np.array(specials, np.float32).reshape(2, 4)
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    wanted[-1][np.isnan(x)] = np.nan  # a pair of quantisers lets it through
    compile_model(model, tmp_path / "made", name="net", check="shapes")
    found = libraries.Library(tmp_path / "made").run({"x": x})
    for value, array in zip(model.graph.output, wanted, strict=True):
        np.testing.assert_array_equal(found[value.name], array)

    compile_model(model, tmp_path / "c", name="net", check="shapes", target="cortex-m3", emit="c")
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-shared", "-fPIC"]
    subprocess.run(["gcc", *strict, "c/c/net.c", "-lm", "-o", "net.so"], cwd=tmp_path, check=True)
    library, results = ctypes.CDLL(str(tmp_path / "net.so")), [np.empty_like(array) for array in wanted]
    arena = np.zeros(1 << 12, np.uint8)
    handle = ctypes.c_void_p(-(-arena.ctypes.data // 64) * 64)
    outputs = (ctypes.c_void_p * len(results))(*(a.ctypes.data for a in results))
    assert not library.net_init(handle, 1) and not library.net_run(
        handle, (ctypes.c_void_p * 1)(x.ctypes.data), outputs
    )
    for got, array in zip(results, wanted, strict=True):
        np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("axes", [33, 70])
def test_more_axes_than_arrays_have_are_refused_by_name(axes):
    ones = ",".join("1" * axes)
    inner = f"(float[1] x) => (y) {{ s = Constant<value_ints=[{ones}]>() r = Reshape(x, s) y = Relu(r) }}"
    for text, tensor, node in ((f"(float[{ones}] x) => (y) {{ y = Relu(x) }}", "x", None), (inner, "r", "Reshape_1")):
        with pytest.raises(Unsupported, match=f"too many axes, expected at most 32, found {axes}; merge") as caught:
            make_static(parser.parse_model(HEAD + text))
        assert (caught.value.tensor, caught.value.node) == (tensor, node)


def test_extents_that_no_tensor_has_are_refused_by_name():
    for text, said in EXTENTS.items():
        with pytest.raises((BadModel, Unsupported), match=said) as caught:
            make_static(parser.parse_model(HEAD + text))
        assert caught.value.tensor == "y"


def chain(node, count: int = 24, weights=()) -> onnx.ModelProto:
    nodes = [node(i, f"t{i}", f"t{i + 1}") for i in range(count)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 16, 2, 2]) for n in ("t0", f"t{count}")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(v, n) for n, v in weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


CHAINS = {
    "twice": chain(lambda i, a, b: helper.make_node("Add", [a, a], [b])),
    "functions": chain(lambda i, a, b: helper.make_node(("Sigmoid", "Tanh", "Relu")[i % 3], [a], [b])),
    "epilogue": chain(
        lambda i, a, b: helper.make_node(*(("LeakyRelu", [a]) if i else ("Conv", [a, "w"])), [b]),
        weights=[("w", np.ones((16, 16, 1, 1), np.float32) / 16)],
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_code_grows_with_the_model_and_not_by_powers(tmp_path, name):
    """Each reads the last result twice and more: inlined without a bound they would be 2^24 operations."""
    start = time.process_time()
    compile_model(CHAINS[name], tmp_path / "made", name="net")
    assert time.process_time() - start < 30


def test_numbers_that_are_not_finite_make_no_noise(tmp_path, recwarn):
    weights = [("w", np.full((16, 16, 1, 1), np.inf, np.float32)), ("s", np.full(16, -1, np.float32))]
    model = chain(lambda i, a, b: helper.make_node("Conv", [a, "w"], [b]), 1, weights)
    norm = helper.make_node("BatchNormalization", ["t1", "s", "s", "s", "s"], ["y"])
    model.graph.node.append(norm)
    model.graph.output[0].name = "y"
    compile_model(model, tmp_path / "made", name="net", check="shapes")
    assert not [w for w in recwarn if w.category is RuntimeWarning]


STEPS = """g (float[1,{0},6,6] x) => (float[1,{0},6,6] y) <float low = {{-0.1}}, float high = {{0.5}}> {{
    c = Conv <pads = [1,1,1,1]> (x, w)  d = PRelu(c, slope)  y = {1} }}"""


def steps(end: str, channels: int, slope: float) -> onnx.ModelProto:
    """A convolution and what comes behind it; one channel has another slope."""
    rng, slopes = np.random.default_rng(0), np.ones((channels, 1, 1), np.float32)
    slopes[3] = slope
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {STEPS.format(channels, end)}')
    for name, array in (("w", rng.standard_normal((channels, channels, 3, 3))), ("slope", slopes)):
        proto.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return proto


@pytest.mark.parametrize("end", ["Relu(c)", "Clip(c, low, high)", "Relu(d)"])
def test_what_is_no_number_goes_through_the_steps_of_a_kernel(tmp_path, end):
    """A maximum of NaN and 0 is 0 on most machines."""
    proto = steps(end, 6, np.nan)
    compile_model(proto, tmp_path, name="net", check="shapes")
    x = np.random.default_rng(1).standard_normal((1, 6, 6, 6)).astype(np.float32)
    x[0, 5, 2, 2] = np.nan
    found, wanted = libraries.Library(tmp_path).run({"x": x})["y"], run_ort(proto, {"x": x})["y"]
    assert np.isnan(wanted).any() and not np.isnan(wanted).all()
    assert np.allclose(found, wanted, atol=1e-5, equal_nan=True)


def test_a_model_that_holds_nan_gets_kernels_that_do_not_spread_it(tmp_path):
    """Winograd's tiles mix their inputs."""
    for slope, rule in ((0.5, "float32.winograd"), (np.nan, "float32.direct")):
        made = lower_program(make_static(steps("Relu(d)", 32, slope)), TARGETS["x86-64-v3"], 1, "net")
        assert made.kernels[0]["schedule"].startswith(rule)
