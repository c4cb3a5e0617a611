"""Checkpoints of a training: a file that belongs to one training and is whole or not there."""

from __future__ import annotations

import hashlib
import os
from glob import escape
from pathlib import Path

import torch

from onnxc.ir.errors import BadData, BadOption
from onnxc.ir.faults import first_line


def mark(weights: dict[str, torch.Tensor], *terms: object) -> str:
    """What a checkpoint belongs to: the weights as they came, and what is asked of them."""
    h = hashlib.sha256(repr(terms).encode())
    for name, w in sorted(weights.items()):
        h.update(name.encode() + w.detach().cpu().numpy().tobytes())
    return h.hexdigest()


def writable(path: Path) -> None:
    """Raises BadOption, ahead of any step, where no checkpoint can be written at `path`. What a kill left half written goes."""
    if path.is_dir():
        raise BadOption("the checkpoint is a folder", expected="a file", found=path)
    if not os.access(path.absolute().parent, os.W_OK):
        raise BadOption("the folder of the checkpoint cannot be written to", found=path.absolute().parent)
    for left in path.parent.glob(f".{escape(path.name)}.*"):
        if left.suffix[1:].isdecimal():
            left.unlink(missing_ok=True)


def save(path: Path, state: dict) -> None:
    """Write `state` in place of what the file held. Raises BadData where that cannot be; the file is then as it was."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(state, new)
        os.replace(new, path)
    except (OSError, RuntimeError) as e:
        new.unlink(missing_ok=True)
        raise BadData(f"{path}: the checkpoint cannot be written: {first_line(e)}") from e


def resume(path: Path, belongs: str) -> dict | None:
    """What `save` wrote, or None where there is no file. Raises BadData where it is none of this training's."""
    if not path.is_file():
        return None
    try:
        saved = torch.load(path, weights_only=True)
        ours = saved["mark"] == belongs
    except (OSError, RuntimeError, KeyError, ValueError, EOFError, TypeError) as e:
        raise BadData(f"{path} is no checkpoint of a training", remedy="remove it") from e
    except Exception as e:
        if type(e).__module__.startswith(("pickle", "_pickle", "torch")):
            raise BadData(f"{path} is no checkpoint of a training", remedy="remove it") from e
        raise
    if not ours:
        raise BadData(f"{path} is the checkpoint of another training", remedy="remove it or name another file")
    return saved
