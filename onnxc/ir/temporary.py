"""Temporary files and folders that go away whatever happens: at the end, by a signal, or by the next run after a kill.

    .net.onnx.onnxc-HOST-PID-xxxxxxxx    beside net.onnx

A name says whose it is: the host with its process space, and the process. `stale` finds those of processes that have died.
What this process holds is in `HELD`, so that a signal that ends it can take it along (`discard`). Needs nothing but Python.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO

TRIES, PAUSE = 40, 0.05
"""How often a folder is emptied that fills again, and the seconds between."""
HELD: set[Path] = set()
"""Temporary files and folders of this process that are there."""


@contextmanager
def folder(home: Path, name: str) -> Iterator[Path]:
    """A new folder in `home`, only for this user, gone at the end. Those that dead processes left for `name` go first."""
    for path in stale(home, name):
        remove(path)
    with _held(home / _name(name)) as path:
        path.mkdir(0o700)
        yield path


@contextmanager
def on_demand(home: Path, name: str) -> Iterator[Callable[[], Path]]:
    """What makes and gives a `folder` when it is first asked: most who might need one do not, and a folder is not free."""
    with ExitStack() as held:
        yield cache(lambda: held.enter_context(folder(home, name)))


@contextmanager
def file(home: Path, name: str, mode: int = 0o666) -> Iterator[Path]:
    """A new, empty file in `home`, gone at the end unless it has been renamed."""
    with _held(home / _name(name)) as path:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), mode))
        yield path


def in_memory() -> IO[bytes]:
    """A file without a name, which no disk has to have room for where the system keeps such in memory."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("onnxc"), "w+b")
    import tempfile

    return tempfile.TemporaryFile()


@contextmanager
def _held(path: Path) -> Iterator[Path]:
    """While it lasts, `path` is this process's to remove: from before it is made, since a signal may come right after."""
    HELD.add(path)
    try:
        yield path
    finally:
        remove(path)
        HELD.discard(path)


class Unbroken:
    """Short work of the main thread that a signal waits for: what takes its place together, and what goes then.

    with unbroken:
        ...
    """

    def __init__(self) -> None:
        self.depth = 0
        """How many are under way, one in another; those of other threads, which no signal cuts off, do not count."""
        self._late: BaseException | None = None

    def __enter__(self) -> None:
        self.depth += _in_main_thread()

    def __exit__(self, *_: object) -> None:
        self.depth -= _in_main_thread()
        late = self._late
        if late and not self.depth:
            self._late = None
            raise late

    def raised(self, error: BaseException) -> None:
        """Raise `error`, at the end of what is under way. For handlers of signals."""
        if not self.depth:
            raise error
        self._late = error


unbroken = Unbroken()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def remove(path: Path) -> None:
    """Away with a temporary file or folder, if it is there.

    What a compiler that was ended has started may still write into a folder while it is emptied: that is tried again.
    """
    for _ in range(TRIES):
        with suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        if not os.path.lexists(path):
            return
        time.sleep(PAUSE)


def discard() -> None:
    """Remove all that this process holds: for a process that is about to end.

    Where that cuts `unbroken` work off, all stays: from it the next run knows what to remove.
    """
    if unbroken.depth:
        return
    for path in list(HELD):
        remove(path)


def stale(home: Path, name: str) -> list[Path]:
    """Temporary files and folders in `home` that were made for `name` by processes of this host that have died."""
    mark = _mark(name)
    found = []
    with suppress(OSError), os.scandir(home) as entries:
        for entry in entries:
            number = entry.name.removeprefix(mark).partition("-")[0] if entry.name.startswith(mark) else ""
            if number.isdigit() and not _alive(int(number)):
                found.append(home / entry.name)
    return found


def _name(name: str) -> str:
    return f"{_mark(name)}{os.getpid()}-{secrets.token_hex(4)}"


def _mark(name: str) -> str:
    # a name may have 255 bytes
    return f".{os.fsdecode(os.fsencode(name)[:120])}.onnxc-{host()}-"


@cache
def host() -> str:
    """This host, and the space in which process numbers count: containers may share a host's name and files."""
    text = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())[:32]
    with suppress(OSError):
        text += f".{os.stat('/proc/self/ns/pid').st_ino}"
    return text


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
