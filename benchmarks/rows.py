"""Tables of compressed models: pass lists run on a model, what they leave of it, and a file that is written after each row."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import onnxc
from onnxc.runtime.evaluate import accuracy
from onnxc.runtime.reference import Session

Data = dict[str, np.ndarray]
HELD = 4000


class Table:
    """The rows of a results file (None: they are shown alone); those that stand there are kept, and `only` picks others by a part of
    their name."""

    def __init__(self, path: Path | None, only: str = ""):
        self.path, self.only = path, only
        self.found: dict[str, dict] = json.loads(path.read_text()) if path is not None and path.is_file() else {}

    def lacks(self, name: str) -> bool:
        """Whether a row is to be made."""
        return self.only in name and name not in self.found

    def add(self, name: str, row: dict) -> None:
        self.found[name] = row
        print(name, json.dumps(row), flush=True)
        if self.path is not None:
            self.path.write_text(json.dumps(self.found, indent=1) + "\n")


def options(about: str | None, share: int) -> argparse.ArgumentParser:
    """Of scripts that train on images: --train, --test, --share (unless it is given, every `share`-th image) and --only."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--share", type=int, default=share, help="train on every N-th image")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    return parser


def trained_options(about: str | None, share: int) -> argparse.ArgumentParser:
    """`options`, with --threads, and --tune: what `learnt_and_tested` then takes from --train alone."""
    parser = options(about, share)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tune", action="store_true", help="measure on a part of --train, write nothing")
    return parser


def learnt_and_tested(args: argparse.Namespace) -> tuple[Data, Data]:
    """The images of --train and of --test; with --tune, the last HELD of --train in place of these, which are then not trained on."""
    train = arrays(args.train)
    if not args.tune:
        return train, arrays(args.test)
    return {n: a[:-HELD] for n, a in train.items()}, {n: a[-HELD:] for n, a in train.items()}


def arrays(path: str, share: int = 1) -> Data:
    """Every `share`-th sample of an .npz."""
    with np.load(path) as held:
        return {name: a[::share] for name, a in held.items()}


def classified(model: onnxc.Model, test: Data, single: bool = False) -> float:
    """The share of right classes in ONNX Runtime, of a model that takes one image at a time where `single`."""
    session, (name,) = Session(model.to_proto()), (n for n in test if n != "labels")
    if not single:
        return accuracy(next(iter(session.run({name: test[name]}).values())), test["labels"])
    named = [next(iter(session.run({name: x[None]}).values())).argmax() for x in test[name]]
    return float(np.mean(np.array(named) == test["labels"]))


def compressed(source, passes: str, train: Data, judge: Callable[[onnxc.Model], float]) -> tuple[dict, onnxc.Model]:
    """The row of a pass list, and the model that it leaves. macs: what is left of them; bytes: of weights; seconds: of processor
    time."""
    start = time.process_time()
    result = onnxc.run_passes(onnxc.load(source), passes, data=train, check="shapes")
    first, last = result.report.rows[0].before, result.report.rows[-1].after
    row = {
        "passes": passes, "images": len(next(iter(train.values()))), "accuracy": judge(result.model),
        "macs": last.macs / first.macs, "bytes": last.bytes, "seconds": round(time.process_time() - start, 1),
    }  # fmt: skip
    return row, result.model
