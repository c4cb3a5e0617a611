"""Sums whose input channels lie side by side in a register: layouts, tiles, and kernels on widths that fill none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxc.codegen.kernels import float32
from onnxc.codegen.kernels.folded import folds, interleaved
from onnxc.codegen.kernels.spec import Schedule
from onnxc.codegen.target import TARGETS, resolve, runs_here

from . import bulk

SPECS = {
    "8 channels, odd extents": (bulk.make(2, 5, 9, 8, 8, epilogue=(("bias",), ("relu",))), 8, 2),
    "20 by blocks of 8": (bulk.make(1, 6, 11, 12, 20, stride=(2, 1), epilogue=(("residual",),)), 8, 2),
    "12 by fours, dilated": (bulk.make(1, 9, 8, 4, 12, dilation=(2, 2)), 4, 4),
    "groups": (bulk.make(1, 5, 7, 6, 10, groups=3), 8, 2),
    "padding above and below": (bulk.make(2, 7, 5, 4, 8, (3, 1), (2, 1), (2, 0, 1, 0), (2, 1)), 8, 2),
    "a matrix product": (bulk.make(1, 1, 29, 24, 7, (1, 1), pads=(0, 0, 0, 0)), 4, 4),
}  # lanes and fold of the widest registers; half the lanes for registers half as wide


def test_inputs_of_an_output_lie_side_by_side():
    blocks = np.arange(2 * 4 * 3).reshape(2, 4, 3)  # (..., c, block)
    assert interleaved(blocks, 1) is blocks
    made = interleaved(blocks, 2)
    assert made.shape == (2, 2, 6)
    assert np.array_equal(made.reshape(2, 2, 3, 2)[1, 0, 2], blocks[1, 0:2, 2])


@pytest.mark.parametrize("name, c, found", [("znver4", 12, (1, 2, 4)), ("x86-64-v3", 6, (1, 2)), ("znver4", 5, (1,)),
                                            ("cortex-a72", 8, (1,)), ("riscv64", 8, (1,))])  # fmt: skip
def test_what_can_be_folded(name, c, found):
    spec = bulk.make(1, 28, 28, c, 8)
    assert folds(spec, TARGETS[name]) == found
    assert folds(replace(spec, w_shape=(1, c, 8)), TARGETS[name]) == (1,)


@pytest.mark.parametrize("oc, lanes, fold", [(8, 8, 2), (24, 8, 2), (12, 4, 4), (16, 8, 2), (64, 16, 1)])
def test_registers_are_full(oc, lanes, fold):
    """Narrow layers take full registers of few outputs; with 16 those are two vectors, which load less for each product than one."""
    plan = float32.schedule(bulk.make(1, 28, 28, 32, oc, stride=(2, 2)), TARGETS["znver4"])
    assert isinstance(plan, Schedule)
    assert (plan.lanes, plan.fold, plan.width) == (lanes, fold, 16)
    assert ("folded by" in plan.text()) == (fold > 1)


@pytest.mark.parametrize("name", ["native", "x86-64-v3"])
def test_kernels_on_awkward_widths(name, tmp_path):
    target = resolve(name)
    if not runs_here(target) or target.lanes < 8:
        pytest.skip("no wide registers here")
    rng, functions, held, wanted = np.random.default_rng(1), {}, {}, {}
    for i, (spec, lanes, fold) in enumerate(SPECS.values()):
        lanes = lanes * target.lanes // 16
        plan = Schedule(
            "float32.direct", min(3, spec.row), max(1, min(2, spec.oc // spec.groups // lanes)), lanes, None, fold
        )
        assert fold in folds(spec, target)
        x = rng.standard_normal(spec.x_shape).astype("f")
        w = rng.standard_normal((spec.oc, spec.c // spec.groups, spec.kh, spec.kw)).astype("f")
        given, y = [], bulk.convolve(spec, x.astype("f8"), w.astype("f8"))
        for step in spec.epilogue:
            if step[0] in ("bias", "residual"):
                given.append(rng.standard_normal(spec.y_shape if step[0] == "residual" else spec.oc).astype("f"))
                y = y + given[-1]
            else:
                y = np.maximum(y, 0)
        functions[f"k{i}"] = float32.emit(spec, plan, f"k{i}")
        held[f"k{i}"] = [x, float32.pack(spec, plan, w), *given, np.full(spec.y_shape, np.nan, np.float32)]
        wanted[f"k{i}"] = y
    kernels = bulk.Bulk(functions, target, tmp_path)
    for label, arrays in held.items():
        kernels.call(label, *arrays)
        error = np.abs(arrays[-1] - wanted[label]).max() / np.abs(wanted[label]).max()
        assert error < 2e-6, label


def test_a_block_of_a_run_time_operand_is_copied_where_many_rows_read_it(tmp_path):
    """Two images, and a last block of columns that overlaps the one before."""
    target = resolve("native")
    shape = {"w_shape": (2, 24, 200), "epilogue": (("mul_scalar", 0.5),)}
    spec = bulk.make(2, 1, 90, 24, 200, (1, 1), pads=(0, 0, 0, 0), **shape)
    plan = float32.schedule(spec, target)
    assert isinstance(plan, Schedule) and float32.held_near(spec, plan)
    assert not float32.held_near(replace(spec, w_shape=None), plan)
    assert not float32.held_near(replace(spec, w=2), plan)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(spec.x_shape).astype("f"), rng.standard_normal(spec.w_shape).astype("f")
    y = np.full(spec.y_shape, np.nan, np.float32)
    bulk.Bulk({"k": float32.emit(spec, plan, "k")}, target, tmp_path).call("k", x, w, y)
    wanted = np.einsum("nimk,nko->nimo", x.astype("f8"), w.astype("f8")) / 2
    assert np.abs(y - wanted).max() < 2e-6 * np.abs(wanted).max()
