"""compile_model: an ONNX model in, a shared library with header and manifest out."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from onnxc.codegen.account import calls_of, ram_at_calls, stored_bytes
from onnxc.codegen.blame import tied
from onnxc.codegen.c.build import (
    MICRO_ALIGN,
    PARTS,
    check_static,
    flash_of,
    lay_out_arena,
    link,
    object_name,
    own_parts,
    write_sources,
)
from onnxc.codegen.c.emit import PACKAGES, write_c, write_package
from onnxc.codegen.c.header import Interface, internal
from onnxc.codegen.c.names import check_name
from onnxc.codegen.c.pick import by_demand
from onnxc.codegen.c.source import Layout
from onnxc.codegen.c.timed import TIMED, check_timed, timed_files, write_timed
from onnxc.codegen.c.wheel import check_wheel, wheels_in, write_wheel
from onnxc.codegen.candidates import Picks
from onnxc.codegen.door import Optimise, Shapes, Source
from onnxc.codegen.manifest import check_types, lengths_of, manifest_of, tensors_of, write_manifest
from onnxc.codegen.memory.arena import ALIGN
from onnxc.codegen.memory.spill import trim
from onnxc.codegen.memory.weights import Weights, gather, lay_out
from onnxc.codegen.prepare.ends import Scaled, integer_ends, quantised_data
from onnxc.codegen.prepare.record import StaticModel
from onnxc.codegen.prepare.static import make_static
from onnxc.codegen.program import Program, compile_program, lower_shapes
from onnxc.codegen.proof import Proof, prove
from onnxc.codegen.target import Target, resolve
from onnxc.coding.array import encode
from onnxc.ir import temporary
from onnxc.ir.errors import BadModel, BadOption, Unsupported
from onnxc.ir.files import load
from onnxc.ir.model import Model
from onnxc.ir.staging import put, staging
from onnxc.runtime.library import Library, interface_digest, read_manifest

MOST_THREADS = 64  # ONNXC_POOL_MOST of runtime/c/pool.h


@dataclass(frozen=True)
class CompileReport:
    """What a compilation did.

    `kernels`: a row per convolution or matrix product (node, spec, macs, kernel, schedule, function, refused), and with
    several shapes or instruction sets their `program`. `fallbacks`: a row per function that TVM's own legalisation made
    (function, calls). `live_bytes` is what tensors and workspaces take at the busiest call, which no arena can undercut;
    `weights_bytes` what the library holds. Bytes are bytes; `seconds` wall time. `wheel` is the path of the pip package, if
    there is one. `stored_bytes` are of `weights` as kernels read them, and of `tables`: biases, factors and what else is constant.
    `flash_bytes` is code and constants without the C library (None for WebAssembly), `io_bytes` inputs and outputs, `ram` the
    function and the bytes that live for each call of the program that needs most. Rows of `kernels` have the bytes of their
    constants as `flash`. `calls`: for processors without an operating system, of each call of that program its nodes, schedule,
    multiply-adds (`macs`), predicted `cycles`, bytes of constants (`flash`) and live bytes (`ram`).
    `most`: how long data can make what nodes make, at which kernels compute it, and `shorter` what a user can do about it.
    `proof` is what was compared with ONNX Runtime (`onnxc.codegen.proof.Proof`; 0 samples for nothing).
    """

    name: str
    target: str
    library: str
    header: str
    manifest: str
    kernels: tuple[dict, ...]
    fallbacks: tuple[dict, ...]
    arena_bytes: int
    live_bytes: int
    weights_bytes: int
    library_bytes: int
    seconds: float
    wheel: str = ""
    proof: dict = field(default_factory=dict)
    stored_bytes: dict = field(default_factory=dict)
    flash_bytes: int | None = None
    io_bytes: int = 0
    ram: tuple[tuple[str, int], ...] = ()
    calls: tuple[dict, ...] = ()
    most: dict[str, int] = field(default_factory=dict)
    shorter: str = ""

    def to_dict(self) -> dict:
        """The report as JSON types."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}


