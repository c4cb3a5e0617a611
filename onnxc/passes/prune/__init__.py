"""Structured and unstructured pruning: `coupling` finds what is tied, `score` rates it, `channels` removes it."""

from __future__ import annotations

__all__ = ["groups"]


def groups(model, criterion: str = "l1", statistics: str = "window", context=None):
    """The groups of coupled channels of a model, to iterate over, edit and apply; see `onnxc.passes.prune.editing`."""
    from .editing import groups

    return groups(model, criterion, statistics, context)
