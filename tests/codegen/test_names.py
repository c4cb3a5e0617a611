"""Names: what a model calls its tensors is data in every file of a library, and what libraries are called keeps them apart."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

from onnxc.cli.compile import library_name
from onnxc.codegen import compile_model
from onnxc.codegen.c.header import FUNCTIONS
from onnxc.codegen.c.names import HEADERS
from onnxc.codegen.target import TARGETS
from onnxc.ir.errors import BadModel, BadOption, Unsupported
from onnxc.ir.escape import from_c_string
from onnxc.runtime import library as loader
from onnxc.runtime.library import Library, interface_digest, read_manifest
from onnxc.runtime.program import Program, build_program

from .objects import members, symbols
from .test_targets import ready

CONTROLS = "".join(map(chr, [*range(1, 160), 0x2028, 0x202E, 0x2066, 0xFEFF, 0x1F600]))
INJECTION = "x *\\\n/ \n__attribute__((constructor)) void run(void) { __builtin_trap(); } /\\\n* "
NAMES = [
    INJECTION,
    "??/\n*/ ??>",
    '"; exit(1); "',
    "'''\"\"\"\n#",
    CONTROLS,
    "*\\\n" * 350_000,
    "NET_OK net_run @tensors@",
]


def scaled(names: list[str], factor: float = 2.0) -> onnx.ModelProto:
    """Multiplies each input by a number of its own; names are those of the inputs, backwards those of the outputs."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in names]
    outputs = [helper.make_tensor_value_info(name + "'", TensorProto.FLOAT, [3]) for name in names]
    nodes, constants = [], []
    for i, name in enumerate(names):
        constants.append(helper.make_tensor(f"c{i}", TensorProto.FLOAT, [], [factor + i]))
        nodes.append(helper.make_node("Mul", [name, f"c{i}"], [name + "'"]))
    graph = helper.make_graph(nodes, 'g "*/', tensors, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """A library whose tensors have hostile names."""
    out = tmp_path_factory.mktemp("hostile")
    compile_model(scaled(NAMES), out, name="net", wheel=True, check="shapes")
    return out


def test_hostile_names_are_read_back_from_every_file(hostile):
    header = (hostile / "net.h").read_text()
    listed = re.findall(r"^ \*   inputs\[\d+\]  float  3  (.*)$", header, re.M)
    assert [unquote(name) for name in listed] == NAMES
    assert [row["name"] for row in json.loads((hostile / "manifest.json").read_text())["inputs"]] == NAMES
    library = ctypes.CDLL(str(hostile / "libnet.so"))
    library.net_input.restype = ctypes.POINTER(ctypes.c_char_p)
    assert [from_c_string(library.net_input(i)[0]) for i in range(len(NAMES))] == NAMES
    with zipfile.ZipFile(next(hostile.glob("*.whl"))) as archive:
        source = archive.read("net/__init__.py").decode("ascii")
    assert [unquote(name) for name in re.findall(r"^#   in   (.*): float32 3$", source, re.M)] == NAMES
    compile(source, "__init__.py", "exec")
    for path in hostile.rglob("*"):
        if path.suffix in (".h", ".c", ".txt", ".json"):
            assert not re.search(r"[^\n -~]", path.read_text("ascii")), path


def test_a_library_of_hostile_names_runs(hostile):
    feeds = {name: np.arange(3, dtype="f") + i for i, name in enumerate(NAMES)}
    made = Library(hostile).run(feeds)
    for i, name in enumerate(NAMES):
        assert np.array_equal(made[name + "'"], feeds[name] * np.float32(2 + i))
    done = subprocess.run(
        ["gcc", "-std=c99", "-trigraphs", "-Wall", "-Werror", "-xc", "-fsyntax-only", "-"],
        input=f'#include "{hostile}/net.h"\n', text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_manifest_that_nobody_would_read_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "MANIFEST_BYTES", 20_000)
    with pytest.raises(Unsupported, match="names make its manifest too large, expected at most 20000 bytes, found "):
        compile_model(scaled(["x" * 9_000]), tmp_path / "out", name="net", check="shapes")
    assert not list(tmp_path.iterdir())


def test_outputs_of_one_name_are_refused(tmp_path):
    model = scaled(["x"])
    model.graph.output.append(model.graph.output[0])
    with pytest.raises(Unsupported, match="one name"):
        compile_model(model, tmp_path / "out", name="net")


AWKWARD = [
    "net", "net_0", "net_0_kernel0", "net_1", "net_run", "net_input", "net_", "NETS", "pick", "chosen", "check", "head",
    "input", "decode", "pool", "weights", "onnxc", "onnxc3net", "program0", "shared",
]  # fmt: skip


def test_twenty_libraries_in_one_program(tmp_path):
    calls, archives = [], []
    for i, name in enumerate(AWKWARD):
        model = scaled(["x"], 2.0 + i)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
        model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "n"
        shapes = [{"x": (3,)}, {"x": (5,)}] if i < 2 else {"x": (3,)}
        compile_model(model, tmp_path / name, name=name, shapes=shapes, check="shapes")
        archives += [tmp_path / name / f"lib{name}.a"]
        calls.append(f'  if ({name}_init(arena, 1) || {name}_run(arena, in, out)) return 1;\n  printf("%g ", y[1]);\n')
    source = "#include <stdio.h>\n" + "".join(f'#include "{name}/{name}.h"\n' for name in AWKWARD)
    source += (
        "static _Alignas(64) char arena[1 << 20];\nint main(void) {\n  static float x[5] = {1, 1, 1, 1, 1}, y[5];\n"
    )
    source += "  const void *in[] = {x};\n  void *out[] = {y};\n" + "".join(calls) + "  return 0;\n}\n"
    (tmp_path / "main.c").write_text(source)
    shared = [flag for name in AWKWARD for flag in (f"-Wl,-rpath,{tmp_path / name}", tmp_path / name / f"lib{name}.so")]
    for libraries in (["-static", *archives], shared):
        command = ["gcc", "-std=c11", "-Wall", "-Werror", "-I.", "main.c", *libraries, "-lm", "-o", "all"]
        subprocess.run(command, check=True, cwd=tmp_path)
        said = subprocess.run([tmp_path / "all"], capture_output=True, text=True, check=True).stdout
        assert said.split() == [f"{2.0 + i:g}" for i in range(len(AWKWARD))]


@pytest.mark.parametrize("target", ["x86-64-v2", "aarch64", "armv7", "riscv64", "cortex-m7", "wasm32"])
def test_only_the_interface_is_for_others(tmp_path, target):
    """Whatever LLVM adds to the kernels bears the library's name, on every machine: a program may have its like."""
    ready(target)
    compile_model(halved(), tmp_path / "made", name="net", check="shapes", target=target, program=True)
    if target != "wasm32":
        found = [s for elf in members(tmp_path / "made/libnet.a") for s in symbols(elf)]
        names = {name for name, here in found if here}
        assert names == {*(f"net_{f}" for f in FUNCTIONS), *(n for n in names if n.startswith("_onnxc3net_"))}
    (tmp_path / "made/example/main.c").write_text(PROGRAM_OF_ITS_OWN)
    chain = TARGETS[target].toolchain
    build_program(tmp_path / "made", "net", chain, tmp_path / f"run{chain.suffix}")
    if target == "x86-64-v2":
        said = subprocess.run([tmp_path / "run"], capture_output=True, text=True, check=True).stdout
        assert said == "0.333251953 0.333333343\n"


PROGRAM_OF_ITS_OWN = """#include <stdio.h>
#include "net.h"
unsigned short __truncsfhf2(float x) { __builtin_trap(); return x > 0; }
float __extendhfsf2(unsigned short x) { __builtin_trap(); return x; }
static _Alignas(64) char arena[NET_ARENA_BYTES];
int main(void) {
  static float x[3] = {1.0f / 3, 2, 3}, y[3];
  const void *in[] = {x};
  void *out[] = {y};
  if (net_init(arena, 1) || net_run(arena, in, out)) return 1;
  printf("%.9f %.9f\\n", y[0], x[0]);
  return 0;
}
"""


def halved() -> onnx.ModelProto:
    """Through float16 and back."""
    return parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
      g (float[3] x) => (float[3] y) { h = Cast<to=10>(x) y = Cast<to=1>(h) }""")


TAKEN = {
    "C has a header": ("stdint", "Math", "pthread"),
    "the system has a library": ("c", "m", "gcc", "dl"),
    "microcontrollers have a header": ("Arduino", "main", "task"),
    "unistd.h has a macro": ("f", "X"),
}


def test_names_of_headers_and_packages_are_refused(tmp_path):
    model = scaled(["x"])
    for said, names in TAKEN.items():
        for name in names:
            with pytest.raises(
                BadOption, match=f"{name}' cannot name a C library: .*{said}.*; use another name, m_{name} say"
            ):
                compile_model(model, tmp_path / "out", name=name)
            assert library_name(f"some/{name}.onnx") == f"m_{name}"
    for name in ("numpy", "class", "json", "NumPy"):
        with pytest.raises(BadOption, match="Python has it"):
            compile_model(model, tmp_path / "out", name=name, wheel=True)
    assert not (tmp_path / "out").exists()


def test_no_header_that_the_library_reads_is_shadowed(hostile):
    """What the headers of a library read is asked of the compiler: none of it could be taken for a library's header."""
    text = '#include "net.h"\n#include <math.h>\n#include <pthread.h>\n#include <stdio.h>\n#include <string.h>\n#include <stdlib.h>\n'
    done = subprocess.run(
        ["gcc", f"-I{hostile}", "-M", "-xc", "-"], input=text, text=True, capture_output=True, check=True
    )
    read = re.findall(r"/include/(?:x86_64-linux-gnu/|aarch64-linux-gnu/)?(\w+)\.h", done.stdout)
    assert len(read) > 10
    assert {name for name in read if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)} <= HEADERS


