"""What calls of ONNX's own library raise: its checker, inference, converter and inliner are C++, whose exceptions reach Python
as errors of many kinds."""

from __future__ import annotations

import re

import onnx.checker
import onnx.shape_inference
import onnx.version_converter

ONNX_ERRORS: tuple[type[Exception], ...] = (
    onnx.checker.ValidationError, onnx.shape_inference.InferenceError, onnx.version_converter.ConvertError,
    RuntimeError, ValueError, IndexError, KeyError, TypeError, OverflowError,
)  # fmt: skip
"""Not MemoryError, which is nobody's fault but the size's."""

_WHERE = re.compile(r"\S+\.(?:cc|cpp|h):\d+: \w+: (?:Assertion `[^`]*` failed: )?")
"""The place in ONNX's source."""


def first_line(e: Exception) -> str:
    """The beginning of a message of ONNX's, in one line."""
    lines = [
        _WHERE.sub("", line.strip()) for line in str(e).splitlines() if line.strip() and not line.startswith("==>")
    ]
    return " ".join(lines[:2]) if lines else type(e).__name__