def compile_model(
    model,
    out_dir: str | os.PathLike,
    *,
    name: str,
    target: str = "native",
    shapes: Shapes | Sequence[Shapes] | None = None,
    threads: int = 1,
    weights: str = "raw",
    program: bool = False,
    wheel: bool = False,
    io: str = "float",
    emit: str = "",
    package: str = "",
    code: str = "speed",
    buffers: str = "caller",
    check: str = "data",
    data=None,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
    optimise: Optimise | None = None,
    timed: bool = False,
    picks: Picks | None = None,
) -> CompileReport:
    """Compiles a model into `out_dir`: `lib<name>.so`, `lib<name>.a`, `<name>.h`, `manifest.json`, `example/`.

    `model` is an onnx.ModelProto, a Model, or anything whose `to_proto()` returns a ModelProto. `optimise(model, shapes)`
    makes the model that is compiled of it, for each set of shapes (`onnxc.compiling` has that of clean and fuse); the library
    is compared with the model as it came. `shapes` gives static shapes of
    inputs with symbolic dimensions; a symbolic first dimension is 1 unless given. A list of such makes a library for all
    of them, and targets joined by "/" one that picks its instruction set at init. `threads` is the most that a handle may
    have. `weights` "coded" entropy-codes them; init decodes. `program` makes a static command-line program too, `wheel` a
    pip package. `io` "int8" makes the integers the inputs and outputs where the model begins and ends with quantisers
    (`onnxc.codegen.prepare.ends`). `emit` "c" writes the C sources of a library without kernels of TVM into `c/`, `package`
    a package of them into a folder of its name (`onnxc.codegen.c.emit.PACKAGES`). `code` "size" makes C code of few bytes for
    processors without an operating system. `buffers` "arena" gives inputs and outputs places in the arena, which other tensors
    take before and after. `check` "data" runs the library beside ONNX
    Runtime before it is put to its place, on `data` (whatever `onnxc.runtime.data.open_data` takes) or inputs drawn by `seed`;
    "shapes" compares types and shapes only. `timed` writes a second library into `profile/` whose calls are timed
    (`onnxc.codegen.c.timed`); `picks` are kernels that were measured, for layers (`onnxc.codegen.candidates`).
    `progress(stage, share)` is told of each stage. The folder appears whole, or is exchanged for the
    old one, at the end (`onnxc.ir.staging`); files in it that are none of a library's stay.

    Raises BadOption (name, shapes, target, threads), Unsupported (an operator, threads without an operating system),
    MissingTool (TVM or the C compiler), VerificationError (the library computes something else; nothing is written).
    Two runs give the same bytes.
    """
    started = time.perf_counter()
    tell = progress or (lambda stage, share: None)
    wanted = _Wanted(
        name, target, threads, weights, program, wheel, emit, package, code, buffers, timed=timed, picks=picks
    )
    if io not in ("float", "int8"):
        raise BadOption("there are no such inputs and outputs", expected="float or int8", found=io)
    if check not in ("data", "shapes"):
        raise BadOption("there is no such check", expected="data or shapes", found=check)
    wanted.check()
    tell("preparing the model", 0.0)
    source = Source.of(model, optimise)
    if io == "int8":
        changed, wanted.ends = integer_ends(source.proto)
        if data is not None and check == "data":
            data = quantised_data(source.proto, data, wanted.ends, shapes, seed)
        source = source.part(changed)
    statics, out, proof = _statics(source, shapes), Path(out_dir), Proof()
    with staging(out) as stage:
        work, done = stage / "work", stage / "done"
        work.mkdir()
        given = [{name: shape for name, shape, _ in static.inputs} for static in statics]
        with tied(source, given, partial(_objects, wanted, source)):
            made = _make(source, statics, wanted, work, tell)
        if check == "data":
            tell("running beside ONNX Runtime", 0.95)
            proof = prove(work, source.beside, partial(_again, wanted, source), wanted.targets, data, seed)
        _collect(work, done, [*made.folders, *made.files, f"{name}.h", "manifest.json"])
        put(done, out, old=_files_of(out, name), last="manifest.json")
    tell("done", 1.0)
    return CompileReport(
        name, target, str(out / made.files[0]), str(out / f"{name}.h"), str(out / "manifest.json"), made.kernels,
        tuple(row for one in made.programs for row in one.fallbacks), made.arena_bytes,
        max(one.plan.live for one in made.programs), made.weights_bytes, (out / made.files[0]).stat().st_size,
        time.perf_counter() - started, str(out / made.files[-1]) if wheel else "", proof.to_dict(), stored_bytes(made.programs),
        made.flash_bytes, made.io_bytes, ram_at_calls(made.programs), calls_of(made.programs), statics[0].most, statics[0].shorter,
    )  # fmt: skip