def _edited(folder: Path, tmp_path: Path, change) -> Path:
    copy = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
    shutil.copytree(folder, copy)
    manifest = read_manifest(folder)
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


class Here(Program):
    """The program of a library, run on this machine."""

    def _execute(self, data: bytes, numbers: list[str]) -> tuple[bytes, str]:
        program = self._make(self._folder)
        (self._folder / "in").write_bytes(data)
        done = subprocess.run([program, "in", "out", *numbers], cwd=self._folder, capture_output=True, check=True)
        return (self._folder / "out").read_bytes(), done.stdout.decode()


LIES = [
    lambda m: m["shapes"][0]["outputs"][0].update(shape=[2]),
    lambda m: m["shapes"][0]["inputs"][0].update(dtype="int32"),
    lambda m: m["shapes"][0]["inputs"][0].update(name="other"),
    lambda m: m["shapes"].append(m["shapes"][0]),
    lambda m: m.update(model_sha256="0" * 64),
]
DAMAGE = [
    lambda m: m.update(library="../other/libnet.so"),
    lambda m: m.update(name='net"; rm -rf "$HOME'),
    lambda m: m.update(arena_bytes="64"),
    lambda m: m.update(shapes=[{"inputs": [{"name": "x", "shape": [-1], "dtype": "float32"}], "outputs": []}]),
    lambda m: m.update(shapes=[{"inputs": [{"name": "x", "shape": [1], "dtype": "void"}], "outputs": []}]),
    lambda m: m.update(shapes=3),
    lambda m: m.update(needs=[3]),
    lambda m: m["shapes"][0]["outputs"].append(m["shapes"][0]["outputs"][0]),
]


