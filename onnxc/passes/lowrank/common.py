"""What the passes of this family share: options, the plan of forms and ranks, and the layers' replacement in order."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace as but
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Literal

import numpy as np

from ...ir.difference import decibels
from ...ir.errors import BadOption
from ...ir.model import Model
from ..base import Context, Pass, Report
from ..layers.felt import Felt
from ..layers.inturn import InTurn
from ..layers.layout import RECURRENT
from ..layers.linear import Linear, add_to_bias, gains_bias
from ..layers.moments import moments
from ..layers.widths import WIDTHS
from ..options import Range
from ..prune.recover_lstsq import solve_layers
from ..prune.uncut import Uncut
from .felt import as_felt
from .fit import LARGE, Whitened, error, likely
from .forms import FORMS, Form
from .moments import Fit, fitted, readable
from .rank import Budget, Choice, even, leads, spend, vbmf_rank
from .target import CONVOLUTIONS, PRODUCTS, Target, refusal, replace, target
from .timing import Timing

UNITS = ("macs", "params", "time")
Chosen = list[Choice | None]
"""For each layer what it becomes, None where it stays whole."""
ENERGY = 0.97
ALIKE = 0.25
"""Two plans' SNRs on the data, in dB, that are taken for the same: less than a few samples can tell apart."""
LEADS = 2
"""How many plans with a leading form are tried beside the one that mixes forms freely."""
FINE = 128
"""How many ranks of one form of one layer are weighed at most."""
PROBES = 3
"""At how many ranks of each form the error is measured under the whole second moment; between them it is scaled."""


