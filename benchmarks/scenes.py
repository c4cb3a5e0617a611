"""Scenes: a detector and a U-Net, and what `prune,quant` leaves of their mAP and mIoU.

    python benchmarks/scenes.py --train [detector|unet]    # makes tests/data/scenes_*.onnx anew; needs torch
    python benchmarks/scenes.py [--write]                  # measures them: benchmarks/results/scenes.json

Training scenes and those that are reported hold different garments (`onnxc.runtime.scenes`); recipes see 256 training scenes, without labels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxc
from onnxc.ir.cost import cost
from onnxc.pipeline import Pipeline, sound
from onnxc.report import finite
from onnxc.runtime.evaluate import Judge, find_task
from onnxc.runtime.feeding import feed
from onnxc.runtime.reference import Runner
from onnxc.runtime.scenes import SIDE, scenes

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/scenes.json"
CLASSES = 10
TRAINED, SEEN, REPORTED = {"detector": 2000, "unet": 1200}, 256, 500
EPOCHS = {"detector": 16, "unet": 16}
TASKS = {"detector": ("detection", "boxes"), "unet": ("segmentation", "mask")}
RECIPES = ["quant", *(f"prune(macs={m}), quant" for m in (0.95, 0.9))]


class _Net:
    """Writes nodes one after another; weights by He 2015, from one seed."""

    def __init__(self) -> None:
        self.rng, self.nodes, self.weights = np.random.default_rng(0), [], []

    def op(self, kind: str, inputs: list[str], **attrs: object) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attrs))
        return name

    def weight(self, values: np.ndarray) -> str:
        name = f"w_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(self, x: str, inside: int, out: int, k: int = 3, stride: int = 1, bias: float | None = None) -> str:
        w = self.weight(self.rng.normal(0, (2 / (inside * k * k)) ** 0.5, (out, inside, k, k)))
        b = [self.weight(np.full(out, bias))] if bias is not None else []
        return self.op("Conv", [x, w, *b], kernel_shape=[k, k], pads=[k // 2] * 4, strides=[stride] * 2)

    def block(self, x: str, inside: int, out: int, k: int = 3, stride: int = 1, relu: bool = True) -> str:
        """Convolution, batch normalisation, Relu."""
        y = self.conv(x, inside, out, k, stride)
        stats = [self.weight(values) for values in (np.ones(out), np.zeros(out), np.zeros(out), np.ones(out))]
        y = self.op("BatchNormalization", [y, *stats])
        return self.op("Relu", [y]) if relu else y

    def residual(self, x: str, width: int) -> str:
        y = self.block(self.block(x, width, width), width, width, relu=False)
        return self.op("Relu", [self.op("Add", [x, y])])

    def up(self, x: str, inside: int, out: int) -> str:
        """Twice as large, by a transposed convolution."""
        w = self.weight(self.rng.normal(0, (2 / inside) ** 0.5, (inside, out, 2, 2)))
        b = self.weight(np.zeros(out))
        return self.op("ConvTranspose", [x, w, b], kernel_shape=[2, 2], strides=[2, 2])

    def model(self, y: str, shape: list[object]) -> onnx.ModelProto:
        self.nodes[-1].output[0] = "scores"
        assert self.nodes[-1].name == y
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
            for name, dims in (("image", ["N", 1, SIDE, SIDE]), ("scores", shape))
        ]
        graph = helper.make_graph(self.nodes, "scenes", ends[:1], ends[1:], self.weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(made, full_check=True)
        return made


def detector() -> onnx.ModelProto:
    """A residual network of four strides with FastestDet's head: [N, 5 + classes, 6, 6]."""
    net, x, inside = _Net(), "image", 1
    for width, deep in ((16, 0), (24, 1), (40, 1), (56, 1)):
        x = net.block(x, inside, width, stride=2)
        for _ in range(deep):
            x = net.residual(x, width)
        inside = width
    x = net.block(x, inside, inside, 1)
    parts = [
        net.op("Sigmoid", [net.conv(x, inside, 1, 1, bias=-2.0)]),
        net.conv(x, inside, 4, 1, bias=-0.5),
        net.op("Softmax", [net.conv(x, inside, CLASSES, 1, bias=0.0)], axis=1),
    ]
    return net.model(net.op("Concat", parts, axis=1), ["N", 5 + CLASSES, SIDE // 16, SIDE // 16])


def unet() -> onnx.ModelProto:
    """A U-Net (Ronneberger 2015) on the first stages of the detector: scores of each pixel [N, classes + 1, 96, 96], the ground first."""
    net, x, inside, kept = _Net(), "image", 1, []
    widths = (16, 24, 40)
    for width, deep in zip(widths, (0, 1, 2)):
        x = net.block(x, inside, width, stride=2)
        for _ in range(deep):
            x = net.residual(x, width)
        kept.append(x)
        inside = width
    for width, skip in zip(widths[-2::-1], kept[-2::-1]):
        x = net.block(net.op("Concat", [net.up(x, inside, width), skip], axis=1), 2 * width, width)
        inside = width
    return net.model(net.up(x, inside, CLASSES + 1), ["N", CLASSES + 1, SIDE, SIDE])


def data(name: str, count: int, seed: int, part: str) -> dict[str, np.ndarray]:
    made = scenes(count, seed, part)
    return {"image": made.image, "labels": getattr(made, TASKS[name][1])}


def train(name: str, folder: Path | None) -> None:
    """A network by `train.finetune`, with its file in onnxc/data."""
    start = {"detector": detector, "unet": unet}[name]()
    if name == "unet":
        _begin_with(start, onnx.load(ROOT / "tests/data/scenes_detector.onnx"))
    kept = "" if folder is None else f', checkpoint="{folder / name}.pt"'
    text = f"train.finetune(epochs={EPOCHS[name]}, batch=16, rate=0.003, held=0.05{kept})"
    tell = lambda told: print(name, told, flush=True)  # noqa: E731
    done = Pipeline(text, data=data(name, TRAINED[name], 0, "train"), check="shapes", progress=tell).transform(start)
    print(name, *(note for row in done.report.rows for note in row.notes), flush=True)
    onnx.save(done.model.to_proto(), ROOT / f"tests/data/scenes_{name}.onnx")


def _begin_with(model: onnx.ModelProto, other: onnx.ModelProto) -> None:
    """The weights of the first stages, which both networks share: node by node up to the first that differs."""
    theirs = {t.name: t for t in other.graph.initializer}
    ours = {t.name: t for t in model.graph.initializer}
    for node, like in zip(model.graph.node, other.graph.node):
        pairs = [(ours[a], theirs[b]) for a, b in zip(node.input, like.input) if a in ours and b in theirs]
        if node.op_type != like.op_type or any(list(a.dims) != list(b.dims) for a, b in pairs):
            return
        for mine, given in pairs:
            name = mine.name
            mine.CopyFrom(given)
            mine.name = name


def measured(name: str) -> dict:
    """Costs and metrics of the network as given and by each recipe, on scenes of other garments."""
    proto = onnx.load(ROOT / f"tests/data/scenes_{name}.onnx")
    seen = feed(proto, {"image": data(name, SEEN, 1, "train")["image"]})
    judge = Judge(
        Runner(), feed(proto, data(name, REPORTED, 0, "test")), proto, REPORTED, find_task(TASKS[name][0], None, None)
    )
    rows = []
    for text in ("clean", *RECIPES):
        done = Pipeline(text, data=seen).transform(onnxc.load(proto))
        work = done.model.copy()
        work.shapes = {"image": (1, 1, SIDE, SIDE)}
        found = cost(work, sound(work)).to_dict()
        rows.append(
            {"recipe": text, "bytes": found["bytes"], "macs": found["macs"], **judge(done.model.to_proto()).metrics}
        )
        print(name, rows[-1], flush=True)
    return {"rows": rows}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--train", nargs="?", const="all", choices=["all", *TASKS])
    options.add_argument("--only", choices=list(TASKS), help="measure one of them")
    options.add_argument("--checkpoints", type=Path, help="a folder from which a training that was cut off goes on")
    options.add_argument("--write", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    given = options.parse_args()
    if given.train:
        for name in TASKS:
            if given.train in ("all", name):
                train(name, given.checkpoints)
        return
    rows = finite({name: measured(name) for name in TASKS if given.only in (None, name)})
    if given.write:
        rows = (json.loads(RESULTS.read_text()) if RESULTS.exists() else {}) | rows
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
