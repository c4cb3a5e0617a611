"""The example beside a library: main.c, which is also its command-line program, CMakeLists.txt, and what bare metal needs.

main.c is portable C and C++: static memory, files by stdio, on bare metal through semihosting.
"""

from __future__ import annotations

from onnxc.codegen.c.header import Interface
from onnxc.runtime.toolchain import ZIG, Toolchain


def main_source(face: Interface) -> str:
    """`main.c`."""
    n, several = face.name, len(face.shapes) > 1
    buffers = []
    for kind, tensors in (("INPUT", face.inputs), ("OUTPUT", face.outputs)):
        low = kind.lower()
        for i in range(len(tensors)):
            buffers.append(f"static char {low}{i}[NET_{kind}{i}_BYTES + !NET_{kind}{i}_BYTES] ALIGNED;")
        names = ", ".join(f"{low}{i}" for i in range(len(tensors))) or "0"
        buffers.append(f"static char *const {low}s[] = {{{names}}};")
    text = _MAIN.replace("@buffers@", "\n".join(buffers))
    for mark, part in _SHAPES.items():
        text = text.replace(mark, part[several])
    return text.replace("NET_", f"{n.upper()}_").replace("net_", f"{n}_").replace("@name@", n)


# what differs with one shape and with several
_SHAPES = {
    "@shape@": ("", " [SHAPE]"),
    "@variable@": ("", "static int shape;\n"),
    "@input@": ("net_input(i)", "net_input_of(shape, i)"),
    "@output@": ("net_output(i)", "net_output_of(shape, i)"),
    "@number@": ("", "  shape = argc > 5 ? atoi(argv[5]) : 0;\n"
                     "  if (shape < 0 || shape >= NET_SHAPES) return fail(\"there is no such shape\");\n"),
    "@select@": ("", "  if (status == NET_OK) status = net_select(arena, shape);\n"),
}  # fmt: skip

_MAIN = r"""/* main.c: runs the model @name@. Made by onnxc; copy it before you change it.
 *
 *   run_@name@                  zeros in; the first bytes of each output
 *   run_@name@ IN OUT [RUNS [THREADS@shape@]]
 *       IN holds the bytes of all inputs, one after the other; OUT gets those of the outputs
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "@name@.h"

#define ALIGNED __attribute__((aligned(NET_ARENA_ALIGN)))

static char arena[NET_ARENA_BYTES] ALIGNED;
@buffers@
@variable@
static double seconds(void) {
#ifdef TIME_UTC
  struct timespec now;
  timespec_get(&now, TIME_UTC);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
#else
  return (double)clock() / CLOCKS_PER_SEC;
#endif
}

static int fail(const char *what) {
  fprintf(stderr, "run_@name@: %s\n", what);
  return 1;
}

static int read_inputs(const char *path) {
  FILE *file = fopen(path, "rb");
  int good = file != NULL, i;
  for (i = 0; i < NET_INPUTS && good; i++) good = fread(inputs[i], 1, @input@->bytes, file) == @input@->bytes;
  if (file) fclose(file);
  return good;
}

static int write_outputs(const char *path) {
  FILE *file = fopen(path, "wb");
  int good = file != NULL, i;
  for (i = 0; i < NET_OUTPUTS && good; i++) good = fwrite(outputs[i], 1, @output@->bytes, file) == @output@->bytes;
  return file && fclose(file) == 0 && good;
}

static void show(void) {
  int i, j;
  for (i = 0; i < NET_OUTPUTS; i++) {
    const net_tensor *tensor = @output@;
    printf("%s %s:", tensor->name, tensor->type);
    for (j = 0; j < 16 && (size_t)j < tensor->bytes; j++) printf(" %02x", ((const unsigned char *)outputs[i])[j]);
    printf("\n");
  }
}

int main(int argc, char **argv) {
  const void *in[NET_INPUTS + 1];
  void *out[NET_OUTPUTS + 1];
  long runs = argc > 3 ? strtol(argv[3], NULL, 10) : 1, n;
  double start;
  int status, i;
  if (argc == 2 || runs < 1) return fail("usage: run_@name@ [IN OUT [RUNS [THREADS@shape@]]]");
@number@  for (i = 0; i < NET_INPUTS; i++) in[i] = inputs[i];
  for (i = 0; i < NET_OUTPUTS; i++) out[i] = outputs[i];
  if (argc > 2 && !read_inputs(argv[1])) return fail("cannot read the inputs");
  status = net_init_checked(arena, sizeof arena, argc > 4 ? atoi(argv[4]) : NET_THREADS);
@select@  if (status != NET_OK) return fail(net_status_text(status));
  start = seconds();
  for (n = 0; n < runs; n++) {
    status = net_run(arena, in, out);
    if (status != NET_OK) return fail(net_status_text(status));
  }
  printf("seconds per run: %.9f\n", (seconds() - start) / (double)runs);
  printf("digest: %s\n", net_digest());
  net_free(arena);
  if (argc > 2 && !write_outputs(argv[2])) return fail("cannot write the outputs");
  if (argc <= 2) show();
  return 0;
}
"""


