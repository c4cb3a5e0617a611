"""What a library looks like from C: its Interface, and the header that says so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxc.ir.escape import comment
from onnxc.runtime.elements import BORROWED, BYTES, PACKED, stored, stored_bytes

Tensor = tuple[str, tuple[int, ...], str]
"""Name, shape, dtype."""

C_TYPES = {
    "float32": "float",
    "float64": "double",
    "float16": "uint16_t",
    "bool": "uint8_t",
    **{f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "bfloat16": "uint16_t",
    **dict.fromkeys((*BYTES, *PACKED), "uint8_t"),
}
FUNCTIONS = (
    "arena_bytes", "input_count", "output_count", "input", "output", "digest", "init", "init_checked", "run", "run_checked",
    "free", "status_text",
)  # fmt: skip


@dataclass(frozen=True)
class Interface:
    """Name, (inputs, outputs) of each shape that the library takes, bytes of the arena, most threads of a handle.

    `machines` names the instruction sets that it has kernels for, the least demanding first. `digest` says in hexadecimal
    what it is: `onnxc.runtime.library.interface_digest` of its manifest.
    `places`: bytes from the arena's start to the inputs and outputs that it holds, if it does.
    `lengths`: names of outputs whose lengths data decide, each with that of the output which holds its extents.
    `ends`: name, scale and zero point of inputs and outputs whose integers stand for (integer - zero) * scale.
    """

    name: str
    shapes: tuple[tuple[tuple[Tensor, ...], tuple[Tensor, ...]], ...]
    arena_bytes: int
    threads: int = 1
    machines: tuple[str, ...] = ("",)
    digest: str = ""
    ends: tuple[tuple[str, float, int], ...] = ()
    places: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    lengths: tuple[tuple[str, str], ...] = ()

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The inputs in the first shape."""
        return self.shapes[0][0]

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The outputs in the first shape."""
        return self.shapes[0][1]

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions of the interface, without the library's name."""
        several = ("shape_count", "select", "input_of", "output_of") if len(self.shapes) > 1 else ()
        return (*FUNCTIONS, *several, *(("machine",) if len(self.machines) > 1 else ()))

    def most_bytes(self, side: int, i: int) -> int:
        """Bytes of input (`side` 0) or output (1) number `i` in the shape where it is largest."""
        return max(tensor_bytes(shape[side][i]) for shape in self.shapes)


def element_bytes(dtype: str) -> int:
    """Bytes of one element, or of the several that share a byte."""
    return np.dtype(stored((), dtype)[1]).itemsize


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of a dense tensor."""
    return stored_bytes(tensor[1], tensor[2])


def internal(name: str) -> str:
    """The start of all names of a library that are not for its users.

    No two libraries share one, whatever they are called: `net_0` and program 0 of `net` are `_onnxc5net_0_...` and
    `_onnxc3net_0_...`, as C++ would count letters; and no function of an interface begins with an underscore.
    """
    return f"_onnxc{len(name)}{name}"


def header(face: Interface) -> str:
    """`<name>.h`, clean under -Wall -Wextra -Werror -pedantic as C99 and as C++."""
    text = _HEADER.replace("@macros@", "\n".join(_macros(face)))
    text = text.replace("@threads@", _THREADS if face.threads > 1 else _ONE_THREAD)
    text = text.replace("@places@", _PLACES if any(face.places) else "")
    text = text.replace("@shapes@", _SHAPES if len(face.shapes) > 1 else "")
    text = text.replace("@machine@", _MACHINE if len(face.machines) > 1 else "")
    text = text.replace("NET_", f"{face.name.upper()}_").replace("net_", f"{face.name}_").replace("@net@", face.name)
    return text.replace("@tensors@", "\n".join(_listing(face)))


def _listing(face: Interface) -> list[str]:
    lines, lengths, numbers = [], dict(face.lengths), {name: i for i, (name, _, _) in enumerate(face.outputs)}
    for number, shape in enumerate(face.shapes):
        if len(face.shapes) > 1:
            lines.append(f" * shape {number}")
        for kind, tensors in zip(("input", "output"), shape):
            for i, (label, extents, dtype) in enumerate(tensors):
                text = "x".join(map(str, extents)) or "scalar"
                most = (
                    f"  (at most: outputs[{numbers[lengths[label]]}] has its extents)"
                    if label in lengths and kind == "output"
                    else ""
                )
                lines.append(f" *   {kind}s[{i}]  {C_TYPES[dtype]}  {text}  {comment(label)}{_note(dtype)}{most}")
    return lines


def _note(dtype: str) -> str:
    """What the C type does not say of the bits of an element."""
    if dtype in PACKED:
        return f"  ({dtype}: {8 // PACKED[dtype]} elements in a byte, the first in the lowest bits)"
    return f"  ({dtype})" if dtype in BORROWED else ""


def _macros(face: Interface) -> list[str]:
    lines = [f"#define NET_ARENA_BYTES {face.arena_bytes}", "#define NET_ARENA_ALIGN 64"]
    lines.append(f"#define NET_THREADS {face.threads} /* at most, of a handle */")
    if len(face.shapes) > 1:
        lines.append(f"#define NET_SHAPES {len(face.shapes)} /* below, bytes in the largest of them */")
    lines.append(f"#define NET_INPUTS {len(face.inputs)}")
    lines.append(f"#define NET_OUTPUTS {len(face.outputs)}")
    for side, (kind, tensors) in enumerate((("INPUT", face.inputs), ("OUTPUT", face.outputs))):
        lines += [f"#define NET_{kind}{i}_BYTES {face.most_bytes(side, i)}" for i in range(len(tensors))]
        for i, place in enumerate(face.places[side]):
            lines.append(f"#define NET_{kind}{i}_PLACE {place} /* in the arena: (char *)arena + NET_{kind}{i}_PLACE */")
        known = {label: (scale, zero) for label, scale, zero in face.ends}
        for i, (label, _, _) in enumerate(tensors):
            if label in known:
                scale, zero = known[label]
                lines.append(
                    f"#define NET_{kind}{i}_SCALE {scale!r}f /* a real number is (integer - zero point) * scale */"
                )
                lines.append(f"#define NET_{kind}{i}_ZERO_POINT ({zero})")
    return lines


_PLACES = """ * Inputs and outputs have places in the arena: what is given and taken there is not copied. A run leaves the outputs there and
 * uses the inputs' bytes for other things.
