"""Memory of passes and of the compiler: the highest resident memory of a process, above the model's weights.

    python benchmarks/memory.py [--lists LISTS] [--models NAMES] [--samples N] [--json FILE]

Each row is a command of its own, `onnxc passes MODEL -p LIST --data DATA`, on 32 samples of noise: a one-dimensional U-Net whose weights are small
and whose activations are large (2.7 MB; 8 channels of 16384), and a ViT whose weights are large (95 MB; 224 x 224, patches
of 16). `above_mb` is the peak less the weights; what Python, ONNX and ONNX Runtime take (`idle_mb`) and the samples (`data_mb`) are included; docs/quantisation.md
says what bounds it. `compile` is `onnxc compile` of VGG-16 (553 MB of
weights) with its proof; of that process and all that it starts (the assembler, the linker, the library's run) the memory is counted
that no file backs, shared pages once, sampled; what compiling the bundled network takes (`floor_mb`) is left out, and the bound is
twice the weights. Results are written to benchmarks/results/memory.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from scale import Graph

OUT = Path(__file__).parent / "results/memory.json"
SMALL = Path(__file__).parents[1] / "onnxc/data/resnet20_fashion.onnx"
LISTS = ("quant", "quant(calibration=entropy, rounding=gptq)", "quant(rounding=adaptive)")
MOST = 400
"""MB above the weights that no row may need."""


def unet(channels: int = 8, length: int = 16384, width: int = 26, depth: int = 3) -> onnx.ModelProto:
    """Convolutions of 5 taps, two a level, down by strides of 2 and up again, levels joined by Concat."""
    g = Graph()

    def conv(x: str, inputs: int, outputs: int, stride: int = 1) -> str:
        w, b = g.weight(outputs, inputs, 5), g.weight(outputs)
        return g.op("Relu", g.op("Conv", x, w, b, pads=[2, 2], strides=[stride]))

    x, before, ahead = "x", channels, []
    for level in range(depth):
        wide = width << level
        x = conv(conv(x, before, wide), wide, wide)
        ahead.append((x, wide))
        x, before = conv(x, wide, wide, 2), wide
    x = conv(conv(x, before, 2 * before), 2 * before, before)
    for skip, wide in reversed(ahead):
        scales = g.constant(np.array([1, 1, 2], np.float32))
        up = g.op("Concat", g.op("Resize", x, "", scales, mode="nearest"), skip, axis=1)
        x, before = conv(conv(up, before + wide, wide), wide, wide), wide
    out = g.op("Conv", x, g.weight(2, before, 1))
    return g.model(("N", channels, length), ("N", 2, length), out)


def vit(width: int = 512, layers: int = 8, heads: int = 8, patch: int = 16, size: int = 224) -> onnx.ModelProto:
    """Patches, blocks of attention and two linear layers with GELU, each behind a LayerNormalization; a mean and a head."""
    g = Graph()
    tokens, each = (size // patch) ** 2, width // heads

    def norm(x: str) -> str:
        ones, zeros = g.constant(np.ones(width, np.float32)), g.constant(np.zeros(width, np.float32))
        return g.op("LayerNormalization", x, ones, zeros, axis=-1)

    def linear(x: str, inputs: int, outputs: int) -> str:
        w = g.constant((g.rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)).astype(np.float32))
        return g.op("Add", g.op("MatMul", x, w), g.weight(outputs))

    def split(x: str, perm: list[int]) -> str:
        shape = g.constant(np.array([0, tokens, heads, each]))
        return g.op("Transpose", g.op("Reshape", x, shape), perm=perm)

    x = g.op("Conv", "x", g.weight(width, 3, patch, patch), g.weight(width), strides=[patch, patch])
    x = g.op("Transpose", g.op("Reshape", x, g.constant(np.array([0, width, tokens]))), perm=[0, 2, 1])
    x = g.op("Add", x, g.constant(g.rng.standard_normal((1, tokens, width)).astype(np.float32)))
    for _ in range(layers):
        y = norm(x)
        q, k, v = (linear(y, width, width) for _ in range(3))
        scores = g.op("MatMul", split(q, [0, 2, 1, 3]), split(k, [0, 2, 3, 1]))
        scores = g.op("Softmax", g.op("Mul", scores, g.constant(np.float32(each**-0.5))), axis=-1)
        y = g.op("Transpose", g.op("MatMul", scores, split(v, [0, 2, 1, 3])), perm=[0, 2, 1, 3])
        y = g.op("Reshape", y, g.constant(np.array([0, tokens, width])))
        x = g.op("Add", x, linear(y, width, width))
        y = linear(norm(x), width, 4 * width)
        half, one, root = (g.constant(np.float32(c)) for c in (0.5, 1.0, 2**-0.5))
        y = g.op("Mul", g.op("Mul", y, half), g.op("Add", g.op("Erf", g.op("Mul", y, root)), one))
        x = g.op("Add", x, linear(y, 4 * width, width))
    x = g.op("ReduceMean", norm(x), axes=[1], keepdims=0)
    return g.model(("N", 3, size, size), ("N", 1000), linear(x, width, 1000))


def vgg() -> onnx.ModelProto:
    """VGG-16, 224 x 224, 1000 classes (Simonyan and Zisserman 2015, column D)."""
    g = Graph()
    x, before = "x", 3
    for level, convs in enumerate((2, 2, 3, 3, 3)):
        wide = min(64 << level, 512)
        for _ in range(convs):
            x = g.op("Relu", g.op("Conv", x, g.weight(wide, before, 3, 3), g.weight(wide), pads=[1] * 4))
            before = wide
        x = g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = g.op("Flatten", x)
    for wide, inputs in ((4096, 25088), (4096, 4096)):
        x = g.op("Relu", g.op("Gemm", x, g.weight(wide, inputs), g.weight(wide), transB=1))
    out = g.op("Gemm", x, g.weight(1000, 4096), g.weight(1000), transB=1)
    return g.model(("N", 3, 224, 224), ("N", 1000), out)


MODELS = {"unet": unet, "vit": vit, "vgg": vgg}


def peak(*arguments: str) -> float:
    """MB that a Python process with these arguments holds at its highest. Raises CalledProcessError where it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, arguments)
    return usage.ru_maxrss * 1024 / 1e6


