"""What a search has found so far, in a file: it goes on from there. Each result is written as it comes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..ir.bounded import read_json
from ..ir.errors import BadData
from ..ir.output import making, write_whole
from .work import Job

FORM = "onnxc search 3"
EVERY = 2.0
"""Seconds between writes, at least."""


class State:
    """Results by job. head: what they are results of. Raises BadData where the file holds those of something else."""

    def __init__(self, file: Path | None, head: Mapping[str, Any]) -> None:
        self._file, self._head, self._written = file, {"form": FORM, **head}, 0.0
        self.results: dict[str, Any] = {}
        if file is not None and file.exists():
            self.results = self._read(file)

    def _read(self, file: Path) -> dict[str, Any]:
        try:
            found = read_json(file)
            results = dict(found["results"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadData(f"{file} holds no search: {error}", remedy="remove it, or give another folder") from None
        for key, value in self._head.items():
            if found.get(key) != value:
                raise BadData(f"{file} holds a search of another {key}", expected=value, found=found.get(key),
                              remedy="remove it, or give another folder")  # fmt: skip
        return results

    def __contains__(self, job: Job) -> bool:
        return _key(job) in self.results

    def __getitem__(self, job: Job) -> Any:
        return self.results[_key(job)]

    def put(self, job: Job, result: Any) -> None:
        """Keep what came of a job."""
        self.results[_key(job)] = result
        if time.monotonic() - self._written > EVERY or job[0] in ("recipe", "given"):
            self.save()

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self._file is not None:
            text = json.dumps({**self._head, "results": self.results})  # infinities too
            with making(self._file.parent):
                write_whole(self._file, [text.encode() + b"\n"])
            self._written = time.monotonic()


def _key(job: Job) -> str:
    return json.dumps(list(job))
