"""Process CPU time and node counts of `clean,fuse` beside onnxslim and onnxsim, in one interleaved run.

    python benchmarks/passes.py [MODEL ...] [--rounds 7] [--json FILE]

Without MODEL: the light ResNet-50 of the onnx package. Each round runs every tool once, in turn; the ratio is the median
over rounds of a tool's CPU time to onnxslim's in the same round. Every tool starts from the file and ends with a
ModelProto in memory. Peers come from the extra `bench`; one that is not installed is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import onnx


def light(name: str) -> Path:
    return Path(onnx.__file__).parent / "backend/test/data/light" / f"light_{name}.onnx"


def tools(path: Path) -> dict[str, Callable[[], onnx.ModelProto]]:
    """Name -> what runs it once."""
    import onnxc

    found: dict[str, Callable[[], onnx.ModelProto]] = {}
    with contextlib.suppress(ImportError):
        import onnxslim

        found["onnxslim"] = lambda: onnxslim.slim(str(path))
    with contextlib.suppress(ImportError):
        import onnxsim

        def simplify() -> onnx.ModelProto:
            model, ok = onnxsim.simplify(onnx.load(path))
            if not ok:
                raise RuntimeError(f"onnxsim fails on {path}")
            return model

        found["onnxsim"] = simplify
    for check in ("shapes", "data"):
        found[f"onnxc --check {check}"] = lambda check=check: onnxc.run_passes(
            path, "clean,fuse", check=check
        ).model.to_proto()
    return found


def measure(path: Path, rounds: int) -> list[dict]:
    """One row a tool: median CPU seconds, ratio to the first tool (median of ratios by round), nodes left."""
    runs = tools(path)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    nodes: dict[str, int] = {}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            with contextlib.redirect_stdout(io.StringIO()):
                model = run()
            if round_:  # the first round imports and warms up
                seconds[name].append(time.process_time() - start)
            nodes[name] = sum(n.op_type != "Constant" for n in model.graph.node)
            del model
    base = next(iter(runs))
    return [
        {
            "model": path.stem,
            "tool": name,
            "cpu_seconds": statistics.median(times),
            "ratio": statistics.median(a / b for a, b in zip(times, seconds[base], strict=True)),
            "base": base,
            "nodes": nodes[name],
        }
        for name, times in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for path in args.models or [light("resnet50")]:
        rows += measure(path, args.rounds)
        for row in rows[-len(tools(path)) :]:
            print(
                f"{row['model']:24} {row['tool']:22} {row['cpu_seconds'] * 1e3:8.0f} ms CPU  "
                f"{row['ratio']:5.2f}x {row['base']}  {row['nodes']:5} nodes"
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
