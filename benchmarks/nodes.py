"""How many nodes `clean,fuse` leaves of any ONNX files, beside onnxslim and onnxsim, whose results are checked for being right.

    python benchmarks/nodes.py [DIR ...] [--json FILE] [--docs] [--largest 100M] [--seconds 300]

Each file below the folders goes through `onnxc passes -p clean,fuse`, `onnxslim` and `onnxsim` (pip install onnxslim onnxsim), each
a process of its own with its defaults. Nodes are those of the graph, of bodies at any depth and of the functions that are called,
without Constant. A result is right where ONNX Runtime gives the outputs of the file as it came, within 1e-4 of the largest, or
within twice what its own optimiser changes of them. --json: what the file holds of other models stays; --docs: the table of
docs/wild.md is written from it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx

from onnxc.ir.errors import OnnxcError
from onnxc.runtime.feeding import feed
from onnxc.runtime.reference import Session

TOOLS = {
    "onnxc": [sys.executable, "-m", "onnxc", "passes", "{model}", "-p", "clean,fuse", "-o", "{out}"],
    "onnxslim": ["onnxslim", "{model}", "{out}"],
    "onnxsim": ["onnxsim", "{model}", "{out}"],
}
CLOSE = 1e-4
DOCS = Path(__file__).parent.parent / "docs" / "wild.md"
MARKS = "<!-- table: benchmarks/nodes.py -->\n", "<!-- end of table -->\n"


def nodes(proto: onnx.ModelProto) -> int:
    """Nodes of the graph, of bodies and of called functions, without Constant."""
    functions = {(f.domain, f.name): f for f in proto.functions}
    count, stack = 0, list(proto.graph.node)
    while stack:
        node = stack.pop()
        function = functions.get((node.domain, node.op_type))
        count += node.op_type != "Constant" and function is None
        stack += function.node if function is not None else ()
        for a in node.attribute:
            for graph in (a.g, *a.graphs):
                stack += graph.node
    return count


def run(tool: str, path: Path, folder: Path, seconds: int) -> Path | None:
    """What a tool makes of a file."""
    out = folder / f"{tool}.onnx"
    command = [part.format(model=path, out=out) for part in TOOLS[tool]]
    beside = Path(sys.executable).parent / command[0]
    command[0] = str(beside) if beside.exists() else shutil.which(command[0]) or command[0]
    try:
        subprocess.run(command, capture_output=True, timeout=seconds, check=False, cwd=folder)
    except (subprocess.TimeoutExpired, OSError):
        return None
    return out if out.exists() else None


def outputs(path: Path, feeds: list, optimise: bool = True) -> list[dict] | None:
    """A model's outputs in ONNX Runtime; None where it does not run."""
    try:
        session = Session(path, optimise=optimise)
        return [session.run(one) for one in feeds]
    except OnnxcError:
        return None


def same(reference: list[dict], again: list[dict], other: list[dict] | None) -> bool:
    """Whether outputs are those of the reference, of which there is another run without ONNX Runtime's optimiser."""
    if other is None:
        return False
    for a, c, b in zip(reference, again, other, strict=True):
        for name, x in a.items():
            y = b.get(name)
            if y is None or x.shape != y.shape:
                return False
            if x.dtype.kind in "OUSb":
                if not np.array_equal(x, y):
                    return False
                continue
            scale = float(np.abs(np.where(np.isfinite(x), x, 0)).max(initial=0))
            own = float(np.nan_to_num(np.abs(x - c[name])).max(initial=0)) if c[name].shape == x.shape else 0.0
            if not np.allclose(x, y, rtol=0, atol=max(CLOSE * scale, 2 * own, 1e-30), equal_nan=True):
                return False
    return True


def total(rows: list[dict]) -> str:
    """On how many files each is right, and where onnxc leaves more nodes than a peer."""
    right = [f"{tool} is right on {sum(row[f'{tool}_right'] for row in rows)}" for tool in TOOLS]
    fewer = sum(all(row[peer] is None or row[peer] > row["onnxc"] for peer in ("onnxslim", "onnxsim")) for row in rows)
    more = [Path(row["file"]).stem for row in rows if row["most"]]
    told = (
        f"a peer that is right leaves fewer nodes on {', '.join(more)}"
        if more
        else "a peer that is right leaves fewer nodes on none"
    )
    return f"Of {len(rows)} files and exports {', '.join(right)}; {told}, and on {fewer} both leave more."


def table(rows: list[dict]) -> str:
    """The count of nodes that each leaves of each file."""

    def cell(row: dict, tool: str) -> str:
        return "none" if row[tool] is None else f"{row[tool]}{'' if row[f'{tool}_right'] else ' (wrong)'}"

    lines = [f"| file | given | {' | '.join(TOOLS)} |", "|---|---:|" + "---:|" * len(TOOLS)]
    for row in sorted(rows, key=lambda row: row["file"]):
        cells = " | ".join(cell(row, tool) for tool in TOOLS)
        lines.append(f"| {row['file'].removesuffix('.onnx')} | {row['given']} | {cells} |")
    return f"{total(rows)}\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("--largest", default="100M")
    parser.add_argument("--seconds", type=int, default=300)
    given = parser.parse_args()
    most = int(given.largest.rstrip("M")) * 10**6
    rows = json.loads(given.json.read_text(encoding="utf-8")) if given.json and given.json.exists() else []
    files = [(p, folder) for folder in given.folders for p in folder.rglob("*.onnx") if p.stat().st_size <= most]
    for path, folder in sorted(files, key=lambda one: one[0].stat().st_size):
        proto = onnx.load(path)
        row = {"file": str(path.relative_to(folder.parent)), "given": nodes(proto)}
        try:
            data = feed(proto, samples=2)
            feeds = list(data.batches(1))
            reference, again = outputs(path, feeds), outputs(path, feeds, optimise=False)
        except OnnxcError as e:
            print(f"{row['file']}: not run: {e}", flush=True)
            continue
        if reference is None or again is None:
            print(f"{row['file']}: not run", flush=True)
            continue
        with tempfile.TemporaryDirectory() as work:
            for tool in TOOLS:
                made = run(tool, path.resolve(), Path(work), given.seconds)
                row[tool] = None if made is None else nodes(onnx.load(made))
                row[f"{tool}_right"] = made is not None and same(reference, again, outputs(made, feeds))
        row["most"] = any(
            row[f"{peer}_right"] and row[peer] < (row["onnxc"] or 10**9) for peer in ("onnxslim", "onnxsim")
        )
        rows = [*(r for r in rows if r["file"] != row["file"]), row]
        marks = [f"{tool} {row[tool]}{'' if row[f'{tool}_right'] else ' wrong'}" for tool in TOOLS]
        print(f"{'MORE ' if row['most'] else ''}{row['file']}: given {row['given']}, {', '.join(marks)}", flush=True)
        if given.json:
            given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(total(rows))
    if given.docs:
        before, rest = DOCS.read_text(encoding="utf-8").split(MARKS[0])
        DOCS.write_text(before + MARKS[0] + table(rows) + MARKS[1] + rest.partition(MARKS[1])[2], encoding="utf-8")


if __name__ == "__main__":
    main()