def test_a_manifest_that_is_not_the_librarys_is_refused(tmp_path):
    folder = tmp_path / "made"
    compile_model(scaled(["x"]), folder, name="net", check="shapes")
    for lie in LIES:
        copy = _edited(folder, tmp_path, lie)
        with pytest.raises(BadModel, match="is not the one of library net"):
            Library(copy)
    for damage in DAMAGE:
        copy = _edited(folder, tmp_path, damage)
        for open_ in (Library, Program):
            with pytest.raises(BadModel, match="is damaged"):
                open_(copy)
    copy = _edited(folder, tmp_path, LIES[1])
    with pytest.raises(BadModel, match="is not the one of library net"):
        Here(copy).run({"x": np.zeros(3, "i4")})
    assert np.array_equal(Here(folder).run({"x": np.ones(3, "f")})["x'"], np.full(3, 2, "f"))
    library = ctypes.CDLL(str(folder / "libnet.so"))
    library.net_digest.restype = ctypes.c_char_p
    assert library.net_digest().decode() == interface_digest(read_manifest(folder))


def test_a_living_handle_with_threads_is_not_run_over(tmp_path):
    compile_model(scaled(["x"]), tmp_path / "made", name="net", threads=2, check="shapes")
    (tmp_path / "use.c").write_text("""#include "net.h"
static _Alignas(64) char arena[NET_ARENA_BYTES];
int main(void) {
  if (net_init(arena, 1) != NET_OK || net_init(arena, 1) != NET_OK) return 1; /* has nothing to end */
  if (net_init(arena, 2) != NET_OK || net_init(arena, 2) != NET_IN_USE || net_init(arena, 1) != NET_IN_USE) return 2;
  return net_free(arena) != NET_OK || net_init(arena, 2) != NET_OK || net_free(arena) != NET_OK;
}
""")
    command = ["gcc", "-std=c11", "-I", "made", "use.c", "made/libnet.a", "-lm", "-pthread", "-o", "use"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "use"], check=False).returncode == 0


def test_the_command_line_finds_a_name(tmp_path):
    from onnxc.cli.compile import library_name

    assert [library_name(p) for p in ("a/string.onnx", "my-net.v2.onnx", "9.onnx")] == ["m_string", "my_net_v2", "m_9"]
