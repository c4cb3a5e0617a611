"""Models in ONNX Runtime and compiled libraries behind one face: run one once, time many against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..ir.errors import BadData, BadOption

if TYPE_CHECKING:
    import numpy as np

    from .bench import Row

    Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Subject:
    """Something that runs. inputs: name -> (shape, dtype), as `runtime.specs.random_feeds` takes them; `choices` the same for
    each shape that a library takes."""

    name: str
    inputs: Mapping[str, tuple]
    run: Callable[[Arrays], Arrays]
    compiled: bool
    timed: Callable[[Arrays, int], tuple[Arrays, float]] | None = None
    choices: tuple[Mapping[str, tuple], ...] = ()

    def inputs_for(self, wanted: Mapping[str, tuple[int, ...]]) -> Mapping[str, tuple]:
        """The inputs in the first shape that has the extents `wanted`, by name; else in the first."""
        for choice in self.choices:
            if all(choice[name][0] == extents for name, extents in wanted.items() if name in choice):
                return choice
        return self.inputs


@dataclass(frozen=True)
class _Call:
    subject: Subject
    feeds: Arrays

    def __call__(self) -> Arrays:
        return self.subject.run(self.feeds)


class _TimedCall(_Call):
    """One in an emulator, which times itself: starting it is no part of a call."""

    def seconds_per_call(self, calls: int) -> float:
        return self.subject.timed(self.feeds, calls)[1]


def open_subject(path: str, threads: int = 1, remote: str | None = None) -> Subject:
    """A folder or library that `onnxc compile` wrote (of another machine: in its emulator, or on the board `remote`), or a
    model. Raises BadModel, BadOption (more threads than the library has, a model on a board)."""
    place = Path(path)
    if place.is_dir() or place.suffix in (".so", ".a"):
        from ..runtime.emulate import open_library
        from ..runtime.library import Library

        if remote is None:
            library = open_library(place, threads)
        else:
            from ..runtime.remote import Remote

            library = Remote(place, remote, threads)
        choices = tuple(inputs for inputs, _ in library.shapes)
        if isinstance(library, Library):
            return Subject(path, library.inputs, library.run, True, None, choices)
        return Subject(f"{path} in {library.where}", library.inputs, library.run, True, library.timed, choices)
    if remote is not None:
        raise BadOption(f"{path} is a model: --remote runs libraries", remedy="compile it for the board first")
    from ..ir.files import load
    from ..pipeline import sound
    from ..runtime.reference import Session

    model = load(path)
    sound(model)
    session = Session(model.to_proto(), threads=threads)
    return Subject(path, session.inputs, session.run, False)


def run_once(path: str, files: Mapping[str, str], remote: str | None = None) -> tuple[Arrays, str]:
    """The outputs for inputs read from .npy `files` (by input name), or for seeded random ones where none are given;
    and a word on what was fed."""
    from ..runtime.data import read_npy
    from ..runtime.specs import random_feeds

    subject = open_subject(path, remote=remote)
    unknown = sorted(set(files) - set(subject.inputs))
    if unknown:
        raise BadOption("there is no such input", tensor=unknown[0], expected=", ".join(subject.inputs) or "none")
    if not files:
        return subject.run(random_feeds(subject.inputs, seed=0)), "seeded random inputs (seed 0)"
    missing = [name for name in subject.inputs if name not in files]
    if missing:
        raise BadData("no array for this input", tensor=missing[0], remedy=f"add --input {missing[0]}=F.npy")
    for file in files.values():
        if not Path(file).is_file():
            raise BadData(f"there is no file {file}")
    return subject.run({name: read_npy(Path(file)) for name, file in files.items()}), ", ".join(files.values())


def bench(
    paths: Sequence[str],
    *,
    threads: int = 1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    remote: str | None = None,
) -> list[Row]:
    """Time them in turns on seeded random inputs of one sample; the first is the base.

    Extents that a model leaves open are those of `shapes`, else those of a library among `paths`, else the defaults of
    `random_feeds`. Raises BadOption where `shapes` names no input or does not fit one.
    """
    from ..runtime.specs import random_feeds
    from .bench import measure

    subjects = [open_subject(path, threads, remote) for path in paths]
    known = {name for s in subjects for name in s.inputs}
    strange = sorted(set(shapes or ()) - known)
    if strange:
        raise BadOption("--shape names no input", found=strange[0], expected=", ".join(sorted(known)))
    wanted = dict(shapes or {})
    offered = {s.name: s.inputs_for(wanted) for s in subjects}
    fixed = {name: extents for s in subjects if s.compiled for name, (extents, _) in offered[s.name].items()} | wanted
    calls: dict[str, Callable[[], object]] = {}
    for s in subjects:
        specs = {
            name: (_settle(s.name, name, spec[0], fixed.get(name)), spec[1]) for name, spec in offered[s.name].items()
        }
        feeds = random_feeds(specs, seed=0)
        calls[_free(s.name, calls)] = _Call(s, feeds) if s.timed is None else _TimedCall(s, feeds)
    return measure(calls, threads=threads)


def _settle(subject: str, name: str, declared: tuple | None, wanted: tuple[int, ...] | None) -> tuple | None:
    if wanted is None:
        return declared
    fits = declared is None or (
        len(declared) == len(wanted) and all(not isinstance(d, int) or d == w for d, w in zip(declared, wanted))
    )
    if not fits:
        raise BadOption(
            f"{subject} does not take this shape", tensor=name, expected=_extents(declared), found=_extents(wanted)
        )
    return wanted


def _free(name: str, taken: Mapping[str, object]) -> str:
    """The same path twice is two candidates: `a.onnx`, `a.onnx (2)`."""
    n = 1
    while (label := name if n == 1 else f"{name} ({n})") in taken:
        n += 1
    return label


def _extents(shape: tuple | None) -> str:
    return "x".join(map(str, shape or ()))
