"""The C side of a library, as text: header, run function, weights, and the linker's list of exported names."""

from __future__ import annotations

from dataclasses import dataclass

from onnxc.codegen.plan import Place, Plan, aligned

HEAD = 64  # bytes at the arena's start that hold the handle

C_TYPES = {
    "float32": "float",
    "float64": "double",
    "float16": "uint16_t",
    "bool": "uint8_t",
    **{f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
FUNCTIONS = ("arena_bytes", "input_count", "output_count", "input", "output", "init", "run", "free", "status_text")


@dataclass(frozen=True)
class Interface:
    """What a library looks like from outside: name, tensors as (name, shape, dtype), bytes of the arena."""

    name: str
    inputs: tuple[tuple[str, tuple[int, ...], str], ...]
    outputs: tuple[tuple[str, tuple[int, ...], str], ...]
    arena_bytes: int


def quoted(text: str) -> str:
    """A C string literal; bytes outside printable ASCII are escaped in octal."""
    safe = "".join(chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in text.encode())
    return f'"{safe}"'


def _comment(text: str) -> str:
    return text.encode("ascii", "replace").decode().replace("*/", "* /").replace("/*", "/ *")


def header(face: Interface) -> str:
    """`<name>.h`, clean under -Wall -Wextra -Werror -pedantic as C99 and as C++."""
    n, up = face.name, face.name.upper()
    lines = []
    for kind, tensors in (("input", face.inputs), ("output", face.outputs)):
        for i, (label, shape, dtype) in enumerate(tensors):
            extents = "x".join(map(str, shape)) or "scalar"
            lines.append(f" *   {kind}s[{i}]  {C_TYPES[dtype]}  {extents}  {_comment(label)}")
    return f"""/* {n}.h: a compiled model. Made by onnxc.
 *
{chr(10).join(lines)}
 *
 * Tensors are dense and row-major, aligned to their element; 64-byte alignment is fastest. Outputs overlap neither
 * each other nor the inputs. The library allocates nothing and keeps no state outside the arena: handles on separate
 * arenas may run at the same time in different threads; one handle runs once at a time.
 *
 *   static char arena[{up}_ARENA_BYTES] aligned to 64 bytes;
 *   if ({n}_init(arena, 1) == {up}_OK) status = {n}_run(arena, inputs, outputs);
 */
#ifndef ONNXC_{up}_H
#define ONNXC_{up}_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define {up}_ARENA_BYTES {face.arena_bytes}
#define {up}_ARENA_ALIGN 64
#define {up}_INPUTS {len(face.inputs)}
#define {up}_OUTPUTS {len(face.outputs)}

enum {n}_status {{
  {up}_OK = 0,
  {up}_NULL_POINTER = 1,    /* an argument, an input or an output is NULL */
  {up}_MISALIGNED = 2,      /* the arena is not 64-byte aligned, or a tensor not aligned to its element */
  {up}_BAD_THREADS = 3,     /* init was asked for a number of threads other than 1 */
  {up}_NOT_INITIALISED = 4  /* run or free without a successful init on this arena, or after free */
}};

/* One input or output: name, element type ("float32", ...), rank, extents, bytes in all. */
typedef struct {n}_tensor {{
  const char *name;
  const char *type;
  int rank;
  const int64_t *shape;
  size_t bytes;
}} {n}_tensor;

size_t {n}_arena_bytes(void);
int {n}_input_count(void);
int {n}_output_count(void);
const {n}_tensor *{n}_input(int index);  /* NULL when there is no such input */
const {n}_tensor *{n}_output(int index);

/* Makes a handle at the start of `arena`: from then on the arena's address is the handle. `threads` must be 1: the
 * library runs each call on the thread that makes it. Returns a status. */
int {n}_init(void *arena, int threads);

/* Runs the model once. `inputs` and `outputs` point to one pointer a tensor. Returns a status. */
int {n}_run(void *handle, const void *const *inputs, void *const *outputs);

/* Ends the handle; the arena belongs to the caller again. Returns a status. */
int {n}_free(void *handle);

/* A status in words; never NULL. */
const char *{n}_status_text(int status);

#ifdef __cplusplus
}}
#endif

#endif
"""


def source(face: Interface, plan: Plan, workspaces: dict[str, int], workspace_at: int) -> str:
    """`<name>.c`: the interface and the straight list of kernel calls."""
    declared, calls = set(), []
    for function, places in plan.calls:
        args = [_pointer(place, face.name) for place in places]
        if workspaces[function]:
            args.append(f"a + {workspace_at}")
        declared.add(f"void {function}({', '.join(['const void *'] * len(args))});")
        calls.append(f"  {function}({', '.join(args)});")
    for number, place, count in plan.copies:
        calls.append(f"  memcpy(outputs[{number}], {_pointer(place, face.name)}, {count});")
    n, up = face.name, face.name.upper()
    return f"""#include "{n}.h"
#include <string.h>

#define MAGIC 0x6f6e6e78u

typedef struct {{ uint32_t magic; uint32_t threads; }} head;
extern const char {n}_weights[];
{chr(10).join(sorted(declared))}

{_tensors(n, "input", face.inputs)}
{_tensors(n, "output", face.outputs)}
size_t {n}_arena_bytes(void) {{ return {up}_ARENA_BYTES; }}

int {n}_init(void *arena, int threads) {{
  head *h = (head *)arena;
  if (!arena) return {up}_NULL_POINTER;
  if ((uintptr_t)arena % {up}_ARENA_ALIGN) return {up}_MISALIGNED;
  if (threads != 1) return {up}_BAD_THREADS;
  h->magic = MAGIC;
  h->threads = (uint32_t)threads;
  return {up}_OK;
}}

int {n}_free(void *handle) {{
  if (!handle) return {up}_NULL_POINTER;
  if ((uintptr_t)handle % {up}_ARENA_ALIGN) return {up}_MISALIGNED;
  if (((head *)handle)->magic != MAGIC) return {up}_NOT_INITIALISED;
  ((head *)handle)->magic = 0;
  return {up}_OK;
}}

const char *{n}_status_text(int status) {{
  switch (status) {{
    case {up}_OK: return "ok";
    case {up}_NULL_POINTER: return "a pointer is NULL";
    case {up}_MISALIGNED: return "a pointer is not aligned";
    case {up}_BAD_THREADS: return "the library runs on one thread";
    case {up}_NOT_INITIALISED: return "the handle is not initialised";
  }}
  return "unknown status";
}}

int {n}_run(void *handle, const void *const *inputs, void *const *outputs) {{
  char *a = (char *)handle;
  int i;
  if (!handle || !inputs || !outputs) return {up}_NULL_POINTER;
  if ((uintptr_t)handle % {up}_ARENA_ALIGN) return {up}_MISALIGNED;
  if (((head *)handle)->magic != MAGIC) return {up}_NOT_INITIALISED;
  for (i = 0; i < {up}_INPUTS; i++) {{
    if (!inputs[i]) return {up}_NULL_POINTER;
    if ((uintptr_t)inputs[i] % input_align[i]) return {up}_MISALIGNED;
  }}
  for (i = 0; i < {up}_OUTPUTS; i++) {{
    if (!outputs[i]) return {up}_NULL_POINTER;
    if ((uintptr_t)outputs[i] % output_align[i]) return {up}_MISALIGNED;
  }}
  (void)a;
{chr(10).join(calls)}
  return {up}_OK;
}}
"""


def _pointer(place: Place, name: str) -> str:
    match place.space:
        case "input":
            return f"inputs[{place.offset}]"
        case "output":
            return f"outputs[{place.offset}]"
        case "arena":
            return f"a + {HEAD + place.offset}"
    return f"{name}_weights + {place.offset}"


def _tensors(name: str, kind: str, tensors: tuple) -> str:
    shapes, rows, aligns = [], [], []
    for i, (label, shape, dtype) in enumerate(tensors):
        size = {"bool": 1}.get(dtype) or int("".join(c for c in dtype if c.isdigit())) // 8
        count = 1
        for extent in shape:
            count *= extent
        shapes.append(f"static const int64_t {kind}_shape{i}[] = {{{', '.join(map(str, shape or (1,)))}}};")
        rows.append(f'  {{{quoted(label)}, "{dtype}", {len(shape)}, {kind}_shape{i}, {count * size}}},')
        aligns.append(str(size))
    table = "\n".join([*shapes, f"static const {name}_tensor {kind}_table[] = {{", *rows, "};"])
    count = len(tensors)
    return f"""{table}
static const size_t {kind}_align[] = {{{", ".join(aligns)}}};
int {name}_{kind}_count(void) {{ return {count}; }}
const {name}_tensor *{name}_{kind}(int index) {{
  return index < 0 || index >= {count} ? NULL : &{kind}_table[index];
}}
"""


def weights_source(name: str, path: str) -> str:
    """Assembler that takes the file `path` into read-only memory, 64-byte aligned."""
    return f"""  .section .rodata
  .globl {name}_weights
  .balign 64
{name}_weights:
  .incbin "{path}"
  .byte 0
  .section .note.GNU-stack,"",%progbits
"""


def exports(name: str) -> str:
    """The linker's version script: the interface is visible, kernels and weights are not."""
    return "{ global: " + " ".join(f"{name}_{function};" for function in FUNCTIONS) + " local: *; };\n"


def total_arena(plan: Plan, workspaces: dict[str, int]) -> tuple[int, int]:
    """Where the shared workspace starts, and the bytes of the whole arena."""
    start = HEAD + aligned(plan.arena)
    return start, start + aligned(max(workspaces.values(), default=0))
