"""compile_model: an ONNX model in, a shared library with header and manifest out."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxc import __version__
from onnxc.codegen import csource
from onnxc.codegen.build import check_static, lay_out_arena, link, write_sources
from onnxc.codegen.kernels import generic
from onnxc.codegen.lower import lower
from onnxc.codegen.plan import Plan, make_plan
from onnxc.codegen.static import StaticModel, make_static
from onnxc.codegen.target import Target, resolve
from onnxc.codegen.tvm_api import compile_functions, finish, name_of, tvm_modules
from onnxc.codegen.weights import lay_out
from onnxc.coding.array import encode
from onnxc.ir.errors import BadOption, Unsupported
from onnxc.ir.model import Model, load
from onnxc.runtime.library import Library


@dataclass(frozen=True)
class CompileReport:
    """What a compilation did.

    `kernels`: a row per convolution or matrix product (node, spec, macs, kernel, schedule, function,
    refused). `fallbacks`: a row
    per function that TVM's own legalisation made (function, calls). `live_bytes` is what tensors and workspaces take at the
    busiest call, which no arena can undercut; `weights_bytes` what the library holds. Bytes are bytes; `seconds` wall time.
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

    def to_dict(self) -> dict:
        """The report as JSON types."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}


def compile_model(
    model_proto,
    out_dir: str | os.PathLike,
    *,
    name: str,
    target: str = "native",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    threads: int = 1,
    weights: str = "raw",
    program: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> CompileReport:
    """Compiles a model into `out_dir`: `lib<name>.so`, `lib<name>.a`, `<name>.h`, `manifest.json`, `example/`.

    `model_proto` is an onnx.ModelProto, or anything whose `to_proto()` returns one. `shapes` gives static shapes of
    inputs with symbolic dimensions; a symbolic first dimension is 1 unless given. `weights` "coded" entropy-codes them;
    init decodes. `program` makes a static command-line program too. `progress(stage, share)` is told of each stage.
    Files are written beside their places and renamed, the manifest last.

    Raises BadOption (name, shapes, target), Unsupported (an operator, more than one thread), MissingTool (TVM or the C
    compiler). Two runs give the same bytes.
    """
    started = time.perf_counter()
    tell = progress or (lambda stage, share: None)
    _check_options(name, threads, weights)
    goal = resolve(target)
    linker = goal.toolchain.linker()
    tell("shapes", 0.0)
    proto = model_proto.to_proto() if hasattr(model_proto, "to_proto") else model_proto
    if not isinstance(proto, onnx.ModelProto):
        raise BadOption("compile_model takes a ModelProto or a Model", found=type(model_proto).__name__)
    static = make_static(proto, shapes)
    _check_types(static)
    tell("lower", 0.1)
    lowered = lower(static, goal)
    module = finish(lowered.module, goal)
    plan = make_plan(module["main"], lowered.inputs, lowered.arrays)
    functions = _functions(module, plan, name, goal)
    stored = lay_out(plan.weights, encode if weights == "coded" else None)
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=out) as folder:
        tell("kernels", 0.3)
        work = Path(folder)
        workspaces = compile_functions(functions, goal, work / "kernels.o")
        tell("link", 0.8)
        layout = lay_out_arena(plan, workspaces, stored)
        face = write_sources(work, name, static, plan, stored, layout, goal)
        libraries = link(work, name, goal, linker, bool(stored.segments))
        programs = check_static(work, name, goal, program)
        manifest = _manifest(face, goal, libraries, lowered.kernels, digest(proto), weights)
        (work / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        _move(work, out, [*libraries, *programs, f"{name}.h"])
    tell("done", 1.0)
    files = [libraries[0], f"{name}.h", "manifest.json"]
    library, header, manifest_path = (out / file for file in files)
    return CompileReport(
        name, target, str(library), str(header), str(manifest_path), tuple(lowered.kernels),
        tuple(_fallbacks(plan, name)), face.arena_bytes, plan.live, stored.flash_bytes, library.stat().st_size,
        time.perf_counter() - started,
    )  # fmt: skip


def compile(
    model,
    out: str | os.PathLike | None = None,
    *,
    name: str = "model",
    target: str = "native",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    threads: int = 1,
) -> Library:
    """Compiles a model for this machine and loads it: NumPy in, NumPy out.

        library = onnxc.compile(model)
        logits = library(image=batch)["logits"]

    `model` is a path, bytes, a ModelProto, a gs.Graph or a Model. The files stay in `out` if it is given. The other
    options and the errors are those of `compile_model`, and BadModel for a model that cannot be read or a library
    that this machine cannot load.
    """
    source = model if isinstance(model, Model) else load(model)
    if out is not None:
        compile_model(source, out, name=name, target=target, shapes=shapes, threads=threads)
        return Library(out)
    with tempfile.TemporaryDirectory(prefix="onnxc-") as folder:  # a loaded library needs its file no longer
        compile_model(source, folder, name=name, target=target, shapes=shapes, threads=threads)
        return Library(folder)


def _move(work: Path, out: Path, files: list[str]) -> None:
    """Puts the files in their places, the manifest last."""
    (out / "example").mkdir(exist_ok=True)
    for path in sorted((work / "example").iterdir()):
        os.replace(path, out / "example" / path.name)
    for file in [*files, "manifest.json"]:
        os.replace(work / file, out / file)


def digest(proto: onnx.ModelProto) -> str:
    """SHA-256 in hexadecimal of what a model computes, part by part: a whole model may be too large to serialise."""
    found = hashlib.sha256()
    graph = proto.graph
    for parts in (proto.opset_import, proto.functions, graph.input, graph.output, graph.node, graph.initializer):
        for part in parts:
            found.update(hashlib.sha256(part.SerializeToString(deterministic=True)).digest())
    return found.hexdigest()


def _check_options(name: str, threads: int, weights: str) -> None:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise BadOption(f"{name!r} cannot name a C library", remedy="use letters, digits and underscores")
    if weights not in ("raw", "coded"):
        raise BadOption("there are no such weights", expected="raw or coded", found=weights)
    if threads != 1:
        raise Unsupported(
            f"a library that runs one call on {threads} threads",
            remedy="use threads=1 and run several handles at once, one a thread",
        )


def _check_types(static: StaticModel) -> None:
    for name, _, dtype in [*static.inputs, *static.outputs]:
        if dtype not in csource.C_TYPES:
            raise Unsupported(f"element type {dtype} in a C interface", tensor=name, remedy="cast it to float32")


def _functions(module, plan: Plan, name: str, goal: Target) -> dict[str, object]:
    """The functions that the plan calls, under names that two libraries do not share; renames them in the plan."""
    prim = {name_of(var): f for var, f in module.functions_items() if isinstance(f, tvm_modules().tirx.PrimFunc)}
    wanted = {}
    for i, (function, places) in enumerate(plan.calls):
        wanted[f"{name}_{function}"] = prim[function]
        plan.calls[i] = (f"{name}_{function}", places)
    for function, body in wanted.items():
        if function.startswith(f"{name}_kernel"):
            continue
        text = body.script()
        if "call_packed" in text or "call_cpacked" in text:
            raise Unsupported(
                f"{function.removeprefix(name + '_')} needs TVM's runtime",
                remedy="compile the part of the model without this operator",
            )
        wanted[function] = generic.schedule(body, goal)
    return dict(sorted(wanted.items()))


def _fallbacks(plan: Plan, name: str) -> list[dict]:
    count = Counter(function.removeprefix(f"{name}_") for function, _ in plan.calls)
    return [{"function": f, "calls": n} for f, n in sorted(count.items()) if not re.fullmatch(r"kernel\d+", f)]


def _manifest(
    face: csource.Interface, goal: Target, libraries: list[str], kernels: list[dict], source: str, weights: str
) -> dict:
    """What a program has to know of a library; docs/libraries.md explains the fields."""

    def rows(tensors: tuple) -> list[dict]:
        return [{"name": n, "shape": list(shape), "dtype": dtype, "bytes": csource.tensor_bytes((n, shape, dtype))}
                for n, shape, dtype in tensors]  # fmt: skip

    return {
        "format": 1,
        "onnxc": __version__,
        "name": face.name,
        "library": libraries[0],
        "libraries": libraries,
        "header": f"{face.name}.h",
        "target": goal.name,
        "toolchain": goal.chain,
        "needs": list(goal.needs),
        "cpu": dict(goal.tvm).get("mcpu"),
        "weights": weights,
        "arena_bytes": face.arena_bytes,
        "model_sha256": source,
        "inputs": rows(face.inputs),
        "outputs": rows(face.outputs),
        "kernels": [{key: row[key] for key in ("node", "spec", "macs", "schedule")} for row in kernels],
    }
