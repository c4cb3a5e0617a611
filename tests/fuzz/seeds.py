"""Seeds for decode_fuzz.c: coded slabs and arrays of every form, small enough for a fuzzer. Usage: seeds.py FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from onnxc.coding.adaptive import can_encode
from onnxc.coding.array import encode, words
from onnxc.coding.slab import encode_slab


def five_bits(numbers: np.ndarray) -> np.ndarray:
    """Numbers below 32 in a stream of bits."""
    bits = np.unpackbits(numbers.clip(0, 31).astype(np.uint8)[:, None], axis=1, count=5, bitorder="little")
    return np.packbits(bits, bitorder="little")


def arrays() -> dict[str, np.ndarray]:
    """Small arrays that between them need every form, mode and loop of the decoder."""
    rng = np.random.default_rng(0)
    normal = rng.normal(size=9000)
    sparse = np.where(rng.random(20000) < 0.95, 0, rng.normal(size=20000)).astype(np.float32)
    return {
        "bytes": np.round(normal * 40).clip(-128, 127).astype(np.int8),
        "bits": (rng.random(9000) < 0.1).astype(np.uint8),
        "pairs": np.round(normal * 2).astype(np.int8),
        "short": np.round(normal[:300] * 2).astype(np.int8),
        "raw": rng.integers(0, 256, 100).astype(np.uint8),
        "fill": np.zeros(100, np.uint8),
        "float32": normal[:2000].astype(np.float32),
        "float16": normal.astype(np.float16),
        "float64": normal[:500],
        "palette": np.round(normal * 3).astype(np.float32),
        "sparse": sparse,
        "sparse_palette": np.round(sparse * 4),
        "packed": five_bits(np.round(normal * 2) + 16),
        "packed_sparse": five_bits(np.where(rng.random(9000) < 0.92, 0, np.round(normal * 2) + 16)),
        "int64": np.arange(600, dtype=np.int64) // 7,
    }


def seeds() -> dict[str, bytes]:
    """Inputs of decode_fuzz.c."""
    made = {}
    for name, values in arrays().items():
        flat = words(values)
        head = len(flat).to_bytes(3, "little")
        width = flat.itemsize.bit_length() - 1
        made[f"{name}_slab"] = bytes([width]) + head + encode_slab(flat, values.dtype.kind == "f")
        if can_encode():
            segments = [(len(flat) // 3, 16), (len(flat) - len(flat) // 3, 0)]
            made[f"{name}_adaptive"] = bytes([width]) + head + encode_slab(flat, values.dtype.kind == "f", segments)
        made[f"{name}_array"] = bytes([width | 4]) + head + encode(values)
    return made


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in seeds().items():
        (folder / name).write_bytes(data)
