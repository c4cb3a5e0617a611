"""The C of inputs and outputs that have places in the arena: what the caller gives elsewhere is copied there and from there."""

from __future__ import annotations

from onnxc.codegen.c.header import Interface

_OWN = """static const size_t input_place[] = {@inputs@}, output_place[] = {@outputs@};
static int own(const head *h, const void *p, size_t place) { return (const char *)p == (const char *)h + place; }

"""
_INPUTS = """    if (overlap(inputs[i], in[i].bytes, h, NET_ARENA_BYTES) && !own(h, inputs[i], input_place[i])) return NET_OVERLAP;
"""


def marks(face: Interface) -> dict[str, str]:
    """What stands for the marks of `c.body` in the check of a run's pointers."""
    if not any(face.places):
        return dict.fromkeys(("own", "own_inputs", "unless_own"), "")
    text = [", ".join(map(str, places)) or "0" for places in face.places]
    return {
        "own": _OWN.replace("@inputs@", text[0]).replace("@outputs@", text[1]),
        "own_inputs": _INPUTS,
        "unless_own": " && !own(h, outputs[i], output_place[i])",
    }


def moves(face: Interface) -> tuple[list[str], list[str]]:
    """A line of C for each input, ahead of the calls, and for each output, behind them."""
    lines: tuple[list[str], list[str]] = ([], [])
    for side, kind in enumerate(("inputs", "outputs")):
        for i, offset in enumerate(face.places[side]):
            here, there = f"a + {offset}", f"{kind}[{i}]"
            pair = f"{here}, {there}" if side == 0 else f"{there}, {here}"
            lines[side].append(f"  if ({there} != {here}) memcpy({pair}, {face.most_bytes(side, i)});")
    return lines
