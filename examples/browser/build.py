"""A page on which the bundled network, made smaller and compiled to WebAssembly, classifies drawings and pictures: one file, no network.

    python examples/browser/build.py OUT.html

    resnet20_fashion.onnx  ->  RECIPE  ->  wasm32 library  ->  + glue.c  ->  module  ->  page.html with module and pictures in it

Needs zig (`pip install ziglang`). As a hook of mkdocs it puts the page beside the site's browser.md.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

import onnxc
from onnxc.codegen import compile_model
from onnxc.codegen.target import resolve
from onnxc.ir.cost import cost
from onnxc.pipeline import sound
from onnxc.runtime.reference import Session

HERE = Path(__file__).resolve().parent
RECIPE = "prune(macs=0.5), fuse, quant"
CLASSES = ["T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
MEAN, STD, SIDE = 0.286, 0.353, 28
PICTURES, JUDGED = 48, 500
EXPORTS = ("page_input", "page_output", "page_begin", "page_run")
NAME = "garments"
PLACE = "browser/garments.html"


def network() -> tuple[onnxc.Model, onnxc.Model]:
    """(the bundled network, what the recipe makes of it for a picture at a time)."""
    data = files("onnxc") / "data"
    given = onnxc.load(str(data / "resnet20_fashion.onnx"))
    return given, onnxc.Pipeline(RECIPE, data=str(data / "fashion_calib.npz")).transform(given).model


def test_pictures(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(bytes [count, 28, 28], classes) that neither training nor the recipe has seen."""
    with np.load(str(files("onnxc") / "data" / "fashion_test.npz")) as held:
        bytes_ = np.rint((held["image"][:count, 0] * STD + MEAN) * 255).astype(np.uint8)
        return bytes_, held["labels"][:count]


def scores(model: onnxc.Model, pictures: np.ndarray) -> np.ndarray:
    """Scores [count, classes] by ONNX Runtime, of bytes [count, 28, 28]."""
    image = ((pictures[:, None] / np.float32(255) - MEAN) / STD).astype(np.float32)
    (found,) = Session(model.to_proto()).run({"image": image}).values()
    return found


def module(model: onnxc.Model) -> tuple[bytes, int]:
    """(a WebAssembly module that imports nothing, bytes of its arena). Raises MissingTool without zig."""
    target = resolve("wasm32")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        made = compile_model(
            model,
            folder,
            name=NAME,
            target="wasm32",
            shapes={"image": (1, 1, SIDE, SIDE)},
            weights="coded",
            check="shapes",
        )
        linked = folder / "page.wasm"
        flags = ["-mexec-model=reactor", "-O2", "-s", f"-I{folder}", *(f"-Wl,--export={name}" for name in EXPORTS)]
        parts = [HERE / "glue.c", folder / f"lib{NAME}.a"]
        subprocess.run([*target.toolchain.linker().command(), *flags, *map(str, parts), "-o", str(linked)], check=True)
        return linked.read_bytes(), made.arena_bytes


def page() -> str:
    """The page."""
    given, model = network()
    wasm, arena = module(model)
    pictures, labels = test_pictures(JUDGED)
    right = [float((scores(m, pictures).argmax(1) == labels).mean()) for m in (given, model)]
    told: dict[str, Any] = {
        "classes": CLASSES, "mean": MEAN, "std": STD, "recipe": RECIPE, "judged": JUDGED,
        "given": _bytes(given), "bytes": _bytes(model), "given_accuracy": right[0], "accuracy": right[1],
        "arena": arena, "wasm_bytes": len(wasm), "wasm": base64.b64encode(wasm).decode(),
        "labels": labels[:PICTURES].tolist(), "samples": base64.b64encode(pictures[:PICTURES].tobytes()).decode(),
    }  # fmt: skip
    return (HERE / "page.html").read_text(encoding="utf-8").replace("@DATA@", json.dumps(told))


def _bytes(model: onnxc.Model) -> int:
    work = model.copy()
    work.shapes = {"image": (1, 1, SIDE, SIDE)}
    return cost(work, sound(work)).bytes


def on_post_build(config: Any, **_: Any) -> None:
    """mkdocs calls this when the site stands."""
    place = Path(config["site_dir"]) / PLACE
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
