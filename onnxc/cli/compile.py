"""`onnxc compile`: a model becomes a standalone C library; what was made of it, and which machines there are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.errors import BadOption, Unsupported
from ..ir.escape import readable
from ..ir.garbage import uncollected
from . import arguments
from . import compile_options as options
from . import profile as layers
from . import tune as tuning
from .options import DataOption, ProfileOption, TraceOption, WayOption, bar, colour, json_text, show
from .tables import Column, count, draw, plural, screen_width, seconds, size, some, wrap

if TYPE_CHECKING:
    from ..codegen import CompileReport
    from ..ir.model import Model

TARGETS = tuple(
    Column(name, number=False) for name in ("target", "machine", "lanes", "links by", "runs by", "to install")
)
COLUMNS = (
    Column("layer", number=False),
    Column("MACs"),
    Column("cycles"),
    Column("constants"),
    Column("schedule", number=False),
)

CALLS = (*COLUMNS[:3], Column("flash"), Column("RAM"), COLUMNS[-1])


def compile_(
    model: options.Model = None,
    out: options.Out = None,
    target: options.Target = "native",
    shape: options.Shapes = None,
    inputs: options.Inputs = None,
    until: options.Until = None,
    begin: options.Begin = None,
    weights: options.Weights = "raw",
    threads: options.Threads = 1,
    program: options.Program = False,
    wheel: options.Wheel = False,
    io: options.Io = "float",
    emit: options.Emit = "",
    package: options.Package = "",
    optimise: options.Optimise = "speed",
    buffers: options.Buffers = "caller",
    flash: options.Flash = None,
    ram: options.Ram = None,
    data: DataOption = None,
    check: options.Check = "data",
    seed: options.Seed = 0,
    tune: options.Tune = None,
    tune_cache: options.TuneCache = None,
    profile: ProfileOption = False,
    trace: TraceOption = None,
    report: options.Report = None,
    list_targets: options.ListTargets = False,
    verbose: WayOption = False,
    json: options.Json = False,
) -> None:
    """Compile a model to a standalone C library."""
    if list_targets:
        from ..codegen.target import list_targets as rows

        show(json_text({"targets": rows()}) if json else render_targets(rows(), colour=colour()))
        return
    model, out = arguments.wanted(model, "MODEL", "compile"), arguments.wanted(out, "-o DIR", "compile")
    shapes = arguments.shape_sets(shape)
    layers.check_files(profile, trace, report, micro=report is not None and _micro(target))
    tuning.check(tune, tune_cache, target)
    memories = {name: _memory(name, text) for name, text in (("flash", flash), ("ram", ram)) if text is not None}
    if Path(out).exists() and not Path(out).is_dir():
        raise BadOption(f"-o {out} is a file", expected="a folder")
    with uncollected():
        from ..codegen import compile_model
        from ..compiling import once, optimiser

    loaded, chosen, notes = _settled(model, begin or (), until or (), inputs, shapes, data, seed)
    road = once(optimiser(check, seed, notes.setdefault))
    settings: dict[str, Any] = {
        "target": target,
        "shapes": chosen,
        "threads": threads,
        "weights": weights,
        "io": io,
        "optimise": road,
    }
    with bar(1, lines=verbose) as step, _advised(loaded):
        tuned = None
        if tune is not None:
            from ..measure.learnt import Learnt
            from ..measure.tune import tuned as kernels

            tuned = kernels(loaded, tune, Learnt(tune_cache), settings, data=data, progress=step)
        done = compile_model(
            loaded,
            out,
            name=library_name(model),
            program=program,
            wheel=wheel,
            emit=emit,
            package=package,
            code=optimise,
            buffers=buffers,
            check=check,
            data=data,
            seed=seed,
            progress=step,
            timed=profile,
            picks=None if tuned is None else tuned.picks,
            **settings,
        )
    parts = [*(wrap(note, width=screen_width()) for note in notes), render(done, colour=colour(), memories=memories)]
    if report and not profile:
        parts.append(_page(done, report, memories))
    if tuned is not None:
        parts.append(tuning.render(tuned, colour=colour()))
    if profile:
        from ..measure.profile import measured

        found = measured(model, Path(out), loaded, optimise=optimiser("shapes"), threads=threads)
        layers.write(found, trace=trace, report=report)
        if json:
            show(json_text(found.to_dict()))
            return
        parts.append(layers.render(found, colour=colour()))
    show("\n\n".join(parts))


def _settled(
    path: str, begin: Sequence[str], until: Sequence[str], inputs: list[str] | None, shapes: list, data: Any, seed: int
) -> tuple[Model, list, dict[str, None]]:
    """The part of the model that is asked for, with its fixed inputs; the shapes of its libraries; and what is to be told of both."""
    with uncollected():
        from ..ir.part import part
        from ..measure.shapes import fixed, said, settled
        from ..pipeline import load, sound

    loaded = load(path)
    sound(loaded)
    loaded = fixed(part(loaded, begin, until), arguments.wishes(None, None, inputs))
    chosen = settled(loaded, shapes, data=data, seed=seed)
    return loaded, chosen, dict.fromkeys([*loaded.remarks, *said(loaded, shapes, chosen)])


def _page(done: CompileReport, file: str, memories: dict[str, int]) -> str:
    """Write the page of a report; what to say of it."""
    from ..ir.output import write_whole
    from .html import compile_page

    write_whole(Path(file), [compile_page(done, CALLS, call_cells(done), sums(done, memories)).encode()])
    return f"written: {file}"


@contextmanager
def _advised(model: Model) -> Iterator[None]:
    """A refusal of nodes says which part of the model can be compiled."""
    from ..ir.part import advice

    try:
        yield
    except Unsupported as e:
        ends = [n.name for n in model.nodes if any(t.name == e.tensor for t in (*n.inputs, *n.outputs))]
        found = advice(model, e.nodes or ([e.node] if e.node else ends if e.tensor else []))
        if found:
            kept = e.remedy if e.remedy and not e.remedy.startswith("compile the part") else None
            e.remedy = f"{kept}; or {found}" if kept else found
        raise


def _memory(name: str, text: str) -> int:
    """Bytes of `--flash` or `--ram`."""
    from ..codegen.memory.flash import extent

    found = extent(text)
    if found is None:
        raise BadOption(f"--{name} is no size of a memory", expected="256k, say: digits and k or M", found=text)
    return found


def library_name(path: str) -> str:
    """A name that C takes, from a file's: `my-net.v2.onnx` -> `my_net_v2`, `string.onnx` -> `m_string`, since C has string.h."""
    from ..codegen.c.names import taken

    stem = re.sub(r"\W+", "_", Path(path).stem, flags=re.ASCII).strip("_") or "model"
    return stem if stem[0].isalpha() and taken(stem) is None else f"m_{stem}"


