"""What to run: `"fuse, prune(ratio=0.3), quant"`, a TOML recipe, or Pass objects -> a list of passes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .ir.bounded import read_text
from .ir.errors import BadOption
from .ir.escape import json_text
from .passes.base import Pass
from .passes.registry import make
from .runtime.code import CODE

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<mark>[()\[\]{},=:])|(?P<word>[^\s()\[\]{},=:"']+))""",
    re.S,
)
_ESCAPE = re.compile(r"""\\(["'\\])""")
_WORDS = {"true": True, "false": False, "none": None}


def parse(text: str) -> list[Pass]:
    """Read a pass list. Arguments are `name=value` or values in order; values are numbers, true, false, none, words,
    quoted strings (a backslash escapes a quote or a backslash), [lists] and {name: value} tables. What `str` of a Pass
    writes is read back. Raises BadOption that shows where reading stopped."""
    try:
        return _Reader(text).passes()
    except RecursionError:
        raise BadOption("the list of passes is nested too deeply") from None


class _Reader:
    def __init__(self, text: str):
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        at = 0
        while text[at:].strip():
            m = _TOKEN.match(text, at)
            if m is None:
                raise self.error("this is no pass list", at)
            kind = m.lastgroup or ""
            self.tokens.append((kind, m.group(kind), m.start(kind)))
            at = m.end()
        self.at = 0

    def error(self, what: str, at: int | None = None) -> BadOption:
        if at is None:
            at = self.tokens[self.at][2] if self.at < len(self.tokens) else len(self.text)
        shown = f"{self.text[:at]}<here>{self.text[at:]}"
        return BadOption(what, found=shown, remedy='write it like "fuse, prune(ratio=0.3), quant"')

    def peek(self) -> str:
        if self.at == len(self.tokens):
            return ""
        kind, text, _ = self.tokens[self.at]
        return text if kind == "mark" else ""

    def accept(self, mark: str) -> bool:
        if self.peek() == mark:
            self.at += 1
            return True
        return False

    def expect(self, mark: str) -> None:
        if not self.accept(mark):
            raise self.error(f"a {mark} is missing")

    def separate(self, close: str) -> None:
        """Behind an item in brackets: a comma, or the bracket that closes."""
        if self.at == len(self.tokens):
            raise self.error(f"a {close} is missing")
        if self.peek() != close:
            self.expect(",")

    def word(self) -> str:
        if self.at == len(self.tokens) or self.tokens[self.at][0] == "mark":
            raise self.error("a name is missing")
        kind, text, _ = self.tokens[self.at]
        self.at += 1
        return _ESCAPE.sub(r"\1", text[1:-1]) if kind == "string" else text

    def passes(self) -> list[Pass]:
        if not self.tokens:
            raise BadOption("the pass list is empty", remedy="see onnxc passes --list")
        found = []
        while True:
            name = self.word()
            positional, named = self.arguments() if self.accept("(") else ([], {})
            found.append(make(name, named, positional))
            if self.at == len(self.tokens):
                return found
            self.expect(",")

    def arguments(self) -> tuple[list, dict]:
        positional, named = [], {}
        while not self.accept(")"):
            if self.at + 1 < len(self.tokens) and self.tokens[self.at + 1][:2] == ("mark", "=") and not self.peek():
                key = self.word()
                self.expect("=")
                if key in named:
                    raise self.error(f"option {key} is given twice")
                named[key] = self.value()
            elif named:
                raise self.error("an option without a name stands behind one with a name")
            else:
                positional.append(self.value())
            self.separate(")")
        return positional, named

    def value(self):
        if self.accept("["):
            items = []
            while not self.accept("]"):
                items.append(self.value())
                self.separate("]")
            return items
        if self.accept("{"):
            table = {}
            while not self.accept("}"):
                key = self.word()
                self.expect(":")
                table[key] = self.value()
                self.separate("}")
            return table
        quoted = self.at < len(self.tokens) and self.tokens[self.at][0] == "string"
        text = self.word()
        return text if quoted else _scalar(text)


def _scalar(text: str):
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


LARGEST, DEEPEST = 2**20, 1000
"""Bytes of a recipe, and dots in a line of it: what TOML takes grows with their square."""
_SETTINGS = {
    "seed": int,
    "data": str,
    "check": str,
    "task": str,
    "metric": str,
    "decode": str,
    "require": str,
    "time": bool,
}


