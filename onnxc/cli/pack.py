"""`onnxc pack` and `onnxc unpack`: a lossless, entropy-coded archive of a model, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..ir.escape import line, readable
from . import arguments
from .options import ModelArgument, VerboseOption, colour, show
from .tables import Column, draw, percent, plural, screen_width, size

if TYPE_CHECKING:
    from ..coding.pack import Packed

COLUMNS = (Column("tensor", number=False), Column("bytes"), Column("coded"), Column("share"))
FEW = 12


def pack(
    model: ModelArgument,
    out: Annotated[str, typer.Option("--out", "-o", metavar="F.onnxz", help="Where to write the archive.")],
    coder: Annotated[
        str,
        typer.Option(metavar="adaptive|huffman", help="adaptive is smaller, huffman is read a hundred times faster."),
    ] = "adaptive",
    verbose: VerboseOption = False,
) -> None:
    """Write a lossless, entropy-coded archive of a model."""
    arguments.check_file(out, "-o")
    from ..coding import pack

    show(f"{render(pack(model, out, coder=coder), verbose=verbose, colour=colour())}\n\nwritten: {line(out)}")


def unpack(
    archive: Annotated[str, typer.Argument(metavar="F.onnxz", help="What onnxc pack wrote.")],
    out: Annotated[str, typer.Option("--out", "-o", metavar="MODEL", help="Where to write the model.")],
    max_bytes: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Write nothing if it would be more; 4 times the archive and 1 GiB by default.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Give back the files of an archive, byte for byte."""
    arguments.check_file(out, "-o")
    from ..coding import Archive, unpack

    with Archive(archive) as opened:
        total = opened.size
    written = "\n".join(f"written: {line(str(path))}" for path in unpack(archive, out, max_bytes=max_bytes))
    show(f"{size(total)} in {plural(len(opened.files), 'file')}\n{written}")


def render(packed: Packed, *, verbose: bool = False, width: int | None = None, colour: bool = False) -> str:
    """The largest tensors with their sizes before and after (all of them if `verbose`), and the sum."""
    packed = readable(packed)
    rows = sorted(packed.tensors, key=lambda row: -row[1])
    shown = rows if verbose else rows[:FEW]
    parts = []
    if shown:
        texts = [[name, size(n), *((size(m), percent(m / n)) if m else ("stored already", ""))] for name, n, m in shown]
        parts.append(draw(COLUMNS, texts, width or screen_width(), colour))
    rest = len(rows) - len(shown)
    if rest:
        parts.append(f"and {plural(rest, 'tensor')} more; --verbose shows all")
    share = percent(packed.after / packed.before)
    parts.append(f"{size(packed.before)} in, {size(packed.after)} out: {share}")
    return "\n\n".join(parts)
