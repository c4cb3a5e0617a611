"""Text that comes from a model, on its way into a language that we write: one function a language.

    input "x *\\<newline>/"   ->   C comment  x %2A%5C%0A/      C literal  "x \\052\\134\\012/"      JSON  "x \\u002a\\u005c\\u000a/"

Names are data. Each function asks what is allowed, not what is forbidden: letters, digits, `_ . : / -` and the space stand as
they are, all else becomes an escape of that language. So no name can end a comment, a string or a tag, move a cursor, or be
read in another order than it is written. Every result can be read back to the very name; `tests/ir/test_escape.py` does.
Needs nothing but Python, as it goes into the wheels of libraries.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Sequence

_OTHER = re.compile(r"[^A-Za-z0-9_ .:/-]")
_OTHER_BYTE = re.compile(rb"[^A-Za-z0-9_ .:/-]")
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_JSON_OTHER = re.compile(r"\\u[0-9a-f]{4}|\\.|[^A-Za-z0-9_ .:/\\-]")


def utf8(text: str) -> bytes:
    """UTF-8, also of the lone surrogates that Python makes of file names which are no UTF-8."""
    return text.encode("utf-8", "surrogatepass")


def comment(text: str) -> str:
    """For a comment of C, CMake, Python, a shell or an assembler: other bytes of its UTF-8 as %2A, as in URLs."""
    return _OTHER_BYTE.sub(lambda match: b"%%%02X" % match[0][0], utf8(text)).decode("ascii")


def c_string(text: str) -> str:
    """A C string literal of UTF-8: other bytes as three octal digits. A NUL, which would end it, is written C0 80 (as Java does)."""
    data = utf8(text).replace(b"\0", b"\xc0\x80")
    return '"' + _OTHER_BYTE.sub(lambda match: b"\\%03o" % match[0][0], data).decode("ascii") + '"'


def from_c_string(data: bytes) -> str:
    """The text whose `c_string` a C program holds as `data`."""
    return data.replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogatepass")


def _python_escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def json_text(value: object, indent: int | None = 1) -> str:
    """A value as JSON in ASCII: inside strings all other characters are \\u escapes, so that it may stand in HTML as well.

    Raises ValueError for numbers that JSON lacks (NaN, infinities).
    """
    text = json.dumps(value, indent=indent, allow_nan=False)
    return _JSON_STRING.sub(lambda match: f'"{_JSON_OTHER.sub(_json_escape, match[0][1:-1])}"', text)


_JSON_SHORT = {"b": 8, "t": 9, "n": 10, "f": 12, "r": 13, '"': 34, "\\": 92, "/": 47}


def _json_escape(match: re.Match[str]) -> str:
    found = match[0]
    if len(found) == 6:
        return found
    return f"\\u{_JSON_SHORT[found[1]] if len(found) == 2 else ord(found):04x}"


def terminal(text: str) -> str:
    """For people: printable characters of any script as they are, the rest (controls, marks of direction, line ends,
    surrogates) and the backslash as Python writes them, \\x1b."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(c if c.isprintable() and c != "\\" else _python_escape(c) for c in text)


LONG = 1000
"""Characters of a name that are shown whole."""


def readable(value):
    """A copy of a result (dataclasses, lists, tables, texts, numbers) in which every text is as `terminal` shows it, long ones
    with their middle left out: what is drawn from it shows names as they are, and nothing that a name says is done."""
    if isinstance(value, str):
        if len(value) <= LONG:
            return terminal(value)
        return f"{terminal(value[: LONG // 2])}…{terminal(value[-LONG // 4 :])} ({len(value)} characters)"
    if isinstance(value, dict):
        return {readable(k): readable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [readable(v) for v in value]
        return parts if isinstance(value, list) else type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        copied = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(copied, field.name, readable(getattr(value, field.name)))
        return copied
    return value


LONGEST = 4000
"""Characters of a message."""


def line(text: str) -> str:
    """A message with names in it as one line: white space becomes a space, all else that does not print is escaped. Of one
    that is too long the middle is left out: what is to be done stands at its end."""
    text = " ".join(text.split())
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 4 :]}"
    return text if text.isprintable() else "".join(c if c.isprintable() else _python_escape(c) for c in text)


def html(text: str) -> str:
    """For HTML, in text and in quoted attributes: what `terminal` shows, other characters as &#x3c;."""
    return _OTHER.sub(lambda match: f"&#x{ord(match[0]):x};", terminal(text))


def card(title: str, rows: Sequence[tuple[str, object]]) -> str:
    """A title over (name, value) rows, as HTML."""
    body = "".join(
        f'<tr><th style="text-align:left">{html(name)}</th><td style="text-align:left">{html(str(value))}</td></tr>'
        for name, value in rows
    )
    return f"<table><caption><b>{html(title)}</b></caption>{body}</table>"


def framed(page: str, height: int = 640) -> str:
    """A whole page within another, its styles kept to itself."""
    return f'<iframe style="width:100%;height:{height}px;border:0" srcdoc="{html(page)}"></iframe>'
