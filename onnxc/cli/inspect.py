"""`onnxc inspect`: layers, coupled channels and costs of a model, as text or JSON."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ..ir.escape import readable
from . import arguments, tables
from .options import JsonOption, ModelArgument, SamplesOption, ShapeOption, VerboseOption, colour, json_text, show
from .report import folded, told

if TYPE_CHECKING:
    from ..measure.inspect import Inspection, Layer

LAYER_COLUMNS = (
    *(
        tables.Column("layer", number=False),
        tables.Column("operator", number=False),
        tables.Column("output", number=False),
    ),
    *(tables.Column("params"), tables.Column("MACs"), tables.Column("bytes"), tables.Column("bits")),
)
CODED_COLUMNS = (tables.Column("entropy"), tables.Column("coded"))
"""Shown where a layer has stored numbers of 8 bits at most."""
BINARY_COLUMNS = (tables.Column("planes"), tables.Column("fewer ops"))
"""Shown where a layer multiplies few-bit inputs by one-bit weights."""
GROUP_COLUMNS = (
    *(tables.Column("coupled channels", number=False), tables.Column("size"), tables.Column("made by", number=False)),
    tables.Column("summed over by", number=False),
)
QUANTISERS = (
    *(
        "QuantizeLinear",
        "DequantizeLinear",
        "ai.onnxc.Lookup",
        "ai.onnxc.ProductLookup",
        "ai.onnxc.HashedLookup",
        "ai.onnxc.Quantize",
    ),
    *("ai.onnxc.ResidualBinarize", "ai.onnxc.DynamicResidualBinarize"),
)
CHANNELS_STAY = "its channels stay: "
"""What the title of their list says already."""
FEW = 24
"""Lines of a list that are shown without `verbose`."""


def render(found: Inspection, *, verbose: bool = False, width: int | None = None, colour: bool = False) -> str:
    """The inspection as text. Without `verbose`: only layers with MACs or more than one weight, and the beginning of long lists."""
    found = readable(found)
    width = width or tables.screen_width()
    parts = [_head(found, width)]
    layers = [x for x in found.layers if verbose or ((x.macs or x.params > 1) and x.op not in QUANTISERS)]
    some_coded = any(x.coded is not None for x in layers)
    some_binary = any(x.planes is not None for x in layers)
    rows = [
        _layer_row(x) + (_coded_row(x) if some_coded else []) + (_binary_row(x) if some_binary else []) for x in layers
    ]
    if rows:
        columns = LAYER_COLUMNS + (CODED_COLUMNS if some_coded else ()) + (BINARY_COLUMNS if some_binary else ())
        parts.append(tables.draw(columns, rows, width, colour))
    if some_coded:
        parts.append(_coded_total([x for x in layers if x.coded is not None]))
    listed = {x.name for x in layers}
    others = Counter(x.op for x in found.layers if x.name not in listed)
    if others:
        parts.append(
            tables.wrap("Not listed: " + ", ".join(f"{n} {op}" for op, n in sorted(others.items())), width=width)
        )
    if found.groups:
        shown = found.groups if verbose else found.groups[:FEW]
        most = len(found.layers) if verbose else 2
        cells = [[g.name, str(g.channels), tables.some(g.makes, most), tables.some(g.contracts, most)] for g in shown]
        parts.append(tables.draw(GROUP_COLUMNS, cells, width, colour))
        if len(shown) < len(found.groups):
            parts.append(f"{tables.plural(len(found.groups) - len(shown), 'more group')} (--verbose)")
    parts += _lists(found, verbose, width)
    return "\n\n".join(parts)


def _layer_row(x: Layer) -> list[str]:
    figures = [tables.count(x.params) if x.params else "", tables.count(x.macs) if x.macs else ""]
    figures.append(tables.size(x.bytes) if x.bytes else "")
    return [x.name, x.op, tables.shape(x.shape), *figures, str(x.bits) if x.bits and x.params else ""]


def _coded_row(x: Layer) -> list[str]:
    return ["", ""] if x.coded is None else [f"{x.entropy:.2f}", tables.size(x.coded)]


def _binary_row(x: Layer) -> list[str]:
    return ["", ""] if x.planes is None else [str(x.planes), f"{x.speedup:.1f}x"]


def _coded_total(layers: list[Layer]) -> str:
    params = sum(x.params for x in layers)
    entropy = sum((x.entropy or 0.0) * x.params for x in layers) / max(params, 1)
    stored, coded = (tables.size(sum(sizes)) for sizes in zip(*((x.bytes, x.coded) for x in layers), strict=True))
    what = f"{tables.plural(len(layers), 'layer')} of at most 8 bits: {stored} stored, {entropy:.2f} bits of entropy a weight"
    return f"{what}, about {coded} in an archive"


def _head(found: Inspection, width: int) -> str:
    c = found.cost
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in sorted(found.opsets.items()))
    lines = [f"{name}: {text}" for name, text in found.inputs.items()]
    lines += [f"-> {name}: {text}" for name, text in found.outputs.items()]
    lines += found.remarks
    lines.append(f"opset {opsets}; IR version {found.ir_version}")
    if found.functions:
        lines.append(f"functions: {', '.join(found.functions)}")
    totals = [tables.plural(c.nodes, "node"), f"{tables.count(c.params)} parameters", f"{tables.count(c.macs)} MACs"]
    totals += [f"{tables.count(c.bops)} bit operations", f"{tables.size(c.bytes)} of weights"]
    lines.append(", ".join([*totals, f"{tables.size(c.peak_bytes)} of activations at most"]))
    if found.sizes:
        lines.append(f"costs at {', '.join(found.sizes)} (--shape gives others)")
    return "\n".join(tables.wrap(line, width=width) for line in lines)


def _lists(found: Inspection, verbose: bool, width: int) -> list[str]:
    pairs = [(node, reason.removeprefix(CHANNELS_STAY)) for node, reason in found.frozen]
    frozen = [f"{node}: {why}" for node, why in pairs] if verbose else [told("layer", *g) for g in folded(pairs)]
    if not verbose and len(frozen) > FEW:
        frozen = [*frozen[:FEW], f"{tables.plural(len(frozen) - FEW, 'more reason')} (--verbose)"]
    unknown = [f"{tables.plural(n, f'{op} node')}: {reason}" for op, n, reason in found.unknown]
    parts = []
    for title, lines in (("Channels that cannot be pruned", frozen), ("Operators that are kept as they are", unknown)):
        if lines:
            parts.append("\n".join([title, *(tables.wrap(f"  {line}", "      ", width) for line in lines)]))
    return parts


def inspect(
    model: ModelArgument,
    shape: ShapeOption = None,
    samples: SamplesOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show layers, coupled channels, parameters, MACs, bytes."""
    from ..measure.inspect import inspect

    found = inspect(model, arguments.wishes(shape, samples))
    show(json_text(found.to_dict()) if json else render(found, verbose=verbose, colour=colour()))
