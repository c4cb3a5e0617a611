"""lowrank.svd: fully connected layers and 1x1 convolutions as two thinner ones."""

from __future__ import annotations

from ..base import register
from ..layers.layout import RECURRENT
from .common import Factorise


@register("lowrank.svd")
class LowRankSVD(Factorise):
    """Replace W [out, in] by its best approximation of rank r, as two layers (Eckart and Young 1936; Denton 2014).

    Before -> after, with first [r, in] and second [out, r]:

    1. Gemm(x, W, b)            ->  Gemm(Gemm(x, first), second, b)
    2. MatMul(x, W)             ->  MatMul(MatMul(x, first), second), any leading axes of x
    3. Conv 1x1(x, W, b)        ->  Conv(Conv(x, first), second, b), strides and pads on the first

    A layer is factored only where that lowers its MACs and the parameters, that is where r (out + in) < out in, and the
    old weight has no other reader that keeps it. With data the error of the outputs is least, not that of the weights:
    inputs are those of the model factored so far, and biases take the rest of the mean.

    energy: share of the squared singular values (with data: of the output's variance) to keep, which sets the rank of
    each layer. energy_by: shares of their own for layers, by glob on node names, the last that fits counts. rank: one rank
    for all instead. vbmf: the rank that variational Bayes tells from noise (Nakajima 2013).
    macs: MACs of the whole model, up to 1 as a share, spent where the error per MAC saved is least. params: the same
    with parameters. time: a share of the time that the products are predicted to take, compiled. by: "time" takes what is
    predicted to be faster than the layer alone. target: the machine of these predictions. round_to: ranks are multiples
    of it; auto: of convolutions, of 16 (by time, of 8) where that will do, else of less, for energy and budgets. fit:
    weights, outputs, or auto: outputs where data are given. recover: "lstsq" solves all layers behind a factored one by least
    squares, so that they give what they gave. samples: how many of the data are looked at. skip: globs of names of nodes
    to leave alone.

    Not idempotent: a second run factors the factors, again at that energy.
    """

    forms = ("channel",)
    operators = ("Gemm", "MatMul", "Conv", *RECURRENT)

    def unfit(self, users):
        for node in users:
            if node.op != "Conv":
                continue
            kernel = node.inputs[1].values.shape[2:]
            if any(k != 1 for k in kernel):
                return f"its kernel is {'x'.join(map(str, kernel))}, not 1x1"
            if node.attrs.get("group", 1) != 1:
                return "it has groups"
        return None
