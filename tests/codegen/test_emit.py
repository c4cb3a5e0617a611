"""`--emit c` and `--package`: the C sources give the integers of the binary, on this machine, too, and packages build."""

from __future__ import annotations

import ast
import ctypes
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from onnxc.codegen import compile_model
from onnxc.codegen.c import wheel
from onnxc.codegen.c.build import C_DIR
from onnxc.codegen.c.emit import PACKAGES, write_package
from onnxc.codegen.c.header import Interface
from onnxc.codegen.c.source import MICRO
from onnxc.ir.errors import BadOption, Unsupported
from onnxc.runtime.toolchain import TOOLCHAINS

from .conftest import run_ort
from .test_targets import ready

MAIN = """#include <stdio.h>
#include <string.h>
#include "net.h"
static union { long long align[8]; char bytes[NET_ARENA_BYTES + 64]; } arena;
static signed char x[NET_INPUT0_BYTES];
static float y[NET_OUTPUT0_BYTES / 4];
int main(void) {
  char *at = arena.bytes + (64 - (size_t)arena.bytes % 64) % 64;
  const void *in[] = {x};
  void *out[] = {y};
  if (fread(x, 1, sizeof x, stdin) != sizeof x || net_init(at, 1) || net_run(at, in, out)) return 1;
  in[0] = memcpy(at + NET_INPUT0_PLACE, x, sizeof x); /* again, in the arena */
  out[0] = at + NET_OUTPUT0_PLACE;
  if (net_run(at, in, out) || memcmp(out[0], y, sizeof y)) return 2;
  in[0] = at + NET_INPUT0_PLACE + 1;
  if (net_run(at, in, out) != NET_OVERLAP) return 3;
  return fwrite(y, 1, sizeof y, stdout) != sizeof y;
}
"""


def network() -> onnx.ModelProto:
    """A small classifier in 8 bits: convolution, residual block, depthwise, 1 x 1, mean, product, softmax."""
    rng = np.random.default_rng(3)
    arrays = {
        "k0": rng.integers(-127, 128, (8, 3, 3, 3)), "k1": rng.integers(-127, 128, (8, 8, 3, 3)),
        "k2": rng.integers(-127, 128, (8, 1, 3, 3)), "k3": rng.integers(-127, 128, (12, 8, 1, 1)),
        "k4": rng.integers(-127, 128, (12, 5)),
    }  # fmt: skip
    pair = "{0}q = QuantizeLinear({0}, s, z) {0}f = DequantizeLinear({0}q, s, z) "
    text = "g (float[1,3,9,9] x) => (float[1,5] y) {" + pair.format("x")
    text += "".join(f"{key}f = DequantizeLinear({key}, ws, wz) " for key in arrays)
    text += "a = Conv<pads=[1,1,1,1]>(xf, k0f) ar = Relu(a) " + pair.format("ar")
    text += "b = Conv<pads=[1,1,1,1]>(arf, k1f) " + pair.format("b") + "c = Add(arf, bf) " + pair.format("c")
    text += "d = Conv<pads=[1,1,1,1], group=8>(cf, k2f) dr = Relu(d) " + pair.format("dr")
    text += "e = Conv(drf, k3f) " + pair.format("e") + "m = GlobalAveragePool(ef) " + pair.format("m")
    text += "f = Flatten(mf) h = MatMul(f, k4f) " + pair.format("h") + "y = Softmax(hf) }"
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]>\n{text}')
    stored = {key: array.astype("i1") for key, array in arrays.items()}
    stored |= {"ws": np.float32(0.0021), "wz": np.int8(0), "s": np.float32(0.0193), "z": np.int8(-7)}
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items())
    return made


def mixed() -> onnx.ModelProto:
    """Floats, recurrent layers, exponentials, groups, pools: nothing of it has C code of its own."""
    text = """g (float[3,1,4] x) => (float[1,2,2,2] y, float[1,7] z) { h = LSTM<hidden_size=6>(x, w, r, b) f = Reshape(h, shape)
      c = Conv<pads=[1,1,1,1], group=2>(f, k) s = Sigmoid(c) p = MaxPool<kernel_shape=[2,2], strides=[1,1]>(s) y = Mul(p, third)
      e = Erf(f) l = Flatten(e) g = MatMul(l, v) z = Softmax(g) }"""
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]>\n{text}')
    rng = np.random.default_rng(4)
    shapes = {"w": (1, 24, 4), "r": (1, 24, 6), "b": (1, 48), "k": (2, 1, 3, 3), "v": (18, 7)}
    arrays = {key: rng.normal(0, 0.5, shape).astype("f") for key, shape in shapes.items()}
    arrays |= {"third": np.float32(1 / 3), "shape": np.array([1, 2, 3, 3])}
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items())
    return made


