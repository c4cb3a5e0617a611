"""The C side of a library, as text: header, run function, weights, and the linker's list of exported names."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

from onnxc.codegen.plan import Place, Plan
from onnxc.codegen.weights import Weights, decode_source

HEAD = 64  # bytes at the arena's start that hold the handle

C_TYPES = {
    "float32": "float",
    "float64": "double",
    "float16": "uint16_t",
    "bool": "uint8_t",
    **{f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
FUNCTIONS = (
    "arena_bytes", "input_count", "output_count", "input", "output", "init", "init_checked", "run", "run_checked", "free",
    "status_text",
)  # fmt: skip


@dataclass(frozen=True)
class Interface:
    """What a library looks like from outside: name, tensors as (name, shape, dtype), bytes of the arena."""

    name: str
    inputs: tuple[tuple[str, tuple[int, ...], str], ...]
    outputs: tuple[tuple[str, tuple[int, ...], str], ...]
    arena_bytes: int


def element_bytes(dtype: str) -> int:
    """Bytes of one element."""
    return 1 if dtype == "bool" else int("".join(c for c in dtype if c.isdigit())) // 8


def tensor_bytes(tensor: tuple[str, tuple[int, ...], str]) -> int:
    """Bytes of a dense tensor (name, shape, dtype)."""
    return math.prod(tensor[1]) * element_bytes(tensor[2])


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
    sizes = [
        f"#define {up}_{kind}{i}_BYTES {tensor_bytes(tensor)}"
        for kind, tensors in (("INPUT", face.inputs), ("OUTPUT", face.outputs))
        for i, tensor in enumerate(tensors)
    ]
    return f"""/* {n}.h: a compiled model. Made by onnxc.
 *
{chr(10).join(lines)}
 *
 * Tensors are dense and row-major, aligned to their element; 64-byte alignment is fastest. Outputs overlap neither
 * each other nor the inputs nor the arena. The library allocates nothing and keeps no state outside the arena: handles
 * on separate arenas may run at the same time in different threads; one handle runs once at a time.
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
{chr(10).join(sizes)}

enum {n}_status {{
  {up}_OK = 0,
  {up}_NULL_POINTER = 1,    /* an argument, an input or an output is NULL */
  {up}_MISALIGNED = 2,      /* the arena is not 64-byte aligned, or a tensor not aligned to its element */
  {up}_BAD_THREADS = 3,     /* init was asked for a number of threads other than 1 */
  {up}_NOT_INITIALISED = 4, /* run or free without a successful init on this arena, or after free */
  {up}_ARENA_TOO_SMALL = 5, /* init_checked: fewer than {up}_ARENA_BYTES bytes */
  {up}_WRONG_SIZE = 6,      /* run_checked: a tensor has another number of bytes */
  {up}_OVERLAP = 7,         /* an output overlaps an input, another output or the arena */
  {up}_BUSY = 8,            /* another thread is in run with this handle */
  {up}_BAD_WEIGHTS = 9      /* init: the coded weights are damaged */
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

/* The same for an arena of `arena_bytes` bytes, which may be too few. */
int {n}_init_checked(void *arena, size_t arena_bytes, int threads);

/* Runs the model once. `inputs` and `outputs` point to one pointer a tensor. Returns a status. */
int {n}_run(void *handle, const void *const *inputs, void *const *outputs);

/* The same; `input_bytes` and `output_bytes` say how large the caller believes each tensor to be. */
int {n}_run_checked(void *handle, const void *const *inputs, const size_t *input_bytes, void *const *outputs,
                    const size_t *output_bytes);

/* Ends the handle; the arena belongs to the caller again. Returns a status. */
int {n}_free(void *handle);

/* A status in words; never NULL. */
const char *{n}_status_text(int status);

#ifdef __cplusplus
}}
#endif

