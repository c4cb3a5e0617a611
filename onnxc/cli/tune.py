"""`compile --tune`: which layers got another kernel by measurement, and what that gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ir.errors import BadOption
from ..ir.escape import readable
from . import arguments
from .tables import Column, draw, plural, screen_width, wrap

if TYPE_CHECKING:
    from ..measure.tune import Tuned

COLUMNS = (
    Column("layer", number=False),
    Column("predicted", number=False),
    Column("measured", number=False),
    Column("time"),
)


def check(seconds: float | None, cache: str | None, target: str) -> None:
    """Refuse, before any work, what cannot be measured here, or a file that cannot be written."""
    if seconds is None:
        if cache is not None:
            raise BadOption("--tune-cache is of --tune", remedy="add --tune SECONDS; --tune 0 uses the file alone")
        return
    arguments.check_file(cache, "--tune-cache")
    from ..codegen.target import resolve

    strangers = [part for part in target.split("/") if not resolve(part).toolchain.native]
    if strangers:
        raise BadOption(
            f"--tune measures on this machine, where kernels for {strangers[0]} do not run", expected="a target of this machine",
            remedy="leave out --tune",
        )  # fmt: skip


def render(found: Tuned, *, width: int | None = None, colour: bool = False) -> str:
    """A row for each layer that got another kernel, and what the whole took."""
    found, width = readable(found), width or screen_width()
    parts = []
    if found.rows and found.paid:
        parts.append(
            draw(COLUMNS, [[nodes, was, now, f"{ratio:.2f}x"] for nodes, was, now, ratio in found.rows], width, colour)
        )
    said = f"Tuned: {plural(found.measured, 'kernel')} measured now, {found.left} left"
    if not found.rows:
        said += "; none clearly faster than the predicted ones"
    elif not found.paid:
        said += f"; {plural(len(found.rows), 'layer')} would be faster by themselves, the library is not: the predicted kernels stay"
    else:
        said += f"; {plural(len(found.rows), 'layer')} changed"
    if found.ratio is not None:
        said += f", the library takes {found.ratio:.3f}x the time"
    parts.append(wrap(said + ".", width=width))
    return "\n\n".join(parts)