def fits(report: CompileReport, memories: dict[str, int]) -> str:
    """Whether the library fits these memories, in a line, and what to do where it does not."""
    needs = {"flash": report.flash_bytes, "ram": report.arena_bytes + report.io_bytes}
    lines = []
    advice = {
        "flash": "take fewer bits (quant, cluster), prune, or hold weights --weights coded where there is RAM for them",
        "ram": "take --buffers arena, --io int8 where inputs are floats, smaller inputs, or narrower layers (prune)",
    }
    for name, given in memories.items():
        need = needs[name]
        if need is not None and need > given:
            lines.append(f"{need - given:,} bytes of {name} too many: {advice[name]}")
    text = ", ".join(f"{given // 1024} kB {name}" for name, given in memories.items())
    return f"fits {report.target}, {text}: " + ("no; " + "; ".join(lines) if lines else "yes")


def _micro(target: str) -> bool:
    from ..codegen.target import resolve

    return resolve(target.split("/")[0]).micro


def call_cells(report: CompileReport) -> list[list[str]]:
    """A row for each call, for a page."""
    cells = []
    for (function, _), row in zip(report.ram, report.calls, strict=True):
        work = (count(row[key]) if row[key] else "" for key in ("macs", "cycles"))
        name = layers.label(row["nodes"]) or function
        cells.append([name, *work, size(row["flash"]), size(row["ram"]), row["schedule"]])
    return cells


def memory_chart(report: CompileReport) -> str:
    """RAM over time: a bar for each call."""
    most = max((count for _, count in report.ram), default=0)
    if not most:
        return ""
    wide = max(len(name) for name, _ in report.ram)
    rows = [f"  {name:<{wide}}  {'█' * max(1, round(40 * n / most)) if n else ''} {size(n)}" for name, n in report.ram]
    return "RAM at each call\n" + "\n".join(rows)


def render(
    report: CompileReport, *, width: int | None = None, colour: bool = False, memories: dict[str, int] | None = None
) -> str:
    """The report as text: a row per kernel, what TVM's own operators did, sizes, and the files.

    On processors without an operating system, too: what layers take of flash, the RAM at each call, and whether all fits `memories`.
    """
    report = readable(report)
    width = width or screen_width()
    parts = []
    if report.kernels:
        rows = [
            [k["node"], count(k["macs"]), count(k["cycles"]), size(k.get("flash")), k["schedule"] or "none of ours"]
            for k in report.kernels
        ]
        parts.append(draw(COLUMNS, rows, width, colour))
    if report.fallbacks:
        parts.append(wrap(general_line(report), width=width))
    if grown := sum(k.get("grown", 0) for k in report.kernels):
        parts.append(
            wrap(
                f"Winograd's weights of 3 x 3 layers take {size(grown)} more; --weights coded does without", width=width
            )
        )
    if memories or _micro(report.target):
        parts.append(memory_chart(report))
    sizes = (
        f"library {size(report.library_bytes)}, weights {size(report.weights_bytes)}, arena {size(report.arena_bytes)}"
    )
    parts.append(f"{plural(len(report.kernels), 'kernel')} for {report.target} in {seconds(report.seconds)}; {sizes}")
    parts += [wrap(line, width=width) for line in sums(report, memories)]
    parts.append(
        "\n".join(
            f"written: {path}" for path in filter(None, (report.library, report.header, report.manifest, report.wheel))
        )
    )
    return "\n\n".join(parts)


