"""Files that are written whole or not at all: to a temporary file beside their place, which is then renamed.

    with replacing("net.onnx") as file:
        file.write(...)

Links are followed, so that a link stays one; devices and pipes, /dev/stdout too, are written to when all
is done, never replaced; folders are refused. An old file's mode is kept. Where two processes write one file, the last that
is whole wins.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from . import temporary
from .errors import BadOption

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Errors of a disk, not of a path."""
_HANDLES = ("/dev/std", "/dev/fd/", "/proc/")
"""Names of what this process has open."""


def cannot_write(path: object, error: OSError) -> BadOption:
    """The one line for a file that cannot be written."""
    return BadOption(f"cannot write {path}: {(error.strerror or str(error)).lower()}")


def destination(path: str | os.PathLike) -> Path:
    """Where what is written to `path` will stand, links followed. Raises BadOption for a folder or what cannot be."""
    try:
        kind = _kind(path)
        if kind == stat.S_IFDIR:
            raise BadOption(f"{os.fspath(path)} is a folder", expected="a file")
        return Path(path) if is_special(path) else Path(os.path.realpath(path))
    except OSError as e:
        raise cannot_write(path, e) from None
    except ValueError:
        raise BadOption("a path cannot hold a null character", found=repr(os.fspath(path))) from None


def is_special(path: str | os.PathLike) -> bool:
    """Whether `path` is a device, a pipe or the like, which is written to and not replaced."""
    return _kind(path) not in (None, stat.S_IFREG, stat.S_IFDIR) or os.path.abspath(path).startswith(_HANDLES)


def _kind(path: str | os.PathLike) -> int | None:
    try:
        return stat.S_IFMT(os.stat(path).st_mode)
    except FileNotFoundError:
        return None


@contextmanager
def replacing(path: str | os.PathLike, *, new: bool = False) -> Iterator[BinaryIO]:
    """A binary file to write and seek in, which takes the place of `path` at the end; on any error `path` stays as it was.

    `new`: nothing may stand there by then. Raises BadOption, one line, where it cannot be written.
    """
    target = destination(path)
    try:
        if is_special(target):
            with tempfile.TemporaryFile() as file:
                yield file
                file.seek(0)
                with open(target, "wb") as out:
                    shutil.copyfileobj(file, out, 1 << 20)
            return
        _sweep(target)
        with drafted(target) as draft:
            with open(draft, "w+b") as file:
                yield file
            (_put_new if new else put)(draft, target)
    except OSError as e:
        raise cannot_write(path, e) from None


def _sweep(target: Path) -> None:
    """Removes what dead processes left that wrote `target`."""
    for left in temporary.stale(target.parent, target.name):
        temporary.remove(left)


@contextmanager
def drafted(target: Path) -> Iterator[Path]:
    """A temporary file beside `target`, for what is to take its place by `put`."""
    # what replaces a private file is never readable by others, not for a moment either
    with temporary.file(target.parent, target.name, 0o600 if target.exists() else 0o666) as draft:
        yield draft


def put(draft: Path, target: Path) -> None:
    """Rename `draft` to `target`, with the mode and, where that may be, the owner of the file that stands there."""
    with suppress(FileNotFoundError):
        old = target.stat()
        os.chmod(draft, stat.S_IMODE(old.st_mode))
        made = draft.stat()
        if (made.st_uid, made.st_gid) != (old.st_uid, old.st_gid):
            with suppress(OSError):
                os.chown(draft, old.st_uid, old.st_gid)
    os.replace(draft, target)


def _put_new(draft: Path, target: Path) -> None:
    try:
        os.link(draft, target)  # fails where something stands there, which a rename would replace
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if target.exists():
            raise FileExistsError(17, "file exists", str(target)) from None
        os.replace(draft, target)


def write_whole(path: str | os.PathLike, chunks: Iterable[bytes | memoryview]) -> None:
    """Write chunks to `path`, whole or not at all. Raises BadOption."""
    with replacing(path) as file:
        for chunk in chunks:
            file.write(chunk)


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """Makes `folder` and those above it; on an error the ones that were made go again, if nothing is in them."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):
            for place in new:
                place.rmdir()
        raise


def write_several(folder: Path, files: Mapping[str, Iterable[bytes | memoryview]]) -> None:
    """Write `files`, name -> chunks, into `folder`, which is made, as are folders in names: when all are whole they take their
    places. Raises BadOption."""
    path = folder
    try:
        with making(folder), ExitStack() as stack:
            ready = []
            for name, chunks in files.items():
                path = folder / name
                stack.enter_context(making(path.parent))
                if is_special(path):
                    stack.enter_context(replacing(path)).writelines(chunks)
                    continue
                target = destination(path)
                _sweep(target)
                draft = stack.enter_context(drafted(target))
                with open(draft, "wb") as file:
                    file.writelines(chunks)
                ready.append((draft, target))
            with temporary.unbroken:
                for draft, target in ready:
                    put(draft, target)
    except OSError as e:
        raise cannot_write(path, e) from None


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """While it lasts, no other process of ours is in its turn in this folder; where the file system has locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
