"""Of the graphs at hand, how many train a step and come back equal when the step is zero.

    python benchmarks/train_coverage.py [--random 60] [--folder DIR] [--largest BYTES] [--json FILE]

For each graph: outputs in torch within 1e-5 of ONNX Runtime's, a backward pass that reaches weights, the same bytes after
a step of zero, and after a real step outputs in ONNX Runtime within 1e-5 of torch's. Graphs: the light topologies of the
onnx package, the trained networks, random networks of the test suite, and every .onnx of --folder that is not larger than
--largest. Where onnx2torch and onnx2pytorch can be imported they stand beside: whether they convert the graph, give its outputs
within 1e-5 and a gradient to some weight. They write nothing back.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import onnx
import torch

from benchmarks.models import LIGHT, TRAINED
from onnxc.ir.files import load
from onnxc.runtime.draw import random_feeds
from onnxc.runtime.reference import Runner
from onnxc.runtime.specs import input_specs
from onnxc.torch.network import Network, store
from tests.strategies import build

CLOSE = 1e-5


def gap(want: dict, got: dict) -> float:
    """The largest difference of any output relative to that output's largest value."""
    worst = 0.0
    for name, w in want.items():
        g = got[name].detach().numpy()
        if w.dtype.kind == "f":
            level = max(float(np.abs(w).max(initial=0)), 1e-30)
            worst = max(worst, float(np.abs(w.astype(np.float64) - g).max(initial=0)) / level)
        elif not np.array_equal(w, g):
            worst = float("inf")
    return worst


def examine(source) -> dict:
    """The row of one graph."""
    model = load(source)
    feeds = random_feeds(input_specs(model.to_proto()), 3, batch=2)
    proto = model.to_proto()
    net = Network(model)
    row = {"weights": len(list(net.parameters())), "before": gap(Runner(optimise=False)(proto, feeds), net(feeds))}
    sum(v.float().square().mean() for v in net(feeds).values() if v.requires_grad).backward()
    row["reached"] = sum(p.grad is not None for p in net.parameters())
    store(net, model)
    row["same"] = model.to_proto().SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)
    torch.optim.Adam(net.parameters(), lr=1e-4).step()
    with torch.no_grad():
        got = net(feeds)
    row["changed"] = len(store(net, model))
    row["after"] = gap(Runner(optimise=False)(model.to_proto(), feeds), got)
    row["ok"] = bool(row["before"] <= CLOSE and row["after"] <= CLOSE and row["same"] and row["changed"])
    return row


def peer(name: str, proto: onnx.ModelProto, feeds: dict, want: dict) -> str:
    """`ok`, or why another converter does not train the graph."""
    try:
        if name == "onnx2torch":
            from onnx2torch import convert

            net = convert(proto)
        else:
            from onnx2pytorch import ConvertModel

            net = ConvertModel(proto, experimental=True)
        net.eval()
        got = net(*(torch.from_numpy(np.array(x)) for x in feeds.values()))
        made = dict(zip(want, got if isinstance(got, (list, tuple)) else [got], strict=True))
        far = gap(want, made)
        if far > CLOSE:
            return f"outputs differ by {far:.1g}"
        sum(v.float().square().mean() for v in made.values() if v.requires_grad).backward()
        return "ok" if any(p.grad is not None for p in net.parameters()) else "no gradient"
    except Exception as e:
        return f"{type(e).__name__}: {e}".splitlines()[0][:120]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--random", type=int, default=60)
    parser.add_argument("--folder")
    parser.add_argument("--largest", type=int, default=2**40)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    graphs = {name: str(path) for name, path in {**LIGHT, **TRAINED}.items()}
    graphs |= {f"random_{s}": build(s, 2 + s % 5, 11 + s % 11) for s in range(args.random)}
    if args.folder:
        graphs |= {p.stem: str(p) for p in sorted(Path(args.folder).rglob("*.onnx"))
                   if p.stat().st_size <= args.largest}  # fmt: skip
    peers = [name for name in ("onnx2torch", "onnx2pytorch") if find_spec(name)]
    rows = {}
    for name, source in graphs.items():
        start = time.perf_counter()
        try:
            rows[name] = examine(source)
        except Exception as e:
            rows[name] = {"ok": False, "why": f"{type(e).__name__}: {e}"[:200]}
        for other in peers:
            try:
                proto = load(source).to_proto()
                feeds = random_feeds(input_specs(proto), 3, batch=2)
                want = Runner(optimise=False)(proto, feeds)
            except Exception as e:
                rows[name][other] = f"not run: {e}"[:120]
            else:
                rows[name][other] = peer(other, proto, feeds, want)
        rows[name]["seconds"] = round(time.perf_counter() - start, 2)
        if not rows[name]["ok"] or not name.startswith("random"):
            print(name, json.dumps(rows[name]), flush=True)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{sum(r['ok'] for r in rows.values())} of {len(rows)} train a step and come back")
    for other in peers:
        print(f"{sum(r[other] == 'ok' for r in rows.values())} of {len(rows)} by {other}")


if __name__ == "__main__":
    main()
