"""The table of operators: how a row is entered, found, applied, and held to what the model says of its results.

    @row("Softplus")
    def softplus(n: Node, x): return n.do("nn.softplus", x)

A row gets the node and an expression for each of its inputs (None for one left out), and answers an expression, or a tuple
of them. What it has not read of the node's attributes is refused by name; a result of another type or shape than the model
says is refused by the tensor's name. So an attribute that nobody thought of can make a model not compile, never wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxc.codegen.operators.node import Node, Refused, dtype_of, held, shape_of
from onnxc.codegen.tvm_api import TVM_ERRORS

STANDARD = ("", "ai.onnx")


@dataclass(frozen=True)
class Row:
    """`apply(node, *inputs)`; `since` and `until` bound the opsets (inclusive) that it is for."""

    apply: Callable
    since: int
    until: int


ROWS: dict[tuple[str, str], list[Row]] = {}
"""(domain, operator) -> rows; the standard domain is ""."""


def row(*operators: str, domain: str = "", since: int = 1, until: int = 10_000) -> Callable[[Callable], Callable]:
    """Enters a function into the table for these operators."""

    def enter(apply: Callable) -> Callable:
        for operator in operators:
            for other in ROWS.get((domain, operator), ()):
                if max(since, other.since) <= min(until, other.until):
                    raise ValueError(f"two rows for {operator}: {other.apply.__module__} and {apply.__module__}")
            ROWS.setdefault((domain, operator), []).append(Row(apply, since, until))
        return apply

    return enter


def find_row(operator: str, domain: str, opset: int) -> Row | None:
    """The row of an operator at the opset of its domain, if there is one."""
    rows = ROWS.get(("" if domain in STANDARD else domain, operator), ())
    return next((one for one in rows if one.since <= opset <= one.until), None)


def has_row(operator: str, domain: str = "", opset: int = 10_000) -> bool:
    """Whether the table has the operator: what has not is expanded into others, where ONNX says how, or refused."""
    return find_row(operator, domain, min(opset, 10_000)) is not None


def convert(node: Node) -> tuple:
    """The results of a node as expressions, None for those that nobody names. Raises Refused with the reason."""
    found = find_row(node.op, node.domain, node.opset)
    if found is None:
        place = "" if node.domain in STANDARD else f" of domain {node.domain}"
        raise Refused(f"there is no row for {node.op}{place} in opset {node.opset}")
    try:
        made = found.apply(node, *node.args)
        results = tuple(made) if isinstance(made, tuple | list) else (made,)
        results = tuple(None if result is None else node.emit(result) for result in results)
    except (*TVM_ERRORS, ArithmeticError) as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise Refused(f"TVM refuses it: {text[:200]}") from error
    unread = node.unread()
    if unread:
        raise Refused("; ".join(f"attribute {name} = {value} is not known" for name, value in unread))
    return _checked(node, results)


def _checked(node: Node, results: tuple) -> tuple:
    """The results that the node names, each of the type and shape that the model says."""
    for i, (name, wanted) in enumerate(zip(node.outputs, node.results, strict=True)):
        if not name:
            continue
        if i >= len(results) or results[i] is None:
            raise Refused(f"its output {i} ({name}) is not computed")
        shape, dtype = shape_of(results[i]), dtype_of(results[i])
        if wanted is None:
            continue
        if (shape, dtype) != (wanted[0], held(wanted[1])):
            expected, found = (
                f"{kind} {list(extents)}" for extents, kind in ((wanted[0], held(wanted[1])), (shape, dtype))
            )
            raise Refused(f"its output {name} would be {found} where the model says {expected}")
    return results[: len(node.outputs)]
