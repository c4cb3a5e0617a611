"""Read mutated archives in this process: each gives the original bytes or one clear error, in bounded time and memory.

Usage: mutate.py [CASES] [LIBRARY]. LIBRARY is decode.c as a shared library; without it the installed decoder is used.
Half of the cases damage the file as it stands, and the checksums catch nearly all. The others damage a coded chunk or
the directory and then mend the checksums, so that the damage reaches the decoder. Every damaged chunk is decoded by
NumPy as well, which must give the same bytes or refuse it too. All runs within MEMORY more than it began with.
tests/fuzz/run.sh runs this under the address sanitiser.
"""

from __future__ import annotations

import re
import resource
import sys
import time
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))
from seeds import arrays

from onnxc.coding import Archive, layout, native, pack
from onnxc.coding.array import read_header, slabs
from onnxc.ir.errors import BadData, BadModel

SECONDS = 5.0
"""No archive of this size may take longer."""
MEMORY = 1 << 30
"""Bytes of address space that reading may take."""


def model() -> bytes:
    """A serialised model with a tensor of every form, in initialisers, a Constant node, and typed fields."""
    initializers = [numpy_helper.from_array(values[:2500], name) for name, values in arrays().items()]
    initializers.append(helper.make_tensor("typed", TensorProto.FLOAT, [200], np.arange(200.0)))
    initializers.append(helper.make_tensor("varint", TensorProto.INT32, [300], np.arange(300)))
    constant = numpy_helper.from_array(np.arange(500, dtype=np.int32) % 5, "inner")
    nodes = [helper.make_node("Constant", [], ["c"], value=constant), helper.make_node("Identity", ["c"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", [], [helper.make_tensor_value_info("y", TensorProto.INT32, [500])], initializers
    )
    return helper.make_model(graph).SerializeToString()


def damage(rng: np.random.Generator, data: bytes) -> bytes:
    """`data` with some bytes changed, cut off, doubled or taken out."""
    made = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, max(len(made), 1)))
        match int(rng.integers(0, 6)):
            case 0 | 1 if made:
                made[at] ^= 1 << int(rng.integers(0, 8))
            case 2 if made:
                made[at] = int(rng.choice((0, 1, 127, 128, 255)))
            case 3:
                made[at : at + 4] = int(rng.choice((0, 1, 2**31, 2**32 - 1))).to_bytes(4, "little")
            case 4:
                del made[at : at + int(rng.integers(1, 9))]
            case _:
                made[at:at] = made[at : at + int(rng.integers(1, 9))]
    return bytes(made[: int(rng.integers(0, len(made) + 1))]) if rng.random() < 0.05 else bytes(made)


class Sound:
    """An archive taken apart, to be put together again around a damaged part."""

    def __init__(self, data: bytes):
        self.data = data
        self.directory = layout.read_directory(memoryview(data))
        self.stored = [data[c.offset : c.offset + c.size] for c in self.directory.chunks]

    def with_chunk(self, number: int, stored: bytes) -> bytes:
        """All checksums mended but that of the file."""
        directory = layout.Directory([], self.directory.files)
        parts = [*self.stored[:number], stored, *self.stored[number + 1 :]]
        at = layout.HEADER_SIZE
        for part, chunk in zip(parts, self.directory.chunks, strict=True):
            directory.chunks.append(replace(chunk, offset=at, size=len(part), crc=zlib.crc32(part)))
            at += len(part)
        return self._assembled(b"".join(parts), directory.to_bytes())

    def with_directory(self, raw: bytes) -> bytes:
        return self._assembled(b"".join(self.stored), raw)

    def _assembled(self, chunks: bytes, raw: bytes) -> bytes:
        deflated = zlib.compress(raw, 1)
        return layout.header(deflated, 0, len(raw), layout.HEADER_SIZE + len(chunks)) + chunks + deflated


def read(data: bytes, decoder: native.Decoder) -> tuple[str, bytes | None]:
    """What became of an archive: the error's text, and the model if there was none."""
    try:
        with Archive(data, decoder=decoder) as archive:
            said = ""
            for tensor in archive.tensors:
                try:
                    archive.array(tensor)
                except BadModel as e:
                    said = str(e)
            return said, archive.read()
    except (BadModel, BadData) as e:
        return str(e), None


def decoded(stored: bytes, decoder: native.Decoder) -> bytes | None:
    """The elements of a coded array, or None where the decoder refuses it."""
    try:
        width = read_header(memoryview(stored))[0]
        parts = []
        for slab, elements in slabs(memoryview(stored)):
            parts.append(np.empty(elements, f"<u{width}"))
            decoder(slab, parts[-1])
    except BadData:
        return None
    return b"".join(part.tobytes() for part in parts)


def run(cases: int, decoder: native.Decoder, seed: int = 0) -> Counter:
    """Read that many mutated archives; the kinds of errors and how often each came. Raises AssertionError."""
    rng = np.random.default_rng(seed)
    original = model()
    with TemporaryDirectory() as folder:
        pack(original, Path(folder) / "a.onnxz")
        sound = Sound((Path(folder) / "a.onnxz").read_bytes())
    assert read(sound.data, decoder) == ("", original)
    raw = sound.directory.to_bytes()
    said: Counter = Counter()
    for case in range(cases):
        kind = case % 4
        stored = b""
        if kind < 2:
            data = damage(rng, sound.data)
        elif kind == 2:
            number = int(rng.integers(0, len(sound.stored)))
            stored = damage(rng, sound.stored[number])
            data = sound.with_chunk(number, stored)
        else:
            data = sound.with_directory(damage(rng, raw))
        began = time.perf_counter()
        text, got = read(data, decoder)
        assert time.perf_counter() - began < SECONDS, f"case {case} takes too long"
        assert "\n" not in text, text
        assert got is None or got == original or kind == 3, f"case {case}: other bytes, and no error"
        assert decoded(stored, decoder) == decoded(stored, native.numpy_decoder), f"case {case}: NumPy disagrees"
        said[re.sub(r"^.*?damaged: |, (expected|found).*|; .*| of .*do not| \(.*", "", text) or "no error"] += 1
    return said


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    chosen = native.load(Path(sys.argv[2])) if len(sys.argv) > 2 else native.decoder()
    with Path("/proc/self/statm").open() as statm:
        room = int(statm.read().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kinds = run(wanted, chosen)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    for text, times in kinds.most_common():
        sys.stdout.write(f"{times:7d}  {text}\n")
    sys.stdout.write(f"{wanted} archives; memory grew by {grown:.0f} MiB\n")
    assert grown < 512, "memory is not bounded"
