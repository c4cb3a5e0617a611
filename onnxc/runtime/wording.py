"""ONNX Runtime's messages for people: without its error codes, source files and C++ signatures."""

from __future__ import annotations

import re
from functools import cache

_FILE = re.compile(r"Load model from .*? failed: ?")  # one of ours, as often as not
_CODE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
_PLACE = re.compile(r"(?<!\S)[^\s'\"]*\.(?:cc|cpp|cxx|h|hpp|cu|inc):\d+:? ?")
_CLOSES = {"(": ")", "[": "]"}


def plain(text: str) -> str:
    """A message in one line, without what only developers of ONNX Runtime can use."""
    text = _FILE.sub("", _CODE.sub("", " ".join(text.split())))
    parts, at = [], 0
    for found in _PLACE.finditer(text):
        if found.start() < at:
            continue
        parts.append(text[at : found.start()])
        at = _behind_signature(text, found.end())
    return " ".join("".join([*parts, text[at:]]).split())


@cache
def ort_errors() -> tuple[type[Exception], ...]:
    """ORT's exceptions, which share no base class of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))


def _behind_signature(text: str, start: int) -> int:
    """Where a function's signature that begins at `start` ends: with its arguments, qualifiers and template arguments.

    `start` where there is none: its arguments come within a few words, of which one has `::` or is all there is.
    """
    at = text.find("(", start)
    head = text[start:at]
    if at < 0 or ("::" not in head and " " in head.strip()):
        return start
    while at < len(text):
        if text[at] in _CLOSES:
            at = _closed(text, at)
        elif text.startswith("::<lambda", at):
            at = _closed(text, text.find("(", at)) + 1
        elif (tail := re.match(r" (?:const|noexcept|mutable)\b| (?=\[with )|::\w+|&&?", text[at:])) is not None:
            at += tail.end()
        else:
            return at
    return at


def _closed(text: str, at: int) -> int:
    """Behind the bracket that closes the one at `at`; the end where none does."""
    depth, opens = 0, text[at]
    for i in range(at, len(text)):
        depth += (text[i] == opens) - (text[i] == _CLOSES[opens])
        if not depth:
            return i + 1
    return len(text)
