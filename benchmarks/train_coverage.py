"""Of the graphs at hand, how many train a step and come back equal when the step is zero.

    python benchmarks/train_coverage.py [--random 60] [--folder DIR ...] [--largest BYTES] [--json FILE]

For each graph: outputs in torch within 1e-5 of ONNX Runtime's, a backward pass that reaches weights, the same bytes after
a step of zero, and after a real step outputs in ONNX Runtime within 1e-5 of torch's. Differences are relative to the largest
value of an output, and to 1 where a Sigmoid makes it, as ONNX Runtime's is off by up to 1e-7 however small its values are;
where the two differ by more, ONNX's reference implementation may confirm torch's, or the difference be no more than ONNX
Runtime's own outputs move, up to 1 %, when its optimiser works or weights move by their rounding (2^-23, four draws): a number
on the border of two quantisation steps falls to either side. Inputs are drawn until ONNX Runtime takes
them. Graphs: the light topologies of the onnx package and the trained networks that hold weights, every .onnx of the folders
that is not larger than --largest, and random networks of the test suite. Where onnx2torch and onnx2pytorch can be imported
they stand beside: whether they convert the graph, give its outputs within 1e-5 and a gradient to some weight. They write
nothing back. What they gave for a graph that stands in --json is not tried again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator

from benchmarks.models import LIGHT, TRAINED
from onnxc.ir.files import load
from onnxc.runtime.feeding import feed
from onnxc.runtime.reference import Runner
from onnxc.torch.network import Network, store
from tests.strategies import build

CLOSE = 1e-5
MOST = 0.01
"""Of its outputs, how much ONNX Runtime may itself be off."""
WITHOUT_WEIGHTS = ("light_bvlc_alexnet", "light_zfnet512")
"""Light topologies all of whose weights ConstantOfShape makes."""


def gap(want: dict, got: dict, bounded: frozenset[str] = frozenset()) -> float:
    """The largest difference of any output relative to that output's largest value, or to 1 for a `bounded` one."""
    worst = 0.0
    for name, w in want.items():
        g = got[name].detach().numpy()
        if w.dtype.kind == "f":
            level = max(float(np.abs(w).max(initial=0)), 1.0 if name in bounded else 1e-30)
            worst = max(worst, float(np.abs(w.astype(np.float64) - g).max(initial=0)) / level)
        elif not np.array_equal(w, g):
            worst = float("inf")
    return worst


