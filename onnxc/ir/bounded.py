"""Texts that come from files of others: read as far as a bound, whatever stands behind the name (/dev/zero, a pipe)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

JSON_BYTES = 1 << 26


def read_text(path: Path, most: int) -> str:
    """The UTF-8 text of a file. Raises OSError, and ValueError where it is larger than `most` bytes or is no UTF-8."""
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it is larger than {most} bytes")
    return data.decode("utf-8")


def read_json(path: Path) -> Any:
    """What a file of JSON holds. Raises OSError, and ValueError where it is none, too large, or nested too deeply."""
    try:
        return json.loads(read_text(path, JSON_BYTES))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
