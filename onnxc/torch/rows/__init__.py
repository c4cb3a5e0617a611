"""One row per operator, a file for each kind; importing this package fills the table."""

from . import control, elementwise, integer, linear, norm, quantised, recurrent, reduce, select, shape, window  # noqa: F401
