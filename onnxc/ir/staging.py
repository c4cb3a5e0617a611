"""Folders that appear whole: built beside their place and put there in one step.

    with staging(out) as work:      # .build.onnxc-HOST-PID-xxxx/ beside build/
        ...                         # files of any kind, never seen at their place
        put(work / "done", out, old=("libnet.so", ...))

`put` renames where there is nothing yet, and else exchanges the two folders (renameat2, Linux): whoever looks sees the old or
the new, whenever the process ends. What stands in the old folder and is not ours (`old`) is carried over as hard links.
Where a folder cannot be exchanged (the working directory, a mount, a file system without exchange or hard links), files
are renamed one by one, after the file that makes them a whole (`last`) has been taken away and before it is put back.

A folder of a process that has died is removed by the next one that stages beside it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import temporary
from .errors import BadOption
from .output import NO_ROOM, cannot_write, making

_AT_FDCWD, _EXCHANGE = -100, 2


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A new folder on the file system of `out`, gone at the end. Folders of dead processes are removed first.

    Raises BadOption where there cannot be one, its path is no UTF-8, which tools are given it in, or the system has no room.
    """
    asked, out = out, Path(os.path.realpath(out))
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise BadOption("the path of a folder that tools write into must be UTF-8", found=ascii(str(out))) from None
    begun = False
    try:
        with making(out.parent), temporary.folder(_home(out), out.name) as work:
            begun = True
            yield work
    except OSError as e:
        if begun and e.errno not in NO_ROOM:
            raise
        raise cannot_write(asked, e) from None


def _home(out: Path) -> Path:
    """Where files can be made that a rename brings to `out`: beside it, or inside it where it is a mount or nothing else can
    be written to."""
    parent = out.parent
    if not out.is_dir() or (os.access(parent, os.W_OK | os.X_OK) and out.stat().st_dev == parent.stat().st_dev):
        return parent
    return out


def put(made: Path, out: Path, *, old: Collection[str] = (), last: str) -> None:
    """Puts the folder `made`, which is in a `staging` of `out`, in the place of `out`.

    `old`: files of `out`, relative to it, that the new ones stand for; all else in it stays. `last`: the file of both without
    which the others are no whole.
    """
    out = Path(os.path.realpath(out))
    if not out.exists():
        with suppress(OSError):  # another process may have been first
            made.rename(out)
            return
    new = [str(path.relative_to(made)) for path in made.rglob("*") if not path.is_dir()]
    if not (_carry(out, made, {*old, *new}) and _exchange(made, out)):
        _one_by_one(made, out, new, old, last)


def _carry(out: Path, made: Path, ours: Collection[str]) -> bool:
    """Hard links in `made` to all files of `out` but `ours`; whether that went well, and `out` can be exchanged at all."""
    with suppress(OSError):
        if Path(os.path.realpath(Path.cwd())).is_relative_to(out) or made.is_relative_to(out):
            return False
    try:
        for folder, names, files in os.walk(out):
            place = Path(folder).relative_to(out)
            links = [name for name in names if (Path(folder) / name).is_symlink()]
            for name in names:
                if name not in links and not (made / place / name).exists():
                    (made / place / name).mkdir()
                    shutil.copystat(Path(folder) / name, made / place / name)
            for name in [*files, *links]:
                if str(place / name) not in ours:
                    os.link(Path(folder) / name, made / place / name, follow_symlinks=False)
        shutil.copystat(out, made)
        with suppress(PermissionError):
            os.chown(made, out.stat().st_uid, out.stat().st_gid)
    except OSError:
        return False
    return True


def _exchange(made: Path, out: Path) -> bool:
    """Whether the two folders have changed places."""
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return function(_AT_FDCWD, os.fsencode(made), _AT_FDCWD, os.fsencode(out), ctypes.c_uint(_EXCHANGE)) == 0


def _one_by_one(made: Path, out: Path, new: list[str], old: Collection[str], last: str) -> None:
    with temporary.unbroken:
        out.mkdir(exist_ok=True)
        (out / last).unlink(missing_ok=True)
        for name in [*sorted(set(new) - {last}), last]:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(made / name, out / name)
        for name in set(old) - set(new):
            (out / name).unlink(missing_ok=True)
