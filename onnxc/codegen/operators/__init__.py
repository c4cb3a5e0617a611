"""What each ONNX operator computes, as Relax and TE: a row per operator, a file per kind. `convert` applies a row."""

from onnxc.codegen.operators import (  # noqa: F401  each file enters its rows into the table
    cast,
    elementwise,
    encoders,
    extents,
    grams,
    linear,
    logic,
    norm,
    order,
    quantised,
    recurrent,
    reduce,
    regions,
    resize,
    sample,
    scatter,
    select,
    shape,
    signal,
    suppress,
    trees,
    window,
)
from onnxc.codegen.operators.table import ROWS, convert, has_row

__all__ = ["ROWS", "convert", "has_row"]
