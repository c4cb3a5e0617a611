"""The table of operators in torch: a row is a function of a Call and the operator's inputs (None where left out).

A row returns one tensor, or a tuple for several outputs. It may use only what autograd follows, so that every weight that
the output depends on is trained. Rows of a kind stand in one file of `rows/`. An operator without a row that ONNX defines
by a body of other operators is computed by that body (`network`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from onnxc.ir.errors import Unsupported

if TYPE_CHECKING:
    from .steps import Step

ROWS: dict[tuple[str, str], Callable] = {}
"""(domain, operator) -> row."""


def _nowhere(graph: Any, given: list) -> list:
    raise TypeError("this use of the operator stands in no network")


@dataclass
class Call:
    """One use of an operator, as its row sees it.

    attrs: plain values, tensors as arrays, graphs as GraphProto. opset: of the operator's domain. training: batch
    statistics count, and are remembered. run: evaluates a body (If, Loop, Scan) in the scope of the node. kinds: ONNX's
    names of element types of initialisers. memo: what the row wants to find again at the next step, for this node alone.
    smooth: signs have the gradient of Bi-Real. multiply: the product of matrices, whose backward pass may be another.
    """

    step: Step
    training: bool = False
    run: Callable[[Any, list], list] = _nowhere
    kinds: Mapping[str, str] = field(default_factory=dict)
    memo: dict = field(default_factory=dict)
    smooth: bool = False
    multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = torch.matmul

    @property
    def op(self) -> str:
        return self.step.op

    @property
    def opset(self) -> int:
        return self.step.opset

    @property
    def attrs(self) -> dict:
        return self.step.attrs

    @property
    def outputs(self) -> int:
        """How many outputs are asked for."""
        return len(self.step.outputs)

    def get(self, name: str, default=None):
        return self.step.attrs.get(name, default)

    def kind(self, i: int) -> str | None:
        """ONNX's name of the element type of input `i`, where it is an initialiser."""
        return self.kinds.get(self.step.inputs[i]) if i < len(self.step.inputs) else None

    def refuse(self, what: str, expected: object = None, found: object = None) -> Unsupported:
        """The error for a use of the operator that the row does not compute."""
        return Unsupported(
            f"training does not know {what}", node=self.step.name or self.step.op, expected=expected, found=found
        )


def row(*ops: str, domain: str = "") -> Callable:
    """Enter a function as the row of these operators."""

    def enter(f: Callable) -> Callable:
        for op in ops:
            ROWS[domain, op] = f
        return f

    return enter


def simple(table: dict[str, Callable]) -> None:
    """Enter functions of the inputs alone."""
    for op, f in table.items():
        ROWS["", op] = lambda call, *x, f=f: f(*x)


def ints(t: torch.Tensor | Sequence[int] | int | None) -> list[int]:
    """The integers of a shape operand or attribute."""
    if t is None:
        return []
    if isinstance(t, torch.Tensor):
        return [int(n) for n in t.detach().reshape(-1).tolist()]
    return [int(t)] if isinstance(t, int) else [int(n) for n in t]


def axes_of(call: Call, operand: torch.Tensor | None, default: Sequence[int] | None = None) -> list[int] | None:
    """Axes that an operand or the attribute `axes` names; `default` where neither does."""
    if operand is not None:
        return ints(operand)
    given = call.get("axes")
    return list(given) if given is not None else (list(default) if default is not None else None)


class _Round(torch.autograd.Function):
    """Halves to even; the gradient passes."""

    @staticmethod
    def forward(ctx, x):
        return torch.round(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


class _Sign(torch.autograd.Function):
    """A step function given by its values; the gradient passes where |x| <= 1 (Courbariaux 2016), or after Bi-Real.

    Bi-Real (Liu 2018, eq. 8) takes the derivative of the piecewise polynomial 2x + x², 2x - x²: 2 - 2|x| inside.
    """

    @staticmethod
    def forward(ctx, x, values, smooth):
        ctx.save_for_backward(x)
        ctx.smooth = smooth
        return values

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        slope = x.abs()  # the rest is in place: these passes over memory are all that it costs
        slope = slope.mul_(-2).add_(2).clamp_(min=0) if ctx.smooth else slope.le_(1)
        return slope.mul_(grad), None, None


def round_through(x: torch.Tensor) -> torch.Tensor:
    """`x` rounded to the nearest whole number, halves to even, straight through."""
    return _Round.apply(x)


def sign_through(x: torch.Tensor, zero: float = 1.0, smooth: bool = False) -> torch.Tensor:
    """+1 or -1 (`zero` at 0), straight through within [-1, 1]."""
    values = torch.sign(x) if zero == 0 else (x >= 0 if zero > 0 else x > 0).to(x.dtype).mul_(2).sub_(1)
    return _Sign.apply(x, values, smooth)
