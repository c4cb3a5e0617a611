"""How time grows with a model: processor time for 10,000 and 100,000 nodes; and memory, by the bytes of the weights.

    python benchmarks/scale.py [time|memory] [--nodes 10000 100000] [--graphs NAMES] [--lists LISTS] [--missing] [--megabytes N M] [--json FILE]

Time: graphs of one awkward kind each go through pass lists, with no data and `check="shapes"`, each run in a process of its
own; `growth` is the processor time at the larger number of nodes by that at the smaller. Ten times the nodes may take at
most 12 times the time. Memory: a chain of linear layers, every weight of which is rewritten, goes from a file through passes with data to
a file; `ratio` is the highest resident memory of that process above that of one that has imported everything, by the
weights. That has a part that does not grow with them: `factor` is what each byte of weights more takes, from the smallest model
to the largest, `fixed_mb` the rest. memory.py has models whose activations are large. Results are written to benchmarks/results/scale.json, each pair of
graph and list when it has been measured; `--missing` leaves those alone that have a figure for as many nodes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OUT = Path(__file__).parent / "results/scale.json"
LISTS = ("clean,fuse", "prune", "quant", "lowrank")
MEMORY = {"clean,fuse": 2.0, "clean,fuse,quant": 3.0}
"""Times the weights that pass lists may take, besides activations."""
GROWTH = 12.0
"""Allowed for ten times the nodes."""


class Graph:
    """Nodes and weights of a model under construction; the weights are seeded noise."""

    def __init__(self, names: bool = True):
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)
        self.names = names

    def op(self, op: str, *inputs: str, **attrs) -> str:
        out = f"t{len(self.nodes)}"
        name = f"{op}_{len(self.nodes)}" if self.names else "node"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=name, **attrs))
        return out

    def weight(self, *shape: int) -> str:
        fan = max(1, int(np.prod(shape[1:])))
        return self.constant((self.rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32))

    def constant(self, values) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def model(self, x: tuple, y: tuple, out: str) -> onnx.ModelProto:
        info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", x), (out, y))]
        graph = helper.make_graph(self.nodes, "scale", info[:1], info[1:], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def equal_names(n: int) -> onnx.ModelProto:
    """Residual blocks of convolutions, all nodes of one name, with weights of their own and BatchNormalization."""
    g, x = Graph(names=False), "x"
    while len(g.nodes) < n:
        y = g.op("Conv", x, g.weight(4, 4, 1, 1))
        y = g.op("BatchNormalization", y, *(g.constant(np.ones(4, np.float32) * v) for v in (0.5, 0.1, 0.2, 1.0)))
        y = g.op("Relu", y)
        x = g.op("Add", x, y)
    return g.model((1, 4, 2, 2), (1, 4, 2, 2), x)


def shared_constant(n: int) -> onnx.ModelProto:
    """A chain of convolutions that all read one weight and one bias, with additions of one constant between them."""
    g, x = Graph(), "x"
    w, b, c = g.weight(4, 4, 1, 1), g.weight(4), g.constant(np.full((1, 4, 1, 1), 0.1, np.float32))
    while len(g.nodes) < n:
        x = g.op("Relu", g.op("Add", g.op("Conv", x, w, b), c))
    return g.model((1, 4, 2, 2), (1, 4, 2, 2), x)


def dense(n: int) -> onnx.ModelProto:
    """A chain of MatMul, Add and Relu with weights of their own."""
    g, x = Graph(), "x"
    while len(g.nodes) < n:
        x = g.op("Relu", g.op("Add", g.op("MatMul", x, g.weight(8, 8)), g.weight(8)))
    return g.model((1, 8), (1, 8), x)


def slices(n: int) -> onnx.ModelProto:
    """A chain of Slices that each take one element off a convolution's channels, and a convolution behind each."""
    g, x = Graph(), "x"
    zero, axis, w = g.constant(np.array([0])), g.constant(np.array([1])), g.weight(8, 6, 1, 1)
    seven, six = g.constant(np.array([7])), g.constant(np.array([6]))
    while len(g.nodes) < n:
        x = g.op("Conv", g.op("Slice", g.op("Slice", x, zero, seven, axis), zero, six, axis), w)
    return g.model((1, 8, 2, 2), (1, 8, 2, 2), x)


