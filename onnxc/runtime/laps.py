"""Loads a library that `onnxc compile --profile` has made beside the other one, and says how long each of its calls took."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.errors import BadOption
from . import library

FOLDER = "profile"


class TimedLibrary(library.Library):
    """A Library with a clock between its calls. One thread may run it at a time."""

    def __init__(self, path: str | os.PathLike, threads: int | None = None):
        """Loads the folder that `onnxc compile --profile` wrote. Raises BadOption where it was compiled without, and as Library."""
        folder = (Path(path) if Path(path).is_dir() else Path(path).parent) / FOLDER
        if not (folder / "manifest.json").exists():
            raise BadOption(
                f"{path} has no timed library", remedy="compile the model with --profile, or give the model instead"
            )
        super().__init__(folder, threads)
        manifest, beside = library.read_manifest(folder), library.read_manifest(folder.parent)
        if library.interface_digest(manifest) != library.interface_digest(beside):
            raise BadOption(
                f"{folder} is of another library", expected=beside["name"], found=manifest["name"],
                remedy="compile the model with --profile",
            )  # fmt: skip
        self.calls: list[list[dict[str, Any]]] = manifest.get("calls", [])
        self.machines: list[str] = manifest.get("target", "").split("/")
        function = getattr(self._library, f"{self.name}_laps")
        function.restype, function.argtypes = ctypes.POINTER(ctypes.c_uint64), ()
        self._stamps = function()

    def rows(self, inputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """What each call is that runs for these inputs on this machine (`onnxc.codegen.layers.CallRow`)."""
        machines, machine = self.machines, 0
        if len(machines) > 1:
            which = getattr(self._library, f"{self.name}_machine")
            which.restype, which.argtypes = ctypes.c_char_p, (ctypes.c_void_p,)
            machine = machines.index(which(self.handle()).decode())
        return self.calls[machine * len(self.shapes) + library.shape_number(self.shapes, dict(inputs))]

    def laps(self, calls: int) -> np.ndarray:
        """float64 (calls,): seconds of each call of the last run."""
        stamps = np.ctypeslib.as_array(self._stamps, (calls + 1,))
        return np.diff(stamps.astype(np.int64)) / 1e9