#endif
"""


def source(face: Interface, plan: Plan, weights: Weights, decoded: int, scratch: int) -> str:
    """`<name>.c`: the interface and the straight list of kernel calls. `plan` is settled.

    `decoded` and `scratch` are where in the arena decoded weights and the decoder's scratch memory begin.
    """
    declared, calls = set(), []
    for function, places in plan.calls:
        args = [_pointer(place, face.name, weights, decoded) for place in places]
        declared.add(f"void {function}({', '.join(['const void *'] * len(args))});")
        calls.append(f"  {function}({', '.join(args)});")
    for number, place, count in plan.copies:
        calls.append(f"  memcpy(outputs[{number}], {_pointer(place, face.name, weights, decoded)}, {count});")
    text = _BODY.replace("@decode@", decode_source(weights))
    text = text.replace("@decoded@", str(decoded)).replace("@scratch@", str(scratch))
    text = text.replace("@magic@", f"0x{_magic(face, weights):08x}u")
    text = text.replace("NET_", f"{face.name.upper()}_").replace("net_", f"{face.name}_")
    text = text.replace("@header@", f"{face.name}.h")
    text = text.replace("@kernels@", "\n".join(sorted(declared))).replace("@calls@", "\n".join(calls))
    tensors = _tensors(face.name, "input", face.inputs) + "\n" + _tensors(face.name, "output", face.outputs)
    return text.replace("@tensors@", tensors)


def _magic(face: Interface, weights: Weights) -> int:
    """What marks a handle of this library: another library's handle has another mark."""
    return zlib.crc32(repr((face, weights.flash_bytes, weights.checksum)).encode()) | 1


_BODY = """#include "@header@"
#include <string.h>

#define MAGIC @magic@

typedef struct { uint32_t magic; uint32_t threads; uint32_t busy; } head;
extern const char net_weights[];
@kernels@

@tensors@
size_t net_arena_bytes(void) { return NET_ARENA_BYTES; }

@decode@
int net_init(void *arena, int threads) {
  head *h = (head *)arena;
  if (!arena) return NET_NULL_POINTER;
  if ((uintptr_t)arena % NET_ARENA_ALIGN) return NET_MISALIGNED;
  if (threads != 1) return NET_BAD_THREADS;
  h->magic = 0;
  if (!decode((char *)arena)) return NET_BAD_WEIGHTS;
  h->magic = MAGIC;
  h->threads = (uint32_t)threads;
  h->busy = 0;
  return NET_OK;
}

int net_init_checked(void *arena, size_t arena_bytes, int threads) {
  if (arena && arena_bytes < NET_ARENA_BYTES) return NET_ARENA_TOO_SMALL;
  return net_init(arena, threads);
}

/* OK for a handle that init has made. */
static int check_handle(const void *handle) {
  if (!handle) return NET_NULL_POINTER;
  if ((uintptr_t)handle % NET_ARENA_ALIGN) return NET_MISALIGNED;
  return ((const head *)handle)->magic == MAGIC ? NET_OK : NET_NOT_INITIALISED;
}

int net_free(void *handle) {
  int status = check_handle(handle);
  if (status == NET_OK) ((head *)handle)->magic = 0;
  return status;
}

const char *net_status_text(int status) {
  switch (status) {
    case NET_OK: return "ok";
    case NET_NULL_POINTER: return "a pointer is NULL";
    case NET_MISALIGNED: return "a pointer is not aligned";
    case NET_BAD_THREADS: return "the library runs on one thread";
    case NET_NOT_INITIALISED: return "the handle is not initialised";
    case NET_ARENA_TOO_SMALL: return "the arena is too small";
    case NET_WRONG_SIZE: return "a tensor has the wrong size";
    case NET_OVERLAP: return "an output overlaps another tensor or the arena";
    case NET_BUSY: return "the handle is running in another thread";
    case NET_BAD_WEIGHTS: return "the coded weights are damaged";
  }
  return "unknown status";
}

static int overlap(const void *a, size_t a_bytes, const void *b, size_t b_bytes) {
  return (uintptr_t)a < (uintptr_t)b + b_bytes && (uintptr_t)b < (uintptr_t)a + a_bytes;
}

static int check_tensors(const void *handle, const void *const *inputs, void *const *outputs) {
  int i, j;
  for (i = 0; i < NET_INPUTS; i++) {
    if (!inputs[i]) return NET_NULL_POINTER;
    if ((uintptr_t)inputs[i] % input_align[i]) return NET_MISALIGNED;
  }
  for (i = 0; i < NET_OUTPUTS; i++) {
    size_t bytes = output_table[i].bytes;
    if (!outputs[i]) return NET_NULL_POINTER;
    if ((uintptr_t)outputs[i] % output_align[i]) return NET_MISALIGNED;
    if (overlap(outputs[i], bytes, handle, NET_ARENA_BYTES)) return NET_OVERLAP;
    for (j = 0; j < NET_INPUTS; j++)
      if (overlap(outputs[i], bytes, inputs[j], input_table[j].bytes)) return NET_OVERLAP;
    for (j = 0; j < i; j++)
      if (overlap(outputs[i], bytes, outputs[j], output_table[j].bytes)) return NET_OVERLAP;
  }
  return NET_OK;
}

static void run(char *a, const void *const *inputs, void *const *outputs) {
  (void)a;
  (void)inputs;
  (void)outputs;
@calls@
}

int net_run(void *handle, const void *const *inputs, void *const *outputs) {
  int status;
  if (!handle || !inputs || !outputs) return NET_NULL_POINTER;
  status = check_handle(handle);
  if (status == NET_OK) status = check_tensors(handle, inputs, outputs);
  if (status != NET_OK) return status;
  if (__atomic_exchange_n(&((head *)handle)->busy, 1u, __ATOMIC_ACQUIRE)) return NET_BUSY;
  run((char *)handle, inputs, outputs);
  __atomic_store_n(&((head *)handle)->busy, 0u, __ATOMIC_RELEASE);
  return NET_OK;
}

int net_run_checked(void *handle, const void *const *inputs, const size_t *input_bytes, void *const *outputs,
                    const size_t *output_bytes) {
  int i;
  if (!input_bytes || !output_bytes) return NET_NULL_POINTER;
  for (i = 0; i < NET_INPUTS; i++)
    if (input_bytes[i] != input_table[i].bytes) return NET_WRONG_SIZE;
  for (i = 0; i < NET_OUTPUTS; i++)
    if (output_bytes[i] != output_table[i].bytes) return NET_WRONG_SIZE;
  return net_run(handle, inputs, outputs);
}
"""


