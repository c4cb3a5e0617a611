"""The folder that a search leaves: a point in each subfolder, with its model, the recipe that makes it again, and its library."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.escape import json_text
from ..ir.output import write_several
from ..recipe import to_toml
from ..report import finite
from .compiled import library_files
from .found import Found, Point
from .work import Spec

CALIBRATION = "calibration.npz"
FILES = ("model.onnx", "recipe.toml")


def write(found: Found, folder: Path, spec: Spec) -> list[Path]:
    """Write all points, the data that their recipes read, and report.json, all or none; the folders of the points, the chosen one's
    first. Raises BadOption."""
    arrays: dict[str, Any] = dict(spec.parts[0].arrays())
    calibration = io.BytesIO()
    np.savez(calibration, **arrays)
    files: dict[str, Iterable[bytes | memoryview]] = {CALIBRATION: [calibration.getbuffer()]}
    places = []
    for number, point in enumerate(found.points, 1):
        place = f"point-{number}"
        settings = {"data": f"../{CALIBRATION}", "seed": spec.seed}
        files[f"{place}/model.onnx"] = map(Point.bytes, [point])  # one at a time
        files[f"{place}/recipe.toml"] = [to_toml(point.passes, settings).encode()]
        if "library" in point.result:
            files |= {f"{place}/library/{name}": data for name, data in library_files(point.result).items()}
        places.append(folder / place)
    files["report.json"] = [(json_text(finite(found.to_dict())) + "\n").encode()]
    write_several(folder, files)
    for old in folder.glob("point-*"):
        if old not in places and old.is_dir():
            for name in FILES:
                (old / name).unlink(missing_ok=True)
            shutil.rmtree(old / "library", ignore_errors=True)
    if found.chosen is not None:
        places.insert(0, places.pop(found.chosen))
    return places