def cmake(face: Interface, toolchain: Toolchain) -> str:
    """`CMakeLists.txt`: builds main.c with the static library beside it, for the library's own machine."""
    threads = ("find_package(Threads REQUIRED)\n", " Threads::Threads") if face.threads > 1 else ("", "")
    return (
        _CMAKE.replace("@cross@", _cross(toolchain))
        .replace("@find@", threads[0])
        .replace("@threads@", threads[1])
        .replace("@more@", " startup.c" if toolchain.bare else "")
        .replace("@end@", _BARE_CMAKE if toolchain.bare else "")
        .replace("@suffix@", toolchain.suffix)
        .replace("@name@", face.name)
    )


def _cross(toolchain: Toolchain) -> str:
    linker = toolchain.linkers[0]
    if linker.compiler == "gcc":
        return ""
    lines = [f"set(CMAKE_SYSTEM_NAME {'Linux' if toolchain.machine else 'Generic'})"]
    lines.append(f"set(CMAKE_SYSTEM_PROCESSOR {toolchain.machine or toolchain.name})")
    if linker.compiler == ZIG:  # the compiler is two words, so a variable of CMake's own holds the rest
        lines += [
            "set(CMAKE_C_COMPILER python3)",
            f'set(CMAKE_C_COMPILER_ARG1 "-m ziglang cc {" ".join(linker.flags)}")',
        ]
    else:
        lines.append(f"set(CMAKE_C_COMPILER {linker.compiler})")
    if not toolchain.machine:
        lines += ["set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)"]
    if linker.flags and linker.compiler != ZIG:
        lines.append(f'set(CMAKE_C_FLAGS_INIT "{" ".join(linker.flags)}")')
    body = "\n  ".join(lines)
    guard = "if(NOT CMAKE_C_COMPILER)\n  @body@\nendif()\n"
    if toolchain.native:
        guard = f'if(NOT CMAKE_C_COMPILER AND NOT CMAKE_HOST_SYSTEM_PROCESSOR STREQUAL "{toolchain.machine}")\n  @body@\nendif()\n'
    return guard.replace("@body@", body)


_CMAKE = """# Builds run_@name@. Made by onnxc.
cmake_minimum_required(VERSION 3.13)
@cross@project(@name@ C)
@find@
add_executable(run_@name@ main.c@more@)
set_target_properties(run_@name@ PROPERTIES SUFFIX "@suffix@" C_STANDARD 11)
target_compile_options(run_@name@ PRIVATE -O2 -Wall -Wextra)
target_include_directories(run_@name@ PRIVATE ..)
target_link_libraries(run_@name@ PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/../lib@name@.a m@threads@)
@end@"""

_BARE_CMAKE = """target_link_options(run_@name@ PRIVATE --specs=rdimon.specs -Wl,-z,noexecstack -T ${CMAKE_CURRENT_SOURCE_DIR}/board.ld)
"""

