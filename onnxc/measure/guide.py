"""Where does the time go: for each of the layers that take longest one thing that would make it shorter, by what was measured."""

from __future__ import annotations

from .ceiling import Ceiling
from .profile import MADE, LayerTime, Profile, longest

VECTOR = 16
"""Channels of a vector: what kernels compute side by side."""
NEAR = 0.6
"""The share of the ceiling above which nothing but less work helps."""
WAITS = 0.4
"""The share of the bandwidth from which a layer is said to wait for its bytes."""
SHORT = 1e-6
"""Seconds of a layer whose time is mostly that of starting it."""
ALONE = {
    "QuantizeLinear": "floats become integers at the library's ends: --io int8 takes and gives the integers",
    "DequantizeLinear": "integers become floats at the library's ends: --io int8 takes and gives the integers",
    "Transpose": "a change of layout that no layer beside it takes in: compute in the layout that comes, or fuse it (clean,fuse)",
    "Resize": "no layer beside it takes it in: resize by 2 with nearest neighbours, or a ConvTranspose, costs less",
    "Softmax": "its exponentials run beside no product: fewer elements, or an attention that can be fused with its products",
}


def advice(found: Profile) -> list[tuple[LayerTime, str]]:
    """The five layers that take longest, each with one suggestion."""
    return [(layer, suggestion(layer, found.ceiling)) for layer in longest(found)]


def suggestion(layer: LayerTime, roof: Ceiling) -> str:
    """One sentence for a layer."""
    moved, counts = layer.bytes + layer.weight_bytes, layer.macs > 0
    if layer.seconds < SHORT:
        return "it is short already: fewer layers help, smaller ones do not (fuse, or prune whole blocks)"
    if layer.general and not counts:
        return _general(layer)
    waste = _waste(layer)
    if layer.bound == "bytes" and layer.ceiling >= WAITS:
        if layer.weight_bytes > layer.bytes:
            return f"it waits for {layer.weight_bytes:,} bytes of weights: fewer bits (quant, cluster), or lowrank or prune"
        return f"it waits for {moved:,} bytes of activations: 8-bit ones (quant) are a quarter, and fused operators (fuse) none"
    if waste > 1.15:
        return _uneven(layer)
    if max(layer.bits) < 8:
        return (
            f"its bits are counted at {layer.ceiling:.0%} of the ceiling: fewer or wider layers, fewer channels (prune)"
        )
    if layer.family in MADE:
        saved = f"Winograd makes {MADE[layer.family]:.0%} of its products"
        return f"{saved}, at {layer.ceiling:.0%} of the ceiling with its transforms: fewer channels (prune), or lowrank"
    if min(layer.bits) >= 16:
        gain = f"int8 (quant) has {roof.int8 / roof.float32:.1f} times the multiply-adds in a second here"
        return f"it runs at {layer.ceiling:.0%} of float32's ceiling: {gain}; else prune or lowrank" if counts else gain
    if layer.ceiling >= NEAR:
        return f"it runs at {layer.ceiling:.0%} of the ceiling: only fewer multiply-adds help (prune, lowrank)"
    return "its integers run below the ceiling: fewer channels (prune), or larger layers that pay for their edges"


def _general(layer: LayerTime) -> str:
    """A layer that no kernel takes."""
    known = next((ALONE[op] for op in layer.ops if op in ALONE), "")
    if layer.turns or not layer.ops:
        known = ALONE["Transpose"]
    return f"{layer.label} by the general schedule: " + (
        known
        or "no kernel has this pattern; next to a convolution or a product its epilogue may take it in (clean,fuse)"
    )


def _uneven(layer: LayerTime) -> str:
    """A layer whose channels do not fill vectors."""
    channels = layer.channels[1]
    fill = f"{channels} output channels fill vectors of {VECTOR} to {1 / _waste(layer):.0%}"
    if channels < VECTOR:
        return f"{fill}: wider ones up to {VECTOR} cost nothing, so merge it with layers beside it or do without it"
    return f"{fill}: {channels // VECTOR * VECTOR} would take less time (prune)"


def _waste(layer: LayerTime) -> float:
    """How many channels are computed for one that is wanted: whole vectors of them."""
    wanted = (
        layer.channels[1] // max(layer.channels[2], 1) if layer.channels[2] != layer.channels[0] else layer.channels[1]
    )
    return -(-wanted // VECTOR) * VECTOR / wanted if wanted else 1.0
