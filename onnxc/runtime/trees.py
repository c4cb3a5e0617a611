"""Tree ensembles that ONNX Runtime must not be given: it reads a tree by recursion, and one that is too deep ends the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxc.ir.errors import Unsupported

if TYPE_CHECKING:
    import onnx

LEVELS = 4000
"""Of a tree; at some 20,000 the stack of a thread (8 MiB) is full."""


def refuse_deep(node: onnx.NodeProto) -> None:
    """Raise Unsupported where a tree of an ensemble (ai.onnx.ml) has more than LEVELS levels, or a path without an end."""
    if node.domain != "ai.onnx.ml" or not node.op_type.startswith("TreeEnsemble"):
        return
    children, level = _indexed(node) if node.op_type == "TreeEnsemble" else _named(node)
    for _ in range(LEVELS + 1):
        level = level[(level >= 0) & (level < len(children))]
        if not level.size:
            return
        level = np.unique(children[level])
    raise Unsupported(
        "a tree is too deep for ONNX Runtime", node=node.name or node.op_type, expected=f"at most {LEVELS} levels",
        remedy="use --check shapes",
    )  # fmt: skip


def _ints(node: onnx.NodeProto, name: str) -> np.ndarray:
    return np.array(next((a.ints for a in node.attribute if a.name == name), ()), np.int64)


def _indexed(node: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray]:
    """The two children of each node of a TreeEnsemble, -1 for leaves, and the roots. What is of odd length is refused later."""
    sides = []
    for side in ("true", "false"):
        child, leaf = _ints(node, f"nodes_{side}nodeids"), _ints(node, f"nodes_{side}leafs")
        sides.append(np.where(leaf[: len(child)] != 0, -1, child[: len(leaf)]))
    return _pairs(*sides), _ints(node, "tree_roots")


def _named(node: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray]:
    """The same of the older operators, whose nodes are known by tree and number; the first of each tree is its root."""
    tree, number = _ints(node, "nodes_treeids").tolist(), _ints(node, "nodes_nodeids").tolist()
    modes = next((a.strings for a in node.attribute if a.name == "nodes_modes"), ())
    place = {key: k for k, key in enumerate(zip(tree, number))}
    sides = [
        np.array(
            [
                -1 if mode == b"LEAF" else place.get((t, child), -1)
                for t, child, mode in zip(tree, _ints(node, f"nodes_{side}nodeids").tolist(), modes)
            ],
            np.int64,
        )
        for side in ("true", "false")
    ]
    roots: dict[int, int] = {}
    for k, t in enumerate(tree):
        roots.setdefault(t, k)
    return _pairs(*sides), np.array([*roots.values()], np.int64)


def _pairs(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    count = min(len(left), len(right))
    return np.stack([left[:count], right[:count]], axis=1)
