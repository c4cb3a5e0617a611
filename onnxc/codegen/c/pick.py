"""The C function that finds the instruction set of the processor it runs on, for libraries with kernels for several.

x86 tells by CPUID, and by XGETBV which registers the system saves; Arm and RISC-V by what Linux puts into the auxiliary vector.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxc.codegen.target import Target
from onnxc.ir.errors import BadOption


def _word(number: int, bits: str) -> dict[str, tuple[int, int]]:
    """ "a:3 b:5" -> a stands in bit 3 of word `number`, b in bit 5."""
    return {name: (number, int(bit)) for name, bit in (pair.split(":") for pair in bits.split())}


_LEAF7_EBX = "bmi1:3 avx2:5 bmi2:8 avx512f:16 avx512dq:17 avx512cd:28 sha_ni:29 avx512bw:30 avx512vl:31"
_LEAF7_ECX = "avx512vbmi:1 avx512_vbmi2:6 gfni:8 vaes:9 avx512_vnni:11 avx512_bitalg:12 avx512_vpopcntdq:14"
FEATURES: dict[str, dict[str, tuple[int, int]]] = {
    "x86_64": _word(0, "ssse3:9 fma:12 sse4_1:19 sse4_2:20 movbe:22 popcnt:23 f16c:29")
    | _word(1, _LEAF7_EBX)
    | _word(2, _LEAF7_ECX)
    | _word(3, "fsrm:4")
    | _word(4, "avx_vnni:4 avx512_bf16:5")
    | _word(5, "sse4a:6"),
    "aarch64": _word(0, "aes:3 crc32:7 atomics:8 fphp:9 asimdhp:10 asimdrdm:12 lrcpc:15 asimddp:20 sve:22"),
    "armv7": _word(0, "neon:12 vfpv4:16 idiva:17 idivt:18"),
    "riscv64": _word(0, "v:21"),
}
"""By toolchain: feature as Linux names it -> (word that the C code reads, bit)."""


def by_demand(targets: Sequence[Target]) -> list[Target]:
    """The targets, least demanding first: the order in which the library numbers them, and from whose end it picks.

    Raises BadOption where they are not of one family, or two of them need the same.
    """
    arch, names = targets[0].arch, " / ".join(t.name for t in targets)
    if any(t.arch != arch for t in targets):
        raise BadOption(
            "one library is for one family of machines", expected=f"targets like {targets[0].name}", found=names
        )
    if len(targets) == 1:
        return list(targets)
    if arch not in FEATURES:
        raise BadOption(f"a library cannot pick its instruction set on {arch}", expected="one target", found=names)
    unknown = sorted({need for t in targets for need in t.needs} - FEATURES[arch].keys())
    if unknown:
        raise BadOption(f"a library cannot tell {unknown[0]}", found=names)
    if len({frozenset(t.needs) for t in targets}) != len(targets):
        raise BadOption("two targets need the same of a machine: the library could not tell them apart", found=names)
    return sorted(targets, key=lambda t: (len(t.needs), t.name))


def pick_source(targets: Sequence[Target]) -> str:
    """`chosen()`: the number of the most demanding target that the processor meets, or -1."""
    if len(targets) == 1:
        return "static int chosen(void) { return 0; }\n"
    table = FEATURES[targets[0].arch]
    words = 1 + max(word for word, _ in table.values())
    rows = []
    for target in targets:
        masks = [0] * words
        for need in target.needs:
            word, bit = table[need]
            masks[word] |= 1 << bit
        rows.append("    {" + ", ".join(f"0x{mask:08x}u" for mask in masks) + f"}}, /* {target.name} */")
    text = _PICK.replace("@read@", _READ[targets[0].arch]).replace("@words@", str(words))
    return text.replace("@count@", str(len(targets))).replace("@rows@", "\n".join(rows))


def pick_includes(targets: Sequence[Target]) -> str:
    """The headers that `pick_source` needs."""
    return _INCLUDES[targets[0].arch] if len(targets) > 1 else ""


_LINUX = "#include <sys/auxv.h>"
_INCLUDES = {"x86_64": "#include <cpuid.h>", "aarch64": _LINUX, "armv7": _LINUX, "riscv64": _LINUX}
_AUXILIARY = "static void features(uint32_t found[1]) { found[0] = (uint32_t)getauxval(AT_HWCAP); }\n"
_READ = {
    "x86_64": """/* Words: CPUID 1 ECX; 7 EBX, ECX, EDX; 7.1 EAX; 0x80000001 ECX. */
static void features(uint32_t found[6]) {
  uint32_t a, b, c, d, saved = 0;
  memset(found, 0, 6 * sizeof *found);
  if (!__get_cpuid(1, &a, &b, &c, &d)) return;
  found[0] = c;
  if (c >> 27 & 1) __asm__ volatile("xgetbv" : "=a"(saved), "=d"(d) : "c"(0));
  if (__get_cpuid_count(7, 0, &a, &found[1], &found[2], &found[3])) {
    if (a > 0) __get_cpuid_count(7, 1, &found[4], &b, &c, &d);
  }
  if (__get_cpuid(0x80000001u, &a, &b, &c, &d)) found[5] = c;
  if ((saved & 0x06) != 0x06) { /* 256-bit registers: FMA and F16C, AVX2 and all that is wider */
    found[0] &= ~0x20001000u;
    found[1] &= ~0xd0230020u;
  }
  if ((saved & 0xe6) != 0xe6) found[1] &= ~0xd0230000u; /* the 512-bit ones */
}
""",
    "aarch64": _AUXILIARY,
    "armv7": _AUXILIARY,
    "riscv64": _AUXILIARY,
}
_PICK = """@read@
static int chosen(void) {
  static const uint32_t wanted[@count@][@words@] = {
@rows@
  };
  uint32_t found[@words@];
  int i, j;
  features(found);
  for (i = @count@ - 1; i >= 0; i--) {
    for (j = 0; j < @words@ && (found[j] & wanted[i][j]) == wanted[i][j]; j++) continue;
    if (j == @words@) break;
  }
  return i;
}
"""