def _pointer(place: Place, name: str, weights: Weights, decoded: int) -> str:
    match place.space:
        case "input":
            return f"inputs[{place.offset}]"
        case "output":
            return f"outputs[{place.offset}]"
        case "arena":
            return f"a + {place.offset}"
    where, offset = weights.spots[place.offset]
    return f"a + {decoded + offset}" if where == "arena" else f"{name}_weights + {offset}"


def _tensors(name: str, kind: str, tensors: tuple) -> str:
    shapes, rows, aligns = [], [], []
    for i, (label, shape, dtype) in enumerate(tensors):
        size = element_bytes(dtype)
        shapes.append(f"static const int64_t {kind}_shape{i}[] = {{{', '.join(map(str, shape or (1,)))}}};")
        rows.append(f'  {{{quoted(label)}, "{dtype}", {len(shape)}, {kind}_shape{i}, {tensor_bytes(tensors[i])}}},')
        aligns.append(str(size))
    if not tensors:  # C has no empty arrays
        rows, aligns = ['  {"", "", 0, NULL, 0},'], ["1"]
    table = "\n".join([*shapes, f"static const {name}_tensor {kind}_table[] = {{", *rows, "};"])
    count = len(tensors)
    return f"""{table}
static const size_t {kind}_align[] = {{{", ".join(aligns)}}};
int {name}_{kind}_count(void) {{ return {count}; }}
const {name}_tensor *{name}_{kind}(int index) {{
  return index < 0 || index >= {count} ? NULL : &{kind}_table[index];
}}
"""


def weights_source(name: str, path: str, chain: str) -> str:
    """Assembler that takes the file `path` into read-only memory, 64-byte aligned."""
    wasm = chain == "wasm32"
    section = f'.section .rodata.{name}_weights,"",@' if wasm else f'.section .rodata.{name}_weights,"a",%progbits'
    end = "" if wasm else '  .section .note.GNU-stack,"",%progbits\n'
    return f"""  {section}
  .globl {name}_weights
  .hidden {name}_weights
  .p2align 6
{name}_weights:
  .incbin "{path}"
  .byte 0
  .size {name}_weights, .-{name}_weights
{end}"""


def exports(name: str) -> str:
    """The linker's version script: the interface is visible, kernels and weights are not."""
    return "{ global: " + " ".join(f"{name}_{function};" for function in FUNCTIONS) + " local: *; };\n"
