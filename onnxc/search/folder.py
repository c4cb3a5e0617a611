"""The folder that a search leaves: a point in each subfolder, with its model, the recipe that makes it again, and its library."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.escape import json_text
from ..ir.output import replacing, write_whole
from ..recipe import to_toml
from ..report import finite
from .compiled import write_library
from .found import Found
from .work import Spec

CALIBRATION = "calibration.npz"
FILES = ("model.onnx", "recipe.toml")


def write(found: Found, folder: Path, spec: Spec) -> list[Path]:
    """Write all points, the data that their recipes read, and report.json; the folders of the points, the chosen one's first."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / CALIBRATION) as file:
        arrays: dict[str, Any] = dict(spec.parts[0].arrays())
        np.savez(file, **arrays)
    places = []
    for number, point in enumerate(found.points, 1):
        place = folder / f"point-{number}"
        place.mkdir(exist_ok=True)
        settings = {"data": f"../{CALIBRATION}", "seed": spec.seed}
        write_whole(place / "model.onnx", [point.bytes()])
        write_whole(place / "recipe.toml", [to_toml(point.passes, settings).encode()])
        if "library" in point.result:
            write_library(point.result, place / "library")
        places.append(place)
    for old in folder.glob("point-*"):
        if old not in places and old.is_dir():
            for name in FILES:
                (old / name).unlink(missing_ok=True)
            shutil.rmtree(old / "library", ignore_errors=True)
    write_whole(folder / "report.json", [(json_text(finite(found.to_dict())) + "\n").encode()])
    if found.chosen is not None:
        places.insert(0, places.pop(found.chosen))
    return places
