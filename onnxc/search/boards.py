"""Time of compiled candidates on boards: the library of the model as given and theirs, in turns, over ssh.

    libraries 1, 2, 3 and boards a, b   ->   a times given, 1, 3; b times given, 2   ->   each by given's time on the same board

Boards are of one kind, and each works by itself. One that is not reached, or fails, hands what it had to the others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.errors import BadOption, MissingTool, OnnxcError, Unsupported
from ..ir.output import write_several
from ..measure.bench import measure
from .compiled import library_files

if TYPE_CHECKING:
    import numpy as np

    from ..runtime.remote import Remote

ROUNDS = 5
"""Rounds in turns on a board; each timing is of as many runs as its clock needs."""


def check(addresses: Sequence[str], target: str | None) -> None:
    """Raises BadOption and Unsupported for what makes no sense, before anything is measured."""
    if not addresses:
        return
    from ..codegen.target import resolve
    from ..runtime.remote import parse_address

    for address in addresses:
        parse_address(address)
    if len(set(addresses)) < len(addresses):
        raise BadOption("--remote names a board twice", found=", ".join(addresses))
    if target is None:
        raise BadOption("--remote times compiled libraries", remedy="give --target")
    if not resolve(target).toolchain.machine:
        raise Unsupported(f"timing a library for {target} over ssh", remedy="leave --remote out")


@dataclass(frozen=True)
class _Call:
    """A library on a board, which times itself: what ssh takes is no part of a call."""

    remote: Remote
    feeds: Mapping[str, np.ndarray]

    def __call__(self) -> object:
        return self.remote.run(dict(self.feeds))

    def seconds_per_call(self, calls: int) -> float:
        return self.remote.timed(dict(self.feeds), calls)[1]


def times(
    addresses: Sequence[str],
    given: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    feeds: Mapping[str, np.ndarray],
    tell: Callable[[str], None],
) -> list[float]:
    """Of each result (`compiled`'s) its time by that of `given`; inf where it has no library. tell: gets a line on each board
    that failed. Raises MissingTool where none is left."""
    found = {k: float("inf") for k, result in enumerate(results) if "library" not in result}
    left = list(addresses)
    while len(found) < len(results):
        if not left:
            raise MissingTool("no board is left to time libraries on", remedy="see that ssh reaches them")
        open_ = [k for k in range(len(results)) if k not in found]
        shares = {address: open_[n :: len(left)] for n, address in enumerate(left)}
        with ThreadPoolExecutor(len(left)) as pool:
            asked = {
                address: pool.submit(_on_one, address, given, {k: results[k] for k in share}, feeds)
                for address, share in shares.items()
                if share
            }
        for address, answer in asked.items():
            try:
                found |= answer.result()
            except OnnxcError as error:
                tell(f"{address} is left out: {error}")
                left.remove(address)
    return [found[k] for k in range(len(results))]


def _on_one(
    address: str, given: Mapping[str, Any], share: Mapping[int, Mapping[str, Any]], feeds: Mapping[str, np.ndarray]
) -> dict[int, float]:
    from ..runtime.remote import Remote

    with tempfile.TemporaryDirectory(prefix="onnxc-") as text:
        calls = {}
        for name, result in {"given": given, **{str(k): r for k, r in share.items()}}.items():
            write_several(Path(text) / name, library_files(result))
            calls[name] = _Call(Remote(Path(text) / name, address), feeds)
        _, *rows = measure(calls, rounds=ROUNDS, warmup=1)
    return {int(row.name): row.ratio for row in rows}
