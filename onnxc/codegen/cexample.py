"""The example beside a library: main.c, which is also its command-line program, CMakeLists.txt, and what bare metal needs.

main.c is portable C and C++: static memory, files by stdio, on bare metal through semihosting.
"""

from __future__ import annotations

from onnxc.codegen.csource import Interface
from onnxc.runtime.toolchain import ZIG, Toolchain


def main_source(face: Interface) -> str:
    """`main.c`."""
    n = face.name
    buffers, reads, writes, ins, outs = [], [], [], [], []
    for i in range(len(face.inputs)):
        buffers.append(f"static char input{i}[NET_INPUT{i}_BYTES + !NET_INPUT{i}_BYTES] ALIGNED;")
        reads.append(f"fread(input{i}, 1, NET_INPUT{i}_BYTES, file) == NET_INPUT{i}_BYTES && ")
        ins.append(f"input{i}")
    for i in range(len(face.outputs)):
        buffers.append(f"static char output{i}[NET_OUTPUT{i}_BYTES + !NET_OUTPUT{i}_BYTES] ALIGNED;")
        writes.append(f"fwrite(output{i}, 1, NET_OUTPUT{i}_BYTES, file) == NET_OUTPUT{i}_BYTES && ")
        outs.append(f"output{i}")
    text = _MAIN.replace("@buffers@", "\n".join(buffers))
    text = text.replace("@reads@", "".join(reads)).replace("@writes@", "".join(writes))
    text = text.replace("@inputs@", ", ".join(ins) or "0").replace("@outputs@", ", ".join(outs))
    return text.replace("NET_", f"{n.upper()}_").replace("net_", f"{n}_").replace("@name@", n)


_MAIN = """/* main.c: runs the model @name@. Made by onnxc; copy it before you change it.
 *
 *   run_@name@                  zeros in; the first bytes of each output
 *   run_@name@ IN OUT [RUNS]    IN holds the bytes of all inputs, one after the other; OUT gets those of the outputs
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "@name@.h"

#define ALIGNED __attribute__((aligned(NET_ARENA_ALIGN)))

static char arena[NET_ARENA_BYTES] ALIGNED;
@buffers@

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
  fprintf(stderr, "run_@name@: %s\\n", what);
  return 1;
}

static int read_inputs(const char *path) {
  FILE *file = fopen(path, "rb");
  int good = file && @reads@1;
  if (file) fclose(file);
  return good;
}

static int write_outputs(const char *path) {
  FILE *file = fopen(path, "wb");
  int good = file && @writes@1;
  return file && fclose(file) == 0 && good;
}

static void show(void *const *outputs) {
  int i, j;
  for (i = 0; i < NET_OUTPUTS; i++) {
    const net_tensor *tensor = net_output(i);
    printf("%s %s:", tensor->name, tensor->type);
    for (j = 0; j < 16 && (size_t)j < tensor->bytes; j++) printf(" %02x", ((const unsigned char *)outputs[i])[j]);
    printf("\\n");
  }
}

int main(int argc, char **argv) {
  const void *inputs[] = {@inputs@};
  void *outputs[] = {@outputs@};
  long runs = argc > 3 ? strtol(argv[3], NULL, 10) : 1, i;
  double start;
  int status;
  if (argc == 2 || runs < 1) return fail("usage: run_@name@ [IN OUT [RUNS]]");
  if (argc > 2 && !read_inputs(argv[1])) return fail("cannot read the inputs");
  status = net_init_checked(arena, sizeof arena, 1);
  if (status != NET_OK) return fail(net_status_text(status));
  start = seconds();
  for (i = 0; i < runs; i++) {
    status = net_run(arena, inputs, outputs);
    if (status != NET_OK) return fail(net_status_text(status));
  }
  printf("seconds per run: %.9f\\n", (seconds() - start) / (double)runs);
  net_free(arena);
  if (argc > 2 && !write_outputs(argv[2])) return fail("cannot write the outputs");
  if (argc <= 2) show(outputs);
  return 0;
}
"""


