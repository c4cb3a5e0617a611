"""Structured and unstructured pruning: `coupling` finds what is tied, `score` rates it, `channels` removes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...ir.files import Source
    from ..base import Context
    from .editing import Groups

__all__ = ["groups"]


def groups(model: Source, criterion: str = "l1", statistics: str = "window", context: Context | None = None) -> Groups:
    """The groups of coupled channels of a model, to iterate over, edit and apply; see `onnxc.passes.prune.editing`."""
    from .editing import groups

    return groups(model, criterion, statistics, context)
