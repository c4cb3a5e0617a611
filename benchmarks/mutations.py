"""Does the suite notice a wrong attribute? Each attribute that a row of the operator table reads is spoiled, one at a time.

    python benchmarks/mutations.py [--only REGEX] [--cases 6] [--json FILE]

The cases are those that tests/codegen/test_operator_rows.py and test_operator_places.py draw, judged as they judge them: a mutant is noticed
where a number differs, or where more of its cases are refused than the test allows. For every pair of operator and attribute
some of the operator's cases are lowered while `Node.attribute` answers something else for that attribute alone.
Writes results/mutations.json.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks/results/mutations.json"
sys.path.insert(0, str(ROOT))

from onnxc.codegen.operators.node import Node  # noqa: E402  the tests are no package that is installed
from tests.codegen import test_operator_places as places  # noqa: E402
from tests.codegen import test_operator_rows as rows  # noqa: E402
from tests.codegen.conftest import run_ort  # noqa: E402
from tests.codegen.programs import Programs  # noqa: E402

REFUSED = 0.05  # of its cases, which the tests allow


@dataclass
class Drawn:
    """A case of the suite, what ONNX Runtime says, and the attributes that its row asks for (name -> choices, if it has some)."""

    case: rows.Case
    tolerance: float
    wanted: dict[str, np.ndarray]
    asked: dict[str, tuple] = field(default_factory=dict)


def collected() -> list[Drawn]:
    """The cases of all tests that draw some, as far as ONNX Runtime runs them."""
    found: list[tuple[rows.Case, float]] = []

    def keep(cases, tmp_path, tolerance: float = 2e-5, least: float = 0.95) -> None:
        found.extend((case, tolerance) for case in cases)

    for module in (rows, places):
        check, module.check = module.check, keep
        try:
            for name, test in inspect.getmembers(module, inspect.isfunction):
                if name.startswith("test_") and list(inspect.signature(test).parameters) == ["rng", "tmp_path"]:
                    test(np.random.default_rng(5), None)
        finally:
            module.check = check
    made = []
    for case, tolerance in found:
        try:
            made.append(Drawn(case, tolerance, run_ort(case.model, case.feeds)))
        except Exception:  # what ONNX Runtime has no kernel for
            continue
    return made


@contextmanager
def watched(asked: dict[str, tuple]) -> Iterator[None]:
    """Notes what nodes are asked for."""
    attribute, choice = Node.attribute, Node.choice

    def noting(node: Node, name: str, default=None):
        asked.setdefault(name, ())
        return attribute(node, name, default)

    def choosing(node: Node, name: str, default: str, *known: str) -> str:
        asked[name] = (default, *known)
        return choice(node, name, default, *known)

    Node.attribute, Node.choice = noting, choosing
    try:
        yield
    finally:
        Node.attribute, Node.choice = attribute, choice


@contextmanager
def spoiled(op: str, name: str, step: int, choices: tuple) -> Iterator[list[bool]]:
    """An attribute of an operator answered wrongly; whether it was, for each time that it was asked for."""
    attribute = Node.attribute

    changed = []

    def wrong(node: Node, asked: str, default=None):
        value = attribute(node, asked, default)
        if (node.op, asked) != (op, name):
            return value
        changed.append(other(value, step, choices) != value)
        return other(value, step, choices)

    Node.attribute = wrong
    try:
        yield changed
    finally:
        Node.attribute = attribute


def other(value, step: int, choices: tuple = ()):
    """Another value of the same kind; itself where there is none."""
    if isinstance(value, str):
        rest = [one for one in choices if one != value]
        return rest[step % len(rest)] if rest else value
    if isinstance(value, bool) or value in (0, 1):
        return (1 - value) if step == 0 else value + step
    if isinstance(value, int):
        return value + (1, -1, 2)[step]
    if isinstance(value, float):
        return value * 1.5 + 0.25
    if isinstance(value, list) and value and isinstance(value[0], int):
        return value[1:] + value[:1] if step == 0 and len(set(value)) > 1 else [value[0] + 1, *value[1:]]
    return value


def mutants(drawn: list[Drawn], most: int, only: str) -> dict[tuple[str, str], list[Drawn]]:
    """The cases for each pair of operator and attribute, those that give the attribute first."""
    pairs: dict[tuple[str, str], list[Drawn]] = {}
    for one in drawn:
        for name in one.asked:
            pairs.setdefault((one.case.model.graph.node[0].op_type, name), []).append(one)
    kept = {}
    for pair, cases in sorted(pairs.items()):
        if re.search(only, ".".join(pair)):
            cases.sort(key=lambda one: all(a.name != pair[1] for a in one.case.model.graph.node[0].attribute))
            kept[pair] = cases[:most]
    return kept


def judge(pairs: dict[tuple[str, str], list[Drawn]], folder: Path) -> list[dict]:
    """A row for each pair: whether its mutant is noticed, and by what."""
    programs, tried = Programs(folder), {}
    for (op, name), cases in pairs.items():
        for step in range(3):  # a value that all cases refuse tells little: another one
            refused, other_value = 0, False
            for i, one in enumerate(cases):
                with spoiled(op, name, step, one.asked[name]) as changed:
                    refused += programs.add(f"{op}.{name}.{step}.{i}", one.case.model) is not None
                other_value |= any(changed)
            tried[op, name] = (step, refused, other_value)
            if refused < len(cases):
                break
    programs.build()
    found = []
    for (op, name), cases in pairs.items():
        step, refused, other_value = tried[op, name]
        if not other_value:  # left out in all of them, and no number by default: there is nothing to spoil
            continue
        wrong = 0
        for i, one in enumerate(cases):
            key = f"{op}.{name}.{step}.{i}"
            if key in programs.made:
                made = programs.run(key, one.case.feeds)
                wrong += any(rows.differs(made[k], value, one.tolerance) for k, value in one.wanted.items())
        noticed = wrong > 0 or refused > REFUSED * len(cases)
        row = {"operator": op, "attribute": name, "cases": len(cases), "wrong": wrong, "refused": refused}
        found.append(row | {"noticed": noticed})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--json", type=Path, default=RESULT)
    given = parser.parse_args()
    drawn = collected()
    with tempfile.TemporaryDirectory(prefix="onnxc-") as name:
        probe = Programs(Path(name))
        for i, one in enumerate(drawn):
            with watched(one.asked):
                if probe.add(str(i), one.case.model) is not None:
                    one.asked.clear()
        made = judge(mutants(drawn, given.cases, given.only), Path(name))
    missed = [row for row in made if not row["noticed"]]
    for row in missed:
        print(f"not noticed: {row['operator']}.{row['attribute']} in {row['cases']} cases")
    operators = {row["operator"] for row in made}
    print(f"{len(made) - len(missed)} of {len(made)} attributes of {len(operators)} operators are noticed")
    summary = {"attributes": len(made), "operators": len(operators), "noticed": len(made) - len(missed), "rows": made}
    given.json.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
