"""Makes qonnx_*.onnx and what qonnx's own executor gives for them, qonnx_*.npz. Not run by the tests.

python make_qonnx.py FOLDER                  in a place with qonnx 1.0.0: the hand-made files
python make_qonnx.py FOLDER --brevitas       in one with brevitas 0.13, onnxoptimizer and torch: its export
python make_qonnx.py FOLDER --execute NAME   with qonnx again: the outputs for that export
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GENERAL, BREVITAS = "qonnx.custom_op.general", "onnx.brevitas"
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def execute(proto, x):
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    wrapped = ModelWrapper(proto).transform(InferShapes())
    return execute_onnx(wrapped, {proto.graph.input[0].name: x})[proto.graph.output[0].name]


def write(folder, name, domain, nodes, weights, shape, out_shape, version=1):
    """nodes: (operator, inputs, output, attributes); Quant and the like stand in `domain`."""
    made = [
        helper.make_node(
            op, ins.split(), [out], domain=domain if op in ("Quant", "BipolarQuant", "Trunc") else "", **attrs
        )
        for op, ins, out, attrs in nodes
    ]
    graph = helper.make_graph(
        made, name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out_shape)],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid(domain, version)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    x = normal(*shape) * 2
    onnx.save(proto, folder / f"{name}.onnx")
    np.savez_compressed(folder / f"{name}.npz", x=x, y=execute(proto, x))


def quant(signed, narrow, mode="ROUND"):
    return {"signed": signed, "narrow": narrow, "rounding_mode": mode}


def by_hand(folder):
    square = {"kernel_shape": [3, 3]}
    write(folder, "qonnx_cnn", GENERAL, [
        ("Quant", "x s0 z b8", "q0", quant(1, 0)), ("Quant", "w1 s1 z b4", "v1", quant(1, 1)),
        ("Conv", "q0 v1 c1", "a1", {"pads": [1, 1, 1, 1], **square}), ("Relu", "a1", "r1", {}),
        ("Quant", "r1 s2 z b4", "q1", quant(0, 0)), ("BipolarQuant", "w2 s3", "v2", {}),
        ("Conv", "q1 v2", "a2", {"strides": [2, 2], **square}), ("BatchNormalization", "a2 g be mu va", "n2", {}),
        ("Quant", "n2 s4 z b2", "q2", quant(1, 0)), ("Quant", "w3 s5 z b2", "v3", quant(1, 1)),
        ("Conv", "q2 v3", "a3", {"kernel_shape": [2, 2]}), ("BipolarQuant", "a3 s6", "q3", {}),
        ("Flatten", "q3", "f3", {}), ("MatMul", "f3 w4", "y", {}),
    ], {
        "s0": 0.05, "s1": np.abs(normal(6, 1, 1, 1)) * 0.1 + 0.05, "s2": 0.3, "s3": np.abs(normal(5, 1, 1, 1)) + 0.1,
        "s4": 0.7, "s5": 0.4, "s6": 0.5, "z": 0, "b8": 8, "b4": 4, "b2": 2, "w1": normal(6, 3, 3, 3) * 0.5,
        "c1": normal(6), "w2": normal(5, 6, 3, 3), "g": normal(5), "be": normal(5), "mu": normal(5),
        "va": np.abs(normal(5)) + 1, "w3": normal(7, 5, 2, 2), "w4": normal(28, 4),
    }, [2, 3, 8, 8], [2, 4])  # fmt: skip
    write(folder, "qonnx_zero_points", BREVITAS, [
        ("Quant", "x s0 z3 b4", "q0", quant(0, 0)), ("Quant", "w1 s1 z b1", "v1", quant(1, 0)),
        ("Conv", "q0 v1 c1", "a1", {"dilations": [2, 1], "pads": [0, 1, 1, 0], **square}), ("Relu", "a1", "r1", {}),
        ("Quant", "r1 s2 z b8", "q1", quant(0, 1)),
        ("AveragePool", "q1", "p1", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Trunc", "p1 s3 z b8 b6", "t1", {"rounding_mode": "FLOOR"}), ("Flatten", "t1", "f1", {}),
        ("Quant", "w2 s4 z b3", "v2", quant(1, 1)), ("MatMul", "f1 v2", "y", {}),
    ], {
        "s0": 0.25, "z3": 3, "z": 0, "b1": 1, "b3": 3, "b4": 4, "b6": 6, "b8": 8, "s1": 0.25, "s2": 0.0625,
        "s3": 0.015625, "s4": np.abs(normal(5)) * 0.2 + 0.1, "w1": normal(4, 3, 3, 3), "c1": normal(4),
        "w2": normal(36, 5) * 0.4,
    }, [2, 3, 9, 8], [2, 5])  # fmt: skip
    modes = ["CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN", "HALF_EVEN"]
    nodes = [("Quant", "x s z b", f"q{i}", quant(i % 2, int(i % 3 == 0), mode)) for i, mode in enumerate(modes)]
    nodes.append(("Concat", " ".join(f"q{i}" for i in range(7)), "y", {"axis": 1}))
    write(folder, "qonnx_rounding", GENERAL, nodes, {"s": 0.5, "z": 1, "b": 3}, [3, 40], [3, 280])
    nodes = [("Quant", "x s z b8", "q", quant(1, 0)), ("Trunc", "q s z b8 s2 b4", "y", quant(1, 0))]
    numbers = {"s": 0.03125, "z": 0, "b8": 8, "b4": 4, "s2": 0.25}
    write(folder, "qonnx_trunc", GENERAL, nodes, numbers, [3, 50], [3, 50], 2)


def brevitas(folder):
    import torch
    from brevitas import nn as qnn
    from brevitas.export import export_qonnx
    from brevitas.quant import SignedBinaryActPerTensorConst, SignedBinaryWeightPerTensorConst
    from torch import nn

    torch.Tensor.rename = lambda self, *_, **__: self  # torch 2.13 has named tensors no more, Brevitas drops the names
    torch.manual_seed(0)
    signs = {"weight_quant": SignedBinaryWeightPerTensorConst, "weight_scaling_init": 0.1}
    model = nn.Sequential(
        qnn.QuantIdentity(bit_width=8),
        qnn.QuantConv2d(3, 8, 3, padding=1, weight_bit_width=4, bias=True, weight_scaling_per_output_channel=True),
        nn.BatchNorm2d(8), qnn.QuantReLU(bit_width=4),
        qnn.QuantConv2d(8, 16, 3, stride=2, weight_bit_width=2, bias=False), nn.BatchNorm2d(16),
        qnn.QuantIdentity(act_quant=SignedBinaryActPerTensorConst, scaling_init=1.0, min_val=-1.0, max_val=1.0),
        qnn.QuantConv2d(16, 16, 3, bias=False, **signs), qnn.QuantReLU(bit_width=2), nn.Flatten(),
        qnn.QuantLinear(16, 5, bias=True, weight_bit_width=3),
    )  # fmt: skip
    model.train()
    for _ in range(5):
        model(torch.randn(16, 3, 8, 8))
    model.eval()
    x = torch.randn(4, 3, 8, 8)
    export_qonnx(model, args=x, export_path=str(folder / "qonnx_from_brevitas.onnx"), opset_version=13, dynamo=False)
    np.savez_compressed(folder / "qonnx_from_brevitas.npz", x=x.numpy(), y=model(x).detach().numpy())


def main():
    folder = Path(sys.argv[1])
    if "--brevitas" in sys.argv:
        brevitas(folder)
    elif "--execute" in sys.argv:
        name = sys.argv[-1]
        with np.load(folder / f"{name}.npz") as found:
            x = found["x"]
        np.savez_compressed(folder / f"{name}.npz", x=x, y=execute(onnx.load(folder / f"{name}.onnx"), x))
    else:
        by_hand(folder)


if __name__ == "__main__":
    main()
