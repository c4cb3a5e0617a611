"""What ONNX Runtime's optimiser writes in the domain com.microsoft, said again in standard operators: products,
normalisations, activations. Their definitions are those of ONNX Runtime's ContribOperators.

    FusedConv(x, w, b, z), activation Relu   ->   Relu(Conv(x, w, b) + z)
"""

from __future__ import annotations

import numpy as np

from onnxc.codegen.prepare.build import REWRITES, Build, rewrites
from onnxc.codegen.prepare.walk import STANDARD

MICROSOFT = "com.microsoft"
SAME = ("Trilu", "GatherND", "Pad", "Range", "QuantizeLinear", "DequantizeLinear", "Gelu")
"""Operators that are also standard ones, with the same operands."""


def like_standard(b: Build):
    """The node with its attributes, in the standard domain."""
    return b(b.node.op_type, *b.node.input, **b.attributes())


for _op in SAME[:-1]:
    REWRITES[MICROSOFT, _op] = like_standard


def gelu(b: Build, x: str) -> str:
    """x / 2 (1 + erf(x / sqrt 2))."""
    wide = b("Erf", b("Mul", x, b.like(0.5**0.5, x)))
    return b("Mul", b("Mul", x, b.like(0.5, x)), b("Add", wide, b.like(1, x)))


def gelu_tanh(b: Build, x: str) -> str:
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    cube = b("Mul", b("Mul", x, x), x)
    inner = b("Add", x, b("Mul", cube, b.like(0.044715, x)))
    wide = b("Tanh", b("Mul", inner, b.like((2 / np.pi) ** 0.5, x)))
    return b("Mul", b("Mul", x, b.like(0.5, x)), b("Add", wide, b.like(1, x)))


def added(b: Build, x: str, *others: str | None) -> str:
    """The sum of x and those of the others that there are."""
    for other in others:
        x = x if other is None else b("Add", x, other)
    return x


@rewrites("Gelu", "BiasGelu", domain=MICROSOFT)
def _gelu(b: Build):
    return gelu(b, added(b, *b.node.input))


@rewrites("FastGelu", domain=MICROSOFT)
def _fast_gelu(b: Build):
    return gelu_tanh(b, added(b, b.needs(0), b.input(1)))


@rewrites("QuickGelu", domain=MICROSOFT)
def _quick_gelu(b: Build):
    x = b.needs(0)
    return b("Mul", x, b("Sigmoid", b("Mul", x, b.like(b.attribute("alpha", 1.702), x))))


@rewrites("BiasSplitGelu", domain=MICROSOFT)
def _split_gelu(b: Build):
    x = b("Add", *b.node.input)
    shape = b.shape(x)
    axis, half = len(shape) - 1, shape[-1] // 2
    return b("Mul", b.cut(x, axis, 0, half), gelu(b, b.cut(x, axis, half, shape[-1])))


@rewrites("BiasAdd", domain=MICROSOFT)
def _bias_add(b: Build):
    return added(b, *b.node.input)


def activated(b: Build, x: str, name: str | None, params: list[float]) -> str:
    """x through the activation of a fused operator."""
    match name:
        case None | "":
            return x
        case "Relu" | "Sigmoid" | "Tanh" | "Softsign" | "Softplus":
            return b(name, x)
        case "LeakyRelu" | "Elu" | "ThresholdedRelu":
            return b(name, x, alpha=params[0])
        case "HardSigmoid":
            return b(name, x, alpha=params[0], beta=params[1])
        case "Clip":
            return b("Clip", x, b.like(params[0], x), b.like(params[1], x))
        case "HardSwish":
            return b("Mul", x, b("HardSigmoid", x, alpha=1 / 6, beta=0.5))
    raise b.refusal(f"attribute activation = {name} is not known")


