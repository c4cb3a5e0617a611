"""The operator table: one row per ONNX operator, and nowhere else a fact about axes.

A row reads the axes of the inputs (`use.ax`), ties and fixes them, and gives the axes of the outputs (`use.out`). An
operator is added by adding its name to a row, or a row to the file of its kind.
"""

from . import (  # noqa: F401
    attention,
    elementwise,
    functions,
    linear,
    microsoft,
    norm,
    quantize,
    recurrent,
    reduce,
    reshape,
    select,
    window,
)  # fmt: skip
