"""Object code of kernels, kept across runs for this user: a network that is compiled again needs neither TVM's passes nor LLVM.

    ~/.cache/onnxc/kernels/3f2a9c...     {"format": 1, "sha256": "...", "functions": {name: [workspace, phases]}}, a newline, the object

The name is the SHA-256 of all that the object depends on: its functions, as TIR or as spec and schedule of a kernel, the target, the
threads, the versions of onnxc, TVM and LLVM, and the files of onnxc that make kernels and lower functions. XDG_CACHE_HOME moves the
folder, ONNXC_CACHE=off does without. An entry is written beside its place and renamed. One that is damaged is made again; only those
that this user alone may write are read, since what is in them is linked. The entries used least recently go when all are larger
than MOST_BYTES.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from onnxc import __version__
from onnxc.codegen import tvm_api
from onnxc.codegen.c import function as lowering
from onnxc.codegen.c.function import CFunction
from onnxc.codegen.later import Later
from onnxc.codegen.target import Target
from onnxc.ir import temporary
from onnxc.ir.cache import home

FORMAT = 1
MOST_BYTES = 256 << 20
LARGEST = 32 << 20
MAKERS = Path(__file__).parent  # what makes functions, and objects of them
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def folder() -> Path | None:
    """Where entries lie; None where there is no cache."""
    if os.environ.get("ONNXC_CACHE", "").lower() in ("off", "0", "no"):
        return None
    start = home()
    return None if start is None else start / "kernels"


def key(functions: Mapping[str, Any], target: Target, threads: int, prefix: str) -> str:
    """The name of the entry of an object with these functions, whose private names bear `prefix`. "" where there is no cache."""
    if folder() is None:
        return ""
    m = tvm_api.tvm_modules()
    later = {name: f.text for name, f in functions.items() if isinstance(f, Later)}
    known = {name: f for name, f in functions.items() if name not in later}
    module = m.tvm.IRModule({m.ir.GlobalVar(name): f for name, f in lowering.with_parts(known).items()})
    llvm = m.tvm.get_global_func("target.llvm_version_major")()
    made = [FORMAT, __version__, m.tvm.__version__, int(llvm), target.tvm_dict(), threads, prefix, later]
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode())
    digest.update(_files())
    digest.update(m.tvm.ir.save_json(module).encode())
    return digest.hexdigest()


@cache
def _files() -> bytes:
    """The digest of all files that kernels are made by: what stands for a kernel in a key says its spec and schedule."""
    found = hashlib.sha256()
    for file in sorted(MAKERS.rglob("*.py")):
        found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.digest()


def load(name: str) -> tuple[bytes, dict[str, CFunction]] | None:
    """The object called `name`, and how C calls its functions; None where there is none that is whole and this user's own."""
    place = folder()
    if not name or place is None or not _own(place):
        return None
    with suppress(
        OSError, ValueError, KeyError, TypeError, AttributeError
    ):  # whatever is wrong with it, it is made again
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with open(os.open(place / name, flags), "rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode) or not _mine(state) or state.st_size > LARGEST:
                return None
            head, _, data = file.read(LARGEST + 1).partition(b"\n")
            told = json.loads(head)
            if told["format"] != FORMAT or told["sha256"] != hashlib.sha256(data).hexdigest():
                return None
            found = {
                function: CFunction(int(work), tuple(map(bool, phases)))
                for function, (work, phases) in told["functions"].items()
            }
            os.utime(file.fileno())
            return data, found
    return None


def save(name: str, data: bytes, functions: Mapping[str, CFunction]) -> None:
    """Keeps an object. A cache that cannot be written is none."""
    place = folder()
    if not name or place is None or len(data) > LARGEST // 2:
        return
    told = {key: [how.workspace, how.phases] for key, how in sorted(functions.items())}
    head = {"format": FORMAT, "sha256": hashlib.sha256(data).hexdigest(), "functions": told}
    with suppress(OSError):
        place.mkdir(0o700, parents=True, exist_ok=True)
        if not _own(place):
            return
        for left in temporary.stale(place, "kernels"):
            temporary.remove(left)
        with temporary.file(place, "kernels", 0o600) as path:
            path.write_bytes(json.dumps(head).encode() + b"\n" + data)
            os.replace(path, place / name)
        _bound(place)


def _own(place: Path) -> bool:
    """Whether a folder is there that only this user may write."""
    with suppress(OSError):
        state = os.lstat(place)
        return stat.S_ISDIR(state.st_mode) and _mine(state)
    return False


def _mine(state: os.stat_result) -> bool:
    return state.st_uid == os.geteuid() and not state.st_mode & _OTHERS


def _bound(place: Path) -> None:
    """Removes the entries used least recently until the others are small enough together. Other processes may do so as well."""
    entries = []
    with os.scandir(place) as found:
        for entry in found:
            if not entry.name.startswith("."):
                with suppress(OSError):
                    state = entry.stat(follow_symlinks=False)
                    entries.append((state.st_mtime_ns, entry.name, state.st_size))
    total = sum(size for _, _, size in entries)
    for _, name, size in sorted(entries):
        if total <= MOST_BYTES:
            return
        with suppress(OSError):
            os.unlink(place / name)
        total -= size
