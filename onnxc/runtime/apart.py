"""A library run in a process of its own: what is wrong with it ends that process and not this one.

    outputs = run_apart("build", [feeds, more_feeds])
    outputs = run_apart("build", [feeds], machine=0)     # by the kernels for the first of its instruction sets

The process is a fork, so nothing is started or imported anew; inputs and outputs lie in memory that both share. Each output
stands between guards, whose bytes tell of a kernel that writes past its tensor.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import mmap
import os
import resource
import select
import signal
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from onnxc.ir.errors import OnnxcError, VerificationError
from onnxc.runtime.call import cut, lengths_of
from onnxc.runtime.library import ALIGN, Library, Tensors, read_manifest, shape_number, shapes_of

GUARD = 4096  # bytes before and after each output
FILL = 0xA5
TIMEOUT = 600  # seconds
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
MACHINE_AT = 16  # `machine` in the head of a handle (codegen/c/body.py)

Feeds = Mapping[str, np.ndarray]


def run_apart(
    folder: str | os.PathLike, feeds: Sequence[Feeds], machine: int | None = None
) -> list[dict[str, np.ndarray]]:
    """The outputs for each of `feeds` of the library of this machine in `folder`, run one after the other.

    Of several instruction sets of a library, its kernels for number `machine` are run; None for those that init picks.

    Raises VerificationError where the library ends the process, does not end itself, fails, or writes past an output; and
    BadModel, BadData as `Library` does.
    """
    manifest = read_manifest(folder)
    shapes, lengths = shapes_of(manifest), lengths_of(manifest)
    held = [_Outputs(shapes[shape_number(shapes, one)][1]) for one in feeds]
    reading, writing = os.pipe()
    parent = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads in a forked process: it uses none of them
        child = os.fork()
    if child == 0:
        status = 1
        try:
            _silence(parent)
            status = _child(folder, feeds, machine, held, writing)
        finally:
            os._exit(status)
    os.close(writing)
    try:
        said = _until_the_end(reading, child)
    except BaseException:  # a signal ends the compilation: nobody waits for the library any more
        _kill(child)
        os.waitpid(child, 0)
        raise
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        raise VerificationError(f"the library ends its process by {name}", remedy="report it with the model")
    if said or status:
        raise VerificationError(f"the library fails: {said or status}", remedy="report it with the model")
    for one in held:
        one.check()
    return [cut(one.arrays, lengths) for one in held]


def _silence(parent: int) -> None:
    """No collection of garbage that the parent has to end, no word or file of a crash, which the parent reports, and no life
    after the parent's (on Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    gc.disable()
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _child(
    folder: str | os.PathLike, feeds: Sequence[Feeds], machine: int | None, held: list[_Outputs], writing: int
) -> int:
    try:
        library = Library(Path(folder))
        if machine is not None:
            ctypes.c_uint32.from_address(library.handle() + MACHINE_AT).value = machine
        for one, outputs in zip(feeds, held, strict=True):
            library.run(one, out=outputs.arrays)
    except OnnxcError as error:
        os.write(writing, str(error).encode("utf-8", "replace")[:4000])
    return 0


def _until_the_end(reading: int, child: int) -> str:
    """What the child says before it ends; it is ended after TIMEOUT seconds."""
    said = b""
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while True:
            ready, _, _ = select.select([pipe], [], [], TIMEOUT)
            if not ready:
                _kill(child)
                return f"it does not end within {TIMEOUT} s"
            data = pipe.read(4096)
            if not data:
                return said.decode("utf-8", "replace")
            said += data


def _kill(child: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


class _Outputs:
    """Arrays for the outputs of one call in shared memory, each between guards, all bytes FILL at first."""

    def __init__(self, outputs: Tensors):
        sizes = [int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for shape, dtype in outputs.values()]
        starts, at = [], GUARD
        for size in sizes:
            starts.append(at)
            at += -(-size // ALIGN) * ALIGN + GUARD
        self.memory = np.frombuffer(mmap.mmap(-1, at), np.uint8)
        self.memory[:] = FILL
        self.spans = list(zip(starts, sizes))
        self.arrays = {
            name: self.memory[start : start + size].view(dtype).reshape(shape)
            for (name, (shape, dtype)), (start, size) in zip(outputs.items(), self.spans)
        }

    def check(self) -> None:
        """Raises VerificationError where a guard has been written to."""
        for name, (start, size) in zip(self.arrays, self.spans):
            before, after = self.memory[start - GUARD : start], self.memory[start + size : start + size + GUARD]
            if (before != FILL).any() or (after != FILL).any():
                raise VerificationError(
                    "the library writes past an output", tensor=name, remedy="report it with the model"
                )
