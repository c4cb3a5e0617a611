"""Files: mapped for reading; written to a temporary one that takes the place of the old one only when all went well."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnxc.ir.errors import BadModel, BadOption


@contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """The bytes of a file, mapped. Raises BadModel if it cannot be read or is empty."""
    try:
        with open(path, "rb") as f:
            if not os.fstat(f.fileno()).st_size:
                raise BadModel(f"{path} is empty")
            mapping = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as e:
        raise BadModel(f"cannot read {path}: {(getattr(e, 'strerror', None) or str(e)).lower()}") from None
    view = memoryview(mapping)
    try:
        yield view
    finally:
        # arrays that look into the mapping keep it until they go
        view = None


class Replacement:
    """A file that is written beside `path` and renamed to it at the end; on an error, `path` stays as it was.

    Raises BadOption, one line, where the folder is missing or cannot be written to, or the disk is full.
    """

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> Replacement:
        if self.path.is_dir():
            raise BadOption(f"{self.path} is a folder", expected="a file")
        try:
            handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        except OSError as e:
            raise self._error(e) from None
        self.temporary = Path(name)
        self.file = os.fdopen(handle, "w+b")
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            self.file.close()
            if kind is None:
                mask = os.umask(0)
                os.umask(mask)
                os.chmod(self.temporary, 0o666 & ~mask)
                os.replace(self.temporary, self.path)
                return
        except OSError as e:
            error = error or e
        self.temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise self._error(error) from None

    def _error(self, error: OSError) -> BadOption:
        return BadOption(f"cannot write {self.path}: {(error.strerror or str(error)).lower()}")
