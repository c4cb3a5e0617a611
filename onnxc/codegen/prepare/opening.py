"""What stands for a node that the code generator has no row for: a branch, a body unrolled, other operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import onnx

from onnxc.codegen.prepare import (  # noqa: F401  each enters its rewrites into the table
    attention,
    classical,
    extent_picks,
    extent_rules,
    extent_shapes,
    fused,
    integers,
    quantised_lstm,
    sums,
    training,
)
from onnxc.codegen.prepare.bodies import open_bodies
from onnxc.codegen.prepare.build import REWRITES, Build
from onnxc.codegen.prepare.definitions import open_definition
from onnxc.codegen.prepare.extents import open_extents
from onnxc.codegen.prepare.walk import STANDARD, Scope, Walk
from onnxc.ir.errors import BadModel

HasRow = Callable[[str, str, int], bool]
"""(operator, domain, opset) -> whether the code generator computes it as it is."""


def opener(has_row: HasRow) -> Callable[[Walk, onnx.NodeProto, Scope], Sequence[str | None] | None]:
    """The `open_node` of a walk."""

    def open_node(walk: Walk, node: onnx.NodeProto, scope: Scope) -> Sequence[str | None] | None:
        found = open_bodies(walk, node, scope)
        if found is not None:
            return found
        with _fitting(node):
            sized = open_extents(walk, node)
        if sized is not None:
            return sized
        domain = "" if node.domain in STANDARD else node.domain
        if (domain, node.op_type) in REWRITES:
            build = Build(walk, node)
            with _fitting(node):
                made = REWRITES[domain, node.op_type](build)
            if made is not None:
                for name in build.unread():
                    raise build.refusal(f"attribute {name} is not known")
                return [made] if isinstance(made, str) else made
        if has_row(node.op_type, domain, walk.opset if not domain else walk.opsets.get(domain, 1)):
            return None
        return open_definition(walk, node)

    return open_node


@contextmanager
def _fitting(node: onnx.NodeProto) -> Iterator[None]:
    """What goes wrong within, on operands and attributes that ONNX knows nothing against, is the model's fault. Raises BadModel."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise BadModel(
            f"operands and attributes do not fit {node.op_type}: {error}", node=node.name,
            remedy="repair the model: onnx.checker says more",
        ) from error  # fmt: skip
