"""What tuning has measured, in a file: for a machine and a version of the kernels, how much longer each kernel took than the predicted
one, by layer; and of models their layers, and whether the kernels that won took less time together.

    {"format": 1, "machines": {"AMD EPYC ... 3f2a...": {
        "layers": {KEY: {"float32.direct: tile 7 ...": 0.93}},
        "models": {MODEL: {"layers": {KEY: {"nodes": [...], "others": [...]}}, "picks": {KEY: "float32..."}, "paid": true}}}}}

~/.cache/onnxc/tune.json, or where XDG_CACHE_HOME says, unless a file is named.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

from ..ir.cache import home
from ..ir.errors import BadData, BadOption
from ..ir.escape import json_text
from ..ir.output import write_whole

FASTER = 0.97
"""Times the predicted kernel's time below which another one is clearly faster."""
MOST_BYTES = 1 << 26


class Learnt:
    """The part of the file that is of this machine. `layers`: key -> kernel -> ratio; `models`: digest -> layers by key (nodes, and the
    kernels that they might have, the predicted one first), and where a whole library was timed, its picks and whether they paid."""

    def __init__(self, path: str | os.PathLike | None = None):
        """Reads `path`, by default that of the user. Raises BadData where it holds something else."""
        self.path = place() if path is None else Path(path)
        self._whole: dict[str, Any] = {"format": 1, "machines": {}}
        if self.path.exists():
            self._whole = _read(self.path)
        mine = self._whole["machines"].setdefault(machine(), {})
        self.layers: dict[str, dict[str, float]] = mine.setdefault("layers", {})
        self.models: dict[str, dict[str, Any]] = mine.setdefault("models", {})

    def add(self, layer: str, kernel: str, ratio: float) -> None:
        """A measurement: how many times the predicted kernel's time this one takes."""
        self.layers.setdefault(layer, {})[kernel] = round(ratio, 4)

    def picks(self) -> dict[str, str]:
        """Layer -> the kernel that was measured to be fastest, where that is clearly faster than the predicted one."""
        best = {
            layer: min(found.items(), key=lambda pair: (pair[1], pair[0]))
            for layer, found in self.layers.items()
            if found
        }
        return {layer: kernel for layer, (kernel, ratio) in sorted(best.items()) if ratio < FASTER}

    def save(self) -> None:
        """Writes the file, with what other processes have added to it since; sorted, so that equal measurements are equal bytes."""
        if self.path.exists():
            other = _read(self.path)["machines"]
            for name, theirs in other.items():
                mine = self._whole["machines"].setdefault(name, {"layers": {}, "models": {}})
                for layer, found in theirs["layers"].items():
                    mine["layers"][layer] = found | mine["layers"].get(layer, {})
                mine["models"].update(theirs["models"] | mine["models"])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(json.loads(json_text(self._whole)), indent=1, sort_keys=True)
        write_whole(self.path, [text.encode() + b"\n"])


def place() -> Path:
    """The user's file. Raises BadOption where there is no folder for it."""
    start = home()
    if start is None:
        raise BadOption(
            "XDG_CACHE_HOME is no absolute path", remedy="set it to one, or name a file: --tune-cache F.json"
        )
    return start / "tune.json"


@cache
def machine() -> str:
    """This processor, its features, and the version of the code generator: what a measurement holds for."""
    from ..runtime.toolchain import host_features

    model, told = platform.machine(), Path("/proc/cpuinfo")
    if told.exists():
        lines = told.read_text(encoding="ascii", errors="replace").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    code = hashlib.sha256()
    for file in sorted((Path(__file__).parents[1] / "codegen").rglob("*.py")):
        code.update(file.read_bytes())
    features = hashlib.sha256(" ".join(sorted(host_features())).encode()).hexdigest()[:8]
    return f"{model} {features}, onnxc {code.hexdigest()[:12]}"


def _texts(found: Any) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError("no list of texts")
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MOST_BYTES))
        if found["format"] != 1:
            raise ValueError("another format")
        for one in found["machines"].values():
            layers, models = one["layers"], one["models"]
            ratios = [ratio for kernels in layers.values() for ratio in kernels.values()]
            if not all(isinstance(r, float | int) and math.isfinite(r) and r > 0 for r in ratios):
                raise ValueError("a ratio is no number")
            for model in models.values():
                if not all(len(_texts(v["nodes"])) + 1 and _texts(v["others"]) for v in model["layers"].values()):
                    raise ValueError("a layer without kernels")
                if not isinstance(model.get("paid", True), bool) or not isinstance(model.get("picks", {}), dict):
                    raise ValueError("a model's word is neither true nor false")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadData(
            f"{path} holds no measurements of --tune ({type(error).__name__})",
            remedy="delete it, or name another --tune-cache",
        ) from None
    return found
