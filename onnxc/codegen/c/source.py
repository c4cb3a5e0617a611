"""The C side of a library, as text: interface, lists of kernel calls, weights, and the linker's list of exported names."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from onnxc.codegen.c.body import BODY, CLOCK, LAPS, MACHINE, PROGRAM, SELECT, SHARED
from onnxc.codegen.c.header import Interface, element_bytes, internal, tensor_bytes
from onnxc.codegen.c.inside import marks, moves
from onnxc.codegen.c.pick import pick_includes, pick_source
from onnxc.codegen.c.portable import c_part
from onnxc.codegen.c.rounds import region_source
from onnxc.codegen.memory.plan import Place
from onnxc.codegen.memory.weights import Weights, decode_source
from onnxc.codegen.program import Nested, Program
from onnxc.codegen.target import Target
from onnxc.ir.escape import c_string

MICRO = ("micro_products.h", "micro_between.h", "micro_count.h", "micro_pack.h", "micro_bits.h", "micro_few.h")
HELIUM = (
    "micro_helium.h",
    "micro_helium_held.h",
    "micro_helium_depthwise.h",
    "micro_helium_depthwise3.h",
    "micro_helium_few.h",
)
MICRO_FILES = ("micro.h", "micro_layers.h", "micro_planes.h", "micro_dsp.h", *HELIUM, *MICRO)
HEAD = 64  # bytes at the arena's start that hold the handle
THREADED_HEAD = 1024  # the same with the state of a thread pool


@dataclass(frozen=True)
class Layout:
    """The arena, in bytes from its start: handle, decoded weights, then buffers, over the decoder's scratch memory.

    `ends`: where inputs and outputs are within it, if they are.
    """

    decoded: int
    buffers: int
    total: int
    ends: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())


def head_bytes(threads: int) -> int:
    """Bytes of a handle's state."""
    return THREADED_HEAD if threads > 1 else HEAD


def source(
    face: Interface,
    programs: Sequence[Program],
    weights: Weights,
    layout: Layout,
    targets: Sequence[Target],
    timed: bool = False,
    far: bool = False,
) -> str:
    """`<name>.c`: the interface and the straight lists of kernel calls. `programs`: by shape within `targets`, all settled.

    `timed`: with the clock read before the first call and behind each, for `<name>_laps`. `far`: the
    weights are reached by a pointer, as `weights_source` has it.
    """
    place = partial(_pointer, name=face.name, weights=weights, decoded=layout.decoded)
    declared: set[str] = set()
    shared: list[str] = []
    ends = moves(face)
    lists = [_program(number, program, declared, shared, place, timed, ends) for number, program in enumerate(programs)]
    laps = LAPS.replace("@stamps@", str(1 + max(len(program.plan.calls) for program in programs))) if timed else ""
    includes = [laps, pick_includes(targets), '#include "parts/decode.h"' if weights.segments else ""]
    if any(program.micro for program in programs):
        includes += [
            "#define ONNXC_FLOATS 1" if targets[0].fpu else "",
            "#define ONNXC_HELIUM 1" if targets[0].helium else "",
            "#define ONNXC_SMALL 1" if targets[0].small else "",
            *(f'#include "parts/{file}"' for file in MICRO),
        ]
    texts = [program.text for program in programs if program.text]
    more = [SELECT if len(face.shapes) > 1 else "", _machine(face)]
    parts = {
        "dispatch": _dispatch(len(programs), len(face.shapes)),
        "includes": "\n".join(filter(None, includes)),
        **marks(face),
        "decode": decode_source(weights),
        "pick": pick_source(targets),
        "more": "".join(more),
        "decoded": str(layout.decoded),
        "scratch": str(layout.buffers),
        "magic": f"0x{_magic(face, weights):08x}u",
        "head": str(head_bytes(face.threads)),
        "shapes": str(len(face.shapes)),
        "shares": "shared" if shared else "NULL",
        "digest": face.digest,
    }
    text = BODY
    for mark, part in parts.items():
        text = text.replace(f"@{mark}@", part)
    text = CLOCK + text if timed else text
    text = text.replace("NET_", f"{face.name.upper()}_").replace("net_", f"{face.name}_")
    text = text.replace("@programs@", "\n".join([_shared(shared), *lists])).replace(
        "@kernels@", "\n".join([*sorted(declared), *c_part(texts)])
    )
    tables = "\n".join(_tensors(face, side, kind) for side, kind in enumerate(("input", "output")))
    symbol = f"{internal(face.name)}_weights"
    text = text.replace("@weights@[]", f"*const {symbol}" if far else f"{symbol}[]").replace("@weights@", symbol)
    return text.replace("@header@", f"{face.name}.h").replace("@tensors@", tables)