@dataclass
class _Wanted:
    """The options of a library; those of `compile_model`. `ends`: what integers at its ends stand for."""

    name: str
    target: str
    threads: int
    weights: str
    program: bool
    wheel: bool
    emit: str = ""
    package: str = ""
    code: str = "speed"
    buffers: str = "caller"
    ends: dict[str, Scaled] = field(default_factory=dict)
    timed: bool = False
    picks: Picks | None = None

    @property
    def targets(self) -> list[Target]:
        c = bool(self.emit or self.package)
        coded, small = self.weights == "coded", self.code == "size"
        parts = [resolve(part) for part in self.target.split("/")]
        return by_demand([replace(part, compact=coded, small=small, portable=c) for part in parts])

    def check(self) -> None:
        """Raises BadOption, Unsupported, MissingTool, before any work is done."""
        first = self.targets[0]
        if self.emit not in ("", "c"):
            raise BadOption("there are no such sources", expected="c", found=self.emit)
        if self.package not in ("", *PACKAGES):
            raise BadOption("there is no such package", expected=", ".join(PACKAGES), found=self.package)
        allowed = {"code": ("speed", "size"), "buffers": ("caller", "arena")}
        for name, values in allowed.items():
            if (found := getattr(self, name)) not in values:
                raise BadOption(f"{name} does not fit", expected=" or ".join(values), found=found)
        what = "C sources" if self.emit or self.package else "code of few bytes" if self.code == "size" else ""
        if what and not first.micro:
            raise Unsupported(f"{what} for {first.name}", remedy="take one without an operating system: cortex-m4, say")
        _check_options(self.name, self.threads, self.weights, first)
        if self.timed:
            check_timed(self.targets)
        if self.wheel:
            check_wheel(first.toolchain, self.name)
        first.toolchain.linker()


@dataclass(frozen=True)
class _Made:
    """A library in the folder where it was built: its files but the header, the first the one to load."""

    files: list[str]
    folders: list[str]
    programs: list[Program]
    kernels: tuple[dict, ...]
    arena_bytes: int
    weights_bytes: int
    flash_bytes: int | None
    io_bytes: int


