"""Code that a user names as `module:function`: data, metrics. Naming it on the command line is asking for it to be run; a file
that names it (a recipe) is only followed where the user allows code.

The working folder may be anybody's, an archive just unpacked: it is no place to import from, unless code is allowed. Then it
comes last, so that nothing in it stands for a module that is installed.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from onnxc.ir.errors import BadData, OnnxcError

CODE = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")
"""What names a function: `module:function`."""
_ALLOWED: ContextVar[bool] = ContextVar("onnxc.allow_code", default=False)


@contextmanager
def allowing(allowed: bool) -> Iterator[None]:
    """While it lasts, whether files may name code, and code be taken from the working folder (`--allow-code`)."""
    token = _ALLOWED.set(allowed)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def allow(allowed: bool) -> None:
    """The same from here on, for a process that works for one where it is so."""
    _ALLOWED.set(allowed)


def allowed() -> bool:
    """Whether files may name code here."""
    return _ALLOWED.get()


def import_function(source: str, remedy: str | None = None) -> Callable:
    """The function that `module:function` names. Raises BadData, also for whatever the module raises when it is imported."""
    module_name, _, name = source.partition(":")
    path = list(sys.path)
    here = os.getcwd()
    try:
        sys.path[:] = [p for p in path if p not in ("", ".", here)] if not allowed() else [*path, here]
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not f"{module_name}.".startswith(f"{error.name}."):
            raise failed(source, error) from error
        where = "" if allowed() else "install it, set PYTHONPATH, or give --allow-code to look in this folder"
        raise BadData(f"cannot import {module_name}: there is no such module", remedy=where or remedy) from error
    except Exception as error:
        raise failed(source, error) from error
    finally:
        sys.path[:] = path
    function = getattr(module, name, None)
    if not callable(function):
        raise BadData(f"module {module_name} has no function {name}")
    return function


def failed(source: str, error: BaseException) -> OnnxcError:
    """The one line for an error that somebody's code raised."""
    if isinstance(error, OnnxcError):
        return error
    return BadData(f"{source} fails: {type(error).__name__}: {error}", remedy="--debug shows where")