def _magic(face: Interface, weights: Weights) -> int:
    """What marks a handle of this library: another library's handle has another mark."""
    return zlib.crc32(repr((face, weights.flash_bytes, weights.checksum)).encode()) | 1


def _program(
    number: int,
    program: Program,
    declared: set[str],
    shared: list[str],
    place: Callable[[Place], str],
    timed: bool,
    ends: tuple[list[str], list[str]],
) -> str:
    """The C function `program<number>`, behind those of its regions. What it calls joins `declared`, its parallel phases join
    `shared`."""
    lines, flags, regions = _calls(program, declared, shared, place, timed, ends)
    text = PROGRAM.replace("@number@", str(number)).replace("@calls@", "\n".join(lines))
    return "\n".join([*regions, text.replace("@flags@", flags)])


def _calls(
    program: Program,
    declared: set[str],
    shared: list[str],
    place: Callable[[Place], str],
    timed: bool = False,
    ends: tuple[list[str], list[str]] = ([], []),
) -> tuple[list[str], str, list[str]]:
    """The calls of a program as lines of C, an expression of its index flags, and the functions of its regions."""
    lines: list[str] = ends[0] + (["  stamp(0);"] if timed else [])
    regions: list[str] = []
    for i, (function, places) in enumerate(program.plan.calls):
        nested = program.regions.get(function)
        if nested is not None:
            regions += _region(function, nested, declared, place)
            *tensors, work = map(place, places)
            given, made = tensors[: nested.call.operands], tensors[nested.call.operands :]
            operands = f"(const void *const[]){{{', '.join(given) or 'NULL'}}}, (void *const[]){{{', '.join(made)}}}"
            lines += [f"  {function}(h, {operands}, {work});"] + ([f"  stamp({i + 1});"] if timed else [])
            continue
        args, phases = ", ".join(place(p) for p in places), program.compiled[function].phases
        kinds = ["const void *"] * len(places) + ["int32_t"] * (4 if phases else 0)
        call = program.micro.get(function)
        arguments = len(places) - bool(call and call.work)
        if call or not program.text:
            declared.add(call.definition(function, arguments) if call else f"void {function}({', '.join(kinds)});")
        if not phases:
            lines.append(f"  {function}({args});")
        for phase, parallel in enumerate(phases):
            if parallel:
                lines.append(f"  share(h, {len(shared)});")
                shared.append(f"{function}({args}, {phase}, task, tasks, worker);")
            else:
                lines.append(f"  {function}({args}, {phase}, 0, 1, 0);")
        lines += [f"  stamp({i + 1});"] if timed else []
    lines += [f"  memcpy(outputs[{output}], {place(p)}, {count});" for output, p, count in program.plan.copies]
    copied = {output for output, _, _ in program.plan.copies}
    lines += [line for i, line in enumerate(ends[1]) if i not in copied]
    flags = " | ".join(f"*(const int32_t *)({place(p)})" for p in program.plan.flags)
    return lines, flags or "0", regions


def _region(function: str, nested: Nested, declared: set[str], place: Callable[[Place], str]) -> list[str]:
    """The functions of a region: those within it, then its own. Its bodies have their buffers in its workspace `w`."""

    def inside(spot: Place) -> str:
        return f"w + {spot.offset}" if spot.space == "arena" else place(spot)

    lists, found = [], []
    for body in nested.bodies:
        lines, flags, inner = _calls(body, declared, [], inside)
        lists.append((lines, flags))
        found += inner
    return [*found, region_source(function, nested, lists)]


def _shared(phases: list[str]) -> str:
    """The C function that does a task of any parallel phase."""
    if not phases:
        return ""
    rows = [f"    case {i}: {call} break;" for i, call in enumerate(phases)]
    return SHARED.replace("@cases@", "\n".join(rows))


def _dispatch(count: int, shapes: int) -> str:
    """The choice of a program by instruction set and shape."""
    args = "h, inputs, outputs"
    if count == 1:
        return f"  return program0({args}) ? NET_INDEX : NET_OK;"
    rows = [f"    case {i}: return program{i}({args}) ? NET_INDEX : NET_OK;" for i in range(count)]
    return "\n".join([f"  switch (h->machine * {shapes} + h->shape) {{", *rows, "  }", "  return NET_NO_SHAPE;"])


def _machine(face: Interface) -> str:
    if len(face.machines) == 1:
        return ""
    return MACHINE.replace("@names@", ", ".join(c_string(name) for name in face.machines))