def read_toml(path: str | Path, *, allow_code: bool = False) -> tuple[list[Pass], dict]:
    """A recipe: `[[pass]]` tables with `name` and options, and settings (those of `Pipeline`) above them.

    A relative path in `data` starts at the recipe's folder. A recipe is data: what names code to run, `module:function`, is
    refused unless `allow_code`. Raises BadOption.
    """
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef]
    path = Path(path)
    try:
        text = read_text(path, LARGEST)
        if not text.strip() or max(line.count(".") for line in text.splitlines()) > DEEPEST:
            why = "nested too deeply" if text.strip() else "empty"
            raise BadOption(f"the recipe {path} lists no passes: it is {why}")
        recipe = tomllib.loads(text)
    except OSError as e:
        raise BadOption(f"cannot read the recipe {path}: {(e.strerror or str(e)).lower()}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise BadOption(f"the recipe {path} is not TOML: {e}") from None
    except (RecursionError, ValueError) as e:
        why = "it is nested too deeply" if isinstance(e, RecursionError) else str(e)
        raise BadOption(f"the recipe {path} cannot be read: {why}") from None
    tables = recipe.pop("pass", None)
    if not isinstance(tables, list) or not tables or not all(_is_pass(t) for t in tables):
        raise BadOption(f"the recipe {path} lists no passes", remedy='give [[pass]] tables with name = "..."')
    for key, value in recipe.items():
        if key not in _SETTINGS:
            raise BadOption(
                f"the recipe {path} has a setting that is not known", found=key, expected=", ".join(_SETTINGS)
            )
        if type(value) is not _SETTINGS[key]:
            raise BadOption(
                f"setting {key} of the recipe {path} does not fit", expected=_SETTINGS[key].__name__, found=repr(value)
            )
    if "data" in recipe and _exists(path.parent / recipe["data"]):
        recipe["data"] = str(path.parent / recipe["data"])
    code = [text for text in _texts((recipe, tables)) if CODE.fullmatch(text) and not _exists(Path(text))]
    if code and not allow_code:
        raise BadOption(
            f"the recipe {path} names code to run", found=code[0], remedy="if you trust it, give --allow-code"
        )
    return [make(t["name"], {k: v for k, v in t.items() if k != "name"}) for t in tables], recipe


def to_toml(passes: Sequence[Pass], settings: Mapping[str, object] | None = None) -> str:
    """A recipe that `read_toml` reads back: settings, then a table for each pass with the options that differ from their
    defaults."""
    lines = [f"{key} = {_toml(value)}" for key, value in (settings or {}).items()]
    for p in passes:
        lines += ["", "[[pass]]", f"name = {_toml(p.name)}"]
        lines += [f"{key} = {_toml(value)}" for key, value in p.options().items() if value is not None]
    return "\n".join(lines).lstrip("\n") + "\n"


def _toml(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(str(k))} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    # what JSON escapes in a string, TOML reads the same way
    return repr(value) if isinstance(value, (int, float)) else json_text(str(value), indent=None)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _texts(value: object) -> Iterator[str]:
    """Every text in tables and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _is_pass(table: object) -> bool:
    return isinstance(table, dict) and isinstance(table.get("name"), str)


def resolve(passes: str | Sequence[str | Pass | type[Pass] | tuple[str, Mapping]]) -> list[Pass]:
    """Passes from a list in text, or from a sequence of Pass objects, classes, texts and (name, options) pairs."""
    if isinstance(passes, str):
        return parse(passes)
    if isinstance(passes, Pass):
        return [passes]
    found: list[Pass] = []
    for p in passes:
        if isinstance(p, Pass):
            found.append(p)
        elif isinstance(p, type) and issubclass(p, Pass):
            found.append(p())
        elif isinstance(p, str):
            found += parse(p)
        elif isinstance(p, tuple) and len(p) == 2:
            found.append(make(p[0], p[1]))
        else:
            raise BadOption("this is no pass", found=repr(p), expected="a name, a Pass, or (name, options)")
    if not found:
        raise BadOption("the pass list is empty", remedy="see onnxc passes --list")
    return found