def test_what_tvm_would_compile_is_c_too(tmp_path):
    """Numbers have all their bits there, the strictest compiler has nothing to say, and the board computes the same: an LSTM, too."""
    ready("cortex-m3")
    model = mixed()
    report = compile_model(model, tmp_path, name="net", target="cortex-m3", emit="c")
    assert report.proof["where"].startswith("cortex-m3") and report.proof["error"] <= 1e-6
    assert {row["kernel"].split(".")[0] for row in report.kernels} == {"float32"} and len(report.fallbacks) > 3
    strict = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic", "-shared", "-fPIC", "-ffp-contract=off"]
    subprocess.run(["gcc", *strict, "c/net.c", "-lm", "-o", "net.so"], cwd=tmp_path, check=True)
    library, x = ctypes.CDLL(str(tmp_path / "net.so")), np.random.default_rng(1).normal(0, 2, (3, 1, 4)).astype("f")
    found = {"y": np.zeros((1, 2, 2, 2), "f"), "z": np.zeros((1, 7), "f")}
    arena = np.zeros(report.arena_bytes + 64, np.uint8)
    handle = ctypes.c_void_p(-(-arena.ctypes.data // 64) * 64)
    inputs, outputs = (
        (ctypes.c_void_p * 1)(x.ctypes.data),
        (ctypes.c_void_p * 2)(*(a.ctypes.data for a in found.values())),
    )
    assert library.net_init(handle, 1) == 0 and library.net_run(handle, inputs, outputs) == 0
    for name, wanted in run_ort(model, {"x": x}).items():
        assert np.abs(found[name] - wanted).max() <= 4e-7


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The network compiled for a processor without floats, in few bytes, its ends in the arena, as C and as a PlatformIO project."""
    ready("cortex-m3")
    folder = tmp_path_factory.mktemp("emit")
    options = {"io": "int8", "emit": "c", "package": "platformio", "code": "size", "buffers": "arena"}
    report = compile_model(network(), folder, name="net", target="cortex-m3,waits=2,cache=1024", **options)
    assert all(0 < row["waits"] < row["cycles"] for row in report.kernels)
    assert report.fallbacks == () and report.io_bytes == 0 and report.proof["where"].startswith("cortex-m3")
    return folder


@pytest.mark.parametrize("target", ["cortex-m3", "cortex-m55"])
def test_the_sources_are_the_library_on_any_machine(target, built, tmp_path):
    """Helium's kernels too, where the compiler has no intrinsics."""
    folder = built if target == "cortex-m3" else tmp_path
    if target != "cortex-m3":
        compile_model(
            network(), folder, name="net", target=target, io="int8", emit="c", buffers="arena", check="shapes"
        )
    (tmp_path / "main.c").write_text(MAIN)
    strict = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{folder / 'c'}"]
    subprocess.run(["gcc", *strict, "main.c", folder / "c/net.c", "-lm", "-o", "net"], cwd=tmp_path, check=True)
    rng = np.random.default_rng(1)
    for _ in range(4):
        q = rng.integers(-128, 128, (1, 3, 9, 9)).astype(np.int8)
        done = subprocess.run(["./net"], cwd=tmp_path, input=q.tobytes(), capture_output=True, check=True)
        wanted = run_ort(network(), {"x": (q.astype("f") + 7) * np.float32(0.0193)})["y"]
        assert np.abs(np.frombuffer(done.stdout, np.float32) - wanted).max() <= 0.02  # a step of a logit


def test_helium_compiles_without_optimisation(tmp_path):
    """Its assembler leaves the registers that a compiler needs that keeps all variables in memory."""
    ready("cortex-m55")
    gcc = TOOLCHAINS["cortex-m55"].linkers[0]
    parts = [part for name in MICRO for part in ("-include", name)]
    options = ["-DONNXC_FLOATS=1", "-DONNXC_HELIUM=1", "-fkeep-static-functions", "-Wall", "-Werror", f"-I{C_DIR}"]
    (tmp_path / "empty.c").write_text("int nothing;\n")
    command = [gcc.compiler, *gcc.flags, "-O0", *options, *parts, "-c", "empty.c"]
    subprocess.run(command, cwd=tmp_path, check=True)


def test_the_commands_of_the_docs_run_on_the_board(tmp_path):
    """From a model to a running program, as docs/microcontrollers.md has it: a PlatformIO project, built, in QEMU."""
    ready("cortex-m4")
    text = (Path(__file__).parents[2] / "docs/microcontrollers.md").read_text(encoding="utf-8")
    commands = text.split("From a model to a running program")[1].split("```sh\n")[1].split("```")[0]
    onnx.save(network(), tmp_path / "ic_int8.onnx")
    tool = tmp_path / "bin/onnxc"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m onnxc "$@"\n')
    tool.chmod(0o755)
    where = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        ["bash", "-e"], input=commands, cwd=tmp_path, env=where, text=True, capture_output=True, timeout=300
    )
    assert done.stdout.splitlines()[-1:] == ["0"], done.stderr
    page = (tmp_path / "ic_int8.html").read_text("ascii")
    ram = re.findall(r'<td>([^<]+)</td><td class="word">', page)  # the last column of numbers
    assert ram and page.count("<rect") == len(ram)
    assert re.search(r"the arena can be no less than ([^<]+)</p>", page)[1] in ram
    project = tmp_path / "build/platformio"
    assert json.loads((project / "lib/ic_int8/library.json").read_text())["build"]["srcDir"] == "src"


def test_the_forms_of_packages(built, tmp_path):
    face = Interface("net", (((("x", (1, 3, 9, 9), "int8"),), (("y", (1, 5), "float32"),)),), 4096)
    for kind in PACKAGES:
        write_package(kind, built / "c", tmp_path / kind, face)
        assert list((tmp_path / kind).rglob("net_weights.h")) and list((tmp_path / kind).rglob("micro_products.h"))
    properties = dict(
        row.split("=") for row in (tmp_path / "arduino/library.properties").read_text().split("\n") if row
    )
    assert {"name", "version", "author", "sentence", "architectures"} <= set(properties)
    root = ElementTree.parse(tmp_path / "cmsis-pack/onnxc.net.pdsc").getroot()
    named = [file.get("name") for file in root.iter("file")]
    assert all((tmp_path / "cmsis-pack" / name).exists() for name in named)
    with zipfile.ZipFile(tmp_path / "cmsis-pack/onnxc.net.1.0.0.pack") as pack:
        assert "onnxc.net.pdsc" in pack.namelist() and "src/net.c" in pack.namelist()
    assert "src/net.c" in (tmp_path / "zephyr/CMakeLists.txt").read_text()
    assert "idf_component_register" in (tmp_path / "esp-idf/onnxc_net/CMakeLists.txt").read_text()


def odd() -> onnx.ModelProto:
    """Floats, three inputs, two outputs, and names that no C program can have."""
    inputs, outputs = {"in put/0:0": 4, "µ-β": 4, "3x": 2}, {"out.1": 5, '"q"': 1}
    nodes = [
        helper.make_node("Add", ["in put/0:0", "µ-β"], ["a b"]), helper.make_node("MatMul", ["a b", "W$"], ["int"]),
        helper.make_node("Tanh", ["int"], ["while"]), helper.make_node("Concat", ["while", "3x"], ["out.1"], axis=1),
        helper.make_node("ReduceMean", ["out.1"], ['"q"'], axes=[1]),
    ]  # fmt: skip
    ends = ([helper.make_tensor_value_info(n, 1, [1, e]) for n, e in side.items()] for side in (inputs, outputs))
    weight = numpy_helper.from_array(np.linspace(-1, 1, 12, dtype="f").reshape(4, 3), "W$")
    graph = helper.make_graph(nodes, "g; */", *ends, [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


SKETCH = """#include <cstdio>
static struct { void begin(long) {} void println(const char *text) { std::puts(text); } } Serial;
#include "%s"
int main() { setup(); loop(); return run_net(); }
"""
MAINS = {"cmsis-pack": "int run_net(void); int main(void) { return run_net(); }",
         "esp-idf": "void app_main(void); int main(void) { app_main(); return 0; }"}  # fmt: skip


def test_examples_of_packages_run_an_odd_model(tmp_path):
    compile_model(odd(), tmp_path, name="net", target="cortex-m4", emit="c", check="shapes")
    sides = ((("in put/0:0", (1, 4)), ("µ-β", (1, 4)), ("3x", (1, 2))), (("out.1", (1, 5)), ('"q"', (1, 1))))
    ends = tuple(tuple((name, shape, "float32") for name, shape in side) for side in sides)
    face = Interface("net", (ends,), 4096)
    strict = ["-Wall", "-Wextra", "-Werror", "-I", tmp_path / "c"]
    subprocess.run(["gcc", "-std=c99", *strict, "-c", tmp_path / "c/net.c", "-o", "net.o"], cwd=tmp_path, check=True)
    for kind in PACKAGES:
        write_package(kind, tmp_path / "c", tmp_path / kind, face)
        files = [path for path in (tmp_path / kind).rglob("*.*") if "run_net(void)" in path.read_text(errors="replace")]
        (example,) = (path for path in files if path.suffix in (".c", ".ino"))
        main = tmp_path / f"{kind}.{'cpp' if kind == 'arduino' else 'c'}"
        main.write_text(SKETCH % example if kind == "arduino" else MAINS.get(kind, ""))
        sources = [main] if kind == "arduino" else [main, example]
        tool = ["g++"] if kind == "arduino" else ["gcc", "-std=c99"]
        subprocess.run([*tool, *strict, *sources, "net.o", "-lm", "-o", f"run_{kind}"], cwd=tmp_path, check=True)
        done = subprocess.run([tmp_path / f"run_{kind}"], capture_output=True, text=True, check=True)
        assert done.stdout == ("ok\n" if kind == "arduino" else "")


HOSTILE = [
    "*/ int main(void){}",
    "x *\\\n/",
    "??/",
    "${ENV{HOME}}",
    "@net@",
    "@version@",
    "]]>",
    "</name>",
    'a"b',
    "\u202ex",
    "\x1b]52;c;x\a",
    "n" * 10**6,
]


PLAIN = [f"x{i}" for i in range(len(HOSTILE))]


def hostile_face(names: list[str]) -> Interface:
    ends = tuple((name, (1, 4), "float32") for name in names)
    return Interface("net", ((ends, ends),), 4096)


@pytest.mark.parametrize("kind", PACKAGES)
def test_names_of_tensors_reach_no_file_of_a_package(kind):
    """Beside the sources, whose escapes have tests of their own, packages know tensors by number; tools are told our own names."""

    made = PACKAGES[kind](hostile_face(HOSTILE))
    assert made == PACKAGES[kind](hostile_face(PLAIN))
    if kind in ("zephyr", "esp-idf"):  # which have things called net of their own
        text = "\n".join(
            (*made, *(part for part in made.values() if part and "int main" not in part and "app_main" not in part))
        )
        assert not re.search(r"CONFIG_NET\b|config NET\b|named\(net\)|name: net\b|REQUIRES net\b|^net/", text, re.M)


def test_names_of_tensors_are_comments_in_a_wheel():
    hostile, plain = (ast.dump(ast.parse(wheel._init(hostile_face(names)))) for names in (HOSTILE, PLAIN))
    assert hostile == plain
    assert wheel._init(hostile_face(HOSTILE)).isascii()


def test_what_is_refused(tmp_path):
    plain = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[4] x) => (float[4] y) { y = Neg(x) }')
    with pytest.raises(Unsupported, match="C sources for native"):
        compile_model(plain, tmp_path / "a", name="net", emit="c")
    with pytest.raises(Unsupported, match="code of few bytes for native"):
        compile_model(plain, tmp_path / "d", name="net", code="size")
    with pytest.raises(Unsupported, match="inputs in the arena, with several shapes"):
        compile_model(plain, tmp_path / "e", name="net", buffers="arena", target="x86-64-v2/x86-64-v3")
    with pytest.raises(BadOption, match="no such package"):
        compile_model(plain, tmp_path / "c", name="net", package="conda", target="cortex-m4")
    assert list(tmp_path.iterdir()) == []