def drawn(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Two samples, or one run of a model of fixed extents, that ONNX Runtime takes."""
    return dict(next(feed(proto, seed=3, samples=2).batches(2)))


def compared(proto: onnx.ModelProto, feeds: dict, got: dict) -> dict[str, float]:
    """How far torch is from ONNX Runtime, and from ONNX's reference implementation where that is too far."""
    bounded = frozenset(o for n in proto.graph.node if n.op_type == "Sigmoid" for o in n.output)
    want = Runner(optimise=False)(proto, feeds)
    found = {"ort": gap(want, got, bounded)}
    if found["ort"] > CLOSE:
        try:
            made = ReferenceEvaluator(proto).run(list(want), feeds)
            found["reference"] = gap(dict(zip(want, map(np.asarray, made), strict=True)), got, bounded)
        except Exception as e:  # it lacks operators, and has errors of its own
            found["reference"] = f"{type(e).__name__}: {e}"[:80]
        if not near(found):
            found["own"] = moved(proto, feeds, want, bounded)
    return found


def moved(proto: onnx.ModelProto, feeds: dict, want: dict, bounded: frozenset[str]) -> float:
    """How far ONNX Runtime's outputs move by its optimiser, or by the rounding of weights."""
    made = [Runner(optimise=True)(proto, feeds)]
    for seed in range(4):
        rng, other = np.random.default_rng(seed), onnx.ModelProto()
        other.CopyFrom(proto)
        for t in other.graph.initializer:
            if t.data_type == onnx.TensorProto.FLOAT:
                w = onnx.numpy_helper.to_array(t)
                w = np.asarray(w * (1 + np.float32(2**-23) * rng.choice([-1, 1], w.shape)), np.float32)
                t.CopyFrom(onnx.numpy_helper.from_array(w, t.name))
        made.append(Runner(optimise=False)(other, feeds))
    return max(gap(want, {n: torch.from_numpy(np.array(v)) for n, v in one.items()}, bounded) for one in made)


def near(found: dict) -> bool:
    others = [found["ort"], found.get("reference", 1.0)]
    return any(isinstance(far, float) and far <= CLOSE for far in others) or found["ort"] <= min(
        found.get("own", 0), MOST
    )


def examine(source) -> dict:
    """The row of one graph."""
    model = load(source)
    proto = model.to_proto()
    feeds, net = drawn(proto), Network(model)
    outputs = net(feeds)
    row = {"weights": len(list(net.parameters())), "before": compared(proto, feeds, outputs)}
    # each output by its own size, so that small ones move weights too, and by a direction of its own: equal classes have no slope
    sizes = {n: v.detach().abs().max() + 1e-30 for n, v in outputs.items() if v.requires_grad and v.numel()}
    if not sizes:
        return {**row, "ok": False, "why": "no output depends on a weight"}
    torch.manual_seed(0)
    sum((torch.randn(outputs[n].shape) * outputs[n] / size).mean() for n, size in sizes.items()).backward()
    row["reached"] = sum(p.grad is not None for p in net.parameters())
    store(net, model)
    row["same"] = model.to_proto().SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)
    torch.optim.Adam(net.parameters(), lr=1e-4).step()
    with torch.no_grad():
        got = net(feeds)
    row["changed"] = len(store(net, model))
    row["after"] = compared(model.to_proto(), feeds, got)
    row["ok"] = bool(near(row["before"]) and near(row["after"]) and row["same"] and row["changed"])
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


def graphs(args: argparse.Namespace) -> dict[str, object]:
    """What is examined, by name."""
    found: dict[str, object] = {
        name: str(path) for name, path in {**LIGHT, **TRAINED}.items() if name not in WITHOUT_WEIGHTS
    }
    for folder in map(Path, args.folder):
        found |= {str(p.relative_to(folder.parent).with_suffix("")): str(p) for p in sorted(folder.rglob("*.onnx"))
                  if p.stat().st_size <= args.largest}  # fmt: skip
    return found | {f"random_{s}": build(s, 2 + s % 5, 11 + s % 11) for s in range(args.random)}


def beside(name: str, source: object) -> str:
    """What another converter makes of a graph."""
    try:
        proto = load(source).to_proto()
        feeds = drawn(proto)
        want = Runner(optimise=False)(proto, feeds)
    except Exception as e:
        return f"not run: {e}"[:120]
    return peer(name, proto, feeds, want)


def importable(name: str) -> bool:
    try:
        import_module(name)
    except ImportError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--random", type=int, default=60)
    parser.add_argument("--folder", nargs="*", default=[])
    parser.add_argument("--largest", type=int, default=2**40)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    peers = [name for name in ("onnx2torch", "onnx2pytorch") if importable(name)]
    before = json.loads(args.json.read_text()) if args.json and args.json.is_file() else {}
    rows = {}
    for name, source in graphs(args).items():
        start = time.process_time()
        try:
            rows[name] = examine(source)
        except Exception as e:
            rows[name] = {"ok": False, "why": f"{type(e).__name__}: {e}"[:200]}
        rows[name]["seconds"] = round(time.process_time() - start, 2)
        for other in peers:
            known = before.get(name, {}).get(other)
            rows[name][other] = known if known else beside(other, source)
        if not rows[name]["ok"] or not name.startswith("random"):
            print(name, json.dumps(rows[name]), flush=True)
        if args.json:
            args.json.write_text(json.dumps({**before, **rows}, indent=1) + "\n")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{sum(r['ok'] for r in rows.values())} of {len(rows)} train a step and come back")
    for other in peers:
        print(f"{sum(r[other] == 'ok' for r in rows.values())} of {len(rows)} by {other}")


if __name__ == "__main__":
    main()