"""

_ONE_THREAD = """/* Makes a handle at the start of `arena`: from then on the arena's address is the handle. `threads` must be 1: the
 * library runs each call on the thread that makes it. Returns a status. */"""

_THREADS = """/* Makes a handle at the start of `arena`: from then on the arena's address is the handle, and the arena must not move.
 * `threads`, 1 to NET_THREADS, is how many threads share each run: the caller's and those that init starts and free ends,
 * so free a handle before its arena goes or is used anew. Their number does not change the outputs. Returns a status. */"""

_SHAPES = """
/* Which shape the next runs take: 0, after init, to NET_SHAPES - 1. Returns a status. */
int net_select(void *handle, int shape);
int net_shape_count(void);
const net_tensor *net_input_of(int shape, int index); /* NULL when there is no such shape or input */
const net_tensor *net_output_of(int shape, int index);
"""

_MACHINE = """
/* The instruction set whose kernels init has picked for this handle; NULL for no handle. */
const char *net_machine(const void *handle);
"""

_HEADER = """/* @net@.h: a compiled model. Made by onnxc.
 *
@tensors@
 *
 * In names of tensors %2A stands for byte 0x2A, as in URLs; net_input(i)->name and net_output(i)->name are exact.
 * Tensors are dense and row-major, aligned to their element; 64-byte alignment is fastest. Outputs overlap neither
 * each other nor the inputs nor the arena. The library allocates nothing and keeps no state outside the arena: handles
 * on separate arenas may run at the same time in different threads; one handle runs once at a time.
@places@ *
 *   static char arena[NET_ARENA_BYTES] aligned to 64 bytes;
 *   if (net_init(arena, 1) == NET_OK) status = net_run(arena, inputs, outputs);
 */
#ifndef ONNXC_MODEL_@net@_H
#define ONNXC_MODEL_@net@_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

@macros@

enum net_status {
  NET_OK = 0,
  NET_NULL_POINTER = 1,    /* an argument, an input or an output is NULL */
  NET_MISALIGNED = 2,      /* the arena is not 64-byte aligned, or a tensor not aligned to its element */
  NET_BAD_THREADS = 3,     /* init was asked for no thread or for more than NET_THREADS */
  NET_NOT_INITIALISED = 4, /* run or free without a successful init on this arena, or after free */
  NET_ARENA_TOO_SMALL = 5, /* init_checked: fewer than NET_ARENA_BYTES bytes */
  NET_WRONG_SIZE = 6,      /* run_checked: a tensor has another number of bytes */
  NET_OVERLAP = 7,         /* an output overlaps an input, another output or the arena */
  NET_BUSY = 8,            /* another thread is in run with this handle */
  NET_BAD_WEIGHTS = 9,     /* init: the coded weights are damaged */
  NET_NO_THREADS = 10,     /* init: the system gives no more threads */
  NET_NO_SHAPE = 11,       /* select: there is no such shape */
  NET_WRONG_CPU = 12,      /* init: this processor has none of the instruction sets that the library has kernels for */
  NET_INDEX = 13,          /* run: an index in an input is outside of the tensor that it picks from; outputs are unspecified */
  NET_IN_USE = 14          /* init: the arena holds a handle with threads that has not been freed */
};

/* One input or output: name, element type ("float32", ...), rank, extents, bytes in all. */
typedef struct net_tensor {
  const char *name;
  const char *type;
  int rank;
  const int64_t *shape;
  size_t bytes;
} net_tensor;

size_t net_arena_bytes(void);
int net_input_count(void);
int net_output_count(void);
const net_tensor *net_input(int index); /* in the first shape; NULL when there is no such input */
const net_tensor *net_output(int index);

/* What the library is, in 64 hexadecimal digits: of its name, its model and its tensors. manifest.json has the same. */
const char *net_digest(void);

@threads@
int net_init(void *arena, int threads);

/* The same for an arena of `arena_bytes` bytes, which may be too few. */
int net_init_checked(void *arena, size_t arena_bytes, int threads);
@shapes@
/* Runs the model once. `inputs` and `outputs` point to one pointer a tensor. Returns a status. */
int net_run(void *handle, const void *const *inputs, void *const *outputs);

/* The same; `input_bytes` and `output_bytes` say how large the caller believes each tensor to be. */
int net_run_checked(void *handle, const void *const *inputs, const size_t *input_bytes, void *const *outputs,
                    const size_t *output_bytes);
@machine@
/* Ends the handle; the arena belongs to the caller again. Returns a status. */
int net_free(void *handle);

/* A status in words; never NULL. */
const char *net_status_text(int status);

#ifdef __cplusplus
}
#endif

#endif
"""
