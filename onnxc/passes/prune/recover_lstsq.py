"""Recovery by least squares: the weights of what reads pruned channels are solved anew, so that outputs stay as they were.

For each layer y = W x + b behind a cut, in graph order,

    minimise over W', b'   sum over rows  || W' x' + b' - t ||^2  +  ridge * || W' - W ||^2

where x' is what the pruned model, its earlier layers already solved, gives the layer, and t what the original model
puts out there (He et al., Channel Pruning, 2017, with the asymmetric inputs of Zhang et al., 2015). Where the output
goes into a residual Add, t is what the sum should be less what the other branch gives now: the last layer of a branch
then repairs the shortcut too. No labels are read.

With H = cov(x') and C = cov(t, x') the solution is W' = W + D,

    D (H + ridge) = C - W H,    b' = E[t] - W' E[x'],

second moments about zero (of t - b) in their place where there is no bias to move. Positions are sampled, so a layer
costs the same whatever the size of its image.
What an activation behind it makes of the output is what counts: `recover_rounds` goes on from this solution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ...ir.analysis import Analysis, analyse
from ...ir.model import Model
from ..base import Report
from ..layers.capture import ActivationCache, Probe, Stream
from ..layers.linear import Linear, add_to_bias, bias_home, linear
from ..layers.moments import MAX_COLUMNS, ROWS_PER_COLUMN, Moments, picked, rows_wanted
from .recover_rounds import Behind, Rounds, behind
from .uncut import Uncut

TARGET_BYTES = 128 * 2**20
"""What the sampled targets of the layers that are looked at together may hold."""
SMALL = 1e-3
"""Channels scaled by less than this part of the largest scale are not solved for through the scale."""
RIDGE = 1e-3


@dataclass
class Task:
    """One layer to solve. target: the tensor of the original that its output should reproduce; scale and shift: what
    stands between them; other: the tensor of the pruned model that is added on the way, or None. kept: its outputs
    among the original's, indices. behind: the activation that reads the target, if it is known."""

    layer: Linear
    target: str
    kept: np.ndarray | slice
    other: str | None = None
    scale: np.ndarray | float = 1.0
    shift: np.ndarray | float = 0.0
    behind: Behind | None = None

    @property
    def reads(self) -> list[str]:
        """The tensors of the pruned model that are looked at."""
        return [self.layer.reads, *([self.other] if self.other else [])]


def solve_layers(model: Model, uncut: Uncut, report: Report, apart: bool = False) -> None:
    """Solve every layer of `model` whose input has changed since `uncut.original`. apart: those too whose weights others
    read, which are then stored for each."""
    tasks, one = [], []
    for t in find_tasks(model, uncut):
        if t.layer.columns > MAX_COLUMNS:
            report.note(f"{t.layer.node.name} keeps its weights: {t.layer.columns} columns are too many to solve for")
        elif t.layer.is_shared and not apart:
            one.append(t.layer.node.name)
        else:
            tasks.append(t)
    if one:
        report.note(f"{', '.join(one[:3])}{f' and {len(one) - 3} more' if len(one) > 3 else ''}: not solved, for their "
                    "weights are shared and stay one; shared=apart solves them, and stores one for each")  # fmt: skip
    parts: list[list[Task]] = []
    held = TARGET_BYTES
    for t in tasks:
        if held >= TARGET_BYTES:
            parts.append([])
            held = 0
        parts[-1].append(t)
        held += 4 * rows_wanted(t.layer.columns) * t.layer.outputs
    steps = ([t.target for t in part] for part in parts)
    cache = ActivationCache(uncut.ctx, Stream.of_steps(uncut.ctx, uncut.analysis, steps, uncut.samples))
    for n, part in enumerate(parts):
        _solve_part(model, uncut, part, [t for later in parts[n + 1 :] for t in later], cache)


