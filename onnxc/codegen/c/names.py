"""Names that a library may not bear: C, its headers and libraries, boards and Python have them already."""

from __future__ import annotations

import keyword
import re
import sys

from onnxc.ir.errors import BadOption

# With the library's folder on the include path, its <name>.h would be found in the place of these: C23, POSIX, glibc's own.
_HEADERS = """
    assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg stdatomic
    stdbit stdbool stdckdint stddef stdint stdio stdlib stdnoreturn string strings tgmath threads time uchar wchar wctype
    aio alloca aliases byteswap cpio cpuid dirent dlfcn elf endian err execinfo fcntl features fmtmsg fnmatch fts ftw getopt
    glob grp iconv immintrin langinfo libgen libintl link malloc memory monetary mqueue ndbm netdb newlib nl_types obstack
    paths poll pthread pwd reent regex resolv sched search semaphore setjmp spawn stropts sysexits syslog tar termios
    trace ucontext ulimit unistd utime utmpx values wait wordexp x86intrin xmmintrin emmintrin arm_neon arm_acle
"""
HEADERS = frozenset(_HEADERS.split())
PACKAGES = frozenset(
    name.lower() for name in (*sys.stdlib_module_names, "numpy", "onnx", "onnxc", "onnxruntime", "pip", "setuptools")
)


# lib<name>.a beside these would be found for -lc, -lm ...
_LIBRARIES = """
    anl asan atomic bsd c crypt dl g gcc gcc_eh gcc_s gloss gomp lsan m mvec nosys nsl quadmath rdimon rt semihost ssp tsan ubsan
    util
"""
LIBRARIES = frozenset(_LIBRARIES.split())
# Headers of the frameworks that packages are for, and of the boards' own projects.
_BOARDS = """
    arduino binary client eeprom hardwareserial ipaddress pins_arduino print printable serial server softwareserial spi stream udp wire
    wstring freertos freertosconfig list portable portmacro projdefs queue semphr task timers sdkconfig main autoconf kernel zephyr
"""
BOARDS = frozenset(_BOARDS.split())
# R_OK and the like of unistd.h are what <NAME>_OK of the header would define.
MACROS = frozenset({"f", "r", "w", "x"})


def taken(name: str) -> str | None:
    """Who has `name`, in any case of its letters, so that no C library can; None where it is free."""
    low = name.lower()
    if is_header(name):
        return f"C has a header {name}.h"
    if low in LIBRARIES:
        return f"the system has a library lib{low}"
    if low in BOARDS:
        return f"frameworks of microcontrollers have a header {name}.h"
    return f"unistd.h has a macro {name.upper()}_OK" if low in MACROS else None


def is_header(name: str) -> bool:
    """Whether `<name>.h` is a header of the C library."""
    return name.lower() in HEADERS


def check_name(name: str) -> None:
    """Raises BadOption where `name` cannot name a C library."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise BadOption(f"{name!r} cannot name a C library", remedy="use letters, digits and underscores")
    if (reason := taken(name)) is not None:
        raise BadOption(f"{name!r} cannot name a C library: {reason}", remedy=f"use another name, m_{name} say")


def check_package(name: str) -> None:
    """Raises BadOption where `name` cannot name a Python package."""
    if keyword.iskeyword(name) or name.lower() in PACKAGES:
        raise BadOption(f"{name!r} cannot name a Python package, Python has it", remedy="give the model another name")
