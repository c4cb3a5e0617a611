"""Ensembles of trees (ai.onnx.ml) as tables, which one loop walks for each row of the input.

    feature, value, yes, no: int32 and float, an entry a node; a leaf is a negative entry, -1 - leaf
    first[leaf] : first[leaf + 1] are its (target, weight) pairs

A node goes to `yes` where its test holds, and for NaN where it says so. No index of the tables can leave them, whatever the
input holds: they are checked here, and so is that every path ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.loops import loops, when
from onnxc.codegen.operators.node import Node, Refused, dtype_of, shape_of
from onnxc.codegen.operators.table import row

ML = "ai.onnx.ml"
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
MEMBER = 6
WAYS = ("AVERAGE", "SUM", "MIN", "MAX")
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


@dataclass
class Trees:
    """The tables. `members[first_member[i] : first_member[i + 1]]` is the set of node i."""

    feature: list[int]
    mode: list[int]
    value: np.ndarray
    missing: list[int]
    yes: list[int]
    no: list[int]
    roots: list[int]
    first: list[int]
    target: list[int]
    weight: np.ndarray
    members: list[float] = field(default_factory=list)
    first_member: list[int] = field(default_factory=list)

    def check(self, features: int, targets: int) -> None:
        """Raises Refused where a number is out of its range, or a path comes back to where it was."""
        nodes, leaves = len(self.feature), len(self.first) - 1
        if any(not 0 <= f < features for f in self.feature) or any(not 0 <= t < targets for t in self.target):
            raise Refused(
                f"its nodes read other features than {features}, or its leaves have other targets than {targets}"
            )
        if any(not -leaves <= at < nodes for at in (*self.yes, *self.no, *self.roots)):
            raise Refused("its nodes name children that are not there")
        state = [0] * nodes  # 1: on the path, 2: done
        for root in self.roots:
            stack = [(root, False)]
            while stack:
                at, leaving = stack.pop()
                if at < 0 or (state[at] == 2 and not leaving):
                    continue
                if leaving:
                    state[at] = 2
                    continue
                if state[at] == 1:
                    raise Refused("its trees have a path without an end")
                state[at] = 1
                stack += [(at, True), (self.yes[at], False), (self.no[at], False)]


def _walk(n: Node, x, trees: Trees, targets: int, way: str, base: np.ndarray, labels: bool = False):
    """(rows, targets): what the leaves that each row reaches add up to, or the least or largest of them, plus the base values.

    With `labels` also the place of the largest (rows,), among the targets that a leaf or a base value has given anything. As
    in ONNX Runtime a target without a leaf has no least or largest value: 0.
    """
    kind = dtype_of(x)
    (rows, _), source, x_ = shape_of(x), dtype_of(x), tvm.tirx
    modes = sorted(set(trees.mode))
    ints = {name: np.asarray(getattr(trees, name) or [0], np.int32) for name in
            ("feature", "mode", "missing", "yes", "no", "roots", "first", "target", "first_member")}  # fmt: skip
    tables = [n.weight(array) for array in ints.values()]
    tables += [n.weight(np.asarray(values, source)) for values in (trees.value, trees.members or [0])]
    tables.append(n.weight(np.asarray(trees.weight, kind)))
    extreme, based = way in ("MIN", "MAX"), bool(base.size)
    if based and base.size != targets:
        raise Refused(f"it has {base.size} base values for {targets} targets")
    tables.append(n.weight(np.asarray(base if based else [0], kind)))
    trace = extreme or labels

    def test(T, v, t, at, found):
        """Writes 1 to `found` where the test of node `at` holds for v."""
        value = t["value"][at]
        tests = [v <= value, v < value, v >= value, v > value, v == value, x_.any(v < value, v > value)]
        holds = x_.const(False, "bool")
        for mode in modes:
            one = tests[mode] if mode != MEMBER else x_.const(False, "bool")
            one = one if len(modes) == 1 else x_.all(t["mode"][at] == mode, one)
            holds = x_.any(holds, one)
        nothing = x_.all(x_.isnan(v), t["missing"][at] != 0)
        unequal = x_.all(x_.isnan(v), t["mode"][at] == 5)  # NaN is unequal to everything
        T.buffer_store(
            found, x_.Select(x_.any(holds, nothing, unequal), x_.const(1, "int32"), x_.const(0, "int32")), (0,)
        )
        if MEMBER in modes:
            ends = t["first_member"][at], t["first_member"][at + 1]
            with when(T, t["mode"][at] == MEMBER), T.serial(*ends) as k, when(T, t["members"][k] == v):
                T.buffer_store(found, x_.const(1, "int32"), (0,))

    def body(T, data, *rest):
        made, label = rest[-2:] if labels else (rest[-1], None)
        t = dict(zip((*ints, "value", "members", "weight", "base"), rest[: len(tables)], strict=True))
        at, found = T.alloc_buffer((1,), "int32"), T.alloc_buffer((1,), "int32")
        seen = T.alloc_buffer((targets,), "int32") if trace else None
        with T.serial(0, rows) as r:
            with T.serial(0, targets) as j:
                T.buffer_store(made, x_.const(0, kind), (r, j))
                if seen is not None:
                    T.buffer_store(seen, x_.const(0, "int32"), (j,))
            with T.serial(0, len(trees.roots)) as tree:
                T.buffer_store(at, t["roots"][tree], (0,))
                with T.While(at[0] >= 0):
                    test(T, data[r, t["feature"][at[0]]], t, at[0], found)
                    T.buffer_store(at, x_.Select(found[0] != 0, t["yes"][at[0]], t["no"][at[0]]), (0,))
                leaf = -1 - at[0]
                with T.serial(0, t["first"][leaf + 1] - t["first"][leaf]) as k:
                    place = t["first"][leaf] + k
                    j, w = t["target"][place], t["weight"][place]
                    old = made[r, j]
                    if extreme:
                        better = w < old if way == "MIN" else w > old
                        T.buffer_store(made, x_.Select(x_.any(seen[j] == 0, better), w, old), (r, j))
                    else:
                        T.buffer_store(made, old + w, (r, j))
                    if seen is not None:
                        T.buffer_store(seen, x_.const(1, "int32"), (j,))
            with T.serial(0, targets) as j:
                score = made[r, j] / x_.const(len(trees.roots), kind) if way == "AVERAGE" else made[r, j]
                plus = score + t["base"][j] if based else score
                T.buffer_store(made, x_.Select(seen[j] == 0, score, plus) if extreme else plus, (r, j))
            if label is not None:
                T.buffer_store(at, x_.const(-1, "int32"), (0,))
                with T.serial(0, targets) as j:
                    more = x_.any(at[0] < 0, made[r, j] > made[r, x_.max(at[0], 0)])
                    with when(T, more if based else x_.all(seen[j] != 0, more)):
                        T.buffer_store(at, x_.Cast("int32", j), (0,))
                T.buffer_store(label, x_.Cast("int64", x_.max(at[0], 0)), (r,))

    results = [((rows, targets), kind), *([((rows,), "int64")] if labels else [])]
    return loops(n, [x, *tables], results, body)


def _finished(n: Node, scores, how: str):
    """Scores with the post_transform."""
    if how == "NONE":
        return scores
    if how not in ("SOFTMAX", "LOGISTIC"):
        raise Refused(f"attribute post_transform = {how} is not known, only NONE, SOFTMAX, LOGISTIC")
    return n.do("nn.softmax", scores, -1) if how == "SOFTMAX" else n.do("sigmoid", scores)


@row("TreeEnsemble", domain=ML)
def ensemble(n: Node, x):
    """Opset 5: children and leaves have indices of their own."""
    children: list[list[int]] = []
    for side in ("true", "false"):
        ids, leaves = n.attribute(f"nodes_{side}nodeids"), n.attribute(f"nodes_{side}leafs")
        children.append([-1 - i if leaf else i for i, leaf in zip(ids, leaves, strict=True)])
    yes, no = children
    n.attribute("nodes_hitrates")
    modes = [int(v) for v in _tensor(n, "nodes_modes")]
    weights = _tensor(n, "leaf_weights")
    roots = list(n.attribute("tree_roots"))
    for i, root in enumerate(roots):  # a tree of one leaf: a node whose children are the same
        if yes[root] == no[root] and yes[root] < 0:
            roots[i] = yes[root]
    sets, at = _sets(_tensor(n, "membership_values"), modes)
    trees = Trees(
        list(n.attribute("nodes_featureids")), modes, _tensor(n, "nodes_splits"),
        list(n.attribute("nodes_missing_value_tracks_true") or [0] * len(modes)), yes, no, roots,
        list(range(len(weights) + 1)), list(n.attribute("leaf_targetids")), weights, sets, at,
    )  # fmt: skip
    targets = int(n.attribute("n_targets"))
    trees.check(shape_of(x)[1], targets)
    scores = _walk(n, x, trees, targets, _named(n.attribute("aggregate_function", 1), WAYS), np.zeros(0))
    return _finished(n, scores, _named(n.attribute("post_transform", 0), TRANSFORMS))


def _named(number: int, names: Sequence[str]) -> str:
    if not 0 <= number < len(names):
        raise Refused(f"{number} is none of {', '.join(names)}")
    return names[number]


def _tensor(n: Node, name: str) -> np.ndarray:
    """The values of a tensor attribute, none where it is left out."""
    import onnx

    found = n.attribute(name)
    return np.zeros(0, np.float32) if found is None else onnx.numpy_helper.to_array(found)


def _sets(values: np.ndarray, modes: list[int]) -> tuple[list[float], list[int]]:
    """Members one after the other, and where those of each node begin; NaN ends the set of a node that has one."""
    members: list[float] = []
    starts, left = [0], [float(v) for v in values]
    for mode in modes:
        while mode == MEMBER and left:
            value = left.pop(0)
            if np.isnan(value):
                break
            members.append(value)
        starts.append(len(members))
    return members, starts


def _classic(n: Node, prefix: str) -> tuple[Trees, np.ndarray]:
    """The trees of opsets 1 and 3, whose nodes are named by (tree, node), and the base values. `prefix`: target or class."""

    def floats(name: str) -> np.ndarray:
        wide = _tensor(n, f"{name}_as_tensor")
        return wide if wide.size else np.asarray(n.attribute(name) or [], np.float32)

    keys = list(zip(n.attribute("nodes_treeids"), n.attribute("nodes_nodeids"), strict=True))
    names = n.attribute("nodes_modes")
    unknown = sorted(set(names) - {*MODES[:MEMBER], "LEAF"})
    if unknown:
        raise Refused(f"attribute nodes_modes has {unknown[0]}, which is not known")
    place = {key: i for i, key in enumerate(key for key, name in zip(keys, names) if name != "LEAF")}
    pairs: dict[tuple, list[tuple[int, float]]] = {key: [] for key, name in zip(keys, names) if name == "LEAF"}
    leaf = {key: -1 - i for i, key in enumerate(pairs)}
    ids = n.attribute("class_ids" if prefix == "class" else "target_ids")
    owners = zip(n.attribute(f"{prefix}_treeids"), n.attribute(f"{prefix}_nodeids"), strict=True)
    for key, target, weight in zip(owners, ids, floats(f"{prefix}_weights"), strict=True):
        pairs[key].append((target, float(weight)))

    def column(values) -> list:
        return [value for value, name in zip(values, names, strict=True) if name != "LEAF"]

    def child(side: str) -> list[int]:
        both = [(tree, node) for (tree, _), node in zip(keys, n.attribute(f"nodes_{side}nodeids"), strict=True)]
        return [place.get(key, leaf.get(key, len(place))) for key in column(both)]

    for name in ("nodes_hitrates", "nodes_hitrates_as_tensor"):
        n.attribute(name)
    trees_seen: dict[int, int] = {}
    for key in keys:  # a tree begins with the first of its nodes
        trees_seen.setdefault(key[0], place.get(key, leaf.get(key, 0)))
    values = floats("nodes_values")
    missing = n.attribute("nodes_missing_value_tracks_true") or [0] * len(keys)
    flat = [pair for own in pairs.values() for pair in own]
    firsts = np.cumsum([0, *(len(own) for own in pairs.values())]).tolist()
    trees = Trees(
        column(n.attribute("nodes_featureids")), [MODES.index(name) for name in column(names)],
        np.asarray(column(values), values.dtype), column(missing), child("true"), child("false"), list(trees_seen.values()),
        firsts, [target for target, _ in flat], np.asarray([weight for _, weight in flat], values.dtype),
    )  # fmt: skip
    return trees, floats("base_values")


def _as_floats(n: Node, x):
    """The input in the type that thresholds have; one row may come without its axis."""
    x = x if len(shape_of(x)) == 2 else n.reshape(x, (1, shape_of(x)[0]))
    return x if dtype_of(x) == "float64" else n.cast(x, "float32")


@row("TreeEnsembleRegressor", domain=ML)
def regressor(n: Node, x):
    """The sum, mean or an extreme of the leaves' weights, plus the base values."""
    targets, x = int(n.attribute("n_targets", 1)), _as_floats(n, x)
    way = n.choice("aggregate_function", "SUM", *WAYS)
    trees, base = _classic(n, "target")
    trees.check(shape_of(x)[1], targets)
    scores = _walk(n, x, trees, targets, way, base)
    return n.cast(_finished(n, scores, n.attribute("post_transform", "NONE")), "float32")