STARTUP = """/* startup.c: vector table and reset of a Cortex-M. Made by onnxc. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
extern char data_load[], data_start[], data_end[], stack_top[], end[];
void *_sbrk(ptrdiff_t more);
void _start(void);
void reset(void);
void fault(void);

#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
#define UNITS "ldr r0, =0xe000ed88\\n ldr r1, [r0]\\n ldr r2, =0xf00000\\n orrs r1, r1, r2\\n str r1, [r0]\\n dsb\\n isb\\n"
#else
#define UNITS ""
#endif
/* Turns floating-point and vector units on, fills .data, and leaves the rest to the C library. */
__attribute__((naked)) void reset(void) {
  __asm__ volatile(
      ".syntax unified\\n" UNITS
      "ldr r0, =data_start\\n ldr r1, =data_load\\n ldr r2, =data_end\\n subs r2, r2, r0\\n bl memcpy\\n"
      "ldr r0, =_start\\n bx r0\\n .ltorg\\n");
}

/* Memory for malloc, which files of the C library need: between .bss and the stack. */
void *_sbrk(ptrdiff_t more) {
  static char *top = end;
  char *old = top;
  if ((long)((unsigned long)stack_top - (unsigned long)top) - 2048 < (long)more) return (void *)-1;
  top += more;
  return old;
}

/* Any fault ends the program: SYS_EXIT of semihosting with a run-time error. */
__attribute__((naked)) void fault(void) {
  __asm__ volatile(".syntax unified\\n movs r0, #0x18\\n ldr r1, =0x20023\\n bkpt 0xab\\n b fault\\n .ltorg\\n");
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
    0,         0,             0,             0,             (void *)fault, (void *)fault, 0,
    (void *)fault, (void *)fault};
"""


def board(toolchain: Toolchain) -> str:
    """`board.ld`: the memory map of the emulated board."""
    rows = (("FLASH (rx) ", toolchain.flash), ("RAM (rwx)", toolchain.ram))
    memories = "\n".join(f"  {name}: ORIGIN = 0x{start:08x}, LENGTH = {extent}" for name, (start, extent) in rows)
    return _BOARD.replace("@board@", toolchain.emulator[2]).replace("@memories@", memories)


_BOARD = """/* board.ld: memory of @board@. Code and weights in flash, everything else in RAM. Made by onnxc. */
MEMORY {
@memories@
}
ENTRY(reset)
SECTIONS {
  .text : { KEEP(*(.vectors)) *(.text*) KEEP(*(.init)) KEEP(*(.fini)) *(.rodata*) . = ALIGN(8); } > FLASH
  .ARM.exidx : { *(.ARM.exidx*) } > FLASH
  .preinit_array : {
    PROVIDE_HIDDEN(__preinit_array_start = .);
    KEEP(*(.preinit_array*))
    PROVIDE_HIDDEN(__preinit_array_end = .);
  } > FLASH
  .init_array : {
    PROVIDE_HIDDEN(__init_array_start = .);
    KEEP(*(.init_array*))
    PROVIDE_HIDDEN(__init_array_end = .);
  } > FLASH
  .fini_array : {
    PROVIDE_HIDDEN(__fini_array_start = .);
    KEEP(*(.fini_array*))
    PROVIDE_HIDDEN(__fini_array_end = .);
  } > FLASH
  .data : { data_start = .; *(.data*) *(.got*) . = ALIGN(8); data_end = .; } > RAM AT > FLASH
  data_load = LOADADDR(.data);
  .bss (NOLOAD) : { __bss_start__ = .; *(.bss*) *(COMMON) . = ALIGN(8); __bss_end__ = .; } > RAM
  end = .;
  __end__ = .;
  stack_top = ORIGIN(RAM) + LENGTH(RAM);
  __stack = stack_top;
  ASSERT(stack_top - end >= 4096, "region `RAM' has no 4 kB left for stack and heap")
}
"""
