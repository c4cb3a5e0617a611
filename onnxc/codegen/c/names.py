"""Names that a library may not bear: C, its headers and Python have them already."""

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


def is_header(name: str) -> bool:
    """Whether `<name>.h` is a header of the C library."""
    return name.lower() in HEADERS


def check_name(name: str) -> None:
    """Raises BadOption where `name` cannot name a C library."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise BadOption(f"{name!r} cannot name a C library", remedy="use letters, digits and underscores")
    if is_header(name):
        raise BadOption(f"{name!r} cannot name a C library: C has a header {name}.h", remedy="use another name")


def check_package(name: str) -> None:
    """Raises BadOption where `name` cannot name a Python package."""
    if keyword.iskeyword(name) or name.lower() in PACKAGES:
        raise BadOption(f"{name!r} cannot name a Python package, Python has it", remedy="give the model another name")
