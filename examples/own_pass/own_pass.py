"""own.round: weights become multiples of a power of two, as coarse as the outputs bear."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

import onnxc


@onnxc.register("own.round")
class Round(onnxc.Pass):
    """Round the weights of convolutions and matrix products, so that they are coded in fewer bytes:

        Conv w  ->  Conv round(w * 2^bits) / 2^bits

    bits: behind the point, at most. snr: signal to noise, in dB, that the outputs keep on 64 samples when everything is rounded.
    """

    claim = onnxc.Claim.LOSSY
    requires = ("clean",)
    needs_data = True

    bits: int = 10
    snr: float = 30.0

    def __post_init__(self) -> None:
        self.within("bits", 0 <= self.bits <= 20, "0 to 20")

    def run(self, model: onnxc.Model, ctx: onnxc.Context) -> onnxc.Report:
        report = onnxc.Report()
        judge = ctx.evaluate(model, samples=64)
        for name in [node.name for node in model.nodes if model.is_standard(node, "Conv", "Gemm", "MatMul")]:
            weight = _node(model, name).inputs[1]
            if not isinstance(weight, gs.Constant) or weight.values.dtype != np.float32:
                report.refuse(name, "its weight is computed, or no float32")
                continue
            for bits in range(self.bits + 1):
                trial = model.copy()
                trial.set_weight(_node(trial, name), 1, np.ldexp(np.rint(np.ldexp(weight.values, bits)), -bits))
                if judge(trial).noise <= 10 ** (-self.snr / 10):
                    model.adopt(trial)
                    report.edit(name, f"{weight.values.size} weights to multiples of 2^-{bits}")
                    break
            else:
                report.refuse(name, f"{self.bits} bits behind the point are not enough for {self.snr:g} dB")
        return report


def _node(model: onnxc.Model, name: str) -> gs.Node:
    return next(node for node in model.nodes if node.name == name)
