"""What passes there are, for people: one line each, or one pass with its options."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import sys
import textwrap

from ..passes.base import Pass
from ..passes.registry import aliases, available, describe_options, find
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
    """The options by which passes offer a method: `hwgq` is `quant.binary(inputs=hwgq)`. Raises BadOption where none does."""
    width = width or screen_width()
    wanted, found = name.lower(), []
    for full, cls in available().items():
        for o in describe_options(cls):
            if wanted in [w.strip().lower() for w in o.kind.split(" or ")]:
                found.append((f"{full}({o.name}={wanted})", o.doc))
    if not found:
        pattern = re.compile(rf"\b{re.escape(name)}\b", re.IGNORECASE)
        found = [
            (full, cls.summary()) for full, cls in available().items() if pattern.search(inspect.getdoc(cls) or "")
        ]
        for k, (full, _) in enumerate(found):  # of options that take any text, the one whose words name it
            named = [o for o in describe_options(available()[full]) if o.kind == "text" and pattern.search(o.doc)]
            if named and re.fullmatch(r"[a-z0-9_]+", wanted):
                found[k] = (f"{full}({named[0].name}={wanted})", named[0].doc)
    if not found:
        find(name)
    return "\n".join(wrap(f"{head}: {doc}" if doc else head, "", width) for head, doc in found)


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