def cmake(face: Interface, chain: Toolchain) -> str:
    """`CMakeLists.txt`: builds main.c with the static library beside it, for the library's own machine."""
    return (
        _CMAKE.replace("@cross@", _cross(chain))
        .replace("@more@", " startup.c" if chain.bare else "")
        .replace("@end@", _BARE_CMAKE if chain.bare else "")
        .replace("@suffix@", chain.suffix)
        .replace("@name@", face.name)
    )


def _cross(chain: Toolchain) -> str:
    linker = chain.linkers[0]
    if linker.compiler == "gcc":
        return ""
    lines = [f"set(CMAKE_SYSTEM_NAME {'Linux' if chain.machine else 'Generic'})"]
    lines.append(f"set(CMAKE_SYSTEM_PROCESSOR {chain.machine or chain.name})")
    if linker.compiler == ZIG:  # the compiler is two words, so a variable of CMake's own holds the rest
        lines += [
            "set(CMAKE_C_COMPILER python3)",
            f'set(CMAKE_C_COMPILER_ARG1 "-m ziglang cc {" ".join(linker.flags)}")',
        ]
    else:
        lines.append(f"set(CMAKE_C_COMPILER {linker.compiler})")
    if not chain.machine:
        lines += ["set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)"]
    if linker.flags and linker.compiler != ZIG:
        lines.append(f'set(CMAKE_C_FLAGS_INIT "{" ".join(linker.flags)}")')
    body = "\n  ".join(lines)
    guard = "if(NOT CMAKE_C_COMPILER)\n  @body@\nendif()\n"
    if chain.native:
        guard = f'if(NOT CMAKE_C_COMPILER AND NOT CMAKE_HOST_SYSTEM_PROCESSOR STREQUAL "{chain.machine}")\n  @body@\nendif()\n'
    return guard.replace("@body@", body)


_CMAKE = """# Builds run_@name@. Made by onnxc.
cmake_minimum_required(VERSION 3.13)
@cross@project(@name@ C)

add_executable(run_@name@ main.c@more@)
set_target_properties(run_@name@ PROPERTIES SUFFIX "@suffix@" C_STANDARD 11)
target_compile_options(run_@name@ PRIVATE -O2 -Wall -Wextra)
target_include_directories(run_@name@ PRIVATE ..)
target_link_libraries(run_@name@ PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/../lib@name@.a m)
@end@"""

_BARE_CMAKE = """target_link_options(run_@name@ PRIVATE --specs=rdimon.specs -Wl,-z,noexecstack -T ${CMAKE_CURRENT_SOURCE_DIR}/board.ld)
"""

STARTUP = """/* startup.c: vector table and reset of a Cortex-M, for the boards mps2-an386 and mps2-an500. Made by onnxc. */
#include <stdint.h>
#include <string.h>

extern char data_load[], data_start[], data_end[], stack_top[];
void _start(void);
void reset(void);
void fault(void);

/* Turns the floating-point unit on, fills .data, and leaves the rest to the C library. */
__attribute__((naked)) void reset(void) {
  __asm__ volatile(
      "ldr r0, =0xe000ed88\\n ldr r1, [r0]\\n orr r1, r1, #0xf00000\\n str r1, [r0]\\n dsb\\n isb\\n"
      "ldr r0, =data_start\\n ldr r1, =data_load\\n ldr r2, =data_end\\n subs r2, r2, r0\\n bl memcpy\\n"
      "b _start\\n .ltorg\\n");
}

/* Any fault ends the program: SYS_EXIT of semihosting with a run-time error. */
__attribute__((naked)) void fault(void) {
  __asm__ volatile("movs r0, #0x18\\n ldr r1, =0x20023\\n bkpt 0xab\\n b fault\\n .ltorg\\n");
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
    0,         0,             0,             0,             (void *)fault, (void *)fault, 0,
    (void *)fault, (void *)fault};
"""


def board(chain: Toolchain) -> str:
    """`board.ld`: the memory map of the emulated board."""
    return _BOARD.replace("@board@", chain.emulator[2]).replace("@ram@", f"0x{chain.ram:08x}")


_BOARD = """/* board.ld: memory of @board@. Code and weights in flash, everything else in 16 MB of RAM. Made by onnxc. */
MEMORY {
  FLASH (rx) : ORIGIN = 0x00000000, LENGTH = 4M
  RAM (rwx) : ORIGIN = @ram@, LENGTH = 16M
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
}
"""