def _make(
    source: Source,
    statics: list[StaticModel],
    wanted: _Wanted,
    work: Path,
    tell: Callable[[str, float], None],
) -> _Made:
    """Builds a library in `work`: lower, plan, compile, link, describe."""
    name, threads, targets = wanted.name, wanted.threads, wanted.targets
    toolchain = targets[0].toolchain
    tell("choosing kernels", 0.2)
    programs, stored = _lower(statics, wanted)
    kernels, model = _kernels(programs), source.digest()
    tell("compiling kernels", 0.55)
    objects = [object_name(f"kernels{i}") for i, made in enumerate(programs)]
    (work / PARTS).mkdir()
    for made, file in zip(programs, objects):
        compile_program(made, threads, work / file)
    objects = [file for file in objects if (work / file).exists()]
    tell("linking", 0.9)
    inside = wanted.buffers == "arena"
    if inside and len(programs) > 1:
        raise Unsupported("inputs in the arena, with several shapes or instruction sets", remedy="take one of them")
    layout = lay_out_arena(programs, stored, threads, inside)
    both = tuple((tuple(static.inputs), tuple(static.outputs)) for static in statics)
    lengths = lengths_of(statics)
    mark = interface_digest(tensors_of(name, both, wanted.ends, lengths) | {"model_sha256": model})
    ends = tuple((key, end.scale, end.zero) for key, end in wanted.ends.items())
    face = Interface(
        name, both, layout.total, threads, tuple(goal.name for goal in targets), mark, ends, layout.ends, tuple(lengths.items()),
    )  # fmt: skip
    write_sources(work, face, programs, stored, layout, targets)
    folders = _write_c(work, face, programs, stored, layout, wanted) if wanted.emit or wanted.package else []
    folders += [TIMED] if wanted.timed else []
    trim()
    libraries = link(
        work, name, toolchain, toolchain.linker(), objects, stored, own_parts(face, stored), targets[0].small
    )
    extras = check_static(work, name, toolchain, wanted.program)
    manifest = manifest_of(face, targets, libraries, kernels, model, wanted.weights)
    manifest["program"] = extras[0] if wanted.program else None
    write_manifest(work, manifest)
    if wanted.timed:
        write_timed(work, face, programs, stored, layout, targets, objects, manifest)
    extras += [write_wheel(work, face, toolchain, model)] if wanted.wheel else []
    parts = [*objects, f"{name}.o", *(object_name(part) for part in ("weights", *own_parts(face, stored)))]
    flash = flash_of(work, parts, stored)
    sides = () if inside else enumerate((face.inputs, face.outputs))
    tensors = [face.most_bytes(side, i) for side, rows in sides for i in range(len(rows))]
    return _Made(
        [*libraries, *extras], folders, programs, kernels, face.arena_bytes, stored.flash_bytes, flash, sum(tensors)
    )


def _write_c(
    work: Path, face: Interface, programs: list[Program], stored: Weights, layout: Layout, wanted: _Wanted
) -> list[str]:
    """C sources and package of a library, beside it in `work`: their folders."""
    write_c(work / "c", face, programs, stored, layout, wanted.targets)
    if wanted.package:
        write_package(wanted.package, work / "c", work / wanted.package, face, wanted.targets[0].small)
    return [*(["c"] if wanted.emit else []), *([wanted.package] if wanted.package else [])]


def _again(
    wanted: _Wanted, source: Source, proto: onnx.ModelProto, shapes: Sequence[Shapes], target: str | None, folder: Path
) -> None:
    """Builds another library in the same way, for the proof: of a part of the model, or for another target."""
    part = source.part(proto)
    options = replace(
        wanted, target=target or wanted.target, program=False, wheel=False, emit="", package="", timed=False
    )
    _make(part, _statics(part, shapes), options, folder, lambda stage, share: None)


def _objects(wanted: _Wanted, source: Source, proto: onnx.ModelProto, shapes: Sequence[Shapes]) -> None:
    """Compiles a part of the model as far as TVM is needed for it."""
    programs, _ = _lower(_statics(source.part(proto), shapes), replace(wanted, weights="raw"))
    with tempfile.TemporaryDirectory(prefix="onnxc-") as folder:
        for made in programs:
            compile_program(made, wanted.threads, Path(folder) / "part.o")


def _lower(statics: list[StaticModel], wanted: _Wanted) -> tuple[list[Program], Weights]:
    """A program for each shape within each target, and the weights that they share; the static models' constants are given up."""
    targets, name = wanted.targets, internal(wanted.name)
    programs: list[Program] = []
    for goal in targets:
        prefixes = [f"{name}_{len(programs) + i}" for i in range(len(statics))]
        programs += lower_shapes(statics, goal, wanted.threads, prefixes, wanted.timed, wanted.picks)
    for static in statics:
        static.forget()
    arrays, numbers = gather([made.arrays for made in programs])
    for made, own in zip(programs, numbers):
        made.renumber(own, arrays)
    align = MICRO_ALIGN if targets[0].micro else ALIGN
    return programs, lay_out(arrays, encode if wanted.weights == "coded" else None, align)


