"""Quantisers, trained straight through; what is between Quantize and Dequantize is whole numbers held as floats.

With q = round(x/s) and y = s q inside the range, autograd gives dy/ds = q - x/s there and the bound beyond: the gradient
of learned step sizes (Esser 2020, LSQ, eq. 3), as long as both nodes read the same scale.
"""

from __future__ import annotations

import onnx
import torch

from onnxc.ir import functions
from onnxc.ir.model import DOMAIN

from ..steps import tensor
from ..table import Call, round_through, row, sign_through

RANGES = {
    "INT8": (-128, 127), "UINT8": (0, 255), "INT16": (-32768, 32767), "UINT16": (0, 65535), "INT4": (-8, 7),
    "UINT4": (0, 15), "INT2": (-2, 1), "UINT2": (0, 3),
}  # fmt: skip
_KINDS = {torch.int8: "INT8", torch.uint8: "UINT8", torch.int16: "INT16"}


def spread(scale: torch.Tensor, x: torch.Tensor, axis: int, block: int = 0) -> torch.Tensor:
    """A scale or zero point in a shape that broadcasts to `x`: one for all, one a channel, or one a block."""
    if scale.numel() == 1:
        return scale.reshape(())
    axis = axis % x.ndim
    if block:
        return scale.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return scale.reshape([-1 if i == axis else 1 for i in range(x.ndim)]) if scale.ndim == 1 else scale


def kind_of_zero(call: Call, zero: torch.Tensor, i: int) -> str:
    """The type that a zero point, input `i`, gives to whole numbers."""
    kind = call.kind(i) or _KINDS.get(zero.dtype)
    if kind not in RANGES:
        raise call.refuse("this type of whole numbers", found=kind)
    return kind


@row("QuantizeLinear")
def quantize_linear(call: Call, x, scale, zero=None):
    if zero is not None:
        kind = kind_of_zero(call, zero, 2)
    else:
        kind = onnx.TensorProto.DataType.Name(call.get("output_dtype", 0) or onnx.TensorProto.UINT8)
        if kind not in RANGES:
            raise call.refuse("this type of whole numbers", found=kind)
    axis, block = call.get("axis", 1), call.get("block_size", 0)
    steps = round_through(x / spread(scale, x, axis, block).to(x.dtype))
    if zero is not None:
        steps = steps + spread(zero, x, axis, block).to(x.dtype)
    return steps.clamp(*RANGES[kind])


@row("DequantizeLinear")
def dequantize_linear(call: Call, x, scale, zero=None):
    axis, block = call.get("axis", 1), call.get("block_size", 0)
    y = x.to(scale.dtype)
    if zero is not None:
        y = y - spread(zero, x, axis, block).to(scale.dtype)
    return y * spread(scale, x, axis, block)


@row("DynamicQuantizeLinear")
def dynamic_quantize(call: Call, x):
    low, high = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round((-low / scale).clamp(0, 255))
    return (round_through(x / scale) + zero).clamp(0, 255), scale, zero


def in_8_bits(call: Call, x: torch.Tensor) -> torch.Tensor:
    """The reals that DynamicQuantizeLinear makes of `x`."""
    q, scale, zero = dynamic_quantize(call, x)
    return (q - zero) * scale


@row("Binarize", domain=DOMAIN)
def binarize(call: Call, x):
    return sign_through(x, smooth=call.smooth)


@row("Quantize", domain=DOMAIN)
def quantize(call: Call, x, scale, low, high):
    return torch.minimum(torch.maximum(round_through(x / scale), low), high) * scale


@row("ResidualBinarize", domain=DOMAIN)
def residual_binarize(call: Call, x, scales):
    y, left = torch.zeros_like(x), x
    for scale in scales:
        part = sign_through(left, smooth=call.smooth) * scale
        y, left = y + part, left - part.detach()
    return y


@row("DynamicResidualBinarize", domain=DOMAIN)
def dynamic_residual_binarize(call: Call, x, gains):
    left = x.reshape(x.shape[0], -1)
    y = torch.zeros_like(left)
    for gain in gains:
        part = sign_through(left, smooth=call.smooth) * (gain * left.abs().mean(1, keepdim=True))
        y, left = y + part, left - part.detach()
    return y.reshape(x.shape)


@row("UnpackBits", domain=DOMAIN)
def unpack_bits(call: Call, packed, shape):
    return numbers(packed, shape).to(torch.int32)


@row("Lookup", domain=DOMAIN)
def lookup(call: Call, packed, codebook, shape):
    """Each value of the codebook gets the sum of the gradients of the weights that share it (Han 2016)."""
    if "index" not in call.memo:
        call.memo["index"] = numbers(packed, shape)
    index = call.memo["index"]
    return codebook.gather(1, index.reshape(codebook.shape[0], -1)).reshape(index.shape)


@row("ProductLookup", domain=DOMAIN)
def product_lookup(call: Call, packed, codebook, shape):
    """Each centroid gets the sum of the gradients of the sub-vectors that stand for it."""
    outputs, inputs, *kernel = (int(n) for n in shape)
    parts = inputs // codebook.shape[2]
    if "index" not in call.memo:
        call.memo["index"] = numbers(packed, torch.tensor([outputs, parts, *kernel]))
    book = (torch.arange(parts) % codebook.shape[0]).reshape(-1, *(1,) * len(kernel))
    found = codebook[book.expand(parts, *kernel), call.memo["index"]]
    return found.movedim(-1, 2).reshape(outputs, inputs, *kernel)


@row("HashedLookup", domain=DOMAIN)
def hashed_lookup(call: Call, codebook, shape):
    extents = [int(n) for n in shape]
    place, sign = functions.hash_places(int(torch.tensor(extents).prod()), len(codebook))
    return (codebook[tensor(place)] * tensor(sign)).reshape(extents)


def numbers(packed: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    """Packed numbers as int64 of `shape`."""
    extents = [int(n) for n in shape]
    flat = functions.unpack_bits(packed.cpu().numpy(), int(torch.tensor(extents).prod()))
    return tensor(flat.astype("int64")).reshape(extents)
