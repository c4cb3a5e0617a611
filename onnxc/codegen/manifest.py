"""What a manifest says of a library: names, shapes, types, machines, layers; docs/libraries.md explains the fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxc import __version__
from onnxc.codegen.c.header import C_TYPES, Interface, tensor_bytes
from onnxc.codegen.prepare.ends import Scaled
from onnxc.codegen.prepare.record import StaticModel
from onnxc.codegen.target import Target
from onnxc.ir.errors import Unsupported
from onnxc.ir.escape import json_text
from onnxc.runtime import library


def check_types(static: StaticModel) -> None:
    """Raises Unsupported for inputs or outputs that a C interface, and so a manifest, has no names or types for."""
    for tensors in (static.inputs, static.outputs):
        names = [name for name, _, _ in tensors]
        for name in names:
            if names.count(name) > 1:
                raise Unsupported("two tensors of a C interface with one name", tensor=name, remedy="name one anew")
    for name, _, dtype in [*static.inputs, *static.outputs]:
        if dtype not in C_TYPES:
            raise Unsupported(f"element type {dtype} in a C interface", tensor=name, remedy="cast it to float32")


def lengths_of(statics: Sequence[StaticModel]) -> dict[str, str]:
    """By the names of outputs whose lengths data decide: the output that holds their extents. Raises Unsupported where that is so in
    some shapes of a library only."""
    for static in statics[1:]:
        if static.lengths != statics[0].lengths:
            raise Unsupported(
                "outputs whose lengths data decide in some of the shapes and not in others",
                tensor=next(iter({**static.lengths, **statics[0].lengths})), remedy="make a library for each shape",
            )  # fmt: skip
    return dict(statics[0].lengths)


def tensors_of(name: str, shapes: tuple, ends: Mapping[str, Scaled], lengths: Mapping[str, str]) -> dict:
    """What a manifest says of names, shapes and types; `shapes`: (inputs, outputs) for each shape of the library. `lengths` names for
    outputs whose lengths data decide the output that holds their extents."""

    def rows(tensors: tuple) -> list[dict]:
        return [{"name": n, "shape": list(shape), "dtype": dtype, "bytes": tensor_bytes((n, shape, dtype))}
                | ({"scale": ends[n].scale, "zero_point": ends[n].zero} if n in ends else {})
                | ({"lengths": lengths[n]} if n in lengths else {})
                for n, shape, dtype in tensors]  # fmt: skip

    several = [{"inputs": rows(inputs), "outputs": rows(outputs)} for inputs, outputs in shapes]
    return {"name": name, **several[0], "shapes": several}


def manifest_of(
    face: Interface, targets: list[Target], libraries: list[str], kernels: tuple[dict, ...], source: str, weights: str
) -> dict:
    """What a program has to know of a library; docs/libraries.md explains the fields."""
    goal, tensors = (
        targets[0],
        tensors_of(
            face.name, face.shapes, {name: Scaled(scale, zero) for name, scale, zero in face.ends}, dict(face.lengths)
        ),
    )
    keys = ("node", "spec", "macs", "schedule", "program")
    return {
        "format": 1,
        "onnxc": __version__,
        "name": tensors["name"],
        "library": libraries[0],
        "libraries": libraries,
        "header": f"{face.name}.h",
        "target": "/".join(face.machines),
        "toolchain": goal.arch,
        "needs": list(goal.needs),
        "cpu": dict(goal.tvm).get("mcpu"),
        "weights": weights,
        "threads": face.threads,
        "arena_bytes": face.arena_bytes,
        "model_sha256": source,
        "inputs": tensors["inputs"],
        "outputs": tensors["outputs"],
        "shapes": tensors["shapes"],
        "kernels": [{key: row[key] for key in keys if key in row} for row in kernels],
    }


def write_manifest(folder: Path, manifest: dict) -> None:
    """Writes manifest.json. Raises Unsupported where it would be larger than what is read again: names can be of any length."""
    text = json_text(manifest) + "\n"
    if len(text) > library.MANIFEST_BYTES:
        raise Unsupported(
            "the model's names make its manifest too large", expected=f"at most {library.MANIFEST_BYTES} bytes",
            found=f"{len(text)} bytes", remedy="give its nodes and tensors shorter names",
        )  # fmt: skip
    (folder / "manifest.json").write_text(text, encoding="ascii")