def sums(report: CompileReport, memories: dict[str, int] | None = None) -> list[str]:
    """What the library takes in all, whether that fits `memories`, and what it was compared with: a paragraph each."""
    lines = []
    if report.flash_bytes is not None:
        need = report.arena_bytes + report.io_bytes
        flash = f"Flash {size(report.flash_bytes)} without the C library, RAM {size(need)} with inputs and outputs"
        least = f"; the arena can be no less than {size(report.live_bytes)}" if report.live_bytes else ""
        lines.append(f"{flash}{least}")
    if memories:
        lines.append(fits(report, memories))
    if waits := sum(k.get("waits", 0) for k in report.kernels):
        known = sum(k["cycles"] or 0 for k in report.kernels)
        lines.append(
            f"Of {count(round(known))} predicted cycles {count(round(waits))} wait for flash ({waits / known:.0%})"
        )
    lines += slower_line(report) + lengths_line(report)
    return [*lines, proof_line(report.proof)]


def lengths_line(report: CompileReport) -> list[str]:
    """How long data can make tensors, as kernels take as long as for the most."""
    if not report.most:
        return []
    rows = sorted(report.most.items(), key=lambda row: -row[1])
    text = some([f"{node} {most:,}" for node, most in rows], 3)
    more = f"; {report.shorter}" if report.shorter else ""
    return [f"Data decide how long tensors are, kernels compute the most that they can be: {text}{more}"]


def slower_line(report: CompileReport) -> list[str]:
    """Which few-bit layers will be slower than with 8 bits on a processor without an operating system, if any."""
    from ..codegen.micro.slower import slower
    from ..codegen.target import resolve

    found = slower(report.kernels, resolve(report.target.split("/")[0]))
    if not found:
        return []
    text = some([f"{layers.label([name])} {factor:.1f}x" for name, factor in found], 3)
    what = plural(len(found), "few-bit layer")
    told = "will take more instructions than with 8 bits here, but less flash (by measured layers"
    return [f"{what} {told}; where time counts take 8 bits in quant): {text}"]


def general_line(report: CompileReport) -> str:
    """What runs by the general schedule, the longest first, and its share of the predicted time."""
    known = sum(k["cycles"] or 0 for k in report.kernels)
    whole = known + sum(f.get("cycles", 0) for f in report.fallbacks)
    rows = sorted(report.fallbacks, key=lambda f: -f.get("cycles", 0))
    share = (whole - known) / whole if whole else 0.0
    text = ", ".join(f"{f['calls']} {_short(f['function'])} ({f.get('cycles', 0) / max(whole, 1):.0%})" for f in rows)
    return f"By the general schedule, {share:.0%} of the predicted time: {text}"


def _short(function: str) -> str:
    """The name of a function, those of many fused operators by their beginning."""
    return function if len(function) <= LONG else f"{function[:LONG]}…"


LONG = 48


def proof_line(proof: dict) -> str:
    """What the library was compared on, and how far it was off."""
    if not proof.get("samples"):
        return "Not run beside ONNX Runtime: only types and shapes were compared"
    within = f"within {proof['error']:.1e} of the largest value" if proof["error"] else "to the bit"
    text = f"Equal to ONNX Runtime {within}"
    if proof["steps"]:
        text += f", integers within {plural(proof['steps'], 'step')} ({proof['differing']:.2%} differ)"
    samples = plural(proof["samples"], "random sample" if proof["synthetic"] else "sample")
    if aside := proof.get("aside"):
        others = "another tells" if aside == 1 else f"{aside} others tell"
        samples += f" ({others} nothing: ONNX Runtime's own result hangs on a rounding)"
    return f"{text}: {samples} on {proof['where']}"


def render_targets(rows: list[dict], *, width: int | None = None, colour: bool = False) -> str:
    """A row a target: what it is, float32 lanes, by what it links and runs here, and what to install."""
    cells = [
        [r["name"], r["about"], str(r["lanes"]), r["links"] or "-", r["runs"] or "-", "; ".join(r["install"]) or "-"]
        for r in rows
    ]
    note = "More of a row: NAME,mcpu=CPU,mattr=+FEATURE:-FEATURE,lanes=N,registers=N; of flash,waits=N,fetch=BYTES,cache=BYTES,prefetch=1"
    return f"{draw(TARGETS, cells, width or screen_width(), colour)}\n\n{note}"
