"""A candidate's library: what it takes of a machine, and its files, so that none is compiled twice."""

from __future__ import annotations

import base64
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..ir.errors import OnnxcError
from ..ir.model import Model

_COMPILING = threading.Lock()
"""TVM compiles one model at a time in a process."""
NAME = "model"


def compiled(model: Model, target: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """flash: code and constants; ram: arena, inputs and outputs, as `onnxc compile --flash --ram` counts them; library: its files by
    their place, as base64. Integers go in and out where the model quantises them. Where there is no library, refused says why."""
    from ..codegen import compile_model
    from ..codegen.target import resolve

    with _COMPILING, tempfile.TemporaryDirectory(prefix="onnxc-") as folder:
        try:
            io = "int8" if resolve(target).toolchain.bare and _has_integer_ends(model) else "float"
            done = compile_model(model, folder, name=NAME, target=target, shapes=dict(shapes), check="shapes", io=io)
        except OnnxcError as error:
            return {"flash": float("inf"), "ram": float("inf"), "refused": str(error)}
        sizes = done.to_dict()  # WebAssembly has no flash
        size = sizes["flash_bytes"] or sizes["library_bytes"]
        files = {str(p.relative_to(folder)): p for p in sorted(Path(folder).rglob("*")) if p.is_file()}
        return {
            "flash": float(size),
            "ram": float(done.arena_bytes + done.io_bytes),
            "ram_parts": {"io": done.io_bytes, "at": max(done.ram, key=lambda row: row[1])[0] if done.ram else ""},
            "library": {name: base64.b64encode(p.read_bytes()).decode() for name, p in files.items()},
        }


def _has_integer_ends(model: Model) -> bool:
    from ..codegen.prepare.ends import integer_ends

    try:
        integer_ends(model.to_proto())
    except OnnxcError:
        return False
    return True


def library_files(result: Mapping[str, Any]) -> dict[str, Iterator[bytes]]:
    """Place -> content of the files of a candidate's library, for `write_several`."""
    return {place: map(base64.b64decode, [text]) for place, text in result["library"].items()}
