"""Channel pruning of the nine light models at ratio 0.5, beside onnxsim's structured pruning and qonnx, in one run.

    python benchmarks/prune.py [--json F.json]

MACs are given as a share of the original's, counted by onnxc for all; `twin` is the largest difference from the zeroed
twin, relative to the largest output (onnxc only: no other tool has one). onnxc gets the models as they come, in a process
of its own, whose peak memory is given. Peers get them with weights that stand as initialisers, none shared between
nodes, since shared ones break them. One that is not installed says so; so does one that fails, or whose result ONNX
Runtime does not run.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import logging
import re
import subprocess
import sys
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx

from onnxc import load, run_passes
from onnxc.ir.cost import cost
from onnxc.ir.errors import VerificationError
from onnxc.ir.verify import verify
from onnxc.passes.prune import groups
from onnxc.runtime.draw import random_feeds
from onnxc.runtime.reference import Session

LIGHT = Path(find_spec("onnx").origin).parent / "backend/test/data/light"
HALF = {
    "resnet50": 0.257, "densenet121": 0.261, "inception_v1": 0.271, "inception_v2": 0.265, "shufflenet": 0.284,
    "squeezenet": 0.327, "vgg19": 0.251, "zfnet512": 0.278, "bvlc_alexnet": 0.290,
}  # fmt: skip
"""What a perfect half cut leaves of the MACs."""


def ours(path: Path) -> dict:
    start = time.process_time()
    result = run_passes(path, "prune(ratio=0.5, scope=layer)", check="shapes")
    seconds = time.process_time() - start
    rows = result.report.rows
    found = {"macs": rows[-1].after.macs / rows[0].before.macs, "seconds": seconds, "groups": len(rows[-1].edits)}
    # ru_maxrss would be the parent's, where that is larger
    status = Path("/proc/self/status").read_text()
    found["peak_mb"] = int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) // 1024
    found["weights_mb"] = rows[0].after.bytes // 2**20
    session = Session(result.model.to_proto())
    session.run(random_feeds(session.inputs, 0))
    return found


def filled(path: Path):
    """The model with weights of its own for each node, none equal to another."""
    model = run_passes(path, "clean", check="shapes").model
    rng = np.random.default_rng(0)
    for node in model.nodes:
        for i, t in enumerate(node.inputs):
            values = getattr(t, "values", None)
            if values is not None and values.dtype == np.float32 and values.ndim == 1:
                model.set_weight(node, i, values + np.float32(1e-3) * rng.random(values.shape, np.float32))
            elif values is not None and values.dtype == np.float32 and values.ndim > 1:
                fresh = rng.standard_normal(values.shape, np.float32)
                fresh /= np.float32(np.sqrt(max(np.prod(values.shape[1:]), 1)))
                model.set_weight(node, i, fresh)
    return model


def twin_gap(model) -> float:
    """How far the model cut to half is from its twin."""
    found = groups(model)
    found.cut(0.5)
    pair = [Session(m.to_proto(), optimise=False) for m in (found.apply(), found.zeroed())]
    feeds = random_feeds(pair[0].inputs, 0)
    small, twin = (s.run(feeds) for s in pair)
    return max(float(np.abs(small[n] - y).max() / max(np.abs(y).max(), 1e-30)) for n, y in twin.items())


def judged(proto: onnx.ModelProto, before: int) -> str:
    """A peer's result in a word or two: its share of the MACs, or how it fails."""
    try:
        session = Session(proto)
        session.run(random_feeds(session.inputs, 0))
    except VerificationError:
        return "does not run"
    model = load(proto)
    return f"{cost(model, verify(model)).macs / before:.3f}"


def onnxsim(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Simplified first, which folds batch normalisations: it prunes through none."""
    import onnxsim

    simple, _ = onnxsim.simplify(proto)
    return onnxsim.apply_structured_pruning(simple, sparsity=0.5)


def qonnx(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Every convolution loses the first half of its output channels, which qonnx then propagates."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.extract_conv_bias import ExtractBiasFromConv
    from qonnx.transformation.infer_shapes import InferShapes
    from qonnx.transformation.pruning import PruneChannels

    model = ModelWrapper(proto).transform(InferShapes()).transform(ExtractBiasFromConv())
    weights = [n.input[1] for n in model.graph.node if n.op_type == "Conv"]
    plan = {w: {0: set(range(model.get_tensor_shape(w)[0] // 2))} for w in weights}
    return model.transform(PruneChannels(plan)).model


PEERS = {"onnxsim": onnxsim, "qonnx": qonnx}


def peer(name: str, proto: onnx.ModelProto, before: int) -> str:
    if find_spec(name) is None:
        return "not installed"
    logging.disable()
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            made = PEERS[name](copy.deepcopy(proto))
    except Exception as e:
        return f"fails ({type(e).__name__})"
    finally:
        logging.disable(logging.NOTSET)
    return judged(made, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(ours(Path(given.one))))
        return
    print(f"| model | perfect | onnxc | CPU s | peak MB | weights MB | twin | {' | '.join(PEERS)} |")
    print(f"|---|{'---:|' * (6 + len(PEERS))}", flush=True)
    rows = {}
    for name, half in HALF.items():
        path = LIGHT / f"light_{name}.onnx"
        command = [sys.executable, __file__, "--one", str(path)]
        row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        model = filled(path)
        row["twin"] = twin_gap(model)
        before = cost(model, verify(model)).macs
        row |= {p: peer(p, model.to_proto(), before) for p in PEERS}
        rows[name] = row
        cells = [
            name,
            f"{half:.3f}",
            f"{row['macs']:.3f}",
            f"{row['seconds']:.1f}",
            str(row["peak_mb"]),
            str(row["weights_mb"]),
            f"{row['twin']:.0e}",
        ]
        print(f"| {' | '.join([*cells, *(row[p] for p in PEERS)])} |", flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