@row("TreeEnsembleClassifier", domain=ML)
def classifier(n: Node, x):
    """The label of the largest score, and the scores. Two classes may share one score: the second's, the first has the rest."""
    labels, x = n.attribute("classlabels_int64s"), _as_floats(n, x)
    if not labels:
        raise Refused("labels that are text are not known", "train with labels that are numbers")
    how, count = n.attribute("post_transform", "NONE"), len(labels)
    trees, base = _classic(n, "class")
    trees.check(shape_of(x)[1], count)
    one = count == 2 and len(set(trees.target)) == 1
    if one and (how != "NONE" or base.size or (trees.weight < 0).any()):
        raise Refused("one score for two classes with a post_transform, base values or weights below 0 is not known",
                      "export a score for each class")  # fmt: skip
    if count < 2:
        raise Refused("a single class is not known")
    if count == 2 and not one:
        raise Refused("two classes with a score each: ONNX Runtime takes the second if its score is above 0, the standard the larger",
                      "export one score for both classes")  # fmt: skip
    scores, best = _walk(n, x, trees, count, "SUM", base, labels=True)
    if one:
        score = n.do("sum", scores, [1], True)
        if trees.target[0] == 0:  # the only score is the second class's, whichever class has it
            scores = n.do("concat", [n.do("subtract", n.like(1, score), score), score], 1)
        best = n.cast(n.reshape(n.do("greater", score, n.like(0.5, score)), (shape_of(x)[0],)), "int64")
    label = n.do("take", n.const(np.asarray(labels), "int64"), best, 0, mode="fast")
    return label, n.cast(_finished(n, scores, how), "float32")
