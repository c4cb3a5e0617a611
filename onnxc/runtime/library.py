"""Loads a compiled library by ctypes: NumPy in, NumPy out. Needs NumPy alone, no TVM and no onnx.

This file, call.py, elements.py, toolchain.py and ir/errors.py go into the wheels of libraries as they stand: they import each other
relatively.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..ir.errors import BadData, BadModel, BadOption
from ..ir.escape import card
from .call import ALIGN, Call, Pool, Tensors, cut, empty_aligned, lengths_of, pointers
from .elements import PACKED, dtype_of, packed, stored, unpacked
from .toolchain import TOOLCHAINS, host_features

DTYPE = re.compile(r"bool|(bfloat|float|complex|int|uint)\d+(_e\w+)?")


class Library:
    """A compiled model.

        library = Library("build/resnet20")
        logits = library(image=batch)["logits"]

    `inputs` and `outputs` map names to (shape, dtype), in the first shape where the library takes several: `shapes` has them
    all, and a call picks by what it is given. Calls from several threads run at the same time, each on an arena of its
    own and with `threads` threads.

    `lengths` names for outputs whose lengths data decide the output that holds their extents: `outputs` has the most that they can
    be, calls return what there is of them, and no extents.
    """

    def __init__(self, path: str | os.PathLike, threads: int | None = None):
        """Loads a folder that `onnxc compile` wrote, or the .so in it; by default with all threads it was compiled for.

        Raises BadModel when the manifest or the library is missing, damaged, or not of this machine, BadOption for more
        threads than it was compiled for.
        """
        path = Path(path)
        manifest = read_manifest(path)
        self.name: str = manifest["name"]
        self.shapes = shapes_of(manifest)
        self.inputs, self.outputs = self.shapes[0]
        self.lengths = lengths_of(manifest)
        # of shapes whose tensors all lie as NumPy holds them
        self._plain = [not any(d.name in PACKED for _, d in (*i.values(), *o.values())) for i, o in self.shapes]
        self.threads = threads_of(manifest, threads)
        file = path if path.is_file() else path / manifest["library"]
        _check_machine(file, manifest)
        try:
            self._library = ctypes.CDLL(str(file.resolve()))
        except OSError as error:
            raise BadModel(
                f"cannot load {file.name}: {error}", remedy="compile the model again for this machine"
            ) from None
        self._bind(manifest)
        if self.arena_bytes != manifest["arena_bytes"]:
            raise BadModel(
                f"{file.name} and manifest.json disagree about the arena", expected=manifest["arena_bytes"],
                found=self.arena_bytes, remedy="compile the model again",
            )  # fmt: skip
        self._local = threading.local()

    def _repr_html_(self) -> str:
        rows = [(f"{kind} {name}", f"{dtype} {list(shape)}") for kind, found in (("input", self.inputs), ("output", self.outputs))
                for name, (shape, dtype) in found.items()]  # fmt: skip
        return card(
            f"library {self.name}", [*rows, ("arena", f"{self.arena_bytes:,} bytes"), ("threads", self.threads)]
        )

    def _bind(self, manifest: dict) -> None:
        def function(suffix: str, result, *arguments):
            try:
                found = getattr(self._library, f"{self.name}_{suffix}")
            except AttributeError:
                raise BadModel(f"the library has no {self.name}_{suffix}", remedy="compile the model again") from None
            found.restype, found.argtypes = result, arguments
            return found

        pointers = ctypes.POINTER(ctypes.c_void_p)
        check_digest(manifest, function("digest", ctypes.c_char_p)().decode("ascii", "replace"))
        self._init = function("init", ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
        self._run = function("run", ctypes.c_int, ctypes.c_void_p, pointers, pointers)
        self._free = function("free", ctypes.c_int, ctypes.c_void_p)
        if len(self.shapes) > 1:
            self._select = function("select", ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
        self._status = function("status_text", ctypes.c_char_p, ctypes.c_int)
        self.arena_bytes: int = function("arena_bytes", ctypes.c_size_t)()

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Runs the model on inputs given by name; see `run`."""
        return self.run(inputs)

    def run(self, inputs: Mapping[str, np.ndarray], out: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Runs the model. Arrays of the right type that are dense and aligned are not copied.

        `out` has an array for every output, which the library then writes into: dense, aligned to its element, and
        overlapping no other array. It is what is returned, an output of `lengths` as long as it can be with what counts
        first. Without it results are new arrays, or those of an earlier call
        of this thread that nobody holds any more, nor a view of them. A call with the very arrays of the one before allocates nothing.

        Raises BadData for a missing or unknown input or output, a wrong shape or a wrong dtype.
        """
        last: Call | None = getattr(self._local, "last", None)
        if last is None or last.process != os.getpid() or not last.same(inputs, out):
            return self._first(self.handle(), inputs, out)
        handle = last.handle
        if len(self.shapes) > 1:
            self._check(self._select(handle, last.number))
        if out is not None:
            self._check(self._run(handle, last.given, last.taken))
            return out
        results = self._pool(last.number).take()
        self._check(self._run(handle, last.given, results.pointers))
        return cut(results.arrays, self.lengths) if self.lengths else results.arrays.copy()

    def _pool(self, number: int) -> Pool:
        pools = self._local.pools
        if number not in pools:
            pools[number] = Pool(self.shapes[number][1])
        return pools[number]

    def _first(
        self, handle: int, inputs: Mapping[str, np.ndarray], out: dict[str, np.ndarray] | None
    ) -> dict[str, np.ndarray]:
        """`run` of arrays that were not those of the last call; the next one may be."""
        number = shape_number(self.shapes, inputs)
        specs, outputs = self.shapes[number]
        arrays = check_inputs(specs, inputs)
        plain = self._plain[number]
        if out is not None:
            results, taken = check_outputs(outputs, out), None
        elif plain:
            pool = self._pool(number).take()
            results, taken = pool.arrays.copy(), pool.pointers
        else:
            results, taken = {name: empty_aligned(shape, dtype) for name, (shape, dtype) in outputs.items()}, None
        if len(self.shapes) > 1:
            self._check(self._select(handle, number))
        given, bytes_of = arrays, list(results.values())
        if not plain:
            given = [packed(array) for array in arrays]
            bytes_of = [self._room(*outputs[name], array) for name, array in results.items()]
        ready, taken = pointers(given), taken or pointers(bytes_of)
        self._check(self._run(handle, ready, taken))
        for array, data in zip(results.values(), bytes_of, strict=True):
            if data is not array:
                array[...] = unpacked(data, array.shape, array.dtype)
        if plain and all(array is inputs[name] for name, array in zip(specs, arrays)):
            self._local.last = Call(handle, number, inputs, ready, out, taken)
        return cut(results, self.lengths) if self.lengths and out is None else results

    @staticmethod
    def _room(shape: tuple[int, ...], dtype: np.dtype, array: np.ndarray) -> np.ndarray:
        """Where the library writes an output: the array itself, or bytes that hold several elements each."""
        return empty_aligned(stored(shape, dtype.name)[0], np.dtype(np.uint8)) if dtype.name in PACKED else array

    def handle(self) -> int:
        """The handle of this thread, made at its first call, and anew in a forked process, which has no threads of it."""
        made = getattr(self._local, "handle", None)
        if made is None or made.process != os.getpid():
            arena = empty_aligned((self.arena_bytes,), np.dtype(np.uint8))
            self._check(self._init(arena.ctypes.data, self.threads))
            made = self._local.handle = _Handle(arena, self._free)
            self._local.pools = {}
        return made.address

    def _check(self, status: int) -> None:
        if status:
            raise BadData(f"library {self.name}: {self._status(status).decode()}")


class _Handle:
    """An arena in use. It is freed when its thread ends or nothing refers to its library any more."""

    def __init__(self, arena: np.ndarray, free):
        self.address: int = arena.ctypes.data
        self.process = os.getpid()
        weakref.finalize(self, _end, arena, free, self.process)


def _end(arena: np.ndarray, free, process: int) -> None:
    if os.getpid() == process:
        free(arena.ctypes.data)
    else:  # a forked process has the bytes and not the threads: no handle is to be seen here
        arena[:ALIGN] = 0


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def check_inputs(specs: Mapping[str, tuple], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The inputs in the order of `specs` (name -> (shape, dtype)), dense and aligned; copied only where they are not.

    Raises BadData for a missing or unknown input, a wrong shape or a wrong dtype.
    """
    unknown = sorted(set(inputs) - set(specs))
    if unknown:
        raise BadData(f"no input {unknown[0]!r}", expected=", ".join(specs))
    return [_take(name, inputs, *specs[name]) for name in specs]


def check_outputs(specs: Tensors, out: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of `out` in the order of `specs`, all fit to be written into. Raises BadData where one is not."""
    unknown = sorted(set(out) - set(specs))
    if unknown:
        raise BadData(f"no output {unknown[0]!r}", expected=", ".join(specs))
    for name, (shape, dtype) in specs.items():
        array = out.get(name)
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
            found = f"{array.dtype} {_text(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
            raise BadData("out does not fit", tensor=name, expected=f"{dtype} {_text(shape)}", found=found)
        flags = array.flags
        if not (flags.c_contiguous and flags.writeable and array.ctypes.data % dtype.itemsize == 0):
            raise BadData("out cannot be written into as it lies", tensor=name, expected="a dense, aligned array")
    return {name: out[name] for name in specs}


def _take(name: str, inputs: Mapping[str, np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if name not in inputs:
        raise BadData("an input is missing", tensor=name, expected=f"{dtype} {_text(shape)}")
    array = np.asarray(inputs[name])
    if array.dtype != dtype:
        raise BadData("wrong dtype", tensor=name, expected=dtype, found=array.dtype, remedy="use astype")
    if array.shape != shape:
        raise BadData("wrong shape", tensor=name, expected=_text(shape), found=_text(array.shape))
    if array.flags.c_contiguous and array.flags.aligned and array.ctypes.data % dtype.itemsize == 0:
        return array
    dense = empty_aligned(shape, dtype)
    dense[...] = array
    return dense


def interface_digest(manifest: dict) -> str:
    """SHA-256 in hexadecimal of what a library takes, gives and computes, by its manifest. The library holds the same."""

    def tensors(rows: list[dict]) -> list:
        return [[row["name"], list(row["shape"]), row["dtype"]] for row in rows]

    shapes = [[tensors(row["inputs"]), tensors(row["outputs"])] for row in manifest.get("shapes") or [manifest]]
    what = [manifest["name"], manifest.get("model_sha256"), shapes]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def check_digest(manifest: dict, found: str) -> None:
    """Raises BadModel where a manifest is not the one of the library that says `found`: then its shapes are not to be believed."""
    wanted = interface_digest(manifest)
    if found != wanted:
        raise BadModel(
            f"manifest.json is not the one of library {manifest['name']}", expected=f"digest {wanted[:12]}",
            found=found[:12], remedy="compile the model again",
        )  # fmt: skip


def shapes_of(manifest: dict) -> list[tuple[Tensors, Tensors]]:
    """(inputs, outputs), each name -> (shape, dtype), for each shape that a library takes."""

    def tensors(rows: list[dict]) -> Tensors:
        return {t["name"]: (tuple(t["shape"]), dtype_of(t["dtype"])) for t in rows}

    return [(tensors(row["inputs"]), tensors(row["outputs"])) for row in manifest.get("shapes") or [manifest]]


def threads_of(manifest: dict, wanted: int | None) -> int:
    """How many threads a handle gets: as many as `wanted`, by default all. Raises BadOption where the library has fewer."""
    most = manifest.get("threads", 1)
    if wanted is not None and not 1 <= wanted <= most:
        remedy = f"compile the model with --threads {wanted}" if wanted > most else None
        raise BadOption(
            f"library {manifest['name']} does not run on so many threads", expected=f"1 to {most}", found=wanted,
            remedy=remedy,
        )  # fmt: skip
    return most if wanted is None else wanted


def shape_number(shapes: list[tuple[Tensors, Tensors]], inputs: Mapping[str, np.ndarray]) -> int:
    """The number of the shape that `inputs` have; 0 where they lack something else. Raises BadData if there is none."""
    if len(shapes) == 1 or set(inputs) != set(shapes[0][0]):
        return 0
    for number, (specs, _) in enumerate(shapes):
        if all(np.shape(inputs[name]) == shape for name, (shape, _) in specs.items()):
            return number
    name = next(n for n, (shape, _) in shapes[0][0].items() if np.shape(inputs[n]) != shape)
    expected = " or ".join(dict.fromkeys(_text(specs[name][0]) for specs, _ in shapes))
    raise BadData("wrong shape", tensor=name, expected=expected, found=_text(np.shape(inputs[name])))


def _check_machine(file: Path, manifest: dict) -> None:
    """Refuses a library whose instructions this machine lacks: running it would end the process."""
    toolchain = TOOLCHAINS.get(manifest.get("toolchain", ""))
    if toolchain is None:
        return
    remedy = "run it in an emulator (onnxc run), or compile the model again for this machine"
    if not toolchain.native or file.suffix != ".so":
        raise BadModel(f"cannot load {file.name}: it is for {manifest.get('target')}", remedy=remedy)
    lacking = set(manifest.get("needs", ())) - host_features()
    if lacking:
        raise BadModel(f"cannot load {file.name}: this machine lacks {', '.join(sorted(lacking))}", remedy=remedy)


MANIFEST_BYTES = 1 << 26


def read_manifest(path: str | os.PathLike) -> dict:
    """The manifest of a folder that `onnxc compile` wrote, or of a library in it. Raises BadModel."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    path = folder / "manifest.json"
    try:
        with path.open("rb") as file:
            manifest = json.loads(file.read(MANIFEST_BYTES))
    except FileNotFoundError:
        raise BadModel(
            f"no manifest.json in {path.parent}", remedy="give the folder that onnxc compile wrote"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadModel(f"cannot read {path}: {error}", remedy="compile the model again") from None
    wanted = {"name", "library", "arena_bytes", "inputs", "outputs"}
    if not isinstance(manifest, dict) or manifest.get("format") != 1 or not wanted <= manifest.keys():
        raise BadModel(f"{path} is no manifest of a compiled library", remedy="compile the model again")
    wrong = _fault(manifest)
    if wrong:
        raise BadModel(f"{path} is damaged: {wrong}", remedy="compile the model again")
    return manifest


def _fault(manifest: dict) -> str:
    """What is wrong with a manifest's fields, all of which the caller believes to be of their type; "" for nothing."""
    name = manifest["name"]
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        return "name"
    if manifest["library"] not in (f"lib{name}.so", f"lib{name}.a"):  # never a file of another folder
        return "library"
    numbers = [manifest["arena_bytes"], manifest.get("threads", 1)]
    if not all(isinstance(number, int) and 0 < number < 1 << 62 for number in numbers):
        return "arena_bytes, threads"
    texts = [manifest.get(key, "") for key in ("target", "toolchain")]
    if not all(isinstance(text, str) for text in [*texts, *_list(manifest.get("needs", []))]):
        return "target, toolchain, needs"
    rows = manifest.get("shapes") or [manifest]
    if not all(isinstance(row, dict) and _good(row.get("inputs")) and _good(row.get("outputs")) for row in _list(rows)):
        return "shapes"
    return ""


def _list(value: object) -> list:
    return value if isinstance(value, list) else [None]


def _good(rows: object) -> bool:
    """Whether these are tensors: a name, extents, a dtype that NumPy has; no name twice."""
    for row in _list(rows):
        if (
            not isinstance(row, dict)
            or not isinstance(row.get("name"), str)
            or not DTYPE.fullmatch(str(row.get("dtype")))
        ):
            return False
        if not all(type(extent) is int and 0 <= extent < 1 << 48 for extent in _list(row.get("shape"))):
            return False
    names = [row["name"] for row in _list(rows)]
    return len(set(names)) == len(names) and all(row["lengths"] in names for row in _list(rows) if "lengths" in row)
