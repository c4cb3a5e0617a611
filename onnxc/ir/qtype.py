"""One language of numbers: how a tensor's values are stored, and what the stored numbers stand for.

    whole      real = scale * (stored - zero_point)                  integers, from QuantizeLinear to QONNX
    bipolar    real = scale * sum_i 2^i (2 b_i - 1)                  the odd numbers: one bit is -1 and +1
    planes     real = sum_k scale[k] (2 b_k - 1)                     ResidualBinarize: each plane has a scale of its own
    codebook   real = codebook[row, stored]                          shared weights, packed or not
    product    real = codebook[book, stored, :]                      sub-vectors of the second axis, packed
    float      real = scale * stored                                 float32 down to float4

`onnxc.ir.numbers` reads it off a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np


@dataclass(frozen=True, eq=False)
class QType:
    """What stored numbers stand for; see above for `form`.

    bits: of one stored number. scale and zero_point: None where they are 1 and 0, or where nothing says them; with
    `axis` they have one entry for each index of that axis, with `block` one for each run of so many indices along it
    (and the tensor's rank), else they broadcast from the right as NumPy does. codebook: [rows, values]; the tensor is
    cut into as many equal runs, leading axis first. Of `product` it is [books, centroids, length]: a stored number stands
    for `length` weights along the second axis, part m's from book m mod books. limits: the lowest and the
    highest stored number, where they are narrower than the bits allow. known: False where scale or zero point are computed at run time.
    """

    bits: int
    signed: bool = True
    scale: np.ndarray | None = None
    zero_point: np.ndarray | None = None
    axis: int | None = None
    codebook: np.ndarray | None = None
    block: int = 0
    form: str = "whole"
    limits: tuple[float, float] | None = None
    known: bool = True

    @property
    def low(self) -> int:
        """The smallest stored number; of `bipolar` the smallest odd number."""
        if self.limits is not None:
            return int(self.limits[0])
        if self.form == "bipolar":
            return 1 - (1 << self.bits)
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest stored number; of `bipolar` the largest odd number."""
        if self.limits is not None:
            return int(self.limits[1])
        if self.form == "bipolar":
            return (1 << self.bits) - 1
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    def along(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """`values` (a scale or zero point) so that they broadcast to a tensor of `shape`."""
        if self.block:
            repeated = np.repeat(values, self.block, self.axis)
            return repeated[tuple(slice(0, n) for n in shape)]
        if self.axis is None or values.ndim != 1 or values.size == 1:
            return values.reshape(()) if values.size == 1 else values
        return values.reshape([-1 if d == self.axis % len(shape) else 1 for d in range(len(shape))])

    def real(self, stored: np.ndarray) -> np.ndarray:
        """What `stored` numbers stand for, float32 (or the codebook's dtype), in their shape (of `product` the weight's).

        `bipolar` takes the odd numbers themselves. Raises ValueError for `planes`, and where scale or zero point are
        not known: the model alone does not say it then.
        """
        if not self.known or self.form == "planes":
            raise ValueError("what these numbers stand for is not known before the model runs")
        if self.form == "product" and self.codebook is not None:
            return sub_vectors(stored, self.codebook)
        if self.codebook is not None:
            rows = stored.reshape(len(self.codebook), -1).astype(np.int64)
            return np.take_along_axis(self.codebook, rows, 1).reshape(stored.shape)
        whole = self.form == "whole" and stored.dtype.kind != "f"
        wide = stored.astype(np.int32 if self.bits < 32 else np.int64) if whole else stored.astype(np.float32)
        if self.zero_point is not None:
            wide = wide - self.along(self.zero_point, stored.shape).astype(wide.dtype)
        out = wide.astype(np.float32)
        return out if self.scale is None else out * self.along(self.scale, stored.shape).astype(np.float32)


def sub_vectors(codes: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """The weight [outputs, parts · length, *kernel] that codes [outputs, parts, *kernel] mean.

    codebook: [books, centroids, length]; part m takes its sub-vectors from book m mod books.
    """
    outputs, parts, *kernel = codes.shape
    book = (np.arange(parts) % len(codebook)).reshape(-1, *(1,) * len(kernel))
    found = codebook[book, codes]
    return np.moveaxis(found, -1, 2).reshape(outputs, parts * codebook.shape[2], *kernel)


@cache
def dtype_bits(dtype: np.dtype) -> int:
    """Bits of one stored element of a NumPy or ml_dtypes dtype: int4 has 4, bool 8."""
    name = np.dtype(dtype).name
    if name in ("int4", "uint4", "float4_e2m1fn"):
        return 4
    if name in ("int2", "uint2"):
        return 2
    return np.dtype(dtype).itemsize * 8


@cache
def of_dtype(dtype: np.dtype) -> QType:
    """The type of plain numbers of `dtype`: what is stored is what is meant."""
    name = np.dtype(dtype).name
    whole = "int" in name or name == "bool"
    return QType(dtype_bits(dtype), not name.startswith(("uint", "bool")), form="whole" if whole else "float")


def stored_bytes(values: np.ndarray) -> int:
    """Bytes that `values` take in an ONNX file."""
    if values.dtype == object:
        return sum(len(v) if isinstance(v, bytes) else len(str(v).encode()) for v in values.ravel())
    return -(-values.size * dtype_bits(values.dtype) // 8)
