"""From programs and weights to files: C sources, one object each, shared and static library, header, example.

Everything is made with relative names inside one folder, so that no path enters a library.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from threading import Lock

from onnxc.codegen.c import example as cexample
from onnxc.codegen.c import source as csource
from onnxc.codegen.c.archive import put_last
from onnxc.codegen.c.elf import grown, growth
from onnxc.codegen.c.header import Interface, header, internal, tensor_bytes
from onnxc.codegen.c.rounds import spare_bytes
from onnxc.codegen.c.source import MICRO_FILES, Layout, head_bytes
from onnxc.codegen.memory.arena import ALIGN, aligned
from onnxc.codegen.memory.contract import check_plan
from onnxc.codegen.memory.flash import flash_bytes
from onnxc.codegen.memory.weights import Weights
from onnxc.codegen.program import Program
from onnxc.codegen.target import Target
from onnxc.coding.native import SCRATCH
from onnxc.ir.errors import MissingTool, Unsupported
from onnxc.runtime.program import build_program, run_tool
from onnxc.runtime.toolchain import Linker, Toolchain

MICRO_ALIGN = 16  # no vector is longer on a processor without an operating system
LARGE = 1 << 24  # bytes of weights
PIECE = 1 << 24
FAR = 1 << 30  # bytes of weights from which they are kept apart from what code addresses with 32 bits
LAST = (".lrodata", "al")
MARK = hashlib.sha512(b"weights").digest()
SHORT = "short"  # a folder: weights without their zeros, which stand for them in an archive until it is whole
C_DIR = Path(__file__).parents[2] / "runtime" / "c"
WARNINGS = ("-Wall", "-Wextra", "-Werror")
_MAKING = Lock()
PARTS = "parts"  # a folder, and names with a dash: a model may be called decode, pool or weights
_FILES = {
    "decode": ("decode.c", "decode.h", "planes.h", "adaptive.h", "bytes.h"),
    "pool": ("pool.c", "pool.h"),
    "micro": MICRO_FILES,
}
# Names of the parts, which a library bears under its own name: two libraries in one program share nothing.
_SYMBOLS = {
    "decode": ("onnxc_decode", "onnxc_decode_slab"),
    "pool": ("onnxc_pool_start", "onnxc_pool_share", "onnxc_pool_stop"),
}


def object_name(part: str) -> str:
    """The object file of a part of a library, in the folder where it is built."""
    return f"{PARTS}/onnxc-{part}.o"


def _short() -> str:
    return f"{PARTS}/{SHORT}/{Path(object_name('weights')).name}"


def lay_out_arena(programs: Sequence[Program], weights: Weights, threads: int, inside: bool = False) -> Layout:
    """Settles the plans in one arena, which holds inputs and outputs too if `inside`.

    Scratch memory is needed before the first run only, so buffers may lie over it."""
    decoded = head_bytes(threads)
    buffers = decoded + weights.decoded_bytes
    for program in programs:
        if inside:
            ends = (program.static.inputs, program.static.outputs)
            program.plan.take_ends(*([tensor_bytes(t) for t in side] for side in ends))
        _settle(program, buffers, len(weights.spots))
    scratch = aligned(SCRATCH) if weights.segments else 0
    total = buffers + max(scratch, *(program.plan.arena for program in programs))
    first, last = programs[0].plan.ends
    return Layout(decoded, buffers, total, (tuple(first), tuple(last)))


def _settle(program: Program, start: int, weights: int) -> None:
    """Settles the plan of a program from byte `start` on; those of bodies in the workspace of the call that they belong to."""
    align = MICRO_ALIGN if program.target.micro else ALIGN
    workspaces = {name: function.workspace for name, function in program.compiled.items()}
    for name, nested in program.regions.items():
        for body in nested.bodies:
            body.compiled, body.text = program.compiled, program.text
            _settle(body, 0, weights)
        workspaces[name] = aligned(max(body.plan.arena for body in nested.bodies)) + spare_bytes(nested)
    over = {name: call.over for name, call in program.micro.items()}
    program.plan.settle(workspaces, start, over, align)
    static = program.static
    check_plan(program.plan, len(static.inputs), len(static.outputs), weights, start)


def write_sources(
    work: Path,
    face: Interface,
    programs: Sequence[Program],
    weights: Weights,
    layout: Layout,
    targets: Sequence[Target],
    timed: bool = False,
) -> None:
    """Writes C sources, weights, header and example into `work`. `timed`: as `c.source.source` has it.

    Raises Unsupported for more weights than code of the target can address."""
    name, toolchain = face.name, targets[0].toolchain
    if weights.flash_bytes > toolchain.reach:
        raise Unsupported(
            f"code for {toolchain.name} cannot address these weights", expected=f"at most {toolchain.reach} bytes",
            found=f"{weights.flash_bytes} bytes", remedy="store them shorter (-p quant), or take --weights coded",
        )  # fmt: skip
    far = _far(weights, toolchain)
    texts = {
        f"{name}.h": header(face),
        f"{name}.c": csource.source(face, programs, weights, layout, targets, timed, bool(far)),
        "weights.S": csource.weights_source(name, "weights.bin", toolchain.name, _zeros(weights), far),
        "exports.map": csource.exports(face, timed),
        "example/main.c": cexample.main_source(face),
        "example/CMakeLists.txt": cexample.cmake(face, toolchain),
    }
    if toolchain.bare:
        texts |= {"example/startup.c": cexample.STARTUP, "example/board.ld": cexample.board(toolchain)}
    (work / "example").mkdir()
    for file, text in texts.items():
        (work / file).write_text(text, encoding="ascii")
    micro = ["micro"] if any(program.micro for program in programs) else []
    for part in (*own_parts(face, weights), *micro):
        for file in _FILES[part]:
            shutil.copy(C_DIR / file, work / PARTS)
    with open(work / "weights.bin", "wb") as out:
        for chunk in weights.chunks() if not _zeros(weights) else [MARK]:
            out.write(chunk)


def _far(weights: Weights, toolchain: Toolchain) -> tuple[str, str] | None:
    """The section of weights that code reaches by a pointer only, None where they lie with all other constants. One that linkers
    put behind all others is taken for all large weights, as a library can grow by them there."""
    return toolchain.far if weights.flash_bytes >= FAR or (toolchain.far == LAST and _zeros(weights)) else None


def _zeros(weights: Weights) -> int:
    """Bytes of large weights for which zeros stand until they are put into their object: an assembler holds all that it reads."""
    return weights.flash_bytes - len(MARK) if weights.flash_bytes >= LARGE else 0


def _marks(file: Path) -> list[int]:
    """Where MARK stands in a file, which is read in pieces."""
    found, at, kept = [], 0, b""
    with open(file, "rb") as stream:
        while piece := stream.read(1 << 20):
            held = kept + piece
            start = held.find(MARK)
            while start >= 0:
                found.append(at - len(kept) + start)
                start = held.find(MARK, start + 1)
            at, kept = at + len(piece), held[1 - len(MARK) :]
    return found


def _fill(file: Path, at: int, weights: Weights) -> None:
    """Puts the weights into a file from byte `at` on."""
    with open(file, "r+b") as out:
        out.seek(at)
        for chunk in weights.chunks():
            out.write(chunk)


def _whole_object(work: Path, weights: Weights, assemble: Callable[[str, str], None]) -> None:
    """Makes the object of the weights in `work`, of that of a mark if it can grow. Raises MissingTool where the mark does not stand
    once in what is assembled else."""
    file = work / object_name("weights")
    with _MAKING:  # both libraries may want it at once
        if file.exists() or grown(work / _short(), file, MARK, weights.flash_bytes, weights.chunks()):
            return
        assemble("weights.S", object_name("weights"))
        marks = _marks(file)
        if len(marks) != 1:
            raise MissingTool("the assembler does not write data as they are", remedy="use GNU as or LLVM's")
        _fill(file, marks[0], weights)


def _archived(archive: Path, short: Path, weights: Weights) -> bool:
    """Puts the object of the weights in place of that of a mark, the last one of an archive. False where either is of another kind."""
    ends = growth(short.read_bytes(), MARK, weights.flash_bytes)
    if ends is None:
        return False
    size = sum(map(len, ends)) + weights.flash_bytes
    return put_last(archive, short.name, size, chain(ends[:1], weights.chunks(), ends[1:]))


def flash_of(work: Path, parts: Sequence[str], weights: Weights) -> int | None:
    """`flash_bytes` of the objects `parts` in `work`, of which that of the weights need not be there."""
    whole = object_name("weights")
    here = [_short() if part == whole and not (work / part).exists() else part for part in parts]
    found = flash_bytes(work / part for part in here)
    return found if found is None or here == list(parts) else found + weights.flash_bytes - len(MARK)


def _linked(work: Path, name: str, weights: Weights, command: list[str], objects: list[str]) -> bool:
    """Links the shared library with a mark in the place of its weights, which it then grows by. False where it cannot."""
    swapped = [_short() if one == object_name("weights") else one for one in objects]
    run_tool([*command, *swapped, "-lm", "-o", f"lib{name}.so"], work)
    file = work / f"lib{name}.so"
    return grown(file, file, MARK, weights.flash_bytes, weights.chunks())


def _linked_in_pieces(
    work: Path,
    name: str,
    weights: Weights,
    command: list[str],
    objects: list[str],
    assemble: Callable[[str, str], None],
) -> bool:
    """Links the shared library with zeros in pieces, as a linker holds the largest section, and puts the weights in.

    False where the pieces do not lie one after the other: then they have to be linked as they are.
    """
    assemble("pieces.S", object_name("pieces"))
    swapped = [object_name("pieces") if one == object_name("weights") else one for one in objects]
    run_tool([*command, *swapped, "-lm", "-o", f"lib{name}.so"], work)
    marks = _marks(work / f"lib{name}.so")
    if len(marks) != 2 or marks[1] - marks[0] != weights.flash_bytes - len(MARK):
        return False
    _fill(work / f"lib{name}.so", marks[0], weights)
    return True


def _at_once(*jobs: Callable[[], object]) -> None:
    """Does jobs side by side, as they wait for tools; raises what the first of them raises, in their order."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()