def long_slices(n: int) -> onnx.ModelProto:
    """Slices in a row, each shorter by one than the last."""
    g, x = Graph(), "x"
    zero, axis = g.constant(np.array([0])), g.constant(np.array([1]))
    for i in range(n):
        x = g.op("Slice", x, zero, g.constant(np.array([n - i])), axis)
        if i % 2:
            x = g.op("Relu", x)
    return g.model((1, n + 1), (1, 1), x)


def many_readers(n: int) -> onnx.ModelProto:
    """One tensor that n / 2 convolutions read, added up by one Sum; many constants that are equal."""
    g = Graph()
    first = g.op("Relu", "x")
    outs = []
    while len(g.nodes) < n:
        y = g.op("Conv", first, g.weight(4, 4, 1, 1))
        outs.append(g.op("Mul", y, g.constant(np.float32(0.5))))
    return g.model((1, 4, 2, 2), (1, 4, 2, 2), g.op("Sum", *outs))


def concats(n: int) -> onnx.ModelProto:
    """A convolution joined to all before it, again and again, fresh every 64."""
    g, x = Graph(), "x"
    i = 0
    w = g.weight(4, 4, 1, 1)
    while len(g.nodes) < n:
        joined = first = g.op("Conv", x, w)
        for _ in range(64):
            joined = g.op("Concat", joined, g.op("Relu", first), axis=1)
            first = g.op("Conv", first, w)
        x = g.op("Conv", joined, g.weight(4, 4 * 65, 1, 1))
        i += 1
    return g.model((1, 4, 1, 1), (1, 4, 1, 1), x)


def dead_weight(n: int) -> onnx.ModelProto:
    """Identities, inverse pairs, duplicates and foldable chains: everything that clean removes."""
    g, x = Graph(), "x"
    perm, one = [0, 2, 3, 1], g.constant(np.float32(1.0))
    while len(g.nodes) < n:
        a = g.op("Identity", g.op("Transpose", g.op("Transpose", x, perm=perm), perm=[0, 3, 1, 2]))
        b = g.op("Mul", a, one)
        c, d = g.op("Sigmoid", b), g.op("Sigmoid", b)
        k = g.op("Sqrt", g.op("Abs", g.weight(4, 1, 1)))
        x = g.op("Add", g.op("Add", c, d), k)
    return g.model((1, 4, 2, 2), (1, 4, 2, 2), x)


GRAPHS = {
    f.__name__: f
    for f in (equal_names, shared_constant, dense, slices, long_slices, many_readers, concats, dead_weight)
}


def worker(kind: str, n: int, passes: str) -> dict:
    """One run, in this process: processor time of reading and of the passes, and the highest resident memory."""
    import onnxc

    data = GRAPHS[kind](n).SerializeToString()
    start = time.process_time()
    model = onnxc.load(data)
    loaded = time.process_time()
    result = onnxc.run_passes(model, passes, check="shapes")
    end = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "nodes": n, "load_s": round(loaded - start, 2), "cpu_s": round(end - start, 2), "peak_mb": round(peak),
        "edits": sum(len(r.edits) for r in result.report.rows), "nodes_after": len(result.model.nodes),
    }  # fmt: skip


def linear(layers: int, width: int = 2048) -> onnx.ModelProto:
    """MatMul, Mul and Add by constants, Relu: `fuse` makes new weights of all."""
    g, x = Graph(), "x"
    for _ in range(layers):
        scale, shift = g.constant(np.full(width, 1.01, np.float32)), g.constant(np.full(width, 0.1, np.float32))
        x = g.op("Relu", g.op("Add", g.op("Mul", g.op("MatMul", x, g.weight(width, width)), scale), shift))
    return g.model(("N", width), ("N", width), x)


def memory_worker(path: Path, passes: str) -> dict:
    """One run, in this process: the highest resident memory above that of the imports, by the bytes of the weights."""
    import onnxruntime  # noqa: F401
    import scipy  # noqa: F401

    import onnxc
    import onnxc.pipeline
    import onnxc.runtime.evaluate
    import onnxc.runtime.feeding

    def highest() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

    onnxc.run_passes(dense(6), passes)
    before = highest()
    onnxc.run_passes(path, passes).model.save(path.with_suffix(".out"))
    weights = path.stat().st_size + sum(p.stat().st_size for p in path.parent.glob(f"{path.name}.*data"))
    taken = highest() - before
    return {"weights_mb": weights >> 20, "peak_mb": taken >> 20, "ratio": round(taken / weights, 2)}


