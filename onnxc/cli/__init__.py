"""The command `onnxc`: one file for a command and its drawing; `app` names them all."""

from __future__ import annotations

import sys

from onnxc.cli import app

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """`app.main` as a process of its own runs it: what a search left under way when its time was up is not waited for."""
    status = app.main(argv)
    if _lingering():
        import os

        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
    return status


def _lingering() -> bool:
    used = sys.modules.get("onnxc.search.executor")
    return used is not None and used.lingering()
