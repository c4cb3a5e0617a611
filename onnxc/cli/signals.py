"""How a command ends when it is told to: what it holds temporarily goes, and it ends soon even while a library computes.

SIGTERM and SIGHUP become an exception, as SIGINT does, which unwinds what is under way. Python sees a signal only between its
own steps; a thread that is woken by the signal itself ends the process where that takes longer than `GRACE`, or where
a second signal comes.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..ir import temporary

GRACE = 3.0
"""Seconds until a process that does not unwind is ended."""
PATIENCE = 10
"""How many times that, where it puts files in their places: a disk may be slow."""
NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Ended(BaseException):
    """The process was told to end, by signal `number`."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number

    @property
    def said(self) -> str:
        """How that is put: `interrupted`, `ended by SIGTERM`."""
        return "interrupted" if self.number == signal.SIGINT else f"ended by {signal.Signals(self.number).name}"


@contextmanager
def handled() -> Iterator[None]:
    """While it lasts, the first signal raises `Ended`, and the next ends the process. What is ignored stays ignored."""
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {n: signal.getsignal(n) for n in numbers}
    told = [n for n in numbers if old[n] in (signal.SIG_DFL, signal.default_int_handler)]
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    threading.Thread(target=_watch, args=(ours,), daemon=True).start()
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    came: list[int] = []

    def end(number: int, frame: object) -> None:
        del frame
        came.append(number)
        # the thread ends the process at the next one: what unwinds is not interrupted
        signal.signal(number, lambda *_: None)
        temporary.unbroken.raised(Ended(number))

    for n in told:
        signal.signal(n, end)
    try:
        yield
    except Ended:
        temporary.discard()  # what a signal cut off before it could be unwound
        raise
    except Exception as error:  # TVM turns what is raised in its callbacks, `Ended` too, into errors of its own
        if came:
            raise Ended(came[0]) from error
        raise
    finally:
        for n in told:
            signal.signal(n, old[n])
        signal.set_wakeup_fd(wakeup)
        theirs.close()


def _watch(ours: socket.socket) -> None:
    with ours:
        known = {int(getattr(signal, name)) for name in NAMES if hasattr(signal, name)}

        def told() -> bytes:
            """The next that tells the process to end; nothing where the other end has gone."""
            while (number := ours.recv(1)) and number[0] not in known:
                pass
            return number

        first = told()
        if not first:
            return
        ours.settimeout(GRACE)
        for _ in range(PATIENCE):
            try:
                if not told():
                    return
                break
            except TimeoutError:
                if not temporary.unbroken.depth:
                    break
    temporary.discard()
    with suppress(OSError):
        os.write(2, f"onnxc: error: {Ended(first[0]).said}\n".encode())
    os._exit(128 + first[0])
