"""What the tests of quantisation share: running the pass, the fake-quantised twin, ONNX Runtime's own view."""

from __future__ import annotations

import collections

import numpy as np
import onnx

from onnxc.ir.files import load
from onnxc.ir.model import Model
from onnxc.passes.base import Report, apply
from onnxc.passes.registry import make
from onnxc.runtime.data import open_data
from onnxc.runtime.evaluate import Evaluator
from onnxc.runtime.reference import Runner, Session
from onnxc.runtime.specs import input_specs


def model_of(text: str, **weights: np.ndarray) -> Model:
    """A model from ONNX text, its initialisers given as arrays."""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items())
    return load(proto)


def quantised(model: Model, data=None, samples: int = 8, **options) -> tuple[Model, Report]:
    """`model` after quant.int8, calibrated on `data` or on seeded random inputs."""
    source = open_data(data, input_specs(model.to_proto()), samples=samples)
    runner = Runner(optimise=False)
    judges = Evaluator(runner, source)
    return apply(
        make("quant.int8", options), model, runner=runner, data=source, synthetic=data is None, evaluator=judges
    )


def feeds_of(model: Model, samples: int = 4, seed: int = 1) -> dict[str, np.ndarray]:
    return next(open_data(None, input_specs(model.to_proto()), seed=seed, samples=samples).batches(samples))


def run(model: Model, feeds, optimise: bool = False) -> dict[str, np.ndarray]:
    return Session(model.to_proto(), optimise=optimise).run(feeds)


def fused_operators(model: Model, folder) -> collections.Counter:
    """The operators that ONNX Runtime makes of the model."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(model.to_proto().SerializeToString(), options, ["CPUExecutionProvider"])
    return collections.Counter(n.op_type for n in onnx.load(folder / "optimised.onnx").graph.node)


def twin(model: Model) -> Model:
    """The float model of a QDQ model: weights dequantised here in NumPy, activations rounded by plain float operators.

    real = scale * (clip(round(x / scale) + zero, low, high) - zero): no QuantizeLinear or DequantizeLinear is left.
    """
    model = model.copy()
    for node in list(model.nodes):
        if node.op == "DequantizeLinear" and not node.inputs[0].inputs:
            stored, scale, zero = (t.values for t in node.inputs)
            if scale.ndim:
                shape = [-1 if d == node.attrs["axis"] else 1 for d in range(stored.ndim)]
                scale, zero = scale.reshape(shape), zero.reshape(shape)
            real = (stored.astype(np.int32) - zero.astype(np.int32)).astype(np.float32) * scale
            model.replace_uses(node.outputs[0], model.constant(f"{node.name}_real", real))
            model.remove(node)
    for node in list(model.nodes):
        if node.op == "DequantizeLinear":
            quantise = node.inputs[0].inputs[0]
            x, (scale, zero), out = quantise.inputs[0], (t.values for t in quantise.inputs[1:3]), node.outputs[0]
            info = np.iinfo(zero.dtype)
            model.remove(node)
            for op, *operands in (
                ("Div", scale), ("Round",), ("Add", zero), ("Clip", info.min, info.max), ("Sub", zero), ("Mul", scale)
            ):  # fmt: skip
                constants = [model.constant("c", np.float32(v)) for v in operands]
                x = model.node(op, [x, *constants], outputs=[out] if op == "Mul" else None).outputs[0]
    model.sort()
    model.drop_dead()
    return model
