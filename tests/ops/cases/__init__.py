"""The cases of every row, by the file that the row stands in."""

from importlib import import_module

KINDS = ("elementwise", "linear", "microsoft", "norm", "quantize", "recurrent", "reduce", "reshape", "select", "window")
CASES = [case for kind in KINDS for case in import_module(f"{__name__}.{kind}").CASES]
