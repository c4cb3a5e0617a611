"""Predicted cycles of kernels beside measured ones: every rule, on the instruction sets that this machine runs.

    python benchmarks/cost.py [--rounds 15] [--out benchmarks/results/cost.json]

A kernel is built alone, by each family that takes the layer, and fed arbitrary numbers. Cycles are CPU time by
the clock that the loop of xor, popcount and add shows, which takes 1.5 cycles a vector (AVX-512 with VPOPCNTDQ only); all
kernels of an instruction set take turns in one run. The last lines say for how many pairs of kernels of the same layer
the prediction names the faster one.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from kernels import BITS, layer
from native import STEPS, TILE, Kernels, aligned, ceiling, ceiling_operands

from onnxc.codegen.kernels import FAMILIES, choose
from onnxc.codegen.kernels.spec import BINARY, INT8, UINT8, Encoding, KernelSpec, Refusal
from onnxc.codegen.target import Target, resolve, runs_here
from onnxc.measure.bench import measure

OUT = Path(__file__).parent / "results/cost.json"
TARGETS = ("x86-64-v2", "x86-64-v3", "x86-64-v4", "znver4")
SHAPES = {
    "3x3 64 on 56x56": (56, 56, 64, 64, 3), "3x3 128 on 28x28": (28, 28, 128, 128, 3), "3x3 256 on 14x14": (14, 14, 256, 256, 3),
    "3x3 512 on 7x7": (7, 7, 512, 512, 3), "1x1 128 on 28x28": (28, 28, 128, 128, 1), "1x1 512 on 7x7": (7, 7, 512, 512, 1),
    "3x3 96 on 23x17": (23, 17, 96, 96, 3), "1x1 64 to 256 on 28x28": (28, 28, 64, 256, 1),
    "1x1 1024 to 1000 on 1x1": (1, 1, 1024, 1000, 1),
}  # fmt: skip


def specs() -> dict[str, dict[str, KernelSpec]]:
    """Layer -> encoding -> spec; all write floats."""
    found = {}
    for name, shape in SHAPES.items():
        forms = {"float32": layer(*shape), "1x1 bits": layer(*shape, activation=BINARY, weight=BINARY)}
        forms |= {f"{key} bits": layer(*shape, activation=a, weight=w) for key, (a, w) in BITS.items()}
        four = Encoding("bits", 4, "unsigned")
        forms["4x2 bits"] = layer(*shape, activation=four, weight=Encoding("bits", 2, "signed"))
        forms["int8"] = _integers(layer(*shape), UINT8)
        found[name] = forms
    for c, h in ((64, 56), (256, 14)):
        wide = replace(layer(h, h, c, c, 3), groups=c)
        found[f"depthwise {c} on {h}x{h}"] = {"float32": wide, "int8": _integers(wide, INT8)}
    return found


def _integers(spec: KernelSpec, activation: Encoding) -> KernelSpec:
    return replace(
        spec, activation=activation, weight=Encoding("int8", 8, "narrow"), epilogue=(("int_bias",), ("mul",))
    )


def kernel(spec: KernelSpec, family, plan, name: str):
    """(function, operands)."""
    function = family.emit(spec, plan, name)
    rng = np.random.default_rng(0)
    operands = []
    for param in function.params:
        shape, kind = [int(extent) for extent in param.shape], np.dtype(str(param.dtype))
        drawn = rng.standard_normal(shape) if kind.kind == "f" else rng.integers(0, 100, shape)
        operands.append(aligned(drawn.astype(kind)))
    return function, operands


def table(target: Target, rounds: int) -> list[dict]:
    """A row for each layer, encoding, and family that takes it."""
    rows, functions, calls = [], {}, {}
    for name, forms in specs().items():
        for form, spec in forms.items():
            for family in FAMILIES:
                plan = family.schedule(spec, target)
                if isinstance(plan, Refusal):
                    continue
                label = f"k{len(rows)}"
                functions[label], calls[label] = kernel(spec, family, plan, label)
                rows.append({
                    "target": target.name, "layer": name, "form": form, "rule": plan.rule,
                    "tile": [plan.pixels, plan.vectors, plan.lanes], "fold": plan.fold, "chosen": choose(spec, target)[0] is family,
                    "predicted": family.cost(spec, plan, target),
                })  # fmt: skip
    library, clock = Kernels(functions, target), Kernels({"ceiling": ceiling()}, resolve("native"))
    candidates = {"ceiling": clock.caller(("ceiling", *ceiling_operands()))}
    candidates |= {label: library.caller((label, *operands)) for label, operands in calls.items()}
    found = {row.name: row.best for row in measure(candidates, rounds=rounds, clock="cpu")}
    a_second = STEPS * TILE.pixels * TILE.vectors * 1.5 / found["ceiling"]
    return [row | {"measured": found[label] * a_second} for label, row in zip(functions, rows, strict=True)]


def agreement(rows: list[dict], gap: float) -> tuple[int, int]:
    """(pairs whose order is as predicted, pairs) among kernels of one layer and target that are `gap` times apart."""
    pairs = [
        (a, b)
        for a, b in itertools.combinations(rows, 2)
        if (a["target"], a["layer"]) == (b["target"], b["layer"]) and a["predicted"] and b["predicted"]
        and max(a["measured"], b["measured"]) > gap * min(a["measured"], b["measured"])
    ]  # fmt: skip
    return sum((a["predicted"] < b["predicted"]) == (a["measured"] < b["measured"]) for a, b in pairs), len(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    rows = []
    for target in map(resolve, args.targets):
        if runs_here(target):
            rows += table(target, args.rounds)
    for row in rows:
        ratio = f"{row['predicted'] / row['measured']:6.2f}" if row["predicted"] else "     -"
        mark = "*" if row["chosen"] else " "
        print(
            f"{mark} {row['target']:10} {row['layer']:24} {row['form']:9} {row['rule']:24} {row['measured']:12.0f} {ratio}"
        )
    found = {"rounds": args.rounds, "rows": rows, "agreement": {}}
    for gap in (1.0, 1.25, 1.5):
        right, pairs = agreement(rows, gap)
        found["agreement"][str(gap)] = {"right": right, "pairs": pairs}
        print(f"{right} of {pairs} pairs more than {gap} times apart are in the predicted order")
    args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