def _pointer(place: Place, name: str, weights: Weights, decoded: int) -> str:
    match place.space:
        case "input":
            return f"inputs[{place.offset}]"
        case "output":
            return f"outputs[{place.offset}]"
        case "arena":
            return f"a + {place.offset}"
    where, offset = weights.spots[place.offset]
    return f"a + {decoded + offset}" if where == "arena" else f"{internal(name)}_weights + {offset}"


def _tensors(face: Interface, side: int, kind: str) -> str:
    """The tables of the inputs (`side` 0) or outputs (1), a row a shape, and the functions that read the first row."""
    name, first = face.name, face.shapes[0][side]
    lines, rows = [], []
    for number, shape in enumerate(face.shapes):
        cells = []
        for i, tensor in enumerate(shape[side]):
            label, extents, dtype = tensor
            variable = f"{kind}_shape{number}_{i}"
            lines.append(f"static const int64_t {variable}[] = {{{', '.join(map(str, extents or (1,)))}}};")
            cells.append(f'{{{c_string(label)}, "{dtype}", {len(extents)}, {variable}, {tensor_bytes(tensor)}}}')
        rows.append("  {" + ",\n   ".join(cells or ['{"", "", 0, NULL, 0}']) + "},")  # C has no empty arrays
    count, aligns = len(first), ", ".join(str(element_bytes(dtype)) for _, _, dtype in first) or "1"
    table = "\n".join([*lines, f"static const {name}_tensor {kind}_table[{len(rows)}][{count or 1}] = {{", *rows, "};"])
    return f"""{table}
static const size_t {kind}_align[] = {{{aligns}}};
int {name}_{kind}_count(void) {{ return {count}; }}
const {name}_tensor *{name}_{kind}(int index) {{
  return index < 0 || index >= {count} ? NULL : &{kind}_table[0][index];
}}
"""


def weights_source(name: str, path: str, arch: str, zeros: int = 0, far: tuple[str, str] | None = None) -> str:
    """Assembler that takes the file `path`, and as many zeros behind it, into read-only memory, 64-byte aligned.

    `far` (prefix and flags): into this section, with a pointer to it by the symbol that the C side reads."""
    wasm, name = arch == "wasm32", internal(name)
    section = f'.section .rodata.{name}_weights,"",@' if wasm else _section(name, far)
    end = "" if wasm else '  .section .note.GNU-stack,"",%progbits\n'
    label = _label(name, far)
    return f"""  {section}
  .globl {label}
  .hidden {label}
  .p2align 6
{label}:
  .incbin "{path}"
  .zero {zeros + 1}
  .size {label}, .-{label}
{_far_pointer(name) if far else ""}{end}"""


def pieces_source(name: str, mark: str, zeros: int, piece: int, far: tuple[str, str] | None = None) -> str:
    """Assembler for ELF of the file `mark`, zeros, the file again and a zero: one symbol over sections of at most `piece` zeros."""
    name, pieces = internal(name), []
    label = _label(name, far)
    for number, start in enumerate(range(0, zeros, piece)):
        pieces += [f"  {_section(name, far, f'.{number}')}", f"  .zero {min(piece, zeros - start)}"]
    return "\n".join([
        f"  {_section(name, far)}", f"  .globl {label}", f"  .hidden {label}",
        "  .p2align 6", f"{label}:", f'  .incbin "{mark}"', *pieces,
        f"  {_section(name, far, '.end')}", f'  .incbin "{mark}"', "  .byte 0", _far_pointer(name) if far else "",
        '  .section .note.GNU-stack,"",%progbits', "",
    ])  # fmt: skip


def _section(name: str, far: tuple[str, str] | None, part: str = "") -> str:
    prefix, flags = far or (".rodata", "a")
    return f'.section {prefix}.{name}_weights{part},"{flags}",%progbits'


def _label(name: str, far: object) -> str:
    """The symbol of the weights themselves; `far`, the one that C reads is that of a pointer to them."""
    return f"{name}_weights_far" if far else f"{name}_weights"


def _far_pointer(name: str) -> str:
    return f"""  .section .data.rel.ro.{name}_weights,"aw",%progbits
  .globl {name}_weights
  .hidden {name}_weights
  .p2align 3
{name}_weights:
  .quad {name}_weights_far
"""


def exports(face: Interface, timed: bool = False) -> str:
    """The linker's version script: the interface is visible, kernels and weights are not."""
    functions = [*face.functions, *(["laps"] if timed else [])]
    return "{ global: " + " ".join(f"{face.name}_{function};" for function in functions) + " local: *; };\n"
