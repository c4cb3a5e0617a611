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

import onnxc

from ..ir.digest import digest
from ..ir.errors import BadOption
from ..ir.files import load
from ..pipeline import sound
from ..runtime.batches import LABELS, join_labels
from ..runtime.feeding import Wishes, feed
from ..runtime.reference import Runner
from ..runtime.scores import score_outputs
from ..runtime.split import Held, split
from ..runtime.tasks import TASKS, find_task
from .boards import check
from .budget import Budget
from .found import Found, Point
from .options import FORMATS
from .search import Estimate, Progress, Search, trained
from .state import State
from .work import Spec, Worker

if TYPE_CHECKING:
    import onnx

    from ..ir.model import Model

SHARES, BEYOND = (2, 4, 2), (0, 6, 2)
"""Eighths of the samples that passes see, that choose, that judge; of those behind the first 4,096, of which passes need no more."""

INTEGERS = (2, 3, 4, 5, 6, 7, 12, 13)
"""Element types of ONNX: uint8, int8, uint16, int16, int32, int64, uint32, uint64."""


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
    remarks = [*given.remarks, *opened_data.remarks]
    if found_task is None:
        task, said = _purpose(given, proto, (first, second, third))
        remarks += said
    wanted = (budget or Budget()).settled()
    if target is None and (wanted.flash is not None or wanted.ram is not None):
        raise BadOption("--flash and --ram are of a compiled library", remedy="give --target")
    if formats is None:
        formats = ("int8",) if target is not None or wanted.time is not None else FORMATS
    if train:
        formats = trained(formats)
    spec = Spec(proto.SerializeToString(deterministic=True), (first, second, third), task, metric, decode, target, seed)
    head = {
        "version": onnxc.__version__,
        "seed": seed,
        "target": target,
        "task": ", ".join(map(str, (task, metric, decode))),
        "model": digest(proto),
        "data": first.digest()[:16] + third.digest()[:16],
    }
    place = None if folder is None else Path(folder) / "search.json"
    tell = progress or (lambda text, share: None)
    search = Search(Worker(spec), wanted, State(place, head), formats, executor, minutes, tell, begun, tuple(remote))
    search.remarks = remarks
    return search


def _purpose(model: Model, proto: onnx.ModelProto, parts: Sequence[Held]) -> tuple[str | None, list[str]]:
    """The task that nobody named, where labels alone do not tell it, and what to say of that.

    A single number a sample is judged by AUC beside labels that are 0 or 1. Without labels, by its distance from what the model as
    given says: it has no direction but its sign."""
    analysis, scored = sound(model.copy()).analysis, score_outputs(proto.graph)
    shapes = {t.name: analysis.shape(t.name) or () for t in model.outputs}
    classes = any(name in scored and len(s) == 2 and isinstance(s[1], int) and s[1] > 1 for name, s in shapes.items())
    whole = {value.name for value in proto.graph.output if value.type.tensor_type.elem_type in INTEGERS}
    ones = {name for name, s in shapes.items() if s and all(n == 1 for n in s[1:])}
    single, classes = bool(ones - whole), classes or bool(ones & whole)
    if not parts[0].labelled:
        task = "classification" if classes else "regression" if single else "embeddings"
        metric = TASKS[task].metric
        return task, [
            f"there are no labels: {metric} says how near the outputs are to those of the model as given (--task {task})"
        ]
    labels = join_labels([part.arrays()[LABELS] for part in parts])
    if (
        single
        and not classes
        and labels.dtype.kind in "biuf"
        and labels.size == len(labels)
        and set(labels.flat) == {0, 1}
    ):
        return "anomaly", ["labels of 0 and 1 beside one number a sample are judged by AUC (--task anomaly)"]
    return None, []


__all__ = ["Budget", "Estimate", "Found", "Point", "Search", "auto"]
