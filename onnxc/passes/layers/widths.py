"""How many channels run well: multiples that passes keep where none is named.

16 float32 values fill the widest vector register and are a multiple of the narrower ones. ONNX Runtime's blocked
convolutions come in 16s: dense ones are padded to that, grouped ones that do not fit take a slow way
(`benchmarks/widths.py`). The same on every machine, so that a recipe gives the same model everywhere.
"""

WIDTHS = (16, 8, 4, 2, 1)
"""Tried in turn until a ratio or a budget can be met."""
