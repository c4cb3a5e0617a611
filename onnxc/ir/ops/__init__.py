"""The operator table: one row per ONNX operator, and nowhere else a fact about axes.

A row reads the axes of the inputs (`use.ax`), ties and fixes them, and gives the axes of the outputs (`use.out`). An
operator is added by adding its name to a row, or a row to the file of its kind.
"""

from . import attention, elementwise, functions, linear, norm, quantize, reduce, reshape, select, window  # noqa: F401