@rewrites("FusedConv", "NhwcFusedConv", domain=MICROSOFT)
def _fused_conv(b: Build):
    own = b.attributes()
    name, params = own.pop("activation", None), own.pop("activation_params", [])
    last = b.node.op_type == "NhwcFusedConv"
    x, z = b.needs(0), b.input(3)
    if last:
        x, z = channels_first(b, x), z and channels_first(b, z)
    y = activated(b, added(b, b("Conv", x, b.needs(1), b.input(2), **own), z), name, params)
    return channels_last(b, y) if last else y


def channels_first(b: Build, x: str) -> str:
    """(n, ..., c) as (n, c, ...)."""
    rank = len(b.shape(x))
    return b.transpose(x, 0, rank - 1, *range(1, rank - 1))


def channels_last(b: Build, x: str) -> str:
    """(n, c, ...) as (n, ..., c)."""
    rank = len(b.shape(x))
    return b.transpose(x, 0, *range(2, rank), 1)


@rewrites("FusedGemm", domain=MICROSOFT)
def _fused_gemm(b: Build):
    own = b.attributes()
    name = own.pop("activation", None)
    params = [own.pop(f"activation_{which}", 0.0) for which in ("alpha", "beta", "gamma")]
    return activated(b, b("Gemm", *b.node.input, **own), name, params)


