"""onnxc: dimension-checked graph rewriting on ONNX.

`import onnxc` loads nothing else: every public name is imported from its home at first use.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

# No public function may bear the name of a submodule: importing that submodule would hide the function.
_HOMES = {
    "Model": "onnxc.ir.model",
    "load": "onnxc.ir.files",
    "save": "onnxc.ir.writing",
    "OnnxcError": "onnxc.ir.errors",
    "Claim": "onnxc.passes.base",
    "Context": "onnxc.passes.base",
    "Pass": "onnxc.passes.base",
    "Report": "onnxc.passes.base",
    "register": "onnxc.passes.base",
    "Pipeline": "onnxc.pipeline",
    "run_passes": "onnxc.pipeline",
    "compare": "onnxc.measure.compare",
    "auto": "onnxc.search",
    "Budget": "onnxc.search",
    "compile": "onnxc.compiling",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'onnxc' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
