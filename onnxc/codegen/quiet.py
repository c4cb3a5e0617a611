"""TVM and LLVM write warnings of their own workings to the error stream; a user can do nothing about them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from onnxc.ir import temporary

OWN = re.compile(
    rb"\[\d\d:\d\d:\d\d\] \S+:\d+: (Warning|Info|Debug):|warning: |'[^']*' is not a recognized (feature|processor)"
)
"""How their lines begin."""


@contextmanager
def quiet() -> Iterator[None]:
    """Leaves out warnings that are written to the error stream within; what else is comes at the end."""
    sys.stderr.flush()
    try:
        screen = os.dup(2)
    except OSError:  # there is none
        yield
        return
    with temporary.in_memory() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            with suppress(OSError):
                sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
            held.seek(0)
            rest = b"".join(line for line in held if not OWN.match(line))
            if rest:
                os.write(2, rest)