def own_parts(face: Interface, weights: Weights) -> tuple[str, ...]:
    """The parts of runtime/c that a library takes in as objects of their own."""
    return (*(["decode"] if weights.segments else []), *(["pool"] if face.threads > 1 else []))


def _mark_sources(work: Path, name: str, toolchain: Toolchain, weights: Weights, pieces: bool) -> None:
    """Assembler in `work` in which a mark stands for the weights, alone and, for `pieces`, ahead of zeros."""
    far = _far(weights, toolchain)
    texts = {"short.S": csource.weights_source(name, "weights.bin", toolchain.name, far=far)}
    if pieces:
        texts["pieces.S"] = csource.pieces_source(name, "weights.bin", _zeros(weights) - len(MARK), PIECE, far)
    for file, text in texts.items():
        (work / file).write_text(text, encoding="ascii")
    (work / _short()).parent.mkdir(exist_ok=True)


def link(
    work: Path,
    name: str,
    toolchain: Toolchain,
    linker: Linker,
    kernels: list[str],
    weights: Weights,
    parts: Sequence[str],
    small: bool = False,
) -> list[str]:
    """Makes the libraries in `work` from its sources and the objects `kernels`. Returns their names, the one to load first.
    `small`: code of few bytes rather than fast.

    Raises Unsupported where the kernels need a function that libc and libm lack, MissingTool for any other failure.
    """
    cc = linker.command()
    flags = ["-std=c99", "-Os" if small else "-O2", "-g0", *(["-fPIC"] if "so" in toolchain.libraries else [])]
    flags += ["-fno-schedule-insns"] if toolchain.bare else []  # it moves loads ahead of the registers that there are
    threads = ["-pthread"] if "pool" in parts else []
    own = [f"-D{symbol}={symbol.replace('onnxc', internal(name), 1)}" for part in parts for symbol in _SYMBOLS[part]]
    pieces = bool(_zeros(weights)) and weights.flash_bytes >= 2 * len(MARK) and "so" in toolchain.libraries
    compiled = {f"{name}.o": [*flags, *WARNINGS, "-c", f"{name}.c"]}
    compiled |= {object_name(part): [*flags, "-c", f"{PARTS}/{part}.c"] for part in parts}

    def assemble(source: str, made: str) -> None:
        run_tool([*cc, "-c", source, "-o", made], work)

    large = bool(_zeros(weights))
    if large:
        _mark_sources(work, name, toolchain, weights, pieces)
    _at_once(
        *(partial(run_tool, [*cc, *given, *threads, *own, "-o", made], work) for made, given in compiled.items()),
        partial(assemble, *(("short.S", _short()) if large else ("weights.S", object_name("weights")))),
    )
    whole = partial(_whole_object, work, weights, assemble)
    grows = large and growth((work / _short()).read_bytes(), MARK, weights.flash_bytes) is not None
    if large and not (grows and _far(weights, toolchain) == LAST):
        whole()
    objects = [*kernels, *compiled, object_name("weights")]

    def shared() -> None:
        options = ["-shared", "-s", "-Wl,--build-id=none", "-Wl,-z,defs", "-Wl,-z,noexecstack", *threads]
        command = [*cc, *options, "-Wl,--version-script=exports.map"]
        if large and _far(weights, toolchain) == LAST and _linked(work, name, weights, command, objects):
            return
        if not (pieces and _linked_in_pieces(work, name, weights, command, objects, assemble)):
            if large:
                whole()
            run_tool([*command, *objects, "-lm", "-o", f"lib{name}.so"], work)

    def static() -> None:
        archive = [*linker.archiver(), "rcsD", f"lib{name}.a"]
        if _zeros(weights):
            run_tool([*archive, *objects[:-1], _short()], work)
            if _archived(work / f"lib{name}.a", work / _short(), weights):
                return
            (work / f"lib{name}.a").unlink()
            whole()
        run_tool([*archive, *objects], work)

    both = {f"lib{name}.so": shared, f"lib{name}.a": static}
    made = [file for file in both if file.endswith(".a") or "so" in toolchain.libraries]
    _at_once(*(both[file] for file in made))
    return made


def check_static(work: Path, name: str, toolchain: Toolchain, program: bool) -> list[str]:
    """Links the example program; its name if it is wanted. Where there is no shared library this shows missing functions.

    A program that does not fit the example's board is no reason to refuse a library: then only `program` raises.
    """
    file = f"run_{name}{toolchain.suffix}"
    if not program and "so" in toolchain.libraries:
        return []
    try:
        build_program(work, name, toolchain, work / file)
    except MissingTool:
        if program:
            raise
    return [file] if program else []
