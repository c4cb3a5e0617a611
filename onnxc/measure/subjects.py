"""Models in ONNX Runtime and compiled libraries behind one face: run one once, time many against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..ir.errors import BadModel, BadOption, VerificationError
from ..runtime.feeding import Wishes

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from ..runtime.emulate import Emulated
    from ..runtime.library import Library
    from ..runtime.remote import Remote
    from .bench import Row

    Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Subject:
    """Something that runs. inputs: name -> (shape, dtype), as `runtime.specs.random_feeds` takes them; `choices` the same for
    each shape that a library takes; `proto`: a model as ONNX."""

    name: str
    inputs: Mapping[str, tuple]
    run: Callable[[Arrays], Arrays]
    compiled: bool
    timed: Callable[[Arrays, int], tuple[Arrays, float]] | None = None
    choices: tuple[Mapping[str, tuple], ...] = ()
    proto: onnx.ModelProto | None = None

    def inputs_for(self, wanted: Mapping[str, tuple[int, ...]]) -> Mapping[str, tuple]:
        """The inputs in the first shape that has the extents `wanted`, by name; else in the first."""
        for choice in self.choices:
            if all(choice[name][0] == extents for name, extents in wanted.items() if name in choice):
                return choice
        return self.inputs


@dataclass(frozen=True)
class Times:
    """What `bench` found: a row for each candidate; fed: what they were given, in words, once for all that were given the same."""

    rows: list[Row]
    fed: tuple[str, ...]


@dataclass(frozen=True)
class _Call:
    subject: Subject
    feeds: Arrays

    def __call__(self) -> Arrays:
        return self.subject.run(self.feeds)


@dataclass(frozen=True)
class _TimedCall(_Call):
    """One in an emulator, which times itself: starting it is no part of a call."""

    timed: Callable[[Arrays, int], tuple[Arrays, float]]

    def seconds_per_call(self, calls: int) -> float:
        return self.timed(self.feeds, calls)[1]


def open_subject(path: str, threads: int = 1, remote: str | None = None, timed: bool = True) -> Subject:
    """A folder or library that `onnxc compile` wrote (of another machine: in its emulator, or on the board `remote`), or a
    model. Raises BadModel, BadOption (more threads than the library has, a model on a board)."""
    place = Path(path)
    if place.is_dir() or place.suffix in (".so", ".a"):
        from ..runtime.emulate import open_library
        from ..runtime.library import Library

        if remote is None:
            library: Library | Emulated | Remote = open_library(place, threads)
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
    proto = model.to_proto()
    try:
        session = Session(proto, threads=threads, redraw=not timed)
    except VerificationError as e:
        e.exit_status = BadModel.exit_status  # a model as it was given
        raise
    return Subject(path, session.inputs, session.run, False, proto=proto)


def run_once(path: str, wishes: Wishes, remote: str | None = None) -> tuple[Arrays, str]:
    """The outputs for the inputs that `wishes` gives, or for seeded random ones where it gives none; and a word on what was fed."""
    subject = open_subject(path, remote=remote, timed=False)
    _known(wishes, [subject])
    try:
        feeds, told = _feeds(subject, wishes)
        return subject.run(feeds), told
    except VerificationError as e:
        if not subject.compiled:
            e.exit_status = BadModel.exit_status
        raise


def bench(
    paths: Sequence[str], *, threads: int = 1, wishes: Wishes | None = None, remote: str | None = None,
    progress: Callable[[str, float], None] = lambda text, share: None,
) -> Times:  # fmt: skip
    """Time them in turns on seeded random inputs of one sample; the first is the base.

    Extents that a model leaves open are those of `wishes`, else those of a library among `paths`, else those of the first
    model, else such that the model runs with (`runtime.feeding`). Raises BadOption where a wish names no input or does not
    fit one.
    """
    from .bench import measure

    wishes = wishes or Wishes()
    subjects = [open_subject(path, threads, remote) for path in paths]
    _known(wishes, subjects)
    wanted = dict(wishes.shapes)
    for s in subjects:
        if s.compiled:
            wanted = {name: extents for name, (extents, _) in s.inputs_for(wishes.shapes).items()} | wanted
    calls: dict[str, Callable[[], object]] = {}
    fed: dict[str, None] = {}
    for s in subjects:
        progress(f"{s.name} as it starts", 0.0)
        feeds, told = _feeds(s, replace(wishes, shapes=wanted))
        fed[told] = None
        wanted |= {name: array.shape for name, array in feeds.items() if name not in wanted and not s.compiled}
        calls[_free(s.name, calls)] = _Call(s, feeds) if s.timed is None else _TimedCall(s, feeds, s.timed)
    return Times(measure(calls, threads=threads, progress=progress), tuple(fed))


def _known(wishes: Wishes, subjects: Sequence[Subject]) -> None:
    known = dict.fromkeys(name for s in subjects for name in s.inputs)
    symbols = {dim for s in subjects for fields in s.inputs.values() for dim in fields[0] or () if isinstance(dim, str)}
    for option, names, have in (("shape", wishes.shapes, {*known, *symbols}), ("input", wishes.arrays, {*known})):
        strange = sorted(set(names) - have)
        if strange:
            what = "--shape names no input and no symbol" if option == "shape" else "there is no such input"
            raise BadOption(what, tensor=strange[0], expected=", ".join([*known, *sorted(have - set(known))]) or "none")


def _feeds(subject: Subject, wishes: Wishes) -> tuple[Arrays, str]:
    """Arrays of one sample (or of the shape that is wished for) that the subject takes, and a word on them."""
    from ..runtime.draw import random_feeds
    from ..runtime.feeding import Numbers, arrays_of, feed, wished_sizes
    from ..runtime.specs import TensorSpec, check_feeds

    specs = {name: TensorSpec(*fields) for name, fields in subject.inputs.items()}
    if subject.proto is not None:
        mine = {
            n: e for n, e in wishes.shapes.items() if n in specs or any(n in (s.shape or ()) for s in specs.values())
        }
        own = replace(wishes, shapes=mine, arrays={n: a for n, a in wishes.arrays.items() if n in specs})
        sizes = wished_sizes(specs, own)
        data = feed(subject.proto, None, own, samples=1, runner=lambda proto, feeds: subject.run(dict(feeds)))
        counted = [s.shape[s.sample] for s in specs.values() if s.counts and s.shape and s.sample is not None]
        batch = max((sizes.get(str(symbol), 1) for symbol in counted), default=1)
        return next(data.batches(batch)), "; ".join([data.name, *data.remarks])
    whole = {n: a.shape for n, a in wishes.arrays.items() if not isinstance(a, Numbers)}
    inputs = subject.inputs_for({**wishes.shapes, **whole})
    for name, shape in wishes.shapes.items():
        if name in inputs and tuple(inputs[name][0]) != tuple(shape):
            expected, found = ("x".join(map(str, e or ())) for e in (inputs[name][0], shape))
            raise BadOption(f"{subject.name} does not take this shape", tensor=name, expected=expected, found=found)
    specs = {n: TensorSpec(*f) for n, f in inputs.items()}
    given, _ = arrays_of(specs, replace(wishes, arrays={n: a for n, a in wishes.arrays.items() if n in specs}))
    check_feeds(given, {n: specs[n] for n in given})
    others = {n: f for n, f in specs.items() if n not in given}
    told = [f"{', '.join(given)} as given"] if given else []
    return random_feeds(others, seed=0) | given, "; ".join(
        [*told, *(["seeded random inputs (seed 0)"] if others else [])]
    )


def _free(name: str, taken: Mapping[str, object]) -> str:
    """The same path twice is two candidates: `a.onnx`, `a.onnx (2)`."""
    n = 1
    while (label := name if n == 1 else f"{name} ({n})") in taken:
        n += 1
    return label
