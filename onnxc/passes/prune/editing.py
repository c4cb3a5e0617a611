"""Groups in a person's hands: look at what is coupled, at its scores, set masks, apply them.

groups = onnxc.passes.prune.groups(model, criterion="l2")
for group in groups:
    group.mask[group.scores < 0.2] = False
small = groups.apply()
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np

from ...ir.analysis import analyse
from ...ir.axes import Atom
from ...ir.errors import BadOption, VerificationError
from ...ir.files import Source, load
from ...ir.masks import apply_masks
from ...ir.model import Model
from ...ir.verify import verify
from ..base import Context
from ..layers.shuffles import resolve_shuffles
from . import coupling
from .criteria import lookup, scores
from .plan import CutPlan
from .score import ScoringContext
from .select import count, masks
from .twin import zeroed


class EditableGroup:
    """Channels that can only go together.

    name: the node that makes them. members: the weight axes that hold them, each with node, input, axis and role.
    scores: float64 [size], higher is more important, None where the criterion cannot rate the group. mask: bool [size],
    True stays; edit it in place.
    """

    def __init__(self, group: coupling.Group, scores: np.ndarray | None):
        self.group = group
        self.scores = scores
        self.mask = np.ones(group.size, bool)

    @property
    def name(self) -> str:
        return self.group.name

    @property
    def size(self) -> int:
        return self.group.size

    @property
    def members(self) -> list[coupling.Member]:
        return self.group.members

    def __str__(self) -> str:
        parts = [f"{m.layer.name}.{m.node.inputs[m.i].name}[{m.d}] {m.role}" for m in self.members]
        return f"{self.name}: {int(self.mask.sum())} of {self.size} channels in\n  " + "\n  ".join(parts)


class Groups:
    """Every group of a model that may be cut, in graph order; the masks on them; and what comes of applying these.

    frozen: (node, reason) of each layer whose channels all stay.
    """

    def __init__(self, model: Model, criterion: str, statistics: str, context: Context | None):
        self.model = model.copy()
        resolve_shuffles(self.model)
        model = self.model
        self.analysis = analyse(model, alike=True)
        found = coupling.groups(model, self.analysis, statistics)
        seed = context.seed if context is not None else 0
        rated = scores(ScoringContext(model, self.analysis, found, context, seed=seed), criterion)
        self._groups = [EditableGroup(g, rated.get(g.atom)) for g in found]
        self.frozen = coupling.frozen_layers(model, self.analysis, statistics)

    def __iter__(self) -> Iterator[EditableGroup]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, name: str) -> EditableGroup:
        """The group of that name; the first where the blocks of a grouped convolution share it. Raises BadOption."""
        for g in self._groups:
            if g.name == name:
                return g
        raise BadOption("there is no such group", found=name, expected=", ".join(dict.fromkeys(g.name for g in self)))

    def cut(self, ratio: float) -> None:
        """Set every mask to lose this share of its channels, the lowest scores first, balanced where that must be."""
        rated = {g.group.atom: g.scores for g in self if g.scores is not None}
        found = [g.group for g in self if g.scores is not None]
        keep = masks(found, rated, CutPlan(found, self.analysis, rated).at(ratio))
        for g in self:
            g.mask[:] = keep.get(g.group.atom, True)

    def masks(self) -> dict[coupling.Key, np.ndarray]:
        """The masks of the groups that lose channels. Raises BadOption, VerificationError where they do not fit."""
        cut = self._by_atom()
        return {g.group.key: cut[g.group.atom].copy() for g in self if g.group.atom in cut}

    def _by_atom(self) -> dict[Atom, np.ndarray]:
        for g in self:
            if g.mask.shape != (g.size,) or g.mask.dtype != bool or not g.mask.any():
                raise BadOption(
                    "a mask does not fit", node=g.name, expected=f"bool [{g.size}] with a True", found=g.mask
                )
        counts = {g.group.atom: int(g.mask.sum()) for g in self}
        for parts in self.analysis.balanced:
            sizes = [count(p, counts) for p in parts]
            if len(set(sizes)) > 1:
                raise VerificationError(
                    "the groups of a grouped convolution must keep equally many channels", found=sizes,
                    remedy="set the masks of its blocks alike, or use cut(ratio)",
                )  # fmt: skip
        return {g.group.atom: g.mask for g in self if not g.mask.all()}

    def apply(self) -> Model:
        """A verified copy of the model without the channels whose mask is False."""
        work = self.model.copy()
        apply_masks(work, self.analysis, self._by_atom())
        verify(work, like=self.model)
        return work

    def zeroed(self) -> Model:
        """The exact twin: the whole model, with zeros where `apply` removes."""
        return zeroed(self.model, self.analysis, self._by_atom())


def groups(model: Source, criterion: str = "l1", statistics: str = "window", context: Context | None = None) -> Groups:
    """The groups of coupled channels of a model (whatever `onnxc.load` takes), with scores, to look at and to edit.

    context: data and runner, for criteria that look at activations. Warns where there are none, and says why. Raises
    BadOption, OnnxcError.
    """
    lookup(criterion)
    found = Groups(load(model), criterion, statistics, context)
    if not len(found):
        why = "; ".join(f"{node}: {reason}" for node, reason in found.frozen[:3]) or "no layer has stored weights"
        warnings.warn(
            f"the model has no channels that can be cut ({why}); run clean first if it comes from an exporter",
            stacklevel=2,
        )
    return found
