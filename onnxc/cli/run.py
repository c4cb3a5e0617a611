"""`onnxc run`: a model or a compiled library once."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..ir.errors import BadOption, Unsupported
from ..ir.escape import line, readable
from . import arguments
from .options import InputOption, RemoteOption, ShapeOption, colour, show
from .tables import Column, draw, shape, wrap

if TYPE_CHECKING:
    import numpy as np

    Arrays = dict[str, np.ndarray]


def run(
    subject: Annotated[
        str, typer.Argument(metavar="MODEL|LIBRARY", help="An ONNX file, or a folder from onnxc compile.")
    ],
    inputs: InputOption = None,
    shape: ShapeOption = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="DIR", help="Where the outputs go, as .npy.")
    ] = None,
    remote: RemoteOption = None,
) -> None:
    """Run a model or a compiled library once."""
    wishes = arguments.wishes(shape, None, inputs)
    if out and Path(out).exists() and not Path(out).is_dir():
        raise BadOption(f"-o {out} is a file", expected="a folder")
    from ..measure.subjects import run_once

    outputs, fed = run_once(subject, wishes, remote)
    if out:
        save_outputs(outputs, Path(out))
    show(render_outputs(outputs, fed, colour=colour()))
    if out:
        show(f"\nwritten: {line(out)}")


def save_outputs(outputs: Arrays, folder: Path) -> None:
    """Write each output as `<name>.npy` into `folder`, which is made. Raises Unsupported if two would share a file."""
    import numpy as np

    from ..ir.output import write_several
    from ..runtime.data import file_name

    names: dict[str, str] = {}
    for name in outputs:
        other = names.setdefault(file_name(name), name)
        if other != name:
            raise Unsupported(f"outputs {other} and {name} would share the file {file_name(name)}")

    def chunks(array: np.ndarray) -> Iterator[bytes]:
        buffer = io.BytesIO()
        np.save(buffer, array)
        yield buffer.getvalue()

    write_several(folder, {file: chunks(outputs[name]) for file, name in names.items()})


def render_outputs(outputs: Arrays, fed: str, *, width: int | None = None, colour: bool = False) -> str:
    """What came out, in figures: a row per output."""
    import numpy as np

    from ..runtime.elements import BORROWED

    rows = []
    for name, a in outputs.items():
        figures = ["", "", ""]
        if a.size and (a.dtype.kind in "fiub" or a.dtype.name in BORROWED):
            # NaN shows itself; float64 so that float16 sums do not overflow
            wide = a.astype(np.float64)
            figures = [f"{v:.6g}" for v in (wide.min(), wide.mean(), wide.max())]
        rows.append([readable(name), str(a.dtype), shape(a.shape), *figures])
    columns = (Column("output", number=False), Column("type", number=False), Column("shape", number=False))
    table = draw([*columns, Column("min"), Column("mean"), Column("max")], rows, width, colour)
    return f"{table}\n\n{wrap(f'fed: {readable(fed)}', '', width)}"
