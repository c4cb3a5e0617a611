"""TIR functions as C99: what TVM's generator of C makes of them, without its includes, with every bit of their numbers.

The generator prints numbers to seven digits, and infinities as no C has them. Ahead of it each is exchanged for a small one that
stands for it, k 10^-30, and behind it for what C99 writes: hexadecimal, INFINITY, NAN. There are no vectors:
loops over lanes are loops again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxc.codegen.c.function import CFunction, lowered
from onnxc.codegen.target import Target
from onnxc.codegen.tvm_api import name_of, tvm_modules
from onnxc.ir.errors import Unsupported

_BITS_OF = [
    f"static inline {kind} onnxc_as_{kind}(const void *p) {{ {kind} v; memcpy(&v, p, sizeof v); return v; }}"
    for kind in ("float", "double", "int32_t", "uint32_t", "int64_t", "uint64_t")
]
_BEFORE = """#include <math.h>
#include <stdbool.h>
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
/* the bits of a number as another type */"""
_BEHIND = """#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif"""
_MARK = re.compile(r"\b(\d\.\d{6}e[-+]\d+)(f?)")
_SCALE = 1e-30
_BITS = re.compile(r"\*\((\w+) \*\)\(&\((\w+)\)\)")
_ARRAY = re.compile(r"^( +\w+ \w+\[\d+\]);$", re.M)
_FUNCTION = re.compile(r"^TVM_DLL void (\w+)\((.*)\) \{$", re.M)
_VECTOR = re.compile(
    r"\b(?:float|double|u?int|u?char|short|half)\d+ \w+ =|\b(?:float|int|uint)(?:2|3|4|8|16)\*|\bllvm\.|[\w)]\.s[0-9a-f]\b"
)


def c_functions(functions: Mapping[str, Any], target: Target) -> tuple[str, dict[str, CFunction]]:
    """The definitions of `functions`, by C name, as C99, and how C calls each. Raises Unsupported for what C cannot say."""
    m = tvm_modules()
    module, how = lowered(functions, target, 1, vectors=False)
    graph, numbers = json.loads(m.tvm.ir.save_json(module)), []
    for node in graph["nodes"]:
        if node["type"] == "ir.FloatImm":
            numbers.append(node["data"]["value"])
            node["data"]["value"] = len(numbers) * _SCALE
    goal = m.tvm.target.Target({"kind": "c"})
    module = m.tvm.ir.load_json(json.dumps(graph))
    module = m.tvm.IRModule({var: f.with_attr("target", goal) for var, f in module.functions_items()})
    with goal:
        text = str(m.tvm.get_global_func("target.build.c")(module, goal).inspect_source())
    for function in sorted(functions):
        body = text.rpartition(f"TVM_DLL void {function}(")[2]  # its definition, behind the declarations
        if _VECTOR.search(body.partition("\nTVM_DLL")[0]):
            raise Unsupported(f"no C code for {function.split('_', 3)[-1]}", remedy="leave out --emit and --package")
    return _clean(text, numbers), {name_of(var): f for var, f in how.items()}


def _clean(text: str, numbers: list[float]) -> str:
    """Static functions over `const void *` of the generator's text."""

    def number(match: re.Match) -> str:
        at = round(float(match[1]) / _SCALE)
        value = numbers[at - 1] if 0 < at <= len(numbers) and float(match[1]) < 1e-20 else float(match[1])
        value = float(np.float32(value)) if match[2] else float(value)
        if not np.isfinite(value):
            return "NAN" if np.isnan(value) else "INFINITY" if value > 0 else "(-INFINITY)"
        return value.hex() + match[2]

    def entry(match: re.Match) -> str:
        types = [param.strip().rpartition(" ")[0] for param in match[2].split(",") if param.strip()]
        params = ", ".join(f"const void *p{i}" for i in range(len(types)))
        args = ", ".join(f"({kind})p{i}" for i, kind in enumerate(types))
        entries.append(f"static void {match[1]}({params}) {{ {match[1]}_body({args}); }}")
        return f"static void {match[1]}_body({match[2]}) {{"

    entries: list[str] = []
    start = text.index("TVM_DLL")
    text = "\n".join(
        row for row in text[start:].split("\n") if row not in ("#ifdef __cplusplus", 'extern "C"', "#endif")
    )
    text = re.sub(r"^TVM_DLL [^{]*;\n", "", text, flags=re.M)  # declarations
    text = _ARRAY.sub(
        r"\1 = {0};", _BITS.sub(r"onnxc_as_\1(&\2)", text)
    )  # compilers do not see that loops begin by writing
    text = _FUNCTION.sub(entry, _MARK.sub(number, text))
    return "\n".join([text.strip("\n"), *entries])


def c_part(texts: list[str]) -> list[str]:
    """The functions of all programs with what they need, as a part of a C file; [] for none."""
    return [_BEFORE, *_BITS_OF, *texts, _BEHIND] if texts else []