def _statics(source: Source, shapes: Shapes | Sequence[Shapes] | None) -> list[StaticModel]:
    """A static model for each of the shapes. Raises BadOption where two of them are the same."""
    wanted = [shapes] if shapes is None or isinstance(shapes, Mapping) else list(shapes)
    if not wanted:
        raise BadOption("there is no shape to compile for", remedy="give one, or leave shapes out")
    statics = [make_static(lean.proto, one, lean.arrays) for one in wanted for lean in [source.lean(one)]]
    for static in statics:
        check_types(static)
    for i, static in enumerate(statics):
        if any(static.inputs == other.inputs for other in statics[:i]):
            text = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape, _ in static.inputs)
            raise BadOption("two shapes of the library are the same", found=text)
    return statics


def _kernels(programs: list[Program]) -> tuple[dict, ...]:
    """The kernels of all programs; with several, each row says of which."""
    if len(programs) == 1:
        return programs[0].kernels
    rows = []
    for made in programs:
        text = ", ".join("x".join(map(str, shape)) for _, shape, _ in made.static.inputs)
        rows += [row | {"program": f"{made.target.name} {text}"} for row in made.kernels]
    return tuple(rows)


def compile(
    model,
    out: str | os.PathLike | None = None,
    *,
    name: str = "model",
    target: str = "native",
    shapes: Shapes | Sequence[Shapes] | None = None,
    threads: int = 1,
    weights: str = "raw",
    check: str = "data",
    data=None,
    optimise: Optimise | None = None,
) -> Library:
    """Compiles a model for this machine and loads it: NumPy in, NumPy out.

        library = onnxc.compile(model)
        logits = library(image=batch)["logits"]

    `model` is a path, bytes, a ModelProto, a gs.Graph or a Model. The files stay in `out` if it is given. The other
    options and the errors are those of `compile_model`, and BadModel for a model that cannot be read or a library
    that this machine cannot load.
    """
    source = model if isinstance(model, Model) else load(model)
    options: dict[str, Any] = {"name": name, "target": target, "shapes": shapes, "threads": threads, "weights": weights}
    options |= {"check": check, "data": data, "optimise": optimise}
    if out is not None:
        compile_model(source, out, **options)
        return Library(out)
    # a loaded library needs its file no longer
    with temporary.folder(Path(tempfile.gettempdir()), "library") as folder:
        compile_model(source, folder, **options)
        return Library(folder)


def _collect(work: Path, done: Path, files: list[str]) -> None:
    """Moves what a user gets of the folder of a build into the new folder `done`."""
    done.mkdir()
    os.replace(work / "example", done / "example")
    for file in files:
        os.replace(work / file, done / file)


def _files_of(out: Path, name: str) -> list[str]:
    """What a library `name` leaves in `out`, if that holds libraries: the next one takes its place.

    Files of a library of another name stay, but for manifest and example, of which a folder has one.
    """
    try:
        read_manifest(out)
    except BadModel:
        return []
    example = [f"example/{file}" for file in ("main.c", "CMakeLists.txt", "startup.c", "board.ld")]
    programs = [f"run_{name}{suffix}" for suffix in ("", ".elf", ".wasm")]
    timed = [f"{TIMED}/{file}" for file in timed_files(name)]
    return [
        "manifest.json",
        *timed,
        *example,
        f"lib{name}.so",
        f"lib{name}.a",
        f"{name}.h",
        *programs,
        *wheels_in(out, name),
    ]


def _check_options(name: str, threads: int, weights: str, goal: Target) -> None:
    check_name(name)
    if weights not in ("raw", "coded"):
        raise BadOption("there are no such weights", expected="raw or coded", found=weights)
    if not 1 <= threads <= MOST_THREADS:
        raise BadOption("threads do not fit", expected=f"1 to {MOST_THREADS}", found=threads)
    if threads > 1 and not goal.toolchain.machine:
        raise Unsupported(f"{threads} threads on {goal.name}, which has none", remedy="use threads=1")
