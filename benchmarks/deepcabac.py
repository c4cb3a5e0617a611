"""Bytes of 8-bit weights: ours beside DeepCABAC's reference software, on the same symbols.

    python benchmarks/deepcabac.py MODEL... --peer PYTHON [--json FILE]

PYTHON is the interpreter of an environment that has the package nncodec, the reference software of ISO/IEC 15938-17, whose
coder is DeepCABAC (Wiedemann et al. 2020). It wants NumPy 1, hence an environment of its own. Both get every int8 and uint8
initializer of at least 128 elements as integers, each coded alone and without loss; ours is the slab, as `pack` writes it
for a tensor that is not joined with others.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from onnxc.coding.pack import stride
from onnxc.coding.slab import encode_slab

PEER = """
import sys, tempfile
import numpy as np
import nncodec.tensor as coder
total, arrays = 0, np.load(sys.argv[1])
with tempfile.TemporaryDirectory() as folder:
    for name in arrays.files:
        options = {"results": folder, "verbose": False, "use_dq": False, "tensor_id": "0"}
        total += len(coder.encode(arrays[name], options))
print("bytes", total)
"""


def weights(path: Path) -> list[np.ndarray]:
    """int8 arrays: the stored 8-bit tensors of a model, unsigned ones about 128."""
    found = []
    for tensor in onnx.load(path).graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype in (np.int8, np.uint8) and values.size >= 128:
            found.append((values.astype(np.int16) - 128 * (values.dtype == np.uint8)).astype(np.int8))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    print("model                         symbols      ours   nncodec  ratio")
    for path in options.models:
        arrays = weights(path)
        if not arrays:
            continue
        ours = 0
        for values in arrays:
            flat = values.reshape(-1).view(np.uint8)
            ours += len(encode_slab(flat, False, [(flat.size, stride(values.shape, flat.size))]))
        with tempfile.TemporaryDirectory() as folder:
            symbols = Path(folder) / "symbols.npz"
            np.savez(symbols, **{str(i): values.astype(np.int32) for i, values in enumerate(arrays)})
            said = subprocess.run(
                [options.peer, "-c", PEER, symbols], check=True, capture_output=True, text=True
            ).stdout
        theirs = int(said.rsplit("bytes", 1)[1])
        rows.append({"model": path.stem, "symbols": sum(a.size for a in arrays), "bytes": ours, "nncodec": theirs})
        print(f"{path.stem:25s} {rows[-1]['symbols']:11d} {ours:9d} {theirs:9d}  {ours / theirs:.3f}", flush=True)
    print(f"geometric mean {math.exp(np.mean([math.log(r['bytes'] / r['nncodec']) for r in rows])):.3f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
