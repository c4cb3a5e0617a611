"""Products of whole numbers, held as floats so that gradients pass: exact in float64, where float32 may round sums."""

from __future__ import annotations

import torch

from ..table import Call, round_through, row
from .linear import conv
from .quantised import RANGES, in_8_bits, kind_of_zero, spread
from .recurrent import recurrent

WIDE = torch.float64


def _less(x: torch.Tensor, zero: torch.Tensor | None, axis: int) -> torch.Tensor:
    """Whole numbers less their zero point."""
    x = x.to(WIDE)
    return x if zero is None else x - spread(zero.to(WIDE), x, axis)


@row("MatMulInteger")
def matmul_integer(call: Call, a, b, a_zero=None, b_zero=None):
    return torch.matmul(_less(a, a_zero, -2), _less(b, b_zero, -1))


@row("ConvInteger")
def conv_integer(call: Call, x, w, x_zero=None, w_zero=None):
    return conv(call, _less(x, x_zero, 1), _less(w, w_zero, 0))


def _rounded(call: Call, y: torch.Tensor, scale, zero, axis: int, i: int) -> torch.Tensor:
    """A real result on the grid of an output."""
    y = round_through(y / spread(scale.to(WIDE), y, axis)) + spread(zero.to(WIDE), y, axis)
    return y.clamp(*RANGES[kind_of_zero(call, zero, i)]).to(torch.float32)


@row("QLinearConv")
def qlinear_conv(call: Call, x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias=None):
    scale = x_scale.to(WIDE) * w_scale.to(WIDE)
    y = conv(call, _less(x, x_zero, 1), _less(w, w_zero, 0), None if bias is None else bias.to(WIDE))
    return _rounded(call, y * spread(scale, y, 1), y_scale, y_zero, 1, 7)


@row("QLinearMatMul")
def qlinear_matmul(call: Call, a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero):
    y = torch.matmul(_less(a, a_zero, -2), _less(b, b_zero, -1))
    y = y * spread(a_scale.to(WIDE), y, -2) * spread(b_scale.to(WIDE), y, -1)
    return _rounded(call, y, y_scale, y_zero, -1, 7)


@row("DynamicQuantizeLSTM", domain="com.microsoft")
def dynamic_quantize_lstm(call: Call, x, w, r, b, lengths, h0, c0, peep, w_scale, w_zero, r_scale, r_zero):
    """ONNX Runtime quantises the input once, and the state ahead of each step (`recurrent`)."""
    real = [_real(t, s, z).transpose(1, 2) for t, s, z in ((w, w_scale, w_zero), (r, r_scale, r_zero))]
    return recurrent(call, in_8_bits(call, x), *real, b, lengths, h0, c0, peep)


def _real(w, scale, zero) -> torch.Tensor:
    scale, zero = (t.float().reshape(w.shape[0], 1, -1) for t in (scale, zero))
    return (w.float() - zero) * scale
