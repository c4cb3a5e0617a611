"""Writes fashion_train.npz and fashion_test.npz as the bundled networks take them, from Debian's dataset-fashion-mnist.

    apt-get install dataset-fashion-mnist
    python examples/recipes/fashion.py [--source FOLDER] [--share N]

FOLDER: where the four files of the set lie, /usr/share/datasets/fashion-mnist by default. --share: every N-th training image.
Images float32 [n, 1, 28, 28], (pixel / 255 - 0.286) / 0.353; labels int64 [n].
"""

import argparse
import gzip
from pathlib import Path

import numpy as np


def numbers(path: Path) -> np.ndarray:
    """What an IDX file of bytes holds: two zeros, type 8, the number of axes, their extents (big-endian), the values."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise SystemExit(f"{path} is no IDX file of bytes")
    axes = data[3]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(np.frombuffer(data, ">i4", axes, 4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--share", type=int, default=1)
    args = parser.parse_args()
    for name, stem, step in (("train", "train", args.share), ("test", "t10k", 1)):
        pixels, labels = (numbers(args.source / f"{stem}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
        images = ((pixels[::step, None].astype(np.float32) / 255) - 0.286) / 0.353
        path = Path(__file__).parent / f"fashion_{name}.npz"
        np.savez(path, image=images.astype(np.float32), labels=labels[::step].astype(np.int64))
        print(f"{path}: {len(images)} images")


if __name__ == "__main__":
    main()
