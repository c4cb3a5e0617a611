"""The networks that benchmarks/auto.py searches, each with its data: those of this repository, and MLPerf Tiny's from a folder.

    kws_int8.onnx, kws.npz       twelve words, labelled
    vww_float.onnx, vww.npz      person or not, labelled
    ic_float.onnx, ic.npz        pictures of CIFAR-10 without labels: what the network as given says stands for them
    ad_int8.onnx, ad_clip.bin    one normal recording of ToyCar: 200 frames of 128 mel bands, float32, in dB

The autoencoder gets its score, the mean squared error of the reconstruction, as a node, and is judged by the area under the curve:
the odd half of its samples are windows of the same recording with eight neighbouring bands 8 dB louder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

ROOT = Path(__file__).resolve().parent.parent
SCENES = {"detector": 800, "unet": 320}
"""Scenes of garments that the networks were not trained on; outputs of the U-Net are large."""
FRAMES, BANDS, WINDOW = 200, 128, 5
LOUDER, WIDE = 8.0, 8
"""dB, and mel bands in a row."""


@dataclass(frozen=True)
class Network:
    """A model, its data as arrays by name, and what it is for; None: what its labels, or its outputs, give away."""

    model: Any
    data: dict[str, np.ndarray]
    task: str | None = None


def networks(folder: Path | None) -> dict[str, Callable[[], Network]]:
    """name -> what reads it."""
    test, here = ROOT / "onnxc/data/fashion_test.npz", ROOT / "tests/data"
    found = {
        "resnet20": lambda: Network(ROOT / "onnxc/data/resnet20_fashion.onnx", arrays(test)),
        "vggslim": lambda: Network(here / "vggslim_fashion.onnx", arrays(test)),
        "binary": lambda: Network(here / "binary_fashion.onnx", arrays(test)),
        "detector": lambda: _scenes("detector"),
        "unet": lambda: _scenes("unet"),
    }
    if folder is not None:
        tiny: dict[str, tuple[str, Callable[[], Network]]] = {
            "kws": ("kws.npz", lambda: Network(folder / "kws_int8.onnx", arrays(folder / "kws.npz"))),
            "vww": ("vww.npz", lambda: Network(folder / "vww_float.onnx", arrays(folder / "vww.npz", 255))),
            "ic": ("ic.npz", lambda: Network(folder / "ic_float.onnx", arrays(folder / "ic.npz"))),
            "ad": ("ad_clip.bin", lambda: _anomalies(folder)),
        }
        found |= {name: read for name, (needed, read) in tiny.items() if (folder / needed).exists()}
    return found


def arrays(file: Path, by: float = 1) -> dict[str, np.ndarray]:
    """The arrays of a file; bytes as floats, by `by`."""
    with np.load(file) as found:
        return {n: a.astype(np.float32) / np.float32(by) if a.dtype == np.uint8 else a for n, a in found.items()}


def _scenes(name: str) -> Network:
    sys.path.insert(0, str(Path(__file__).parent))
    from scenes import TASKS, data

    return Network(ROOT / f"tests/data/scenes_{name}.onnx", data(name, SCENES[name], 1, "test"), TASKS[name][0])


def _anomalies(folder: Path) -> Network:
    frames = np.fromfile(folder / "ad_clip.bin", np.float32).reshape(FRAMES, BANDS)
    rng, rows, labels = np.random.default_rng(0), [], []
    for start in range(FRAMES - WINDOW + 1):
        window = frames[start : start + WINDOW]
        odd, band = window.copy(), int(rng.integers(BANDS - WIDE))
        odd[:, band : band + WIDE] += LOUDER
        rows += [window.ravel(), odd.ravel()]
        labels += [0, 1]
    data = {"input_1": np.array(rows), "labels": np.array(labels)}
    return Network(_scored(onnx.load(folder / "ad_int8.onnx")), data, "anomaly")


def _scored(model: onnx.ModelProto) -> onnx.ModelProto:
    """An autoencoder with the mean squared error of each sample as its output."""
    graph = model.graph
    given, made = graph.input[0].name, graph.output[0].name
    graph.node.extend(
        [
            helper.make_node("Sub", [made, given], ["error"], name="error"),
            helper.make_node("Mul", ["error", "error"], ["squared"], name="squared"),
            helper.make_node("ReduceMean", ["squared"], ["score"], name="score", axes=[1], keepdims=0),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("score", TensorProto.FLOAT, [1]))
    onnx.checker.check_model(model, full_check=True)
    return model
