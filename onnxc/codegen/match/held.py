"""Weights that kernels read as they are held: codes of sub-vectors, integers in blocks, 16-bit floats."""

from __future__ import annotations

from typing import Any

from onnxc.codegen.kernels.spec import Encoding, KernelSpec
from onnxc.codegen.kernels.sums import Coded
from onnxc.codegen.prepare.matrices import Blocks, Kernel
from onnxc.codegen.prepare.stored import Vectors


def held(weight: Any, spec: KernelSpec) -> tuple[Encoding, Coded | Kernel] | None:
    """The encoding of weights that are held otherwise than as float32, and they as they are; None for others."""
    return coded(weight, spec) or narrow(weight)


def coded(weight: Any, spec: KernelSpec) -> tuple[Encoding, Coded] | None:
    """The encoding and the codes of weights that are sub-vectors of a codebook along their inputs; None for others."""
    if not isinstance(weight, Vectors) or weight.turned or weight.ndim != 4:
        return None
    codes, book = weight.codes(), weight.codebook
    books, centroids, length = book.shape
    bits = max(1, (centroids - 1).bit_length())
    return Encoding("codes", bits, length=length, centroids=centroids, books=books), Coded(codes, book)


def narrow(weight: Any) -> tuple[Encoding, Kernel] | None:
    """The encoding of weights that are a matrix of narrow numbers, and they as they are; None for others."""
    if not isinstance(weight, Kernel):
        return None
    matrix = weight.matrix
    if not isinstance(matrix, Blocks):
        return Encoding(matrix.values.dtype.name, 16), weight
    if matrix.axis == 0:  # blocks of outputs
        return None
    return Encoding("blocks", matrix.bits, "zeros" if matrix.zero is not None else "", matrix.block), weight
