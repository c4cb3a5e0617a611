"""The four MLPerf Tiny networks in float, with calibration and test samples, for benchmarks/quant.py.

ONNXC_TEST_MODELS names the folder of ic_float.onnx, vww_float.onnx, kws_int8.onnx and ad_int8.onnx (and kws.npz); TINY_DATA one of
vww.npz and ic.npz. Of the two that are published in int8 alone the float network is what their integers stand for. Inputs
of the autoencoder are drawn with a mean and a spread such as its own scale covers; the others are real.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

import onnxc
from onnxc.ir import numbers
from onnxc.ir.model import Model

NAMES = ("ic", "vww", "kws", "ad")
CALIB = 200


def floats(model: Model) -> Model:
    """A QDQ model without its quantisers: weights and biases as floats; what begins at 0 goes through a Relu."""
    for node in [n for n in model.nodes if n.op == "DequantizeLinear"]:
        found = numbers.read(node.outputs[0])
        if found is not None and found.constant:
            model.replace_uses(node.outputs[0], model.constant(f"{node.name}_float", found.real()))
            model.remove(node)
        elif node.inputs[0].inputs and node.inputs[0].inputs[0].op == "QuantizeLinear":
            source, zero = node.inputs[0].inputs[0].inputs[0], node.inputs[2].values
            if zero == np.iinfo(zero.dtype).min:  # a Relu that the quantiser had swallowed
                source = model.node("Relu", [source], before=node).outputs[0]
            model.bypass(node, source)
    model.drop_dead()
    return model


def network(name: str) -> Model:
    folder = Path(os.environ["ONNXC_TEST_MODELS"])
    if name in ("ic", "vww"):
        return onnxc.load(folder / f"{name}_float.onnx")
    return floats(onnxc.load(folder / f"{name}_int8.onnx"))


def samples(name: str) -> tuple[dict, dict]:
    """(calibration, test): the first 200 samples, and up to 800 others."""
    if name == "ad":
        rng = np.random.default_rng(0)
        x = (rng.normal(size=(600, 640)).cumsum(1) / 8 + rng.normal(size=(600, 1)) * 3).astype(np.float32)
        data = {"input_1": x}
    else:
        folder = os.environ["ONNXC_TEST_MODELS"] if name == "kws" else os.environ["TINY_DATA"]
        with np.load(Path(folder) / f"{name}.npz") as file:
            data = dict(file)
        x = data["input_1"].astype(np.float32)
        data["input_1"] = x / 255 if name == "vww" else x
    return {k: v[:CALIB] for k, v in data.items() if k != "labels"}, {
        k: v[CALIB : CALIB + 800] for k, v in data.items()
    }
