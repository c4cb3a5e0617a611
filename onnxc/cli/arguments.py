"""Values of the command line: what each text means, and the one clear line where it means nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..ir.errors import BadData, BadOption
from ..ir.output import destination, is_special

if TYPE_CHECKING:
    import numpy as np

    from ..runtime.feeding import Wishes


def wanted(value: str | None, name: str, command: str = "passes") -> str:
    """`value`; raises BadOption where it was not given."""
    if value is None:
        raise BadOption(f"{name} is missing", remedy=f"see onnxc {command} --help")
    return value


def words(options: Mapping[str, object]) -> list[str]:
    """Options that were given (not None), with their values, as a shell's words."""
    return [str(word) for name, value in options.items() if value is not None for word in (name, value)]


def pair(text: str, option: str, form: str) -> tuple[str, str]:
    """`name=value`; a name may hold `=` itself, a value not."""
    name, mark, value = text.rpartition("=")
    if not (name and mark and value):
        raise BadOption(f"{option} does not fit", expected=form, found=text)
    return name, value


def shape_sets(texts: Iterable[str] | None) -> list[dict[str, tuple[int, ...]]]:
    """One set of shapes, or as many as an input is named times; inputs that are named once have that shape in all."""
    named: dict[str, list[tuple[int, ...]]] = {}
    for text in texts or ():
        for name, extents in shapes([text]).items():
            named.setdefault(name, []).append(extents)
    count = max(map(len, named.values()), default=1)
    short = [name for name, shapes in named.items() if len(shapes) not in (1, count)]
    if short:
        raise BadOption(
            "--shape names inputs unequally often", expected=f"{short[0]} once or {count} times",
            found=len(named[short[0]]),
        )  # fmt: skip
    return [{name: shapes[i % len(shapes)] for name, shapes in named.items()} for i in range(count)]


def shapes(texts: Iterable[str] | None) -> dict[str, tuple[int, ...]]:
    """`NAME=1x3x224x224` or `SYMBOL=224` of each text: name -> extents."""
    found = {}
    for text in texts or ():
        name, extents = pair(text, "--shape", "NAME=1x3x224x224")
        if not all(e.isascii() and e.isdigit() and int(e) for e in extents.split("x")):
            raise BadOption("--shape does not fit", expected="NAME=1x3x224x224", found=text)
        found[name] = tuple(map(int, extents.split("x")))
    return found


def wishes(
    shape: Iterable[str] | None = None, samples: str | None = None, inputs: Iterable[str] | None = None
) -> Wishes:
    """What `--shape`, `--samples` and `--input` say together. Raises BadOption, BadData."""
    from ..runtime.data import read_npy
    from ..runtime.feeding import Numbers, Wishes

    arrays: dict[str, np.ndarray | Numbers] = {}
    for text in inputs or ():
        name, value = pair(text, "--input", "NAME=F.npy")
        try:
            arrays[name] = Numbers(map(float, value.split(",")))
        except ValueError:
            if not Path(value).is_file():
                raise BadData(
                    f"there is no file {value}", remedy="name a .npy file, or say numbers: 8 or 32,32"
                ) from None
            arrays[name] = read_npy(Path(value))
    return Wishes(shapes(shape), samples, arrays)


def check_file(path: str | None, option: str) -> bool:
    """Refuse, before any work, a file that cannot be written. Whether there is one to write."""
    if path is None:
        return False
    if not path or Path(path).is_dir():
        raise BadOption(f"{option} {path or repr(path)} is a folder or nothing", expected="a file")
    if is_special(path):
        return True
    folder = destination(path).parent
    if not folder.is_dir():
        raise BadOption(f"{option}: there is no folder {folder}", remedy="make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadOption(f"{option}: the folder {folder} cannot be written to")
    return True
