"""QONNX: the quantisers that Brevitas and FINN write, in words, in NumPy and as function bodies.

    Quant(x, scale, zero, bits)             scale * (round(clip(x / scale + zero, low, high)) - zero)
    BipolarQuant(x, scale)                  scale where x >= 0, else -scale
    Trunc(x, scale, zero, bits, scale', bits')   the integers of x cut to fewer bits (version 2; version 1 has no scale')

Attributes: signed, narrow (the lowest level is left out; the highest, where unsigned), rounding_mode. One signed bit
means +-1. Source: github.com/fastmachinelearning/qonnx, docs/qonnx-custom-ops; Pappalardo 2022.

The bodies let any runtime take such files. A body is made for the rounding mode and the version that a model uses; where
nodes of one operator differ in these there is no one body, and the model stays as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .errors import BadModel
from .model import Model

DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
OPERATORS = {"Quant": (4,), "IntQuant": (4,), "BipolarQuant": (2,), "Trunc": (5, 6)}
"""Operator -> how many inputs it may have."""
OPSET = 12
"""The first standard opset of the bodies: constants from attributes."""
ROUND: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ROUND": np.rint,
    "HALF_EVEN": np.rint,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "DOWN": np.trunc,
    "UP": lambda v: np.sign(v) * np.ceil(np.abs(v)),
    "HALF_UP": lambda v: np.sign(v) * np.floor(np.abs(v) + v.dtype.type(0.5)),
    "HALF_DOWN": lambda v: np.sign(v) * np.ceil(np.abs(v) - v.dtype.type(0.5)),
}
_AWAY = "{y}_a = Abs({x}) {y}_w = {how}({y}_a) {y}_s = Sign({x}) {y} = Mul({y}_w, {y}_s)"
_HALF = "{y}_a = Abs({x}) {y}_h = {shift}({y}_a, half) {y}_w = {how}({y}_h) {y}_s = Sign({x}) {y} = Mul({y}_w, {y}_s)"
_ROUND = {
    "ROUND": "{y} = Round({x})",
    "HALF_EVEN": "{y} = Round({x})",
    "CEIL": "{y} = Ceil({x})",
    "FLOOR": "{y} = Floor({x})",
    "DOWN": _AWAY.replace("{how}", "Floor"),
    "UP": _AWAY.replace("{how}", "Ceil"),
    "HALF_UP": _HALF.replace("{how}", "Floor").replace("{shift}", "Add"),
    "HALF_DOWN": _HALF.replace("{how}", "Ceil").replace("{shift}", "Sub"),
}
_LIMITS = """
  one = Constant<value = float {1.0}>()
  two = Constant<value = float {2.0}>()
  half = Constant<value = float {0.5}>()
  nought = Constant<value = float {0.0}>()
  signed_i = Constant<value_int: int = @signed>()
  narrow_i = Constant<value_int: int = @narrow>()
  is_signed = Cast<to = 9>(signed_i)
  is_narrow = Cast<to = 1>(narrow_i)
  less = Sub(bits, one)
  side = Pow(two, less)
  whole = Pow(two, bits)
  bottom = Sub(is_narrow, side)
  low = Where(is_signed, bottom, nought)
  top = Sub(side, one)
  most = Sub(whole, one)
  cut = Sub(most, is_narrow)
  high = Where(is_signed, top, cut)
