"""The whole way on a bundled network: a ResNet-20 is fused, pruned, quantised, compiled and measured by the public API.

Accuracy is that on 1,000 test images which no pass has seen; passes look at 256 training images. Latency is one image
on one thread, all candidates in turns within one run. Nothing is trained again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir import temporary
from ..ir.errors import MissingTool
from .options import WayOption, bar, colour, show
from .tables import Column, count, draw, percent, screen_width, seconds, size, wrap

if TYPE_CHECKING:
    import numpy as np

    from ..ir.cost import Cost
    from ..ir.model import Model

RECIPES = {
    "original": ("", ""),
    "fused": ("original", "fuse"),
    "pruned": ("original", "prune(ratio=0.3), fuse"),
    "pruned more": ("original", "prune(ratio=0.5), fuse"),
    "quantised": ("fused", "quant"),
    "both": ("pruned", "quant"),
}
"""name -> what it starts from, and the passes that are run on that."""
COMPILED = {name: f"{name}, compiled" for name in RECIPES if name != "original"}
ROUNDS = 31
STEPS = len(RECIPES) + len(COMPILED) + 1


@dataclass
class Row:
    """One candidate. accuracy: a share; bytes: of its file; best: seconds per image. missing: why there are none."""

    name: str
    passes: str
    accuracy: float | None = None
    cost: Cost | None = None
    bytes: int | None = None
    best: float | None = None
    missing: str = ""


@dataclass
class Demo:
    """All rows in order, and how many images they were judged on."""

    rows: list[Row] = field(default_factory=list)
    images: int = 0


def demo(verbose: WayOption = False) -> None:
    """Take a bundled, trained network the whole way."""
    with bar(STEPS, lines=verbose) as step:
        found = run_demo(progress=step)
    show(render(found, colour=colour()))


def run_demo(progress: Callable[[str], None] | None = None) -> Demo:
    """Run it all; takes under a minute on two cores. Where a compiler is missing, the compiled rows say so."""
    import numpy as np

    tell = progress or (lambda text: None)
    bundle = files("onnxc") / "data"
    with (
        as_file(bundle / "resnet20_fashion.onnx") as network,
        as_file(bundle / "fashion_calib.npz") as calibration,
        as_file(bundle / "fashion_test.npz") as test,
        np.load(test) as archive,
        temporary.folder(Path(tempfile.gettempdir()), "demo") as folder,
    ):
        images = {name: archive[name] for name in archive.files}
        return _demo(network, str(calibration), images, folder, tell)


def _demo(network: Path, calibration: str, test: dict, folder: Path, tell: Callable[[str], None]) -> Demo:
    from ..ir.files import load
    from ..measure.bench import measure
    from ..runtime.reference import Session

    original = load(network)
    one = {"image": test["image"][:1]}
    found, calls = Demo(images=len(test["labels"])), dict[str, Callable[[], object]]()
    models: dict[str, Any] = {}
    for name, (base, passes) in RECIPES.items():
        tell(name)
        before, row = models[base] if base else (original, Row("", ""))
        model, row = _transform(before, row.passes, name, passes, calibration)
        session = Session(model.to_proto())
        row.accuracy = _accuracy(session.run, test, 32)
        row.bytes = len(model.to_proto().SerializeToString())
        models[name], calls[name] = (model, row), partial(session.run, one)
        found.rows.append(row)
    for base, name in COMPILED.items():
        tell(name)
        model, row = models[base]
        row, call = _compiled(model, row, name, folder / base, test, one)
        if call is not None:
            calls[name] = call
        found.rows.append(row)
    tell("timing")
    # of short calls on a shared machine the fastest of many is what the work takes; the rest is other people's
    best = {t.name: t.best for t in measure(calls, rounds=ROUNDS)}
    for row in found.rows:
        row.best = best.get(row.name)
    return found


def _transform(before: Model, done: str, name: str, passes: str, calibration: str) -> tuple[Model, Row]:
    from ..ir.cost import cost
    from ..ir.verify import verify
    from ..pipeline import run_passes

    model = run_passes(before, passes, data=calibration).model if passes else before
    return model, Row(name, ", ".join(filter(None, (done, passes))), cost=cost(model, verify(model)))


def _compiled(model: Model, base: Row, name: str, folder: Path, test: dict, one: dict):
    """The row of a compiled model and the call to time; without a compiler, the row says what to install."""
    from ..codegen import compile as compile_library

    row = Row(name, base.passes)
    try:
        library = compile_library(model, folder, name="resnet20", target="native")
    except MissingTool as e:
        row.missing = str(e)
        return row, None
    row.cost, row.bytes = base.cost, (folder / "libresnet20.so").stat().st_size
    row.accuracy = _accuracy(library.run, test, 1)
    return row, lambda: library(**one)


def _accuracy(run: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], test: dict, batch: int) -> float:
    from ..runtime.evaluate import TASKS, Score

    score = Score(TASKS["classification"])
    for i in range(0, len(test["labels"]), batch):
        score.add(run({"image": test["image"][i : i + batch]}), test["labels"][i : i + batch])
    return score.values()["accuracy"]


NARROW = 100
"""Below this many columns the passes stand under the name."""
COLUMNS = (
    *(Column("", number=False), Column("passes", number=False), Column("accuracy"), Column("params"), Column("MACs")),
    *(Column("file"), Column("time"), Column("ratio")),
)
LEGEND = """ResNet-20 for Fashion-MNIST; accuracy on {images} test images that no pass has seen. file: the ONNX file or
the shared library. time: one image on one thread, the best of {rounds} rounds in turns; models run in ONNX Runtime,
compiled ones by themselves. ratio: to the original's time. Nothing was trained again. ONNX Runtime's fastest
convolutions want channel counts that are multiples of 8 or 16, so that fewer channels can take longer there."""


def render(found: Demo, *, width: int | None = None, colour: bool = False) -> str:
    """The demo's table as text."""
    width = width or screen_width()
    parts = [draw(COLUMNS, [_cells(row, found.rows[0], width < NARROW) for row in found.rows], width, colour)]
    parts.append(wrap(" ".join(LEGEND.format(images=found.images, rounds=ROUNDS).split()), "", width))
    reasons: dict[str, list[str]] = {}
    for row in found.rows:
        reasons.setdefault(row.missing, []).append(row.name)
    parts += [wrap(f"{'; '.join(names)}: {why}", "  ", width) for why, names in reasons.items() if why]
    return "\n\n".join(parts)


def _cells(row: Row, first: Row, narrow: bool) -> Sequence[str]:
    name = [f"{row.name}\n  {row.passes}".rstrip(), ""] if narrow else [row.name, row.passes]
    if row.cost is None or row.bytes is None or not row.best or not first.best:
        return [*name, *["-"] * 6]
    figures = [percent(row.accuracy), count(row.cost.params), count(row.cost.macs), size(row.bytes)]
    return [*name, *figures, seconds(row.best), f"{row.best / first.best:.2f}x"]