@dataclass(kw_only=True, repr=False, eq=False)
class Factorise(Pass):
    """Base of the passes. A subclass states `forms` and `operators`.

    energy, rank, vbmf, macs, params and time: see the passes; one of them sets the ranks. energy_by goes with energy, and
    with energy=1 names the layers that are looked at. recover: whether all layers behind a factored one are solved anew.
    """

    energy: Annotated[float, Range(above=0, high=1)] = ENERGY
    energy_by: dict[str, float] | None = None
    rank: Annotated[int | None, Range(1)] = None
    vbmf: bool = False
    macs: Annotated[float | None, Range(above=0)] = None
    params: Annotated[float | None, Range(above=0)] = None
    time: Annotated[float | None, Range(above=0, high=1)] = None
    by: Literal["macs", "time"] = "macs"
    target: str = "native"
    round_to: Annotated[int | Literal["auto"], Range(1)] = "auto"
    fit: Literal["auto", "weights", "outputs"] = "auto"
    recover: Literal["none", "lstsq"] = "none"
    samples: Annotated[int, Range(1)] = 256
    skip: list[str] | str | None = None

    requires = ("clean",)
    keeps_tensors = True
    forms: ClassVar[tuple[str, ...]] = ()
    operators: ClassVar[tuple[str, ...]] = (*CONVOLUTIONS, *PRODUCTS, *RECURRENT)

    def __post_init__(self):
        given = [k for k in ("rank", "vbmf", *UNITS) if getattr(self, k)] + ["energy"] * (self.energy != ENERGY)
        if len(given) > 1:
            raise BadOption(f"give {' or '.join(given)}, not both", pass_name=self.name)
        values = (self.energy_by or {}).values()
        self.within("energy_by", all(0 < v <= 1 for v in values), "above 0 and at most 1 each")
        if self.energy_by and [k for k in given if k != "energy"]:
            raise BadOption("energy_by goes with energy", pass_name=self.name, found=given[0])
        if self.vbmf and not {"channel", "spatial", "tucker"} & set(self.forms):
            raise BadOption(
                "vbmf estimates ranks of matrices",
                pass_name=self.name,
                expected="lowrank.svd, .channel, .spatial, .tucker",
            )

        self.within("target", self.target == "native" or self._by_time, "by=time or time= beside it")

    @property
    def _by_time(self) -> bool:
        return self.by == "time" or self.time is not None

    @property
    def _budget(self) -> tuple[str, float] | None:
        """The unit and the number of the budget, if there is one."""
        return next(((u, float(getattr(self, u))) for u in UNITS if getattr(self, u)), None)

    def run(self, model: Model, ctx: Context) -> Report:
        report = Report()
        self._timing = Timing(ctx.verified.analysis, ctx.predict(self.target)) if self._by_time else None
        found = self._targets(model, ctx, report)
        aware = self.fit == "outputs" or (self.fit == "auto" and not ctx.synthetic)
        if self.recover != "none" and (ctx.synthetic or ctx.runner is None or ctx.data is None):
            raise BadOption("recover=lstsq looks at activations", pass_name=self.name, remedy="give --data")
        if aware and (ctx.runner is None or ctx.data is None):
            raise BadOption("fit=outputs looks at activations", pass_name=self.name, remedy="give --data")
        layers: dict[int, Linear] = {}
        for n, (at, _) in enumerate(found if aware else ()):
            layer = readable(model, at)
            if isinstance(layer, str):
                report.note(f"{at.node.name} is fitted to its weight: {layer}")
            else:
                layers[n] = layer
        self._biases = sum(layer.outputs for layer in layers.values() if gains_bias(model, layer.node))
        choices = self._choices(model, found, layers, ctx, report)
        plans = self._plans(model, ctx, found, choices, bool(layers), report)
        before = self._timing.model(model) if self._timing else 0.0
        original = model.copy()
        picked = self._carry_out(model, found, plans, layers, ctx, report)
        if self.recover == "lstsq":
            solve_layers(model, Uncut(original, ctx.verified.analysis, ctx, self.samples, ctx.source), report)
        if self._timing:
            saved = sum(self._timing.whole(at) - c.time for (at, _), c in zip(found, picked) if c)
            report.note(
                f"predicted time of the products, compiled for {self.target}: {1 - saved / before:.2f} of what it was"
            )
        if self._budget:
            for (at, _), c, options in zip(found, picked, choices):
                for user in at.nodes if c is None and options else ():
                    report.refuse(user.name, f"{user.op} stays whole: others save at less error")
        return report

    def _targets(self, model: Model, ctx: Context, report: Report) -> list[tuple[Target, list[Form]]]:
        groups: dict[int, list] = {}
        for node in model.nodes:
            if model.is_standard(node, *self.operators) and len(node.inputs) > 1:
                groups.setdefault(id(node.inputs[1]), []).append(node)
        skip = [self.skip] if isinstance(self.skip, str) else self.skip or ()
        found = []
        for glob in self.energy_by or ():
            if not any(fnmatchcase(u.name, glob) for users in groups.values() for u in users):
                names = ", ".join(u.name for users in list(groups.values())[:3] for u in users[:1]) or "none"
                raise BadOption("option energy_by names no layer", pass_name=self.name, expected=f"names like {names}",
                                found=glob)  # fmt: skip
        for users in groups.values():
            if users[0].op in RECURRENT:
                report.refuse(
                    users[0].name, f"R of {users[0].op} stays whole: ONNX has no recurrent layer of two factors"
                )
            skipped = any(fnmatchcase(u.name, glob) for u in users for glob in skip)
            if (
                self.energy_by
                and self.energy == 1
                and not any(fnmatchcase(u.name, g) for u in users for g in self.energy_by)
            ):
                continue  # what keeps all of its energy is not looked at
            why = "left out by skip" if skipped else refusal(model, ctx.verified.analysis, users) or self.unfit(users)
            forms: list[Form] = []
            if why is None:
                at = target(ctx.verified.analysis, users)
                forms, why = at.forms([FORMS[f] for f in self.forms])
            if forms:
                found.append((at, forms))
                continue
            for user in users:
                report.refuse(user.name, f"{user.op} stays whole: {why}")
        return found

    def unfit(self, users: list) -> str | None:
        """Why this pass leaves such nodes to others, or None."""
        return None

    def _choices(self, model, found, layers: dict[int, Linear], ctx, report) -> list[list[Choice]]:
        """For each layer what it may become: all ranks that lower both MACs and parameters."""
        result: list[list[Choice]] = [[] for _ in found]
        felt = Felt(model, ctx) if layers and self._budget else None
        blind: set[int] = set()
        for (n, moment), _ in zip(self._all_moments(model, found, layers, ctx), ctx.each(found)):
            at, forms = found[n]
            h = None if moment is None else moment.h
            if h is not None and not np.isfinite(h).all():
                blind.add(n)
                continue
            for form in forms:
                result[n] += self._ranks(at, form, h)
            if felt is not None and moment is not None and result[n]:
                result[n] = as_felt(felt, layers[n], at.w, moment, result[n])
        for n, (at, _) in enumerate(found):
            if not result[n]:
                why = "what it reads of the data is not finite" if n in blind else self._dear(at)
                for user in at.nodes:
                    report.refuse(user.name, f"{user.op} stays whole: {why}")
        return result

    def _all_moments(self, model, found, layers: dict[int, Linear], ctx):
        yield from ((n, None) for n in range(len(found)) if n not in layers)
        each = moments(model, ctx.verified.analysis, [[layer] for layer in layers.values()], ctx, self.samples)
        for (n, layer), seen in zip(layers.items(), each, strict=True):
            yield n, fitted(model, layer, seen)

    def _ranks(self, at: Target, form: Form, h: np.ndarray | None) -> list[Choice]:
        start = Whitened(form, at.w, h)
        if self.rank is not None:
            ranks = [tuple(min(self.rank, f) for f in form.full(at.w.shape)) if form.name == "tucker" else (self.rank,)]
            ranks = [r for r in ranks if all(a <= b for a, b in zip(r, form.full(at.w.shape)))]
            errors: list[float] | np.ndarray = [
                start.errors[start.ranks.index(r)] if r in start.ranks else 0.5 for r in ranks
            ]
        else:
            ranks, errors = start.ranks, start.errors
            if len(ranks) > FINE and form.name != "tucker":  # every n-th rank of those that save
                most = sum(at.cost(form, r)[0] < at.macs for r in ranks)
                step = max(1, most // FINE)
                multiple = self.round_to if self.round_to != "auto" else WIDTHS[0] if step > 1 else 1
                step = -(-step // multiple) * multiple
                ranks, errors = ranks[step - 1 :: step], errors[step - 1 :: step]
        if self.vbmf:
            if form.name not in ("channel", "spatial", "tucker"):
                return []
            wanted = tuple(
                max(vbmf_rank(e, *m.shape[1:]) for e in np.square(np.linalg.svd(m, compute_uv=False)))
                for m in _unfoldings(form, at.w)
            )
            ranks, errors = [wanted], [start.errors[start.ranks.index(wanted)] if wanted in start.ranks else 0.5]
        made = []
        for r, e in zip(ranks, errors, strict=True):
            if self.round_to != "auto" and any(v % self.round_to for v in r) and form.name != "separable":
                continue
            macs, params = at.cost(form, r)
            if macs < at.macs and params < at.params:
                made.append(Choice(form, r, macs, params, float(e), at.w.shape[0] * at.w.shape[2]))
        if not made:
            return made
        budget = self._budget is not None
        if h is not None:
            known = form.name == "channel"
        else:  # where nothing is refined, the errors are the factors' own
            known = at.is_pointwise or (not budget and (form.name != "cp" or at.w[0, 0].size > LARGE))
        return made if known else _measured(at, form, start, h, made, budget)

    def _dear(self, at: Target) -> str:
        _g, o, c, i, j = at.w.shape
        if self.rank is not None and not self.vbmf:
            m, n = o, c * i * j
            return f"rank {self.rank} of {m}x{n} would take {self.rank * (m + n)} parameters and MACs a position, not {m * n}"
        return "no rank lowers both its MACs and its parameters"

    def _plans(self, model, ctx, found, choices, aware: bool, report) -> list[Chosen]:
        """What each layer is to become; with a budget and data, several ways to spend it where they differ: over all
        choices, and over those of a form that leads. Errors of single layers do not settle which serves the outputs best."""
        if not self._budget:
            return [[self._each(c, report, at) for c, (at, _) in zip(choices, found)]]
        for width in self._widths()[:-1]:
            try:
                return self._spent(model, ctx, found, self._even(found, choices, width), aware, report)
            except BadOption:
                continue
        return self._spent(model, ctx, found, [self._timed(at, c) for c, (at, _) in zip(choices, found)], aware, report)

    def _widths(self) -> tuple[int, ...]:
        """Multiples of ranks that are tried in turn. Where times are predicted, they tell what wide ranks are worth."""
        return (1,) if self.round_to != "auto" else WIDTHS[1:] if self._timing else WIDTHS

    def _even(self, found, choices: list[list[Choice]], width: int) -> list[list[Choice]]:
        return [self._run_well(at, c, width) for c, (at, _) in zip(choices, found, strict=True)]

    def _run_well(self, at: Target, choices: list[Choice], width: int) -> list[Choice]:
        """Of a convolution the choices whose stages are so many channels wide; matrix products take any rank. By time, of these those
        that take less than the layer."""
        if at.is_conv and self.round_to == "auto":
            choices = even(choices, width, at.w.shape[0], len(self.forms) > 1 and not self._timing)
        return self._timed(at, choices)

    def _timed(self, at: Target, choices: list[Choice]) -> list[Choice]:
        """Where times are predicted, the choices that take less than the layer; else all."""
        return self._timing.choices(at, choices) if self._timing else choices

    def _spent(self, model, ctx, found, choices, aware: bool, report) -> list[Chosen]:
        """The plans of `_plans` that meet the budget with these choices."""
        from ...ir.cost import cost

        assert self._budget is not None
        unit, asked = self._budget
        by = "time" if self._timing else unit
        times = [self._timing.whole(at) for at, _ in found] if self._timing else []
        wholes = times if unit == "time" else [float(getattr(at, unit)) for at, _ in found]
        whole = (
            self._timing.model(model) if unit == "time" and self._timing else getattr(cost(model, ctx.verified), unit)
        )
        goal = (asked * whole if asked <= 1 else asked) - (self._biases if unit == "params" else 0)
        budget = Budget(unit, goal - (whole - sum(wholes)), wholes, by, times or wholes)
        forms = leads(choices, budget)
        open_to = [choices, *forms[:LEADS]] if aware else [choices] if self._timing else forms[:1] or [choices]
        plans = [spend(o, budget) for o in open_to]
        totals = [whole - sum(w - getattr(c, unit) for w, c in zip(wholes, p) if c) for p in plans]
        most = goal * (1 + 1e-9)  # times are sums of floats
        if totals[0] > most:
            raise self._unmet(unit, totals[0], goal, whole, any(choices), report)
        return [p for n, p in enumerate(plans) if totals[n] <= most and p not in plans[:n]]

    def _unmet(self, unit: str, least: float, goal: float, whole: float, some: bool, report: Report) -> BadOption:
        """What to say where the least that these layers can cost, `least` of the `whole`, is beyond the budget."""
        if not some and report.refusals:
            reasons = [r.reason.split(" stays whole: ")[-1] for r in report.refusals]
            why = max(dict.fromkeys(reasons), key=reasons.count)
            return BadOption(f"no layer can be factored: {why}", pass_name=self.name)
        remedy = "skip less, or give a larger budget" if self.skip else "give a larger budget, or prune"
        if not self.skip and self.name != "lowrank.auto":
            remedy = "take lowrank.auto, which has more forms, or give a larger budget"
        if unit == "time":
            least, goal = least / whole, goal / whole
        digits = 2 if unit == "time" else 0
        return BadOption("the budget cannot be met", pass_name=self.name, expected=f"at least {least:.{digits}f} {unit}",
                         found=f"{goal:.{digits}f}", remedy=remedy)  # fmt: skip

    def _each(self, choices: list[Choice], report: Report, at: Target) -> Choice | None:
        """The cheapest that keeps the layer's energy; with a rank or vbmf, the one of least error."""
        if not choices:
            return None
        if self.rank is not None or self.vbmf:
            if not (choices := self._timed(at, choices)):
                for user in at.nodes:
                    report.refuse(user.name, f"{user.op} stays whole: no form of that rank is predicted to be faster")
                return None
            return min(choices, key=lambda c: (c.error, c.macs))
        energy = self._energy(at)
        wide = self._run_well(at, choices, self._widths()[0])
        for open_to in (wide, self._timed(at, choices)):
            kept = [c for c in open_to if c.error <= 1 - energy + 1e-12]
            if kept:
                return min(kept, key=lambda c: (c.time, c.macs, c.error))
        for user in at.nodes:
            report.refuse(user.name, f"{user.op} stays whole: energy {energy:g} takes a rank that saves nothing")
        return None

    def _energy(self, at: Target) -> float:
        """The share that a layer keeps: of the last glob that fits one of its nodes, else the one of all."""
        fitting = [e for glob, e in (self.energy_by or {}).items() if any(fnmatchcase(n.name, glob) for n in at.nodes)]
        return fitting[-1] if fitting else self.energy

    def _carry_out(self, model, found, plans: list[Chosen], layers, ctx, report) -> Chosen:
        """Factor as planned. Of several plans each is carried out on a copy, and the one of the nearest outputs stays; of
        those that are ALIKE, the one of the fewest nodes, as stages cost time that MACs do not show."""
        if len(plans) == 1:
            self._replace(model, found, plans[0], layers, ctx, report)
            return plans[0]
        tried, judge = [], ctx.evaluate(model, self.samples)
        for picked in plans:
            work, said = model.copy(), Report()
            nodes = {n.name: n for n in work.nodes}
            twins = [(but(at, nodes=[nodes[n.name] for n in at.nodes]), forms) for at, forms in found]
            self._replace(work, twins, picked, {n: readable(work, twins[n][0]) for n in layers}, ctx, said)
            tried.append((decibels(judge(work).noise), work, said))
        snrs = [snr for snr, *_ in tried]
        sure = np.nan_to_num(snrs, nan=-np.inf)
        level = [n for n in range(len(tried)) if sure[n] >= sure.max() - ALIKE]
        best = min(level, key=lambda n: (len(tried[n][1].nodes), -sure[n]))
        _, work, said = tried[best]
        model.adopt(work)
        report.edits += said.edits
        rest = ", ".join(f"{snr:.1f}" for snr in np.delete(snrs, best))
        report.note(f"outputs on the data: {snrs[best]:.1f} dB; other plans {rest} dB")
        return plans[best]

    def _replace(self, model, found, picked, layers, ctx, report) -> None:
        original = model.copy() if layers else model
        order = {id(n): i for i, n in enumerate(model.nodes)}
        turns = sorted((n for n in range(len(found)) if picked[n]), key=lambda n: order[id(found[n][0].node)])
        read = [layers[n] for n in turns if n in layers]
        seen = InTurn(original, model, ctx.verified.analysis, read, ctx, self.samples)
        for n in ctx.each(turns):
            moment = fitted(model, layers[n], seen.next(), crossed=True) if n in layers else None
            self._one(model, found[n][0], picked[n], moment, layers.get(n), report)

    def _one(self, model, at: Target, choice: Choice, moment: Fit | None, layer: Linear | None, report) -> None:
        form, w = choice.form, at.w
        h = None
        if moment is not None:
            h, w = moment.h, moment.w.reshape(at.w.shape)
        factors = Whitened(form, w, h).factors(choice.rank)
        v = form.compose(factors)
        lost = error(w, v, h)
        if moment is not None and moment.centred:
            made = np.einsum("gok,gk->go", v.reshape(*v.shape[:2], -1), moment.x).ravel()
            bias = layer.bias if layer is not None and layer.bias is not None else 0.0
            add_to_bias(model, at.node, moment.y.ravel() - made - bias)
        g, o, c, i, j = at.w.shape
        replace(model, at, form, factors)
        rank = choice.rank[0] if len(choice.rank) == 1 else choice.rank
        label = form.name if at.is_conv else "svd"
        for user in at.nodes:
            old, new = at.macs // len(at.nodes), choice.macs // len(at.nodes)
            size = f"{g * o}x{c * i * j}"
            report.edit(
                user.name,
                f"{user.op} {size} to rank {rank}: {label}, energy {1 - lost:.4f} kept, "
                f"relative error {np.sqrt(lost):.3g}, {old} MACs to {new}",
            )


def _unfoldings(form: Form, w: np.ndarray) -> list[np.ndarray]:
    """The matrices [g, rows, columns] whose ranks are those of a form; for tucker as Kim 2016 has it."""
    g, o, c, i, j = w.shape
    if form.name == "spatial":
        return [w.transpose(0, 1, 4, 2, 3).reshape(g, o * j, c * i)]
    by_output = w.reshape(g, o, -1)
    return [by_output] if form.name == "channel" else [w.transpose(0, 2, 1, 3, 4).reshape(g, c, -1), by_output]


def _measured(at: Target, form: Form, start: Whitened, h, made: list[Choice], budget: bool) -> list[Choice]:
    """The choices with the errors of the factors themselves: measured at a few, the ratio carried in between.

    The error is that under the second moment; without one, where a budget is shared out between layers, the likely one.
    """
    order = sorted(range(len(made)), key=lambda n: (made[n].macs, made[n].error))
    front, low = [], np.inf
    for n in order:
        if made[n].error < low:
            front.append(n)
            low = made[n].error
    picks = sorted(
        {front[round(q * (len(front) - 1))] for q in np.linspace(0.15, 1.0, PROBES)}, key=lambda n: made[n].macs
    )
    xs, ys = [], []
    sweeps = 0 if h is not None or at.w[0, 0].size > LARGE else 2
    for n in picks:
        c = made[n]
        v = form.compose(start.factors(c.rank, sweeps))
        true = likely(at.w, v) if h is None and budget else error(at.w, v, h)
        xs.append(c.macs)
        ys.append(np.log(max(true, 1e-12) / max(c.error, 1e-12)))
    ratios = np.exp(np.interp([c.macs for c in made], xs, ys))
    return [but(c, error=float(min(1.0, c.error * r))) for c, r in zip(made, ratios)]