"""
_QUANT = """ (x, scale, zero, bits) => (y) { %s
  steps = Div(x, scale)
  moved = Add(steps, zero)
  minus = Neg(one)
  up = GreaterOrEqual(moved, nought)
  bipolar = Where(up, one, minus)
  below = Min(moved, high)
  inside = Max(below, low)
  %s
  one_bit = Equal(bits, one)
  two_valued = And(one_bit, is_signed)
  level = Where(two_valued, bipolar, rounded)
  back = Sub(level, zero)
  y = Mul(back, scale) }"""
_BIPOLAR = """ (x, scale) => (y) {
  nought = Constant<value = float {0.0}>()
  one = Constant<value = float {1.0}>()
  minus = Constant<value = float {-1.0}>()
  up = GreaterOrEqual(x, nought)
  level = Where(up, one, minus)
  y = Mul(level, scale) }"""
_TRUNC2 = """ (x, scale, zero, from_bits, out_scale, bits) => (y) { %s
  steps = Div(x, scale)
  moved = Add(steps, zero)
  number = Round(moved)
  ratio = Div(out_scale, scale)
  logarithm = Log(ratio)
  unit = Log(two)
  power = Div(logarithm, unit)
  shift = Round(power)
  divisor = Pow(two, shift)
  cut_down = Div(number, divisor)
  below = Min(cut_down, high)
  inside = Max(below, low)
  %s
  out_zero = Div(zero, divisor)
  back = Sub(rounded, out_zero)
  y = Mul(back, out_scale) }"""
_TRUNC1 = """ (x, scale, zero, from_bits, bits) => (y) {
  two = Constant<value = float {2.0}>()
  half = Constant<value = float {0.5}>()
  steps = Div(x, scale)
  moved = Add(steps, zero)
  number = Round(moved)
  shift = Sub(from_bits, bits)
  divisor = Pow(two, shift)
  inside = Div(number, divisor)
  %s
  back = Sub(rounded, zero)
  y = Mul(back, scale) }"""
_DEFAULTS = {
    "Quant": (1, 1, "ROUND"),
    "IntQuant": (1, 1, "ROUND"),
    "Trunc": (1, 0, "FLOOR"),
    "BipolarQuant": (1, 0, ""),
}
"""Operator -> signed, narrow, rounding_mode where a node does not say."""


def is_quantiser(node: gs.Node) -> bool:
    """Whether `node` is one of these operators, with as many inputs as it should have."""
    return node.domain in DOMAINS and len(node.inputs) in OPERATORS.get(node.op, ())


def attributes(node: gs.Node) -> tuple[bool, bool, str]:
    """(signed, narrow, rounding mode in capitals) of a quantiser."""
    signed, narrow, mode = _DEFAULTS[node.op]
    mode = node.attrs.get("rounding_mode", mode)
    mode = mode.decode() if isinstance(mode, bytes) else mode
    return bool(node.attrs.get("signed", signed)), bool(node.attrs.get("narrow", narrow)), mode.upper()


def levels(bits: int, signed: bool, narrow: bool) -> tuple[float, float]:
    """The lowest and the highest whole number."""
    if signed:
        return float(narrow - (1 << (bits - 1))), float((1 << (bits - 1)) - 1)
    return 0.0, float((1 << bits) - 1 - narrow)


def evaluate(node: gs.Node, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """What the quantiser makes of these inputs, float32."""
    signed, narrow, mode = attributes(node)
    x, scale, *rest = (np.asarray(a, np.float32) for a in inputs)
    if node.op == "BipolarQuant":
        return np.where(x >= 0, np.float32(1), np.float32(-1)) * scale
    zero, bits = rest[:2]
    v = x / scale + zero
    if node.op == "Trunc":
        return _truncate(np.rint(v), scale, zero, rest[1:], signed, narrow, ROUND[mode])
    if bits.item() == 1 and signed:
        v = np.where(v >= 0, np.float32(1), np.float32(-1))
    else:
        low, high = map(np.float32, levels(int(bits.item()), signed, narrow))
        v = ROUND[mode](np.clip(v, low, high))
    return (v - zero) * scale


def _truncate(v, scale, zero, rest, signed, narrow, rounded) -> np.ndarray:
    two = np.float32(2)
    if len(rest) == 2:
        divisor = two ** (rest[0] - rest[1])
        return (rounded(v / divisor) - zero) * scale
    divisor = two ** np.rint(np.log2(rest[1] / scale))
    low, high = levels(int(rest[2].item()), signed, narrow)
    v = rounded(np.clip(v / divisor, np.float32(low), np.float32(high)))
    return (v - zero / divisor) * rest[1]


@functools.cache
def _function(domain: str, op: str, arity: int, mode: str, opset: int) -> bytes:
    rounding = _ROUND[mode].format(x="inside", y="rounded") if op != "BipolarQuant" else ""
    if op == "BipolarQuant":
        text, attrs = _BIPOLAR, ""
    elif op == "Trunc" and arity == 5:
        text, attrs = _TRUNC1 % rounding, f'<rounding_mode: string = "{mode}">'
    else:
        text = (_TRUNC2 if op == "Trunc" else _QUANT) % (_LIMITS, rounding)
        signed, narrow, _ = _DEFAULTS[op]
        attrs = f'<signed: int = {signed}, narrow: int = {narrow}, rounding_mode: string = "{mode}">'
    head = f'<opset_import: ["" : {opset}], domain: "{domain}">'
    return onnx.parser.parse_function(f"{head} {op} {attrs} {text}").SerializeToString()


def function(domain: str, op: str, arity: int, mode: str, opset: int) -> onnx.FunctionProto:
    """The body of an operator with so many inputs, for one rounding mode, of standard opset `opset`, 12 or newer."""
    return onnx.FunctionProto.FromString(_function(domain, op, arity, mode, opset))


def attach(model: Model) -> None:
    """Give `model` a body for each quantiser that has none."""
    kinds: dict[tuple[str, str], set[tuple[int, str]]] = {}
    for node in model.nodes:
        if is_quantiser(node):
            kinds.setdefault((node.domain, node.op), set()).add((len(node.inputs), attributes(node)[2]))
    for (domain, op), found in kinds.items():
        arity, mode = next(iter(found))
        if (domain, op) in model.functions or len(found) > 1 or model.opset < OPSET:
            continue
        if op == "BipolarQuant" or mode in _ROUND:
            model.functions[domain, op] = function(domain, op, arity, mode, model.opset)
            model.opsets.setdefault(domain, 1)


def without_body(model: Model) -> BadModel | None:
    """Why a quantiser of `model` has no body, so that no runtime takes the model; None where each has one."""
    modes: dict[tuple[str | None, str], str] = {}
    for node in model.nodes:
        if not is_quantiser(node) or (node.domain, node.op) in model.functions:
            continue
        mode = attributes(node)[2]
        if node.op != "BipolarQuant" and mode not in _ROUND:
            return BadModel(f"this rounding mode of {node.op} is not known", node=node.name,
                            expected=", ".join(_ROUND), found=mode)  # fmt: skip
        if model.opset < OPSET:
            return BadModel(f"{node.op} has a body from opset {OPSET} on", node=node.name,
                            found=f"opset {model.opset}", remedy="export it again with a newer opset")  # fmt: skip
        if modes.setdefault((node.domain, node.op), mode) != mode:
            return BadModel(f"nodes of {node.op} round in several ways, and one operator has one body", node=node.name,
                            expected=modes[node.domain, node.op], found=mode)  # fmt: skip
    return None