def anonymous_peak(*arguments: str) -> float:
    """MB of anonymous memory that a Python process with these arguments and its descendants hold at their highest."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, env=environment)
    most = 0.0
    while child.poll() is None:
        most = max(most, sum(map(_anonymous, _tree(child.pid))))
        time.sleep(0.02)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, arguments)
    return most


def _tree(process: int) -> list[int]:
    """A process and its descendants."""
    try:
        lists = [path.read_text() for path in Path(f"/proc/{process}/task").glob("*/children")]
    except OSError:
        return []
    return [process, *(one for text in lists for each in text.split() for one in _tree(int(each)))]


def _anonymous(process: int) -> float:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss_Anon:"))


def make(name: str, samples: int, folder: Path) -> dict:
    """Write a model and data for it; what both take, in MB."""
    proto = MODELS[name]()
    folder.joinpath("model.onnx").write_bytes(proto.SerializeToString())
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim][1:]
    x = np.random.default_rng(1).standard_normal((samples, *shape), dtype=np.float32)
    np.savez(folder / "data.npz", x=x)
    weights = sum(len(t.raw_data) for t in proto.graph.initializer)
    return {"model": name, "weights_mb": round(weights / 1e6, 1), "data_mb": round(x.nbytes / 1e6)}


def tell(row: dict, above: int, bound: int) -> None:
    """Adds what is above to a row, prints it."""
    row |= {"above_mb": above, "most_mb": bound}
    print(*row.values(), "" if above <= bound else "missed", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["make"]:
        print(json.dumps(make(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--lists", nargs="+", default=list(LISTS))
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--json", type=Path, default=OUT)
    args = parser.parse_args()
    idle = round(peak("-c", "import onnxc, onnx, onnxruntime, onnx_graphsurgeon, onnxc.pipeline, onnxc.cli.app"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            # in a process of its own: a process begins with the peak of the one that starts it
            command = [sys.executable, __file__, "make", name, str(args.samples), folder]
            made = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            model, data, out = (str(Path(folder, file)) for file in ("model.onnx", "data.npz", "out.onnx"))
            if name == "vgg":
                library, bound = str(Path(folder, "library")), round(2 * made["weights_mb"])
                # a peak that is passed quickly may be missed
                floor = max(anonymous_peak("-m", "onnxc", "compile", str(SMALL), "-o", library) for _ in range(3))
                most = anonymous_peak("-m", "onnxc", "compile", model, "-o", library)
                rows.append({**made, "passes": "compile", "peak_mb": round(most), "floor_mb": round(floor)})
                tell(rows[-1], round(most - floor), bound)
                continue
            for passes in args.lists:
                most = peak("-m", "onnxc", "passes", model, "-p", passes, "--data", data, "-o", out)
                rows.append({**made, "passes": passes, "peak_mb": round(most)})
                tell(rows[-1], round(most - made["weights_mb"]), MOST)
    args.json.write_text(json.dumps({"idle_mb": idle, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
