"""Passes by name: those of this package and of installed ones, with options checked against their types."""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass

from ..ir.errors import BadOption
from . import base as table
from . import builtin
from .base import Pass, default_of, show
from .options import ranges


def available() -> dict[str, type[Pass]]:
    """Every pass by its full name: ours, and those of installed packages (entry-point group `onnxc.passes`)."""
    _discover()
    return dict(sorted(table.PASSES.items()))


def aliases() -> dict[str, str]:
    """Short names -> full names."""
    _discover()
    return dict(sorted(table.ALIASES.items()))


_discovered = False


def _discover() -> None:
    global _discovered
    if _discovered:
        return
    from importlib.metadata import entry_points

    builtin()
    for point in sorted(entry_points(group="onnxc.passes"), key=lambda p: p.name):
        try:
            point.load()
        except Exception as e:
            raise BadOption(
                f"the passes of {point.dist.name if point.dist else point.value} do not load: {type(e).__name__}: {e}",
                remedy="repair that package or uninstall it",
            ) from e
    _discovered = True


def find(name: str) -> type[Pass]:
    """The pass of that name or alias. Raises BadOption with the nearest names."""
    full = table.ALIASES.get(name, name)
    if full not in table.PASSES:  # whose file has not been imported alone
        _discover()
        full = table.ALIASES.get(name, name)
    if full not in table.PASSES:
        near = difflib.get_close_matches(name, [*table.PASSES, *table.ALIASES], 3, 0.5)
        raise BadOption(
            f"there is no pass {name}", remedy=f"did you mean {', '.join(near)}?" if near else "see onnxc passes --list"
        )
    return table.PASSES[full]


def make(name: str, options: Mapping[str, object] | None = None, positional: list | None = None) -> Pass:
    """A pass with these options; `positional` values go to its fields in order. Raises BadOption."""
    cls = find(name)
    fields, positional = table.option_fields(cls), positional or []
    known = {f.name: f for f in fields}
    given = dict(options or {})
    for value, f in zip(positional, fields, strict=False):
        if f.name in given:
            raise BadOption(f"option {f.name} is given twice", pass_name=cls.name)
        given[f.name] = value
    if len(positional) > len(fields):
        raise BadOption("too many options", pass_name=cls.name, expected=len(fields), found=len(positional))
    missing = [f.name for f in fields if f.name not in given and default_of(f) is dataclasses.MISSING]
    if missing:
        raise BadOption(f"option {missing[0]} must be given", pass_name=cls.name)
    hints = typing.get_type_hints(cls)
    for key, value in given.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 3, 0.4)
            raise BadOption(
                f"there is no option {key}",
                pass_name=cls.name,
                remedy=f"it takes {', '.join(near or known) or 'no options'}",
            )
        given[key] = _convert(cls.name, key, value, hints[key])
    return cls(**given)


def _convert(pass_name: str, key: str, value, hint):
    """Check `value` against a field's type, with the lossless conversions that a command line needs (int to float)."""
    try:
        return _fit(value, hint)
    except TypeError:
        raise BadOption(
            f"option {key} does not fit", pass_name=pass_name, expected=kind_name(hint), found=show(value)
        ) from None


def _fit(value, kind):
    """`value` as a `kind` (a type, a union, a Literal, list[...], tuple[...], dict[...]). Raises TypeError."""
    base, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if base in (types.UnionType, typing.Union):
        for one in inner:
            try:
                return _fit(value, one)
            except TypeError:
                continue
    elif base is typing.Literal:
        if value is None and "none" in inner:
            return "none"  # pass lists and TOML write both alike
        if any(value == one and type(value) is type(one) for one in inner):
            return value
    elif base is typing.Any or base is object:
        return value
    elif base is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if abs(value) <= sys.float_info.max or isinstance(value, float):
            return float(value)
    elif base in (int, str, bool) and type(value) is base:
        return value
    elif base is type(None) and value is None:
        return None
    elif base is list and isinstance(value, (list, tuple)):
        return [_fit(v, inner[0]) for v in value] if inner else list(value)
    elif base is tuple and isinstance(value, (list, tuple)):
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_fit(v, inner[0]) for v in value)
        if not inner or len(inner) == len(value):
            return tuple(_fit(v, k) for v, k in zip(value, inner)) if inner else tuple(value)
    elif base in (dict, Mapping) and isinstance(value, dict):
        return {_fit(k, inner[0]): _fit(v, inner[1]) for k, v in value.items()} if inner else dict(value)
    raise TypeError


def kind_name(kind: typing.Any) -> str:
    """A field's type as people read it: `float`, `layer or global`, `int or none`, `list of int`."""
    base, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if base in (types.UnionType, typing.Union):
        return " or ".join(map(kind_name, inner))
    if base is typing.Literal:
        return " or ".join(map(str, inner))
    if base is type(None):
        return "none"
    if base in (list, tuple) and inner:
        kinds = [kind_name(k) for k in inner if k is not Ellipsis]
        return f"list of {', '.join(kinds)}"
    names = {str: "text", bool: "true or false", dict: "table", Mapping: "table"}
    return names.get(base) or str(getattr(base, "__name__", base))


@dataclass(frozen=True)
class Option:
    """One option of a pass. default: as a pass list writes it, None where it must be given; doc: from the docstring."""

    name: str
    kind: str
    default: str | None
    doc: str


def describe_options(cls: type[Pass]) -> list[Option]:
    """The options of a pass. Its docstring, or a base's, describes them as `name: what it does`, each up to the next name."""
    fields = table.option_fields(cls)
    texts: dict[str, str] = {}
    for base in cls.__mro__[:-1]:
        texts = {**_described(base.__doc__ or "", [f.name for f in fields]), **texts}
    hints = typing.get_type_hints(cls)
    found = []
    for f in fields:
        text = texts.get(f.name, "")
        default = default_of(f)
        found.append(
            Option(
                f.name,
                _kind(cls, f.name, hints[f.name]),
                None if default is dataclasses.MISSING else show(default),
                text,
            )
        )
    return found


def _kind(cls: type[Pass], option: str, hint) -> str:
    allowed = ranges(cls).get(option)
    return kind_name(hint) if allowed is None else f"{kind_name(hint)}, {allowed}"


def _described(doc: str, names: list[str]) -> dict[str, str]:
    """What a docstring says of each of `names` that it describes."""
    doc = " ".join(doc.split())
    starts = {name: m for name in names if (m := re.search(rf"(?<![\w.]){name}: ", doc))}
    ends = sorted(m.start() for m in starts.values())
    return {
        name: doc[m.end() : min((e for e in ends if e > m.start()), default=len(doc))].strip()
        for name, m in starts.items()
    }
