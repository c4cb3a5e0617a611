"""What passes there are, for people: one line each, or one pass with its options."""

from __future__ import annotations

import difflib
import inspect
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable

from ..ir.errors import BadOption
from ..passes.base import Pass
from ..passes.registry import Option, aliases, available, describe_options, find
from .tables import Column, draw, screen_width, wrap


def list_passes(width: int | None = None) -> str:
    """Every pass: name, alias, claim, what it does, on one line where the screen is as wide, on more where not."""
    endless = width is None and "COLUMNS" not in os.environ and not sys.stdout.isatty()  # a pipe has no edge
    width = width or max(screen_width(), shutil.get_terminal_size((100, 24)).columns)
    short = {full: alias for alias, full in aliases().items() if alias != full}
    rows = [(name, short.get(name, ""), claim_of(cls), cls.summary()) for name, cls in available().items()]
    wide = [max((len(row[k]) for row in rows), default=0) for k in range(3)]
    lines = []
    for *cells, text in rows:
        head = "  ".join(cell.ljust(n) for cell, n in zip(cells, wide) if n)
        told = [text] if endless else textwrap.wrap(text, max(width - len(head) - 2, 20))
        lines += [f"{head if not k else ' ' * len(head)}  {part}" for k, part in enumerate(told)]
    return "\n".join(lines)


def list_method(name: str, width: int | None = None) -> str:
    """The passes and options that offer a method: `hwgq` is `quant.binary(inputs=hwgq)`. Raises BadOption where none does."""
    width = width or screen_width()
    wanted = name.lower()
    pattern = re.compile(rf"\b{re.escape(name)}\b", re.IGNORECASE)
    found = [(full, cls.summary()) for full, cls in available().items() if full.rpartition(".")[2] == wanted]
    found += _options(lambda o: wanted in [w.strip().lower() for w in o.kind.split(" or ")], f"={wanted}")
    if not found:
        found = [(full, cls.summary()) for full, cls in available().items() if pattern.search(_words(cls))]
        for k, (full, _) in enumerate(found):  # of options that take any text, the one whose words name it
            named = [o for o in describe_options(available()[full]) if o.kind == "text" and pattern.search(o.doc)]
            if named and re.fullmatch(r"[a-z0-9_]+", wanted):
                found[k] = (f"{full}({named[0].name}={wanted})", named[0].doc)
    if not found:
        found = _options(lambda o: bool(pattern.search(o.doc)))
    if not found:
        _near(name)
        find(name)
    return "\n".join(wrap(f"{head}: {doc}" if doc else head, "", width) for head, doc in found)


def _options(fits: Callable[[Option], bool], value: str = "") -> list[tuple[str, str]]:
    """Options that fit, with their passes: many passes share an option, which is told of once."""
    found: dict[tuple[str, str], list[str]] = {}
    for full, cls in available().items():
        for o in filter(fits, describe_options(cls)):
            found.setdefault((o.name, o.doc), []).append(full)
    return [
        (f"{passes[0]}({option}{value})" + (f" and {len(passes) - 1} more" if len(passes) > 1 else ""), doc)
        for (option, doc), passes in found.items()
    ]


def _words(cls: type[Pass]) -> str:
    """What a pass and its file say of themselves."""
    return f"{inspect.getdoc(cls) or ''}\n{sys.modules[cls.__module__].__doc__ or ''}"


def _near(name: str) -> None:
    """Raises BadOption with the passes and methods that are spelt nearly as `name`, if any."""
    words = {*available(), *aliases()}
    for cls in available().values():
        for o in describe_options(cls):
            kinds = o.kind.split(" or ") if o.kind != "text" else re.findall(r"\w+", o.doc)
            words.update(w for w in kinds if re.fullmatch(r"[a-z][a-z0-9_]{2,}", w))
    near = difflib.get_close_matches(name.lower(), sorted(words), 3, 0.7)
    if near:
        raise BadOption(f"there is no pass and no method {name}", remedy=f"did you mean {', '.join(near)}?")


def list_pass(name: str, width: int | None = None) -> str:
    """One pass: what it does and claims, and its options with kinds, defaults and meanings."""
    cls = find(name)
    width = width or screen_width()
    short = [alias for alias, full in aliases().items() if full == cls.name and alias != full]
    head = cls.name + (f" ({', '.join(short)})" if short else "")
    facts = [f"claim: {claim_of(cls)}"]
    if cls.requires:
        facts.append(f"runs after: {', '.join(cls.requires)}")
    if cls.needs_data:
        facts.append("looks at activations: give --data")
    parts = [head, wrap(cls.summary(), "", width), "; ".join(facts)]
    options = describe_options(cls)
    if options:
        rows = [[o.name, o.kind, "(required)" if o.default is None else o.default, o.doc] for o in options]
        columns = [Column(title, number=False) for title in ("option", "kind", "default", "meaning")]
        parts.append(draw(columns, rows, width))
    else:
        parts.append("It has no options.")
    return "\n\n".join(parts)


def claim_of(cls: type[Pass]) -> str:
    """The claim as the list shows it; one that hangs on options is said to."""
    return "by options" if isinstance(cls.claim, property) else str(cls.claim)
