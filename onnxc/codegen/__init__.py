"""How a model is said to a machine: ONNX in, a C library out. tvm is imported only when something is compiled."""

from onnxc.codegen.library import CompileReport, compile, compile_model

__all__ = ["CompileReport", "compile", "compile_model"]
