"""Read mutated archives, arrays, manifests and recipes in this process: each is taken or gives one clear error.

Usage: inputs.py [CASES [SEED [KIND...]]]: so many of each kind (manifest, recipe, arrays, archive); 0 CASES: until it is
stopped. The mutations know the structure: values of JSON and TOML change places or become odd ones, headers of arrays lie,
members of zip files are renamed, then bytes are damaged. A failure names the kind and the case, which `inputs.py` with that
seed makes again. All runs within MEMORY more than it began with.
"""

from __future__ import annotations

import io
import json
import re
import resource
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import mutate

from onnxc.coding import native
from onnxc.ir.errors import OnnxcError
from onnxc.recipe import read_toml
from onnxc.runtime.data import open_data
from onnxc.runtime.library import read_manifest
from onnxc.runtime.specs import TensorSpec

SECONDS = 10.0
"""No input of this size may take longer, whatever else the machine does."""
MEMORY = 2 << 30
"""Bytes of address space that reading may take."""
ODD = [
    *(None, True, -1, 0, 1, 2**31, 2**63, -(2**70), 1e308, 0.5, "", "x", "../x", "/etc/passwd", "a:b", "os:system", "\x1b[2J"),
    *("\ud800", [], {}, [[]], {"": {}}, ["a"] * 3, "float32", "<f4", "|O", "9" * 5000, "libx.so", [2**40, 2**40], [1] * 200),
]  # fmt: skip
INPUTS = {"x": TensorSpec(dtype=np.dtype(np.float32), shape=(None, 3))}
MANIFEST = {
    "format": 1, "name": "net", "library": "libnet.so", "arena_bytes": 4096, "threads": 1, "target": "native", "toolchain": "cc",
    "needs": ["avx2"], "weights": {"raw": True}, "inputs": [{"name": "x", "dtype": "float32", "shape": [1, 3]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": [1, 3]}], "digest": "00",
}  # fmt: skip
RECIPE = {
    "data": "d.npz", "seed": 0, "check": "data",
    "pass": [{"name": "prune", "ratio": 0.3}, {"name": "fuse"}, {"name": "quant", "bits": 8}, {"name": "lowrank", "skip": ["a"]}],
}  # fmt: skip


def changed(rng: np.random.Generator, value: object) -> object:
    """A tree of JSON with one place in it changed: replaced, taken out, doubled, renamed, or put in deeper."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
        places = list(value) if isinstance(value, dict) else list(range(len(value)))
        place = places[int(rng.integers(len(places)))]
        made = value.copy()
        match int(rng.integers(6)):
            case 0:
                del made[place]
            case 1 if isinstance(made, list):
                made.insert(0, made[place])
            case 1:
                made[str(ODD[int(rng.integers(10, 17))])] = made.pop(place)
            case _:
                made[place] = changed(rng, made[place])
        return made
    if rng.random() < 0.1:
        for _ in range(int(rng.choice((1, 50, 5000)))):
            value = [value]
        return value
    return ODD[int(rng.integers(len(ODD)))]


def toml(value: object) -> str:
    """A value as TOML writes it, or nearly: what TOML has no words for is left as JSON has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def tree(rng: np.random.Generator, start: object) -> object:
    """`start` with one to three places changed."""
    for _ in range(int(rng.integers(1, 4))):
        start = changed(rng, start)
    return start


def bytes_of(rng: np.random.Generator, write: Callable[[], str]) -> bytes:
    """A text, in some cases with damaged bytes."""
    try:
        data = write().encode("utf-8", "surrogatepass")
    except RecursionError:  # deeper than Python writes
        data = b"[" * 20_000
    return mutate.damage(rng, data) if rng.random() < 0.3 else data


def read_a_manifest(rng: np.random.Generator, folder: Path) -> None:
    made = tree(rng, MANIFEST)
    (folder / "manifest.json").write_bytes(bytes_of(rng, lambda: json.dumps(made)))
    read_manifest(folder)


def read_a_recipe(rng: np.random.Generator, folder: Path) -> None:
    made = tree(rng, RECIPE)

    def write() -> str:
        if not isinstance(made, dict):
            return toml(made)
        return "\n".join(f"{json.dumps(str(k))} = {toml(v)}" for k, v in made.items())

    (folder / "r.toml").write_bytes(bytes_of(rng, write))
    read_toml(folder / "r.toml")


def array_file(rng: np.random.Generator) -> bytes:
    """An .npy file whose header may lie."""
    buffer = io.BytesIO()
    np.save(buffer, np.arange(12, dtype=np.float32).reshape(4, 3))
    data = buffer.getvalue()
    if rng.random() < 0.7:
        header = {"descr": "<f4", "fortran_order": False, "shape": (4, 3)}
        key = ("descr", "fortran_order", "shape")[int(rng.integers(3))]
        odd = ODD[int(rng.integers(len(ODD)))]
        header[key] = tuple(odd) if isinstance(odd, list) and key == "shape" else odd
        text = repr(header).encode("utf-8", "surrogatepass")[:60_000] + b"\n"
        data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data[-48:]
    return mutate.damage(rng, data) if rng.random() < 0.4 else data


def read_arrays(rng: np.random.Generator, folder: Path) -> None:
    if rng.random() < 0.3:
        (folder / "x.npy").write_bytes(array_file(rng))
        source = folder
    else:
        source = folder / "d.npz"
        kind = zipfile.ZIP_DEFLATED if rng.random() < 0.5 else zipfile.ZIP_STORED
        with zipfile.ZipFile(source, "w", kind) as archive:
            for name in ("x.npy", ("labels.npy", "x", "../x.npy", "x\x1b.npy")[int(rng.integers(4))]):
                archive.writestr(name, array_file(rng))
        if rng.random() < 0.5:
            source.write_bytes(mutate.damage(rng, source.read_bytes()))
    for _ in open_data(source, INPUTS).batches(2):
        pass


KINDS = {"manifest": read_a_manifest, "recipe": read_a_recipe, "arrays": read_arrays}
ARCHIVE = "archive"


def run(kind: str, cases: int, seed: int = 0) -> Counter:
    """Read that many mutated inputs of one kind; what was said and how often. Raises AssertionError, or what reading raised."""
    said: Counter = Counter()
    with TemporaryDirectory() as name:
        for case in range(cases):
            rng = np.random.default_rng((seed, case))
            began = time.process_time()
            try:
                KINDS[kind](rng, Path(name))
                text = "no error"
            except OnnxcError as e:
                text = str(e)
            except Exception as e:
                raise AssertionError(f"{kind} {case} of seed {seed}: {type(e).__name__}: {e}") from e
            assert time.process_time() - began < SECONDS, f"{kind} {case} of seed {seed} takes too long"
            assert text.isprintable(), f"{kind} {case} of seed {seed}: {text!r}"
            said[re.sub(r"\S*/\S*|, (expected|found).*|; .*|\d+", "", text)[:70]] += 1
    return said


def main(cases: int = 100_000, seed: int = 0, *kinds: str) -> None:
    """These kinds (or all); for ever where `cases` is 0."""
    kinds = kinds or (*KINDS, ARCHIVE)
    with Path("/proc/self/statm").open() as statm:
        room = int(statm.read().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    while True:
        for kind in kinds:
            read = (
                mutate.run(cases or 10_000, native.decoder(), seed)
                if kind == ARCHIVE
                else run(kind, cases or 10_000, seed)
            )
            sys.stdout.write(
                f"{kind}: {sum(read.values())} cases, {read['no error']} taken, {len(read)} kinds of errors\n"
            )
            sys.stdout.flush()
        sys.stdout.write(f"seed {seed}; at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB\n")
        sys.stdout.flush()
        if cases:
            return
        seed += 1


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), *sys.argv[3:])