@rewrites("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def _fused_matmul(b: Build):
    operands = []
    for i, which in enumerate("AB"):
        x = b.needs(i)
        rank = len(b.shape(x))
        if b.attribute(f"transBatch{which}", 0):  # the first axis moves to the last but one
            x = b.transpose(x, *range(1, rank - 1), 0, rank - 1)
        if b.attribute(f"trans{which}", 0) and rank > 1:
            x = b.transpose(x, *range(rank - 2), rank - 1, rank - 2)
        operands.append(x)
    alpha, y = b.attribute("alpha", 1.0), b("MatMul", *operands)
    return y if alpha == 1 else b("Mul", y, b.like(alpha, y))


@rewrites("GemmFastGelu", domain=MICROSOFT)
def _gemm_fast_gelu(b: Build):
    return gelu_tanh(b, added(b, b("MatMul", b.needs(0), b.needs(1)), b.input(2)))


def normalised(
    b: Build, x: str, scale: str | None, bias: str | None, epsilon: float, centred: bool
) -> tuple[str, str, str]:
    """x over its last axis as (x - mean) / sqrt(variance + epsilon) scale + bias; without the mean where not `centred`.

    Also the mean and the reciprocal of the root.
    """
    axis = len(b.shape(x)) - 1
    mean = b.mean(x, axis) if centred else x
    centre = b("Sub", x, mean) if centred else x
    spread = b("Add", b.mean(b("Mul", centre, centre), axis), b.like(epsilon, x))
    factor = b("Div", b.like(1, x), b("Sqrt", spread))
    y = b("Mul", centre, factor)
    y = y if scale is None else b("Mul", y, scale)
    return added(b, y, bias), mean, factor


@rewrites("SkipLayerNormalization", domain=MICROSOFT)
def _skip_layer_norm(b: Build):
    total = added(b, b.needs(0), b.input(1), b.input(4))
    y, mean, factor = _layer_norm(b, total, b.needs(2), b.input(3), b.attribute("epsilon", 1e-12))
    return y, mean, factor, total


def _layer_norm(b: Build, x: str, scale: str, bias: str | None, epsilon: float):
    """LayerNormalization over the last axis: the operator itself where the opset has it and only its result is wanted."""
    if b.walk.opset >= 17 and not b.wants(1) and not b.wants(2):
        return b("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon), None, None
    return normalised(b, x, scale, bias, epsilon, True)


@rewrites("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def _skip_rms_norm(b: Build):
    total = added(b, b.needs(0), b.input(1), b.input(3))
    y, _, factor = normalised(b, total, b.input(2), None, b.attribute("epsilon", 1e-12), False)
    return y, None, factor, total


def rms_norm(b: Build):
    """SimplifiedLayerNormalization, which ONNX Runtime writes into the standard domain."""
    axis, rank = b.attribute("axis", -1), len(b.shape(b.needs(0)))
    if axis not in (-1, rank - 1):
        raise b.refusal(f"attribute axis = {axis} is not known, only the last one")
    y, _, factor = normalised(b, b.needs(0), b.input(1), None, b.attribute("epsilon", 1e-5), False)
    return y, factor


for _domain in (*STANDARD, MICROSOFT):
    REWRITES[_domain, "SimplifiedLayerNormalization"] = rms_norm


@rewrites("EmbedLayerNormalization", domain=MICROSOFT)
def _embed(b: Build):
    ids, words, places, gamma, beta = (b.needs(i) for i in (0, 2, 3, 5, 6))
    segments, kinds, mask, position = (b.input(i) for i in (1, 4, 7, 8))
    batch, length = b.shape(ids)
    if b.wants(1) and (mask is not None or b.attribute("mask_index_type", 0)):
        raise b.refusal("its mask_index is not known")
    position = position or b.constant(np.arange(length).reshape(1, length), np.int64)
    total = added(b, b("Gather", words, ids), b("Gather", places, position), segments and b("Gather", kinds, segments))
    y, _, _ = normalised(b, total, gamma, beta, b.attribute("epsilon", 1e-12), True)
    return y, b.constant(np.zeros(batch), np.int32), total


@rewrites("GroupNorm", domain=MICROSOFT)
def _group_norm(b: Build):
    last = bool(b.attribute("channels_last", 1))
    x = channels_first(b, b.needs(0)) if last else b.needs(0)
    shape, groups = b.shape(x), b.attribute("groups")
    flat = b.reshape(x, (shape[0], groups, int(np.prod(shape[1:], dtype=np.int64)) // groups))
    y, _, _ = normalised(b, flat, None, None, b.attribute("epsilon", 1e-5), True)
    y = b.reshape(y, shape)
    scale, bias = (b.reshape(b.needs(i), (-1, *[1] * (len(shape) - 2))) for i in (1, 2))
    y = b("Add", b("Mul", y, b.cast(scale, b.walk.element(y))), b.cast(bias, b.walk.element(y)))
    y = b("Mul", y, b("Sigmoid", y)) if b.attribute("activation", 0) else y
    return channels_last(b, y) if last else y


@rewrites("BiasSoftmax", domain=MICROSOFT)
def _bias_softmax(b: Build):
    x, bias = b.needs(0), b.needs(1)
    shape, other = b.shape(x), b.shape(bias)
    axis = b.attribute("axis", 1) % len(shape)
    if not b.attribute("is_inner_broadcast", 1) and len(other) == len(shape) - axis + 1:
        other = (other[0], *[1] * (axis - 1), *other[1:])
        bias = b.reshape(bias, other)
    total = b("Add", x, bias)
    rows = b.reshape(total, (int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))))
    return b.reshape(b("Softmax", rows, axis=1), shape)


@rewrites("ExpandDims", domain=MICROSOFT)
def _expand_dims(b: Build):
    axis = b.known(b.needs(1))
    if axis is None:
        raise b.refusal("its axis is computed at run time")
    shape = list(b.shape(b.needs(0)))
    shape.insert(int(axis.reshape(-1)[0]) % (len(shape) + 1), 1)
    return b.reshape(b.needs(0), shape)


@rewrites("LayerNormalization")
def _old_layer_norm(b: Build):
    if b.walk.opset >= 17:  # the standard has it
        return None
    axis, rank = b.attribute("axis", -1), len(b.shape(b.needs(0)))
    if axis not in (-1, rank - 1):
        raise b.refusal(f"attribute axis = {axis} is not known, only the last one")
    return normalised(b, b.needs(0), b.input(1), b.input(2), b.attribute("epsilon", 1e-5), True)
