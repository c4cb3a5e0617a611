"""Winograd convolutions: the algebra, kernels on awkward extents beside direct sums in doubles, threads, targets, refusals."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import numpy as np
import pytest

from onnxc.codegen import compile_model
from onnxc.codegen.c.function import compile_functions
from onnxc.codegen.kernels import choose, winograd
from onnxc.codegen.kernels.spec import INT8, Refusal, Schedule
from onnxc.codegen.kernels.winograd_form import F2, F4
from onnxc.codegen.kernels.winograd_parts import parts_of
from onnxc.codegen.target import TARGETS, resolve
from onnxc.runtime import library

from . import bulk, cross
from .conftest import error, run_ort
from .test_operators import model

MOST = 1e-5  # of the largest value; F(4 x 4) comes to half of it where one pixel is all there is
SPECS = {
    "whole tiles": bulk.make(1, 8, 12, 16, 16),
    "one pixel": bulk.make(1, 1, 1, 17, 16),
    "few channels": bulk.make(1, 7, 10, 8, 12, epilogue=(("bias",),)),
    "odd, tails of channels, batch": bulk.make(3, 9, 7, 40, 23, epilogue=(("bias",), ("relu",))),
    "uneven padding": bulk.make(1, 6, 11, 24, 33, pads=(2, 0, 1, 3), epilogue=(("mul",), ("residual",), ("clip", -1, 1))),
    "no padding, many tiles": bulk.make(1, 31, 26, 16, 48, pads=(0, 0, 0, 0), epilogue=(("prelu",),)),
}  # fmt: skip


@pytest.mark.parametrize("form", [F2, F4], ids=["f2", "f4"])
def test_the_forms_are_convolutions(form):
    rng = np.random.default_rng(0)
    w, d = rng.standard_normal(3), rng.standard_normal(form.reads)
    values = form.kernel() @ w * np.array(form.analyse(list(d[:, None].astype("f8")), lambda v: v))[:, 0]
    y = form.combine(list(values[:, None]), lambda v: v)
    assert np.allclose(np.array(y)[:, 0], np.correlate(d, w, "valid"), rtol=0, atol=1e-6)


def plans(spec, target) -> dict[str, Schedule]:
    """Both forms, transformed turn by turn and all tiles at once, and with turns of a few tiles."""
    two, four = (winograd.plan_of(spec, target, form, name) for form, name in ((F2, "f2"), (F4, "f4")))
    made = {
        "f2": replace(two, detail=replace(two.detail, whole=True)),
        "f4": replace(four, detail=replace(four.detail, whole=False)),
    }
    if four.detail.turn > 7 >= four.pixels:
        made["turns"] = replace(four, detail=replace(four.detail, turn=7, whole=True))
    return made


def operands(spec, rng) -> tuple[list[np.ndarray], np.ndarray]:
    """What the epilogue reads, and its result of a convolution in doubles."""
    x = rng.standard_normal(spec.x_shape).astype("f")
    w = (rng.standard_normal((spec.oc, spec.c, 3, 3)) / np.sqrt(9 * spec.c)).astype("f")
    top, left, bottom, right = spec.pads
    padded = np.pad(x.astype("f8"), ((0, 0), (top, bottom), (left, right), (0, 0)))
    y = sum(
        padded[:, i : i + spec.oh, j : j + spec.ow] @ w[:, :, i, j].T.astype("f8") for i in range(3) for j in range(3)
    )
    given = []
    for step in spec.epilogue:
        if step[0] in ("bias", "mul", "prelu", "residual"):
            given.append(rng.standard_normal(spec.y_shape if step[0] == "residual" else spec.oc).astype("f"))
        match step[0]:
            case "bias" | "residual":
                y = y + given[-1]
            case "mul":
                y = y * given[-1]
            case "prelu":
                y = np.where(y > 0, y, y * given[-1])
            case "relu":
                y = np.maximum(y, 0)
            case "clip":
                y = np.clip(y, step[1], step[2])
    return [x, w, *given], y


def calls(specs, target):
    """Functions, their arrays with an empty result, and what that should be."""
    rng, functions, arrays, wanted = np.random.default_rng(1), {}, {}, {}
    for i, spec in enumerate(specs):
        (x, w, *given), y = operands(spec, rng)
        for label, plan in plans(spec, target).items():
            name = f"k{i}_{label}"
            functions[name] = winograd.emit(spec, plan, name)
            arrays[name] = [x, winograd.pack(spec, plan, w), *given, np.full(spec.y_shape, np.nan, np.float32)]
            wanted[name] = y
    return functions, arrays, wanted


def check(found: dict, wanted: dict) -> None:
    errors = {name: float(np.abs(found[name] - y).max() / np.abs(y).max()) for name, y in wanted.items()}
    assert max(errors.values()) < MOST, errors


@pytest.mark.parametrize("name, most", [("native", 9), ("x86-64-v2", 2)])
def test_kernels_on_awkward_extents(name, most, tmp_path):
    target = resolve(name)
    functions, arrays, wanted = calls(list(SPECS.values())[-most:], target)
    kernels = bulk.Bulk(functions, target, tmp_path)
    for label, held in arrays.items():
        kernels.call(label, *held)
    check({label: held[-1] for label, held in arrays.items()}, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cortex-a72", "riscv64"])
def test_kernels_of_other_machines(name, tmp_path):
    target = TARGETS[name]
    if target.toolchain.runner() is None:
        pytest.skip(f"no emulator for {name}")
    chosen = [SPECS["odd, tails of channels, batch"], SPECS["uneven padding"]]
    functions, arrays, wanted = calls(chosen, target)
    check(cross.run(functions, arrays, target, tmp_path), wanted)


def test_threads_make_the_same_bytes(tmp_path):
    text = """g (float[2,32,29,30] x) => (float[a,b,c,d] y) {
        t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t) s = Conv<pads=[1,1,1,1]>(r, v, b) y = Add(s, x) }"""
    net = model(text, w=(32, 32, 3, 3), b=(32,), v=(32, 32, 3, 3))
    report = compile_model(net, tmp_path, name="net", threads=3)
    assert [row["kernel"] for row in report.kernels] == ["float32.winograd.f4"] * 2
    assert "residual" in report.kernels[1]["spec"]
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 32, 29, 30)).astype("f")}
    made = [library.Library(tmp_path, threads).run(feeds)["y"] for threads in (1, 2, 3)]
    assert error(made[0], run_ort(net, feeds)["y"]) < MOST
    assert np.array_equal(made[0], made[1]) and np.array_equal(made[0], made[2])


def test_layers_share_their_parts(tmp_path):
    """Layers of other extents call the same transforms, which are in the object once and are not copied into their callers."""
    target = TARGETS["znver4"]
    specs = [bulk.make(1, h, h, c, c, epilogue=(("bias",), ("relu",))) for h, c in ((28, 16), (14, 32), (14, 48))]
    functions = {
        f"k{i}": winograd.emit(spec, winograd.plan_of(spec, target, F4, "f4"), f"k{i}") for i, spec in enumerate(specs)
    }
    names = [list(parts_of(function)) for function in functions.values()]
    assert len({name for three in names for name in three}) == 2 + len(specs)
    compile_functions(functions, target, 1, tmp_path / "k.o")
    listed = subprocess.run(["nm", "-S", tmp_path / "k.o"], capture_output=True, text=True, check=True).stdout
    sizes = {row.split()[3]: int(row.split()[1], 16) for row in listed.splitlines() if len(row.split()) == 4}
    assert set(functions) | {name for three in names for name in three} <= set(sizes)
    assert (
        max(sizes[name] for name in functions) < 1000 and max(sizes[name] for three in names for name in three) < 4000
    )


@pytest.mark.parametrize(
    "changes, reason",
    [({"stride": (2, 2)}, "stride 1"), ({"dilation": (2, 2)}, "dilation 1"), ({"kh": 5}, "not 5 x 3"),
     ({"c": 4}, "8 channels"), ({"groups": 2}, "one group"), ({"w_shape": (1,)}, "constant"), ({"weight": INT8}, "float32")],
)  # fmt: skip
def test_what_it_does_not_take(changes, reason):
    spec = bulk.make(1, 16, 16, 64, 64)
    assert isinstance(winograd.schedule(spec, TARGETS["znver4"]), Schedule)
    found = winograd.schedule(replace(spec, **changes), TARGETS["znver4"])
    assert isinstance(found, Refusal) and reason in found.reason
    for target in (TARGETS["cortex-m4"], replace(TARGETS["znver4"], compact=True)):
        assert "more weights" in winograd.schedule(spec, target).reason


def test_cost_chooses_between_forms_and_the_direct_kernel():
    target = TARGETS["znver4"]
    rules = [
        choose(bulk.make(1, h, h, c, oc), target)[1].rule for h, c, oc in ((56, 64, 64), (7, 512, 512), (1, 64, 64))
    ]
    assert rules == ["float32.winograd.f4", "float32.winograd.f2", "float32.direct"]
