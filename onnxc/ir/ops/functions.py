"""Rows of the functions of domain ai.onnxc that make weights out of packed ones: every axis stays as it is stored."""

from __future__ import annotations

from ..analysis import Unreadable, Use, row

STORED = "the weight is stored packed"


@row("ai.onnxc.UnpackBits", "ai.onnxc.Lookup", "ai.onnxc.HashedLookup")
def packed(use: Use) -> None:
    """packed; codebook; shape -> *shape, frozen: one bit stream holds all axes, so none can be cut."""
    last = len(use.node.inputs) - 1
    shape = use.ints("shape", last)
    for i in range(last):
        use.fix(*use.ax(i), why=STORED)
    if shape is None:
        raise Unreadable("its shape is no constant")
    use.operand(last, list(shape))
    use.out([use.fixed(n, STORED) for n in shape])
