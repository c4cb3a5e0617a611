"""`--emit c`: a library as C99 sources, for compilers that LLVM and the toolchains here do not know; and the packages made of them.

    c/net.h  c/net.c  c/net_weights.h  c/parts/micro*.h

The same text that the binary library is compiled from, with the weights as words of an array instead of `.incbin`. Byte order is little.
Packages have these sources in the places where their tools look, beside what those read. What a tool keeps one list of (components of
ESP-IDF, modules, targets and options of Zephyr) is called onnxc_net: `net`, `log`, `main` are its own.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from onnxc.codegen.c import source as csource
from onnxc.codegen.c.build import C_DIR, PARTS
from onnxc.codegen.c.header import Interface, header, internal
from onnxc.codegen.c.source import MICRO_FILES, Layout
from onnxc.codegen.memory.weights import Weights
from onnxc.codegen.program import Program
from onnxc.codegen.target import Target
from onnxc.ir.errors import Unsupported

A_LINE = 12  # words


def write_c(
    folder: Path,
    face: Interface,
    programs: Sequence[Program],
    weights: Weights,
    layout: Layout,
    targets: Sequence[Target],
) -> None:
    """Writes the sources into the new `folder`. Raises Unsupported for coded weights."""
    if weights.segments:
        raise Unsupported("coded weights in C sources", remedy="use --weights raw")
    (folder / PARTS).mkdir(parents=True)
    for file in MICRO_FILES:
        shutil.copy(C_DIR / file, folder / PARTS)
    symbol = f"{internal(face.name)}_weights"
    text = csource.source(face, programs, weights, layout, targets)
    text = text.replace(f"extern const char {symbol}[];", f'#include "{face.name}_weights.h"')
    (folder / f"{face.name}.h").write_text(header(face), encoding="ascii")
    (folder / f"{face.name}.c").write_text(text, encoding="ascii")
    with open(folder / f"{face.name}_weights.h", "w", encoding="ascii") as stream:
        stream.writelines(_weights_text(symbol, b"".join(weights.chunks())))


def _weights_text(symbol: str, data: bytes) -> Iterator[str]:
    data += b"\0" * (-len(data) % 4 + 4)
    words = [f"0x{int.from_bytes(data[i : i + 4], 'little'):08x}u" for i in range(0, len(data), 4)]
    yield f"/* Weights and tables, read-only. Made by onnxc. */\nstatic const uint32_t {symbol}_words[{len(words)}] = {{\n"
    for i in range(0, len(words), A_LINE):
        yield f"    {', '.join(words[i : i + A_LINE])},\n"
    yield f"}};\n#define {symbol} ((const char *){symbol}_words)\n"


def write_package(kind: str, sources: Path, folder: Path, face: Interface, small: bool = False) -> None:
    """Writes a package of `kind`, a key of PACKAGES, of the C sources in `sources` into the new `folder`; for few bytes if `small`."""
    for path, text in PACKAGES[kind](face).items():
        text = text.replace("-O2", "-Os") if text and small else text
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            shutil.copytree(sources, file, dirs_exist_ok=True)
        else:
            file.write_text(text, encoding="ascii")
    if kind == "cmsis-pack":
        inside = sorted(path for path in folder.rglob("*") if path.is_file())
        with zipfile.ZipFile(folder / f"onnxc.{face.name}.{VERSION}.pack", "w", zipfile.ZIP_DEFLATED) as pack:
            for part in inside:
                pack.writestr(zipfile.ZipInfo(str(part.relative_to(folder))), part.read_bytes(), zipfile.ZIP_DEFLATED)


Files = dict[str, str | None]
"""Path -> text; None: the C sources go there."""
VERSION = "1.0.0"


def _fill(text: str, face: Interface) -> str:
    return text.replace("@NAME@", face.name.upper()).replace("@name@", face.name).replace("@version@", VERSION)


def _main(face: Interface) -> str:
    if any(face.places):
        places = [
            ", ".join(f"arena + @NAME@_{kind}{i}_PLACE" for i in range(len(face.places[side])))
            for side, kind in enumerate(("INPUT", "OUTPUT"))
        ]
        text = _RUN.replace("@buffers@\n", "").replace("@inputs@", places[0]).replace("@outputs@", places[1])
        return _fill(text, face)
    rows = [f"static char {kind}{i}[@NAME@_{kind.upper()}{i}_BYTES] ALIGNED;"
            for kind, tensors in (("input", face.inputs), ("output", face.outputs)) for i in range(len(tensors))]  # fmt: skip
    inputs, outputs = (", ".join(f"{kind}{i}" for i in range(len(tensors)))
                       for kind, tensors in (("input", face.inputs), ("output", face.outputs)))  # fmt: skip
    text = _RUN.replace("@buffers@", "\n".join(rows)).replace("@inputs@", inputs).replace("@outputs@", outputs)
    return _fill(text, face)


_RUN = """/* Runs @name@ once. Made by onnxc. */
#include "@name@.h"

#define ALIGNED __attribute__((aligned(@NAME@_ARENA_ALIGN)))

static char arena[@NAME@_ARENA_BYTES] ALIGNED;
@buffers@

/* A status: @NAME@_OK, and the outputs are there. */
int run_@name@(void);
int run_@name@(void) {
  const void *inputs[] = {@inputs@};
  void *outputs[] = {@outputs@};
  int status = @name@_init(arena, 1);
  return status == @NAME@_OK ? @name@_run(arena, inputs, outputs) : status;
}
"""


def _arduino(face: Interface) -> Files:
    sketch = _main(face).replace('#include "@name@.h"', "") + (
        "\nvoid setup() {\n  Serial.begin(115200);\n  Serial.println(@name@_status_text(run_@name@()));\n}\n\nvoid loop() {}\n"
    )
    properties = """name=@name@
