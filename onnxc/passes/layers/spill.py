"""Arrays kept from one step of a walk to the next, in a temporary file instead of memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import numpy as np


class Spilled:
    """What one tensor was in batch after batch. The file has no name and goes with this object, or with the process.

    nbytes: what all batches take together.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="onnxc-")  # noqa: SIM115  lives as long as this object
        self._places: list[tuple[np.dtype, tuple[int, ...], int]] = []
        self.nbytes = 0

    def append(self, array: np.ndarray) -> None:
        """Keep one more batch: an array of any shape and of a type whose values are bytes."""
        self._places.append((array.dtype, array.shape, self.nbytes))
        self._file.seek(self.nbytes)
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self.nbytes += array.nbytes

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[batch] for batch in range(len(self)))

    def __getitem__(self, batch: int) -> np.ndarray:
        """The array of a batch, read anew; IndexError beyond the last, so that a loop over all ends."""
        dtype, shape, offset = self._places[batch]
        self._file.seek(offset)
        return np.frombuffer(self._file.read(dtype.itemsize * int(np.prod(shape))), dtype).reshape(shape)