def memory(lists: dict[str, float], megabytes: int, seconds: int) -> dict:
    """pass list -> what it takes, and how many times the weights it may take."""
    import onnxc

    table = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "linear.onnx"
        onnxc.load(linear(max(1, megabytes // 16))).save(path)
        for passes, most in lists.items():
            table[passes] = {"most": most} | measured(["memory-worker", str(path), passes], seconds)
            print(f"{passes:20} {table[passes]}", flush=True)
    return table


def factors(table: dict) -> dict:
    """pass list -> bytes that each byte of weights more takes, and the MB that do not grow with them; of `memory`'s tables by size."""
    found = {}
    for passes, most in MEMORY.items():
        rows = sorted(
            (t[passes]["weights_mb"], t[passes]["peak_mb"]) for t in table.values() if "peak_mb" in t.get(passes, {})
        )
        if len(rows) > 1:
            (small, low), (large, high) = rows[0], rows[-1]
            factor = (high - low) / (large - small)
            found[passes] = {"most": most, "factor": round(factor, 3), "fixed_mb": round(low - factor * small)}
    return found


def measured(arguments: list[str], seconds: int) -> dict:
    """What a process of its own prints as its last line; a verdict where it fails or takes longer."""
    command = [sys.executable, __file__, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"failed": f"over {seconds} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}
    return json.loads(lines[-1])


def growth(kind: str, passes: str, nodes: list[int], seconds: int) -> dict:
    """The runs by number of nodes, and the growth from the first to the last."""
    runs = [measured(["worker", kind, str(n), passes], seconds) for n in nodes]
    row: dict = {"runs": runs}
    if all("cpu_s" in r for r in runs):
        row["growth"] = round(runs[-1]["cpu_s"] / runs[0]["cpu_s"], 2)
    shown = "  ".join(f"{r['cpu_s']:8.1f} s {r['peak_mb']:6d} MB" if "cpu_s" in r else r["failed"] for r in runs)
    print(f"{kind:16} {passes:12} {shown}  growth {row.get('growth', '-')}", flush=True)
    return row


def has_growth(row: dict, nodes: int) -> bool:
    """Whether a pair has a figure for that many nodes, or more."""
    return "growth" in row and row["runs"][-1]["nodes"] >= nodes


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        print(json.dumps(worker(sys.argv[2], int(sys.argv[3]), sys.argv[4])))
        return
    if sys.argv[1:2] == ["memory-worker"]:
        print(json.dumps(memory_worker(Path(sys.argv[2]), sys.argv[3])))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="?", choices=["time", "memory", "all"], default="all")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[160, 480], help="of weights")
    parser.add_argument("--nodes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--graphs", nargs="+", choices=GRAPHS, default=list(GRAPHS))
    parser.add_argument("--lists", nargs="+", default=list(LISTS))
    parser.add_argument("--missing", action="store_true", help="only pairs without a figure for as many nodes")
    parser.add_argument("--seconds", type=int, default=1800, help="a run that takes longer is given up")
    parser.add_argument("--json", type=Path, default=OUT)
    args = parser.parse_args()
    found = json.loads(args.json.read_text()) if args.json.exists() else {}
    if args.what in ("time", "all"):
        table = found.setdefault("time", {})
        for kind, passes in product(args.graphs, args.lists):
            rows = table.setdefault(kind, {})
            if args.missing and has_growth(rows.get(passes, {}), args.nodes[-1]):
                continue
            rows[passes] = growth(kind, passes, args.nodes, args.seconds)
            args.json.write_text(json.dumps(found, indent=1) + "\n")
    if args.what in ("memory", "all"):
        for megabytes in args.megabytes:
            found.setdefault("memory", {})[f"{megabytes} MB"] = memory(MEMORY, megabytes, args.seconds)
        found["memory_growth"] = factors(found["memory"])
    args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
