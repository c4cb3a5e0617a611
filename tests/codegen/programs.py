"""Models lowered many at a time into one object file, and run from their plans: all of the road but the C around it."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import onnx

from onnxc.codegen.c.function import compile_functions
from onnxc.codegen.prepare.static import make_static
from onnxc.codegen.program import Program, lower_program
from onnxc.codegen.target import Target, resolve
from onnxc.ir.errors import OnnxcError
from onnxc.runtime.elements import PACKED, dtype_of, packed, stored, unpacked

from .bulk import aligned


class Programs:
    """`add` lowers a model and answers its refusal, if there is one; `build` compiles all of them; `run` runs one."""

    def __init__(self, folder: Path, target: Target | None = None):
        self.folder, self.target = Path(folder), target or resolve("native")
        self.made: dict[str, Program] = {}
        self.index: dict[str, bool] = {}

    def add(self, name: str, model: onnx.ModelProto, shapes=None) -> OnnxcError | None:
        """Lowers a model under a name of its own."""
        try:
            self.made[name] = lower_program(make_static(model, shapes), self.target, 1, f"p{len(self.made)}")
        except OnnxcError as error:
            return error
        return None

    def build(self) -> None:
        """Compiles what was added."""
        bodies = {name: body for made in self.made.values() for name, body in made.bodies.items()}
        if not bodies:
            return
        path = self.folder / f"programs{id(self)}.o"
        self.functions = compile_functions(bodies, self.target, 1, path)
        library = path.with_suffix(".so")
        subprocess.run(["gcc", "-shared", "-o", library, path, "-lm"], check=True)
        self.library = ctypes.CDLL(str(library))

    def run(self, name: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of a program; `index[name]` says whether it has met an index out of range. Raises AssertionError where
        a kernel writes past the end of a tensor."""
        made = self.made[name]
        guard = 64
        outputs = [_guarded(*stored(shape, dtype), guard) for _, shape, dtype in made.static.outputs]
        inputs = [
            aligned(packed(np.ascontiguousarray(feeds[key], dtype_of(dtype)))) for key, _, dtype in made.static.inputs
        ]
        buffers = [aligned(np.full(size + guard, 0xA5, np.uint8)) for size in made.plan.buffers]
        weights = [aligned(np.ascontiguousarray(array)) for array in made.plan.weights]
        held = {"input": inputs, "buffer": buffers, "weight": weights, "output": [raw for raw, _ in outputs]}

        def at(place) -> np.ndarray:
            return held[place.space][place.offset]

        for function, places in made.plan.calls:
            need = self.functions[function].workspace
            scratch = [aligned(np.zeros(need, np.uint8))] if need else []
            pointers = [ctypes.c_void_p(a.ctypes.data) for a in [*map(at, places), *scratch]]
            getattr(self.library, function)(*pointers)
        for number, place, size in made.plan.copies:
            outputs[number][0][:size] = at(place).reshape(-1).view(np.uint8)[:size]
        for raw, size in [(raw, raw.size - guard) for raw, _ in outputs] + [(b, b.size - guard) for b in buffers]:
            assert (raw[size:] == 0xA5).all(), f"{name}: written past the end"
        self.index[name] = any(int(at(flag).reshape(-1).view(np.int32)[0]) for flag in made.plan.flags)
        return {
            key: unpacked(view, shape, dtype_of(dtype)) if dtype in PACKED else view.view(dtype_of(dtype)).copy()
            for (key, shape, dtype), (_, view) in zip(made.static.outputs, outputs, strict=True)
        }


def _guarded(shape: tuple[int, ...], dtype: str, guard: int) -> tuple[np.ndarray, np.ndarray]:
    """A tensor's bytes with `guard` more behind them, and the tensor as a view of the first."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    raw = aligned(np.full(size + guard, 0xA5, np.uint8))
    return raw, raw[:size].view(kind).reshape(shape)
