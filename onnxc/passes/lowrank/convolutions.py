"""lowrank.spatial, .channel, .tucker, .cp, .separable and .auto: convolutions as chains of cheaper ones."""

from __future__ import annotations

from ..base import register
from .common import Factorise
from .target import CONVOLUTIONS

_OPTIONS = """

    Strides, dilations and pads go with the kernel axes that they belong to, the bias to the last stage; groups are
    factored each on its own; a ConvTranspose becomes a chain with ConvTranspose at the kernel. A layer is factored only
    where its MACs and its parameters both fall. With data the error of the outputs is least, not that of the weights:
    inputs are those of the model factored so far, and biases take the rest of the mean.

    energy: share of the weight's energy (with data: of the output's variance) that each layer keeps.
    energy_by: shares of their own for layers, by glob on node names, the last that fits counts. rank: one rank
    for all layers instead. vbmf: the rank that variational Bayes tells from noise (Nakajima 2013), of matrices and,
    for tucker, of both unfoldings (Kim 2016). macs: MACs of the whole model, up to 1 as a share, spent where the
    error per MAC saved is least. params: the same with parameters. time: a share of the time that the products are
    predicted to take, compiled. by: "time" takes what is predicted to be faster than the layer alone, and spends any
    budget where the error per time saved is least. target: the machine of these predictions, as in `onnxc compile`.
    round_to: ranks are multiples of it; auto: of convolutions, of 16 (by time, of 8) where that will do, else of less, for
    energy and budgets. fit: weights, outputs, or auto: outputs where data are given. recover: "lstsq" solves all layers behind
    a factored one by least squares, so that they give what they gave. samples: how many of the data are looked at. skip:
    globs of names of nodes to leave alone.

    Not idempotent: a second run factors the factors.
    """


@register("lowrank.spatial")
class Spatial(Factorise):
    __doc__ = (
        """Split k x k convolutions into k x 1 to r channels, then 1 x k (Jaderberg 2014).

    Before -> after: Conv k x k(x, W, b) -> Conv 1 x k(Conv k x 1(x, first), second, b)."""
        + _OPTIONS
    )
    forms, operators = ("spatial",), CONVOLUTIONS


@register("lowrank.channel")
class Channel(Factorise):
    __doc__ = (
        """Split convolutions into k x k to r channels, then 1 x 1 (Denton 2014, Zhang 2015).

    Before -> after: Conv k x k(x, W, b) -> Conv 1 x 1(Conv k x k(x, first), second, b)."""
        + _OPTIONS
    )
    forms, operators = ("channel",), CONVOLUTIONS


@register("lowrank.tucker")
class Tucker(Factorise):
    __doc__ = (
        """Split k x k convolutions into 1 x 1 to p, k x k to q and 1 x 1 (Tucker-2 by HOSVD and HOOI; Kim 2016).

    Before -> after: Conv k x k(x, W, b) -> Conv 1 x 1(Conv k x k(Conv 1 x 1(x, first), core), last, b)."""
        + _OPTIONS
    )
    forms, operators = ("tucker",), CONVOLUTIONS


@register("lowrank.cp")
class CP(Factorise):
    __doc__ = (
        """Split k x k convolutions into 1 x 1, depthwise k x 1, depthwise 1 x k, 1 x 1 (CP; Lebedev 2015).

    Before -> after: Conv k x k(x, W, b) -> four Convs, all of r channels between."""
        + _OPTIONS
    )
    forms, operators = ("cp",), CONVOLUTIONS


@register("lowrank.separable")
class Separable(Factorise):
    __doc__ = (
        """Split k x k convolutions into depthwise, m maps of each channel, then 1 x 1 (Howard 2017).

    Before -> after: Conv k x k(x, W, b) -> Conv 1 x 1(Conv k x k, a group to each channel(x, first), second, b). The
    rank is m."""
        + _OPTIONS
    )
    forms, operators = ("separable",), CONVOLUTIONS


@register("lowrank.auto", alias="lowrank")
class Auto(Factorise):
    __doc__ = (
        """Factor each layer in the form that loses least for what it saves: svd, spatial, channel, tucker, cp, separable.

    Before -> after: as in the passes named so. Fully connected layers, 1 x 1 convolutions and MatMul take svd. Without data
    a budget is met in one form, the likely best for the whole model, wherever that is open to a layer (by time, in all); with data the two
    likely best are tried so as well, and the model of the nearest outputs stays."""
        + _OPTIONS
    )
    forms = ("channel", "spatial", "tucker", "cp", "separable")
