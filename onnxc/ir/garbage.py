"""The search for garbage: left out, or made as rare as the number of objects allows.

A graph of nodes and tensors is one cycle of millions of objects, nearly all of which stay. Python looks through everything that
lives whenever a quarter as much has been made anew, which took two fifths of the time of a pass list on large models.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

MORE = 2
"""How many times as much as there is must be made before all is looked through."""
BLOCKS = 2
"""Blocks of memory for each object that is looked through, at least."""
OLDEST = 2
_lock = threading.Lock()
_held: list[tuple[int, int, int]] = []
"""The thresholds from before, once for each `patient` that is open now."""
_froze = False
"""Whether the first of these has frozen what was there."""


@contextmanager
def uncollected() -> Iterator[None]:
    """No search for garbage: an import makes half a million objects, and lowering next to none that reference counts do not free."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def patient() -> Iterator[None]:
    """Within it, all is looked through only once MORE times as much has been made: up to two thirds of the objects may be garbage.
    What was there before, modules and the model that somebody holds, is not looked through at all."""
    global _froze
    with _lock:
        before = _held[0] if _held else gc.get_threshold()
        if not _held and before[0]:  # the search has not been switched off
            _set(before)
            _froze = gc.get_freeze_count() == 0  # else somebody else has, and wants it so
            if _froze:
                gc.freeze()
            gc.callbacks.append(_follow)
        _held.append(before)
    try:
        yield
    finally:
        with _lock:
            _held.pop()
            if not _held and _follow in gc.callbacks:
                gc.callbacks.remove(_follow)
                if _froze:
                    gc.unfreeze()
                gc.set_threshold(*before)


def _follow(phase: str, info: Mapping[str, int]) -> None:
    """The heap may have grown since the last look at all of it."""
    before = next(iter(_held), None)  # another thread may be at the end of the last
    if before is not None and phase == "stop" and info["generation"] == OLDEST:
        _set(before)


def _set(before: tuple[int, int, int]) -> None:
    # gc.get_objects would count them, but hold tuples that other threads are about to make longer: these end with a SystemError
    objects = sys.getallocatedblocks() // BLOCKS
    gc.set_threshold(max(before[0], MORE * objects // 100), 10, 10)  # 10 times 10 looks at the young