def find_tasks(model: Model, uncut: Uncut) -> list[Task]:
    """The layers of `model` whose input differs from the original's, in graph order."""
    now = analyse(model)
    changed = uncut.changed(model)
    last: dict[str, int] = {}  # tensor -> the last layer to solve that it depends on
    tasks: list[Task] = []
    for node in model.nodes:
        newest = max((last.get(t.name, -1) for t in node.inputs), default=-1)
        layer = linear(model, node) if any(t.name in changed for t in node.inputs) else None
        if layer is not None and uncut.maker(layer.makes) is not None:
            tasks.append(_task(model, layer, now, uncut, last, len(tasks)))
            newest = len(tasks) - 1
        for t in node.outputs:
            last[t.name] = newest
    return tasks


def _task(model: Model, layer: Linear, now: Analysis, uncut: Uncut, last: dict[str, int], index: int) -> Task:
    out = t = layer.node.outputs[0]
    kept = uncut.kept(out.name, layer.channel_axis)
    scale: np.ndarray | float = 1.0
    shift: np.ndarray | float = 0.0
    while len(t.outputs) == 1 and not model.is_output(t):
        reader = t.outputs[0]
        step = affine(model, reader, t, layer.channel_axis, now)
        if step is not None:
            scale, shift = scale * step[0], shift * step[0] + step[1]
            t = reader.outputs[0]
            continue
        if model.is_standard(reader, "Add") and not any(isinstance(u, gs.Constant) for u in reader.inputs):
            other = reader.inputs[1 if reader.inputs[0] is t else 0]
            shapes = {now.shape(u.name) for u in (out, other, reader.outputs[0])}
            # the other branch must be final: every layer on it stands earlier
            if other is not t and last.get(other.name, index) < index and len(shapes) == 1:
                total = reader.outputs[0]
                return Task(layer, total.name, kept, other.name, scale, shift, behind(model, total, layer.channel_axis))
        break
    return Task(layer, out.name, kept, behind=behind(model, t, layer.channel_axis) if t is out else None)


def affine(
    model: Model, node: gs.Node, t: gs.Variable, channel: int, analysis: Analysis
) -> tuple[np.ndarray | float, np.ndarray] | None:
    """(scale, shift) by channel where `node` multiplies and adds constants to `t` by channel, else None."""
    if model.is_standard(node, "BatchNormalization") and all(isinstance(u, gs.Constant) for u in node.inputs[1:5]):
        gamma, beta, mean, var = (u.values.astype(np.float64) for u in node.inputs[1:5])
        scale = gamma / np.sqrt(var + node.attrs.get("epsilon", 1e-5))
        return scale, beta - mean * scale
    if model.is_standard(node, "Add"):
        c = node.inputs[1 if node.inputs[0] is t else 0]
        shape = analysis.shape(t.name)
        channels = shape[channel] if shape is not None else None
        if isinstance(c, gs.Constant) and shape is not None and isinstance(channels, int):
            rank = len(shape)
            wanted = [1] * rank
            wanted[channel] = channels
            given = (1,) * (rank - c.values.ndim) + c.values.shape
            if list(given) == wanted:
                return 1.0, c.values.astype(np.float64).reshape(-1)
    return None


def _solve_part(model: Model, uncut: Uncut, tasks: list[Task], later: list[Task], cache: ActivationCache) -> None:
    targets, picks = _targets(uncut, tasks, cache.stream)
    for k, task in enumerate(uncut.ctx.each(tasks)):
        layer = task.layer
        grouped = layer.groups, layer.outputs // layer.groups
        seen = Moments(layer.groups, layer.columns, grouped[1])
        rest = [n for t in [*tasks[k + 1 :], *later] for n in t.reads]
        rounds = Rounds(layer, task.behind, task.scale, sum(len(t) for t in targets[k]))
        for j, got in enumerate(cache.look(model, task.reads, rest)):
            goal, (out, at) = targets[k][j].astype(np.float64), picks[k][j]
            wanted = goal
            if task.other:
                goal = goal - layer.pick(got[task.other], at)
            goal = (goal - task.shift) / _safe(task.scale)
            rows = layer.rows(got[layer.reads], out, at)
            rounds.add(rows, wanted, goal)
            seen.add(rows, goal.reshape(len(goal), *grouped).transpose(1, 0, 2))
        targets[k] = []
        biased = bias_home(model, layer.node) is not None
        found = solved(layer, seen, RIDGE, biased)
        if rounds.useful and biased:
            found = rounds.refine(seen, damping(layer, seen, RIDGE), *found)
        _install(model, task, *found)


