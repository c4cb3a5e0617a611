"""Golden cases: ONNX text in, a dump of what a pass made of it out.

`tests/golden/<pass>/<case>.onnx.txt` holds a model in ONNX's text syntax, `<case>.ir.txt` beside it the dump, the
refusals and the notes. A missing golden fails; `pytest --update-golden` writes it. An inner tensor that is declared but
that no node makes is a weight with fixed contents: multiples of 1/8, above zero where its name begins with `var`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

from onnxc.ir.files import load
from onnxc.ir.model import Model
from onnxc.ir.text import dump
from onnxc.ir.verify import verify
from onnxc.passes.base import Pass, Report, apply

ROOT = Path(__file__).resolve().parent / "golden"
DTYPES = {1: np.float32, 7: np.int64, 10: np.float16, 11: np.float64}


def cases(folder: str) -> list[str]:
    """The names of the cases of one pass."""
    return sorted(p.name.removesuffix(".onnx.txt") for p in (ROOT / folder).glob("*.onnx.txt"))


def read(text: str) -> onnx.ModelProto:
    """A model from text, with its undeclared weights filled in."""
    proto = parser.parse_model(text)
    made = {name for n in proto.graph.node for name in n.output} | {t.name for t in proto.graph.initializer}
    kept = []
    for info in proto.graph.value_info:
        if info.name in made:
            kept.append(info)
            continue
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        values = weights(shape, positive=info.name.startswith("var"))
        dtype = DTYPES[info.type.tensor_type.elem_type]
        proto.graph.initializer.append(numpy_helper.from_array(values.astype(dtype), info.name))
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)
    return proto


def weights(shape: list[int], *, positive: bool = False) -> np.ndarray:
    """Small multiples of 1/8, none of them 0."""
    numbers = np.arange(int(np.prod(shape))) * 7 % 13 + 1
    return (numbers / 8 if positive else np.where(numbers > 6, numbers - 6, -numbers) / 8).reshape(shape)


def feeds(model: Model, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs; symbolic extents are 2, unknown ones 3."""
    rng = np.random.default_rng(seed)
    types = verify(model).types
    made = {}
    for t in model.inputs:
        shape = [d if isinstance(d, int) else 2 if isinstance(d, str) else 3 for d in t.shape]
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(types[t.name]))
        floats = rng.standard_normal(shape) * 2
        made[t.name] = floats.astype(dtype) if dtype.kind == "f" else rng.integers(0, 2, shape).astype(dtype)
    return made


def text_of(model: Model, report: Report) -> str:
    lines = [dump(model)]
    lines += [f"refused {r.node}: {r.reason}\n" for r in report.refusals]
    lines += [f"note {n}\n" for n in report.notes]
    return "".join(lines)


def check(folder: str, name: str, p: Pass, *, update: bool) -> tuple[Model, Model, Report]:
    """Run `p` on a case and compare its dump with the golden; returns the models before and after, and the report."""
    before = load(read((ROOT / folder / f"{name}.onnx.txt").read_text(encoding="utf-8")))
    after, report = apply(p, before)
    compare(folder, name, text_of(after, report), update=update)
    return before, after, report


def compare(folder: str, name: str, got: str, *, update: bool) -> None:
    """Compare a text with the golden of a case, or write it."""
    golden = ROOT / folder / f"{name}.ir.txt"
    if update:
        golden.write_text(got, encoding="utf-8")
    assert golden.exists(), f"{golden} is missing: run pytest --update-golden, and read what it writes"
    assert got == golden.read_text(encoding="utf-8")
