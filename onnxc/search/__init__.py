"""`auto`: one budget in, the best recipe out.

    model, data, budget  ->  noises of all single options (measured once, kept)  ->  knapsacks  ->  about ten real candidates,
    each round wiser than the last  ->  the best that keeps to the budget, beside the others that nothing beats

The data are cut into three parts by the seed: what passes see, what chooses, and what judges. No number of the last part has been
looked at when the choice is made.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..ir.digest import digest
from ..ir.errors import BadOption
from ..ir.files import load
from ..pipeline import sound
from ..runtime.feeding import Wishes, feed
from ..runtime.reference import Runner
from ..runtime.split import split
from ..runtime.tasks import find_task
from .boards import check
from .budget import Budget
from .found import Found, Point
from .options import FORMATS
from .search import Estimate, Progress, Search, trained
from .state import State
from .work import Spec, Worker

if TYPE_CHECKING:
    from ..ir.model import Model

SHARES, BEYOND = (2, 4, 2), (0, 6, 2)
"""Eighths of the samples that passes see, that choose, that judge; of those behind the first 4,096, of which passes need no more."""


def auto(
    model: object, data: object, *, budget: Budget | None = None, task: str | None = None, metric: str | None = None,
    decode: str | None = None, target: str | None = None, minutes: float | None = None, seed: int = 0,
    executor: str = "threads", formats: tuple[str, ...] | None = None, folder: str | Path | None = None,
    wishes: Wishes | None = None, progress: Progress | None = None, train: bool = False, remote: Sequence[str] = (),
) -> Search:  # fmt: skip
    """A search for the smallest model within `budget` (a drop of 0.01 of the metric where nothing is asked for).

    model: whatever `onnxc.load` takes; data: whatever `open_data` takes, with labels, or such that the model as given can stand
    in for them. folder: where what is measured is kept, and gone on from. minutes: how long the search takes at most, from now on;
    None: as long as it takes. train: candidates are also distilled from the model as given (needs torch). remote: boards
    (ssh://[USER@]HOST[:PORT][/FOLDER], all of one kind) on which the libraries for `target` are timed. Raises OnnxcError.
    """
    begun = time.monotonic()
    if target is not None:
        from ..codegen.target import resolve

        resolve(target)  # a name that there is not is told before anything is measured
    check(remote, target)
    if train and find_spec("torch") is None:
        raise BadOption("--train needs torch", remedy="pip install 'onnxc[train]'")
    given: Model = load(model)
    sound(given.copy())
    if data is None:
        names = ", ".join(t.name for t in given.inputs)
        raise BadOption(
            "a search needs data",
            remedy=f"give --data, an .npz with arrays {names} and labels: candidates are judged by it",
        )
    proto = given.to_proto()
    opened_data = feed(proto, data, wishes, seed=seed, runner=Runner(optimise=False))
    first, second, third = split(opened_data, SHARES, seed, BEYOND)
    found_task = find_task(task, metric, decode)
    if found_task is None and not first.labelled:
        task = "classification" if _has_classes(given) else "embeddings"
    wanted = (budget or Budget()).settled()
    if target is None and (wanted.flash is not None or wanted.ram is not None):
        raise BadOption("--flash and --ram are of a compiled library", remedy="give --target")
    if formats is None:
        formats = ("int8",) if target is not None or wanted.time is not None else FORMATS
    if train:
        formats = trained(formats)
    spec = Spec(proto.SerializeToString(deterministic=True), (first, second, third), task, metric, decode, target, seed)
    head = {
        "seed": seed,
        "target": target,
        "task": ", ".join(map(str, (task, metric, decode))),
        "model": digest(proto),
        "data": first.digest()[:16] + third.digest()[:16],
    }
    place = None if folder is None else Path(folder) / "search.json"
    tell = progress or (lambda text, share: None)
    return Search(Worker(spec), wanted, State(place, head), formats, executor, minutes, tell, begun, tuple(remote))


def _has_classes(model: Model) -> bool:
    """Whether an output has the form of scores [samples, classes]."""
    analysis = sound(model.copy()).analysis
    shapes = [analysis.shape(t.name) for t in model.outputs]
    return any(shape is not None and len(shape) == 2 and isinstance(shape[1], int) and shape[1] > 1 for shape in shapes)


__all__ = ["Budget", "Estimate", "Found", "Point", "Search", "auto"]