def _safe(scale):
    return np.where(_usable(scale), scale, 1.0)


def _usable(scale) -> np.ndarray:
    size = np.abs(scale)
    return size > SMALL * np.max(size)


def _targets(uncut: Uncut, tasks: list[Task], stream: Stream):
    """For each task the sampled targets and the positions, batch by batch."""
    makers = [uncut.maker(t.target) for t in tasks]
    probes = [
        Probe(uncut.ctx, model, [t.target for t, m in zip(tasks, makers) if m is model])
        for model in (uncut.original, uncut.source)
        if model is not None and any(m is model for m in makers)
    ]
    targets: list[list[np.ndarray]] = [[] for _ in tasks]
    picks: list[list[tuple[tuple[int, ...], np.ndarray]]] = [[] for _ in tasks]
    for j, feeds in enumerate(stream):
        got = {name: y for probe in probes for name, y in probe(feeds).items()}
        for k, task in enumerate(tasks):
            y = got[task.target]
            out = task.layer.positions(y)
            at = picked(uncut.ctx, task.layer, out, uncut.samples, (k, j))
            picks[k].append((out, at))
            targets[k].append(task.layer.pick(y, at)[:, task.kept])
    return targets, picks


def solved(layer: Linear, seen: Moments, ridge: float, biased: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The new matrix [g, O, K] for these moments, and what must be added to the bias [g·O] (nothing, unless `biased`).

    ridge: as a share of the mean square of the inputs; more where rows are few for so many columns (a layer behind a
    global pool sees one a sample), so that chance is not fitted: 144 times as much at a row a column.
    """
    w = layer.matrix()
    bias = np.zeros(w.shape[:2])
    if layer.bias is not None:
        bias = np.broadcast_to(layer.bias.reshape(-1).astype(np.float64), layer.outputs).reshape(bias.shape)
    h, c, mean, target = seen.around(centred=biased)
    damp = damping(layer, seen, ridge)
    if not biased:
        c = c - bias[:, :, None] * seen.mean[:, None, :]
    step = np.linalg.solve(h + damp, (c - w @ h).transpose(0, 2, 1))
    new = w + step.transpose(0, 2, 1)
    shift = target - np.einsum("gok,gk->go", new, mean) - bias if biased else np.zeros_like(bias)
    return new, shift.reshape(-1)


def damping(layer: Linear, seen: Moments, ridge: float) -> np.ndarray:
    """What is added to the moments of a layer [g, k, k] ahead of inversion; see `solved`."""
    level = np.einsum("gii->gi", seen.second()).mean(1)
    damp = ridge * max(1.0, ROWS_PER_COLUMN * layer.columns / max(seen.count, 1)) ** 2 * level + 1e-12
    return damp[:, None, None] * np.eye(layer.columns)


def _install(model: Model, task: Task, matrix: np.ndarray, shift: np.ndarray) -> None:
    layer = task.layer
    usable = np.broadcast_to(_usable(task.scale), shift.shape)
    rows = usable.reshape(layer.groups, -1, 1)
    new = np.where(rows, matrix, layer.matrix())
    model.set_weight(layer.node, 1, layer.as_weight(new))
    if shift.any():
        add_to_bias(model, layer.node, np.where(usable, shift, 0.0))