version=@version@
author=onnxc
maintainer=onnxc
sentence=The compiled model @name@.
paragraph=A library without dependencies, made by onnxc.
category=Data Processing
url=https://github.com
architectures=*
includes=@name@.h
"""
    return {
        "src": None, "library.properties": _fill(properties, face), f"examples/run_{face.name}/run_{face.name}.ino": _fill(sketch, face),
    }  # fmt: skip


def _platformio(face: Interface) -> Files:
    library = """{
  "name": "@name@",
  "version": "@version@",
  "description": "The compiled model @name@, made by onnxc",
  "frameworks": "*",
  "platforms": "*",
  "build": {"srcDir": "src", "includeDir": "src", "flags": ["-std=c99", "-O2"]}
}
"""
    project = """; A project that runs @name@ once; take the board that you have. Made by onnxc.
[env:board]
platform = ststm32
board = nucleo_f446re
framework = stm32cube
lib_extra_dirs = .
"""
    start = "\nint main(void) { return run_@name@(); }\n"
    return {
        f"lib/{face.name}/src": None, f"lib/{face.name}/library.json": _fill(library, face),
        "platformio.ini": _fill(project.replace("lib_extra_dirs = .\n", ""), face), "src/main.c": _main(face) + _fill(start, face),
    }  # fmt: skip


def _zephyr(face: Interface) -> Files:
    cmake = """# The compiled model @name@ as a Zephyr module. Made by onnxc.
if(CONFIG_ONNXC_@NAME@)
  zephyr_library_named(onnxc_@name@)
  zephyr_library_sources(src/@name@.c)
  zephyr_include_directories(src)
endif()
"""
    config = 'config ONNXC_@NAME@\n\tbool "The compiled model @name@"\n\tdefault y\n'
    module = "name: onnxc_@name@\nbuild:\n  cmake: .\n  kconfig: Kconfig\n"
    sample = """cmake_minimum_required(VERSION 3.20.0)
list(APPEND ZEPHYR_EXTRA_MODULES ${CMAKE_CURRENT_SOURCE_DIR}/../..)
find_package(Zephyr REQUIRED HINTS $ENV{ZEPHYR_BASE})
project(run_@name@)
target_sources(app PRIVATE src/main.c)
"""
    start = "\nint main(void) { return run_@name@(); }\n"
    return {
        "src": None, "CMakeLists.txt": _fill(cmake, face), "Kconfig": _fill(config, face), "zephyr/module.yml": _fill(module, face),
        "samples/run/CMakeLists.txt": _fill(sample, face), "samples/run/prj.conf": _fill("CONFIG_ONNXC_@NAME@=y\n", face),
        "samples/run/src/main.c": _main(face) + _fill(start, face),
    }  # fmt: skip


def _cmsis(face: Interface) -> Files:
    pack = """<?xml version="1.0" encoding="UTF-8"?>
<package schemaVersion="1.7.7" xmlns:xs="http://www.w3.org/2001/XMLSchema-instance"
  xs:noNamespaceSchemaLocation="https://raw.githubusercontent.com/Open-CMSIS-Pack/Open-CMSIS-Pack-Spec/v1.7.7/schema/PACK.xsd">
  <vendor>onnxc</vendor>
  <name>@name@</name>
  <description>The compiled model @name@</description>
  <url></url>
  <releases>
    <release version="@version@">Made by onnxc</release>
  </releases>
  <components>
    <component Cclass="Machine Learning" Cgroup="@name@" Cversion="@version@">
      <description>The compiled model @name@</description>
      <files>
        <file category="include" name="src/"/>
        <file category="header" name="src/@name@.h"/>
        <file category="sourceC" name="src/@name@.c"/>
      </files>
    </component>
  </components>
</package>
"""
    return {"src": None, f"onnxc.{face.name}.pdsc": _fill(pack, face), "examples/run.c": _main(face)}


def _esp(face: Interface) -> Files:
    component = """# The compiled model @name@ as a component of ESP-IDF. Made by onnxc.
idf_component_register(SRCS "src/@name@.c" INCLUDE_DIRS "src")
target_compile_options(${COMPONENT_LIB} PRIVATE -O2)
"""
    manifest = 'version: "@version@"\ndescription: The compiled model @name@, made by onnxc\n'
    project = """cmake_minimum_required(VERSION 3.16)
set(EXTRA_COMPONENT_DIRS ${CMAKE_CURRENT_LIST_DIR}/../../..)
include($ENV{IDF_PATH}/tools/cmake/project.cmake)
project(run_@name@)
"""
    start = "\nvoid app_main(void);\nvoid app_main(void) { (void)run_@name@(); }\n"
    main = 'idf_component_register(SRCS "main.c" REQUIRES onnxc_@name@)\n'
    return {
        f"onnxc_{face.name}/src": None, f"onnxc_{face.name}/CMakeLists.txt": _fill(component, face),
        f"onnxc_{face.name}/idf_component.yml": _fill(manifest, face),
        f"onnxc_{face.name}/examples/run/CMakeLists.txt": _fill(project, face),
        f"onnxc_{face.name}/examples/run/main/CMakeLists.txt": _fill(main, face),
        f"onnxc_{face.name}/examples/run/main/main.c": _main(face) + _fill(start, face),
    }  # fmt: skip


PACKAGES: dict[str, Callable[[Interface], Files]] = {
    "arduino": _arduino, "platformio": _platformio, "zephyr": _zephyr, "cmsis-pack": _cmsis, "esp-idf": _esp,
}  # fmt: skip
"""By the name of `--package`: the files of a package."""
