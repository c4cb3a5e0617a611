"""Runs of models with loops, which may go on or grow without end: a watch ends them."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from onnxc.ir.errors import VerificationError
from onnxc.runtime.wording import ort_errors

if TYPE_CHECKING:
    import onnxruntime as ort

SECONDS = 600.0
"""What one run may take: a Loop without end would keep a check for ever."""
ROOM, TIMES = 1 << 29, 64
"""Bytes that one run may take, or so many times those of weights and inputs, if they are more: a tensor that a Loop carries
may double in each round."""
PAUSE = 0.01
REMEDY = "use --check shapes"


def run(
    session: ort.InferenceSession, names: Sequence[str], feeds: Mapping[str, np.ndarray | list], weights: int
) -> list[np.ndarray]:
    """The outputs `names` of a session; `weights`: how many its model has.

    Raises VerificationError where the run takes more than SECONDS, or more memory than it may (where the system tells how
    much the process has), and what ONNX Runtime raises.
    """
    import onnxruntime as ort

    options = ort.RunOptions()
    room = max(ROOM, TIMES * (4 * weights + sum(a.nbytes for a in feeds.values() if isinstance(a, np.ndarray))))
    ended, began = threading.Event(), _resident()
    reason: list[tuple[str, str]] = []

    def watch() -> None:
        left = SECONDS
        while not ended.wait(PAUSE):
            left -= PAUSE
            if left < 0:
                reason.append(("the model has not ended", f"a run of at most {SECONDS:g} s"))
            elif _resident() - began > room:
                reason.append(("the model's loops take too much memory", f"at most {room >> 20} MiB"))
            if reason:
                options.terminate = True
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        return session.run(list(names), dict(feeds), options)
    except ort_errors() as error:
        if reason:
            raise VerificationError(reason[0][0], expected=reason[0][1], remedy=REMEDY) from error
        raise
    finally:
        ended.set()


def _resident() -> int:
    """Bytes of memory that this process has; 0 where the system does not tell."""
    with suppress(OSError, ValueError, IndexError), open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
