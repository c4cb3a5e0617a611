"""Entropy coding: size against the entropy, decoding speed against zstd, and archives of models beside xz, zstd and gzip.

    python benchmarks/coding.py [MODEL ...] [--rounds 40] [--json FILE]

Symbols: normal and Laplace distributed integers, quantised to one byte at several entropies, a million each. zstd gets
what makes it code literals by Huffman and nothing else: the fast strategy, matches of at least 7 bytes, the smallest
hash table. Both decoders run in turn, one call each in every round; speeds are those of the fastest call, and the ratio
the median over rounds of zstd's time to ours. Needs the package zstandard, and a C compiler or an installed onnxc.
Models: those given, else those of this repository and of the onnx package.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import zstandard

import onnxc
from onnxc.coding import pack
from onnxc.coding.archive import Archive
from onnxc.coding.native import Decoder, decoder, load, numpy_decoder
from onnxc.coding.slab import SLAB, encode_slab

ENTROPIES = (1.0, 2.0, 2.6, 3.0, 3.25, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0)
HUFFMAN_ONLY = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST,
    min_match=7,
    hash_log=6,
    chain_log=6,
    search_log=1,
    window_log=20,
    target_length=0,
    write_content_size=True,
)


def c_decoder(folder: Path) -> Decoder:
    """The installed decoder in C, or one compiled here."""
    found = decoder()
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is not numpy_decoder or compiler is None:
        return found
    source = Path(onnxc.__file__).parent / "runtime/c/decode.c"
    library = folder / "decode.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    return load(library)


def entropy(symbols: np.ndarray) -> float:
    """Bits per symbol."""
    counts = np.bincount(symbols, minlength=256)
    p = counts[counts > 0] / len(symbols)
    return float(-(p @ np.log2(p)))


def symbols_of(kind: str, bits: float) -> np.ndarray:
    """A slab of symbols with about that entropy."""
    values = getattr(np.random.default_rng(1), kind)(size=SLAB)
    low, high = 0.01, 100.0
    for _ in range(30):
        scale = (low * high) ** 0.5
        symbols = np.round(values * scale).clip(-127, 127).astype(np.int8).view(np.uint8)
        low, high = (scale, high) if entropy(symbols) < bits else (low, scale)
    return symbols


def table_bytes(coded: bytes) -> int:
    """The bytes of a one-plane slab that do not hold symbols: mode, sizes, alphabet, pairs, code lengths."""
    body = coded[6:]
    alphabet = int(np.unpackbits(np.frombuffer(body[:32], np.uint8)).sum())
    pairs = body[32]
    return 6 + 33 + pairs + (pairs * alphabet + alphabet - pairs + 1) // 2


def measure(kind: str, bits: float, decode: Decoder, rounds: int) -> dict:
    """One row: sizes beyond the entropy, and speeds."""
    symbols = symbols_of(kind, bits)
    coded = memoryview(encode_slab(symbols, False))
    packed = zstandard.ZstdCompressor(compression_params=HUFFMAN_ONLY).compress(symbols.tobytes())
    zstd = zstandard.ZstdDecompressor()
    out = np.empty(len(symbols), np.uint8)
    ours, theirs = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        decode(coded, out)
        between = time.perf_counter()
        plain = zstd.decompress(packed)
        theirs.append(time.perf_counter() - between)
        ours.append(between - began)
    if not (out == symbols).all() or plain != symbols.tobytes():
        raise RuntimeError("a decoder is wrong")
    began = time.perf_counter()
    numpy_decoder(coded, out)
    slow = time.perf_counter() - began
    least = entropy(symbols) * len(symbols) / 8
    return {
        "distribution": kind,
        "entropy": round(entropy(symbols), 3),
        "over_entropy": (len(coded) - table_bytes(bytes(coded))) / least - 1,
        "over_entropy_with_tables": len(coded) / least - 1,
        "zstd_over_entropy": len(packed) / least - 1,
        "mb_per_s": len(symbols) / min(ours) / 1e6,
        "zstd_mb_per_s": len(symbols) / min(theirs) / 1e6,
        "speed_ratio": statistics.median(b / a for a, b in zip(ours, theirs, strict=True)),
        "numpy_mb_per_s": len(symbols) / slow / 1e6,
    }


def archive(path: Path, decode: Decoder, folder: Path) -> dict:
    """One row: bytes of the file, packed by us with either coder, by xz -9e, zstd -19 and gzip -9; seconds of packing and
    reading."""
    data = path.read_bytes()
    target = folder / "model.onnxz"
    began = time.perf_counter()
    done = pack(path, target)
    packing = time.perf_counter() - began
    began = time.perf_counter()
    with Archive(target, decoder=decode) as opened:
        same = opened.read() == data
    reading = time.perf_counter() - began
    huffman = pack(path, folder / "huffman.onnxz", coder="huffman").after
    xz = len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    return {
        "model": path.stem,
        "bytes": len(data),
        "onnxz": done.after / len(data),
        "huffman": huffman / len(data),
        "xz_9e": xz / len(data),
        "over_xz": done.after / xz,
        "zstd_19": len(zstandard.ZstdCompressor(level=19).compress(data)) / len(data),
        "gzip_9": len(gzip.compress(data, 9)) / len(data),
        "identical": same,
        "pack_s": round(packing, 3),
        "unpack_s": round(reading, 3),
    }


def models() -> list[Path]:
    """The trained models of this repository, and the light ones of the onnx package."""
    import onnx

    root = Path(__file__).resolve().parent.parent
    light = Path(onnx.__file__).parent / "backend/test/data/light"
    return [*(root / "onnxc/data").glob("*.onnx"), *(root / "tests/data").glob("*.onnx"), *sorted(light.glob("*.onnx"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        decode = c_decoder(folder)
        print("distribution  bits   size over entropy (with tables)  zstd    MB/s  zstd  ratio  NumPy")
        rows = []
        for kind in ("normal", "laplace"):
            for bits in ENTROPIES:
                r = measure(kind, bits, decode, options.rounds)
                rows.append(r)
                sizes = [r[key] for key in ("over_entropy", "over_entropy_with_tables", "zstd_over_entropy")]
                text = "{:17.2%}  {:12.2%}  {:6.2%}".format(*sizes)
                text += f"  {r['mb_per_s']:6.0f} {r['zstd_mb_per_s']:5.0f}  {r['speed_ratio']:5.2f}"
                print(f"{kind:12s} {r['entropy']:5.2f} {text}  {r['numpy_mb_per_s']:5.1f}")
        print(
            "\nmodel                            bytes  .onnxz  huffman  xz -9e  of xz  zstd -19  gzip -9  identical  pack s  unpack s"
        )
        packed = [archive(path, decode, folder) for path in options.models or models()]
        for r in packed:
            text = f"{r['onnxz']:6.1%}  {r['huffman']:7.1%}  {r['xz_9e']:6.1%}  {r['over_xz']:5.3f}  {r['zstd_19']:8.1%}  {r['gzip_9']:7.1%}  {r['identical']!s:>9}"
            print(f"{r['model']:28s} {r['bytes']:9d}  {text}  {r['pack_s']:6.2f}  {r['unpack_s']:8.3f}")
    if options.json:
        options.json.write_text(json.dumps({"symbols": rows, "models": packed}, indent=1) + "\n")


if __name__ == "__main__":
    main()
