"""Kernels compiled many at a time into one library, called with NumPy arrays, and their NumPy twins."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from onnxc.codegen.c.function import compile_functions
from onnxc.codegen.kernels import choose, planes
from onnxc.codegen.kernels.spec import Encoding, KernelSpec, PackSpec
from onnxc.codegen.target import Target

LEVELS = ("bipolar", "unsigned", "signed")


def encodings(most: int) -> st.SearchStrategy[Encoding]:
    """Bits of every kind, up to `most` planes."""
    return st.builds(Encoding, st.just("bits"), st.integers(1, most), st.sampled_from(LEVELS))


def make(n=1, h=5, w=6, c=8, oc=8, k=(3, 3), stride=(1, 1), pads=(1, 1, 1, 1), dilation=(1, 1), groups=1, **more):
    """A spec with the shapes of its operands filled in; channels are those of one group."""
    spec = KernelSpec(
        n=n, h=h, w=w, c=c * groups, oc=oc * groups, kh=k[0], kw=k[1], stride=stride, pads=pads, dilation=dilation,
        groups=groups, x_shape=(n, h, w, c * groups), y_shape=(), **more,
    )  # fmt: skip
    return KernelSpec(**{**vars(spec), "y_shape": (n, spec.oh, spec.ow, oc * groups)})


@st.composite
def specs(draw) -> KernelSpec:
    """Few-bit convolutions of all sorts: tails of channels, odd extents, strides, dilations, groups, values of padding."""
    small = st.integers(1, 3)
    k, stride, dilation = ((draw(small), draw(small)) for _ in range(3))
    pads = tuple(draw(st.integers(0, 2)) for _ in range(4))
    h, w = ((k[i] - 1) * dilation[i] + draw(st.integers(1, 9)) for i in range(2))
    activation = draw(encodings(4))
    value = draw(st.sampled_from([0, activation.low, activation.high]))
    return make(
        draw(st.integers(1, 2)), h, w, draw(st.integers(1, 150)), draw(st.integers(1, 40)), k, stride, pads, dilation,
        draw(st.sampled_from([1, 1, 2, 3])), activation=activation, weight=draw(encodings(3)), pad_value=value,
    )  # fmt: skip


def integers(encoding: Encoding, shape: tuple[int, ...], rng) -> np.ndarray:
    """Random integers of an encoding."""
    codes = rng.integers(0, 1 << encoding.bits, shape)
    return 2 * codes + encoding.low if encoding.levels == "bipolar" else codes + encoding.low


def convolve(spec: KernelSpec, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The convolution of x (n, h, w, c) with w (oc, c/groups, kh, kw), in integers or doubles."""
    top, left, bottom, right = spec.pads
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=spec.pad_value)
    y = np.zeros((spec.n, spec.oh, spec.ow, spec.groups, spec.oc // spec.groups), np.result_type(x, np.int64))
    w = w.reshape(spec.groups, -1, *w.shape[1:])
    for i in range(spec.kh):
        for j in range(spec.kw):
            rows = i * spec.dilation[0] + np.arange(spec.oh) * spec.stride[0]
            columns = j * spec.dilation[1] + np.arange(spec.ow) * spec.stride[1]
            part = x[:, rows][:, :, columns].reshape(spec.n, spec.oh, spec.ow, spec.groups, -1)
            y += np.einsum("nhwgc,goc->nhwgo", part, w[..., i, j])
    return y.reshape(spec.n, spec.oh, spec.ow, spec.oc)


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy at a multiple of 64 bytes."""
    raw = np.zeros(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    made = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    made[...] = array
    return made


class Bulk:
    """A library of kernels for this machine."""

    def __init__(self, functions: dict, target: Target, folder: Path):
        made = compile_functions(functions, target, 1, folder / "kernels.o")
        self.workspaces = {name: function.workspace for name, function in made.items()}
        library = folder / f"kernels{id(functions)}.so"
        subprocess.run(["gcc", "-shared", "-o", library, folder / "kernels.o", "-lm"], check=True)
        self.library = ctypes.CDLL(str(library))

    def call(self, name: str, *arrays: np.ndarray) -> None:
        """Calls a kernel; the last array is its result, written in place."""
        held = [aligned(array) for array in arrays]
        scratch = [aligned(np.zeros(self.workspaces[name], np.uint8))] if self.workspaces[name] else []
        getattr(self.library, name)(*(ctypes.c_void_p(array.ctypes.data) for array in held + scratch))
        arrays[-1][...] = held[-1]


def check_integers(chosen: list[KernelSpec], target: Target, folder: Path, seed: int = 0) -> list[str]:
    """Compiles the kernels of few-bit specs and compares every number; returns the rules that took them."""
    rng = np.random.default_rng(seed)
    plans = [choose(spec, target) for spec in chosen]
    functions = {f"k{i}": f.emit(s, p, f"k{i}") for i, (s, (f, p, _)) in enumerate(zip(chosen, plans, strict=True))}
    bulk = Bulk(functions, target, folder)
    for i, (spec, (family, plan, _)) in enumerate(zip(chosen, plans, strict=True)):
        x = integers(spec.activation, (spec.n, spec.h, spec.w, spec.c), rng)
        w = integers(spec.weight, (spec.oc, spec.c // spec.groups, spec.kh, spec.kw), rng)
        y = np.full(spec.y_shape, np.nan, np.float32)
        tables = family.tables(spec, plan, w)
        bulk.call(f"k{i}", planes.pack_activations(spec, x), family.pack(spec, plan, w), *tables, y)
        assert np.array_equal(y, convolve(spec, x, w)), spec
    return [plan.rule for _, plan, _ in plans]


def packing(spec: KernelSpec, scales: int) -> PackSpec:
    """The kernel that packs what a spec reads."""
    a = spec.activation
    return PackSpec(
        spec.n, spec.h, spec.w, spec.c, spec.groups, spec.pads, a, spec.x_shape, spec.pad_value, scales, a.low, a.high
    )
