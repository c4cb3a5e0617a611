"""Where onnxc keeps for a user what it need not do twice: compiled kernels, measurements of them."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path | None:
    """~/.cache/onnxc, or `onnxc` in XDG_CACHE_HOME; None where that is no absolute path. The folder need not be there."""
    start = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(start) / "onnxc" if os.path.isabs(start) else None
