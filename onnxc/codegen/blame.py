"""Which node it is that TVM or LLVM stumbles over: the model up to a node is compiled, by halves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import onnx

from onnxc.codegen.door import Source
from onnxc.codegen.prefix import kinds_of, needed, until
from onnxc.codegen.tvm_api import TVM_ERRORS
from onnxc.ir.errors import OnnxcError, Unsupported

SEARCH_SECONDS = 30.0
Shapes = Mapping[str, tuple[int, ...]]
Attempt = Callable[[onnx.ModelProto, Sequence[Shapes]], object]
"""(model, shapes): compiles it."""


@contextmanager
def tied(source: Source, shapes: Sequence[Shapes], attempt: Attempt) -> Iterator[None]:
    """What TVM raises within becomes Unsupported that names the node; `attempt` compiles a part of the model in the same way."""
    try:
        yield
    except OnnxcError:
        raise
    except TVM_ERRORS as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise Unsupported(
            f"TVM cannot compile it: {' '.join(lines[0].split())[:200]}", node=_first(source.proto, shapes, attempt),
            remedy="report it with the model, and compile the part without this node",
        ) from error  # fmt: skip


def _first(proto: onnx.ModelProto, shapes: Sequence[Shapes], attempt: Attempt) -> str | None:
    """The first node up to which the model does not compile."""
    outputs = [value.name for value in proto.graph.output]
    kinds, steps = kinds_of(proto), needed(proto, outputs)
    if not steps:
        return None
    good, bad, end = -1, len(steps) - 1, time.monotonic() + SEARCH_SECONDS
    while bad - good > 1 and time.monotonic() < end:
        middle = (good + bad) // 2
        part = until(proto, steps[: middle + 1], outputs, kinds)
        there = {value.name for value in part.graph.input}
        try:
            attempt(part, [{name: extents for name, extents in one.items() if name in there} for one in shapes])
        except OnnxcError:
            good = middle  # it stands for nothing: what is sought comes later
        except TVM_ERRORS:
            bad = middle
        else:
            good = middle
    node = proto.graph.node[steps[bad]]
    return node.name or f"{node.op_type} of {node.output[0]}"
