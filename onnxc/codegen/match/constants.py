"""NumPy evaluation of Relax expressions that depend on weights alone, so that TVM never folds large arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxc.codegen.tvm_api import tvm_modules


def _axes(value) -> tuple[int, ...]:
    return tuple(int(v) for v in value)


def _shape_arg(call) -> tuple[int, ...]:
    return tuple(int(v) for v in call.args[1].values)


EVALUATE: dict[str, Callable] = {
    "relax.add": lambda call, a, b: np.add(a, b),
    "relax.subtract": lambda call, a, b: np.subtract(a, b),
    "relax.multiply": lambda call, a, b: np.multiply(a, b),
    "relax.divide": lambda call, a, b: np.divide(a, b),
    "relax.sqrt": lambda call, a: np.sqrt(a),
    "relax.negative": lambda call, a: np.negative(a),
    "relax.permute_dims": lambda call, a: a.transpose(None if call.attrs.axes is None else _axes(call.attrs.axes)),
    "relax.reshape": lambda call, a, shape: a.reshape(_shape_arg(call)),
    "relax.expand_dims": lambda call, a: np.expand_dims(a, _axes(call.attrs.axis)),
    "relax.squeeze": lambda call, a: np.squeeze(a, None if call.attrs.axis is None else _axes(call.attrs.axis)),
    "relax.shape_to_tensor": lambda call, a: a,
    "relax.take": lambda call, a, i: np.asarray(np.take(a, i, call.attrs.axis and int(call.attrs.axis))),
    "relax.broadcast_to": lambda call, a, shape: np.broadcast_to(a, _shape_arg(call)),
}


class Constants:
    """Which Relax variables are constant, and their values; evaluated when asked for."""

    def __init__(self, weights: dict):
        """`weights`: Relax parameter -> array."""
        self._known = dict(weights)
        self.calls: dict = {}
        self.integers: dict = {}  # Relax parameter -> the Integers that its values are made of

    def note(self, var, value) -> bool:
        """Takes a binding; True when it is constant, and so need not be emitted."""
        m = tvm_modules()
        if isinstance(value, m.ir.GenericConst):
            self._known[var] = value.value.numpy()
            return True
        if isinstance(value, m.relax.Var):
            if value in self:
                self.calls[var] = value
                return True
            return False
        if getattr(getattr(value, "op", None), "name", None) == "relax.shape_of":
            self._known[var] = np.asarray([int(extent) for extent in value.args[0].ty.shape.values], np.int64)
            return True
        if not isinstance(value, m.relax.Call) or getattr(value.op, "name", None) not in EVALUATE:
            return False
        if all(arg in self or isinstance(arg, m.relax.ShapeExpr) for arg in value.args):
            self.calls[var] = value
            return True
        return False

    def __contains__(self, expr) -> bool:
        m = tvm_modules()
        if isinstance(expr, m.relax.Var):
            return expr in self._known or expr in self.calls
        return isinstance(expr, m.ir.GenericConst)

    def value(self, expr) -> np.ndarray:
        """The array of a constant expression."""
        m = tvm_modules()
        if isinstance(expr, m.ir.GenericConst):
            return expr.value.numpy()
        if expr not in self._known:
            call = self.calls[expr]
            if isinstance(call, m.relax.Var):
                self._known[expr] = self.value(call)
            else:
                args = [a if isinstance(a, m.relax.ShapeExpr) else self.value(a) for a in call.args]
                self._known[expr] = EVALUATE[call.op.name](call, *args)
        return self._known[expr]
