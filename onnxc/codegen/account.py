"""What a library takes: constants by kind, and RAM at each of its calls."""

from __future__ import annotations

from collections.abc import Sequence

from onnxc.codegen.program import Program


def stored_bytes(programs: Sequence[Program]) -> dict[str, int]:
    """Bytes of `weights`, the arrays that come second in a product's call, and of `tables`: all else that is constant."""
    found: dict[str, int] = {"weights": 0, "tables": 0}
    held = {id(array): array for program in programs for array in program.arrays}
    weights = {id(program.arrays[i]) for program in programs for i in program.weight_numbers()}
    for key, array in held.items():
        found["weights" if key in weights else "tables"] += array.nbytes
    return found


def busiest(programs: Sequence[Program]) -> Program:
    """The program that needs most RAM."""
    return max(programs, key=lambda one: one.plan.live)


def ram_at_calls(programs: Sequence[Program]) -> tuple[tuple[str, int], ...]:
    """Function and live bytes for each call of the program that needs most."""
    most = busiest(programs)
    names = [function.removeprefix(f"{most.prefix}_") for function, _ in most.plan.calls]
    return tuple(zip(names, most.plan.during))


def calls_of(programs: Sequence[Program]) -> tuple[dict, ...]:
    """What each call of the program that needs most RAM is, for processors without an operating system; else ().

    Nodes of products come before what was folded into them.
    """
    most = busiest(programs)
    products = {row["node"] for row in most.kernels}
    calls = zip(most.rows, most.plan.during, strict=True) if most.target.micro else ()
    return tuple(
        {"nodes": tuple(sorted(row.nodes, key=lambda name: name not in products)), "schedule": row.schedule or row.family,
         "macs": row.macs, "cycles": row.cycles, "flash": row.weight_bytes, "ram": ram}
        for row, ram in calls
    )  # fmt: skip
