"""The best candidates under a cap on the noise.

A candidate makes the network smaller (channels, residual branches, low ranks, image sides), then stores the weights that are left: either
shared (`quant.cluster`, 1 to 8 bits for each layer, floats between layers) or as 8-bit integers (`quant.int8`, single layers in float);
and, with training, learns from the model as given what that lost. Cutting changes what storing costs, so that both
are not one linear programme; the cap is divided between them in several ways, a knapsack is solved for each, the second at
the sizes that the first leaves, and the way that costs least is taken. A bound on memory over time, which no sum tells, is met by
weighing what cuts save of it against bytes, the more the further the candidates are from it.

What the knapsack believes is corrected by what real candidates show: noise = a · (sum of the cuts') + b · (sum of the layers'), a
and b by non-negative least squares of relative errors, in which candidates count by how near their noise is to the one asked for:
repairs make up for nearly all that mild cuts do, and for less of what deep ones do. Flash is bytes and what was added to them, RAM the
peak times what it was by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from statistics import median

import numpy as np

from ..passes.base import Pass
from ..passes.registry import make
from .budget import Budget
from .knapsack import choose
from .options import CODES, RATIOS, Options
from .steps import Cut, globbed, structural
from .work import RUN, SMALL, WORST, Worker

DIVISIONS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)
WEIGHTS = (0.5, 2.0, 8.0)
"""How much a share of the memory over time counts beside as large a share of the bytes, where memory is missed."""
FLOAT, WIDEST = 32, 8
"""Bits of weights that stay as they are, and the most of shared ones."""
PROBED = 0.1
"""The noise, uncorrected, of the first candidates, by which corrections begin."""
PRIOR, NEAR = 0.01, 0.8
"""Weight of the belief that a correction is 1, beside one candidate's; nepers of noise at which a candidate counts 0.6."""
CODE = 20e3
"""Bytes of code that a library is believed to have before one was made."""
TRAINED = "+train"
EPOCHS = 8
"""How often a candidate that is trained sees the samples that passes see."""
PLAIN = ({"macs": 0.5}, {"params": 0.6})
"""Plain cuts: what they leave of the whole. A search begins with the first."""
MILDER = 0.1
"""Share of the whole by which a plain cut is made milder, or deeper."""
EQUAL = (4, 3, 2, -8, -6)
"""Bits that all layers have in candidates that try what needs no search; the first where codes of runs do not fit."""
SAFE = 5
"""Bits of the shared weights with which a search begins."""


@dataclass(frozen=True)
class Candidate:
    """Passes, and the noise that they are believed to make: of the cuts and of the stored weights, uncorrected; what they are believed
    to cost. bits: of each layer's weights; ahead: how many passes run before these are stored; cut: what these take away, where it is
    known.
    """

    passes: tuple[Pass, ...]
    format: str
    cuts: float
    stored: float
    believed: Mapping[str, float] = field(default_factory=dict, compare=False, hash=False)
    bits: Mapping[str, int] = field(default_factory=dict, compare=False, hash=False)
    ahead: int = field(default=0, compare=False, hash=False)
    cut: Mapping[Cut, float] | None = field(default=None, compare=False, hash=False)
    plain: Mapping[str, float] | None = field(default=None, compare=False, hash=False)

    @property
    def text(self) -> str:
        return ", ".join(map(str, self.passes))


def _shared_bytes(size: int, bits: int) -> float:
    """Bytes of so many weights that share 2^bits values, or of which runs share 2^-bits vectors; float16 in a codebook
    (`quant.vectors`)."""
    if bits < 0:
        return size / RUN * -bits / 8 + 2.0 * RUN * 2**-bits
    return size * bits / 8 + 2.0 * 2**bits


def _factored(cut: Mapping[Cut, float] | None) -> list[str]:
    """The layers that are cut into factors."""
    return [name for what, name in cut or () if what == "rank"]


class Planner:
    """Makes candidates; learns from those that were tried."""

    def __init__(self, local: Worker, options: Options, budget: Budget, given: Mapping[str, float]) -> None:
        self._local, self.options, self._budget, self._given = local, options, budget, given
        self._tried: list[tuple[str, float, float, float]] = []
        self._added: list[float] = []
        self._by: list[float] = []
        self._known: dict[tuple, tuple[dict[str, int], dict[str, int]]] = {}
        self._unit = "macs" if {"macs", "time"} & set(budget.bounds()) else "bytes"
        self._whole = max(float(given[self._unit]), 1.0)

    @cached_property
    def _savings(self) -> list[dict[float, float]]:
        """Of each unit, what cutting it alone saves, by ratio."""
        from ..passes.prune.budget import Costing

        sweep = self._local.sweep
        costing = Costing(self._local.clean, sweep.analysis, self._unit, {g.atom for g in sweep.groups})
        whole = costing({})
        return [
            {r: whole - costing(sweep.plan.by_ratio({g.atom: r for g in unit})) for r in RATIOS} for unit in sweep.units
        ]

    def learn(self, candidate: Candidate, found: Mapping[str, float]) -> None:
        """Take in the noise and the costs that a candidate really has."""
        self._tried.append((candidate.format, candidate.cuts, candidate.stored, found["noise"]))
        if math.isfinite(found.get("flash", math.inf)) and "bytes" in candidate.believed:
            self._added.append(found["flash"] - candidate.believed["bytes"])
            self._by.append(found["ram"] / max(candidate.believed["peak_bytes"], 1.0))

    def corrections(self, kind: str, cap: float) -> tuple[float, float]:
        """By how much noises of cuts and of stored weights are multiplied, for a format and about so much noise."""
        from scipy.optimize import nnls

        rows, right = [[PRIOR, 0.0], [0.0, PRIOR]], [PRIOR, PRIOR]
        for format_, cuts, stored, noise in self._tried:
            if noise > 0 and format_ in (kind, "floats"):
                near = math.exp(-((math.log(noise / cap) / NEAR) ** 2) / 2)
                rows.append([near * cuts / noise, near * stored / noise])
                right.append(near)
        a, b = nnls(np.array(rows), np.array(right))[0]
        return max(float(a), 1e-3), max(float(b), 1e-3)

    def first(self, formats: tuple[str, ...]) -> list[Candidate]:
        """What is tried before anything is measured, as it serves most models: weights stored alone, and behind a plain cut."""
        layers = self._local.stored
        bits = {"int8": 8, "shared": SAFE}
        kinds = [k for k in formats if k in bits] if layers else []
        found = []
        for k in kinds:
            each = {n: bits[k] if k == "shared" or n in self._local.products else FLOAT for n in layers}
            size = sum(n * each[name] / 8 for name, n in layers.items())
            found.append(self._candidate(k, {}, each, 0.0, 0.0, size))
        return [*found, *(self._behind_cut(one, PLAIN[0]) for one in found if self._local.sweep.units)]

    def _behind_cut(self, one: Candidate, cut: Mapping[str, float]) -> Candidate:
        """The same behind a plain cut of channels, whose noise nothing tells beforehand."""
        at = len(self._local.head)
        passes = (*one.passes[:at], make("prune.channels", dict(cut)), *one.passes[at:])
        return Candidate(passes, one.format, 0.0, 0.0, bits=one.bits, ahead=one.ahead + 1, plain=cut)

    def traded(self, one: Candidate) -> list[Candidate]:
        """Candidates of shared weights behind a plain cut that is a step deeper, and behind one a step milder with a bit less in each
        layer: which of both loses less for its bytes no sum tells."""
        if not one.plain or one.format != "shared":
            return []
        fewer = self._stepped(one, -1)
        return [c for c in (self._recut(one, -MILDER), fewer and self._recut(fewer, MILDER)) if c is not None]

    def milder(self, one: Candidate) -> list[Candidate]:
        """Candidates that take less away than one which loses a little too much: behind a plain cut that is a step milder, and of shared
        weights of a bit more in each layer."""
        more = self._stepped(one, 1) if one.format == "shared" else None
        return [c for c in (self._recut(one, MILDER) if one.plain else None, more) if c is not None]

    def _recut(self, one: Candidate, by: float) -> Candidate | None:
        """The same behind a plain cut that leaves so much more of the whole; None where that is nothing, or all."""
        ((what, left),) = (one.plain or {}).items()
        share, at = round(left + by, 3), len(self._local.head)
        bare = replace(one, passes=one.passes[:at] + one.passes[at + 1 :], ahead=one.ahead - 1)
        return self._behind_cut(bare, {what: share}) if 0 < share < 1 else None

    def _stepped(self, one: Candidate, by: int) -> Candidate | None:
        """The same with a bit more, or less, of an index, or of a code, in each layer of some size; None where nothing can have that. A
        layer stays stored as it is: what one way of storing loses for its noise says little of another."""
        sizes = self._local.stored
        small = SMALL * sum(sizes.values())
        bits = dict(one.bits)
        for name, now in one.bits.items():
            other = now - by if now < 0 else now + by
            if sizes.get(name, 0) >= small and (other in CODES or (0 < other <= WIDEST and now <= WIDEST)):
                bits[name] = other
        if bits == one.bits:
            return None
        return self._stored_in(one, bits, one.stored)

    def lowered(self, one: Candidate, part: float) -> Candidate | None:
        """A candidate of shared weights with a bit less in the layers that are believed to save most for the noise of it, which hold
        `part` of what can be saved; None where nothing can."""
        layers = self._local.stored
        factored = _factored(one.cut)
        saved: dict[str, tuple[float, float, int]] = {}
        for name, now in one.bits.items():
            less = self._less(name, now, layers[name], name not in factored) if name in layers else None
            if less is not None:
                saved[name] = less
        if one.format != "shared" or not saved:
            return None
        bits, left, noise = dict(one.bits), part * sum(size for size, _, _ in saved.values()), one.stored
        for name, (size, more, less_bits) in sorted(saved.items(), key=lambda item: (item[1][1] / item[1][0], item[0])):
            if left <= 0:
                break
            bits[name] = less_bits
            left -= size
            noise += more if math.isfinite(more) else 0.0
        return self._stored_in(one, bits, noise)

    def _stored_in(self, one: Candidate, bits: dict[str, int], noise: float) -> Candidate:
        """The same with layers stored in so many bits, which makes so much noise."""
        passes = (*one.passes[: one.ahead], *self._behind(one.format, bits, _factored(one.cut)))
        return replace(one, passes=passes, stored=noise, believed={}, bits=bits)

    def _less(self, name: str, now: int, size: int, runs: bool) -> tuple[float, float, int] | None:
        """(bytes saved, noise more, bits) of the next smaller way to store a layer that none which is smaller still beats."""
        noises = {b: noise for b, noise in self.options.layer(name).items() if runs or b > 0}
        if not noises and now != 1:
            noises = {WIDEST if now == FLOAT else now - 1: math.inf}
        held = 4.0 * size if now == FLOAT else _shared_bytes(size, now)
        smaller = sorted((_shared_bytes(size, b), noise, b) for b, noise in noises.items())
        least, found = math.inf, None
        for taken, noise, bits in smaller:
            if taken < held and (noise < least or found is None):
                least, found = noise, (held - taken, noise - noises.get(now, 0.0), bits)
        return found

    def narrower(self, one: Candidate, count: int) -> list[Candidate]:
        """Candidates of shared weights with a unit of channels cut a step further, those that save most for the noise of it first."""
        if one.cut is None or one.format != "shared":
            return []
        found = []
        bytes_ = self._held(one.cut, one.bits)
        for k in range(len(self._local.sweep.units)):
            now = one.cut.get(("channels", k), 0.0)
            wider = [r for r in RATIOS if r > now and (k, r) in self.options.channels]
            if wider:
                cut = {**one.cut, ("channels", k): wider[0]}
                more = self.options.channels[k, wider[0]] - (self.options.channels[k, now] if now else 0.0)
                saved = bytes_ - self._held(cut, one.bits)
                if saved > 0:
                    found.append((max(more, 0.0) / saved, k, cut))
        return [
            self._candidate(
                one.format, cut, dict(one.bits), self._cuts_noise(cut), one.stored, self._held(cut, one.bits)
            )
            for _, _, cut in sorted(found, key=lambda f: f[:2])[:count]
        ]

    def _held(self, cut: Mapping[Cut, float], bits: Mapping[str, int]) -> float:
        """Bytes of the layers that a cut leaves, in so many bits each."""
        sizes, _ = self._costs(cut)
        each = ((size, bits.get(self._measured(name), FLOAT)) for name, size in sizes.items())
        return sum(4.0 * size if b == FLOAT else _shared_bytes(size, b) for size, b in each)

    def probes(self, formats: tuple[str, ...]) -> list[Candidate]:
        """Candidates that do one kind of thing each."""
        cut = self._cut(PROBED, 0.0)
        cuts = self._cuts_noise(cut)
        found = [Candidate(self._passes("floats", cut, {}), "floats", cuts, 0.0)] if cut else []
        for kind in formats if self._local.stored else ():
            stored, noise, size = self._stored(kind, self._local.stored, PROBED)
            equal = self._uniform(kind)
            found += [self._candidate(kind, {}, stored, 0.0, noise, size), *equal]
            if self._local.sweep.units:
                found += [self._behind_cut(one, cut) for cut in PLAIN for one in equal]
        return found

    def _uniform(self, kind: str) -> list[Candidate]:
        """Equal bits in all layers, as a list of one pass would have them, of those whose noise is known."""
        layers, found = self._local.stored, []
        for bits in EQUAL if kind == "shared" else ():
            each = {n: bits if bits in self.options.layer(n) or bits > 0 else EQUAL[0] for n in layers}
            noises = [self.options.layer(name).get(b, math.inf) for name, b in each.items()]
            if bits in each.values() and all(map(math.isfinite, noises)):
                size = sum(_shared_bytes(n, each[name]) for name, n in layers.items())
                found.append(self._candidate(kind, {}, each, 0.0, sum(noises), size))
        return found

    def _candidate(
        self, kind: str, cut: Mapping[Cut, float], bits: dict[str, int], cuts: float, stored: float, size: float
    ) -> Candidate:
        """What cuts so, and stores weights in so many bits, of `size` bytes."""
        passes, believed = self._passes(kind, cut, bits), self._believed(kind, *self._costs(cut), size)
        ahead = len(self._ahead(cut))
        return Candidate(passes, kind, cuts, stored, believed, bits, ahead, dict(cut))

    def best(self, kind: str, cap: float) -> Candidate:
        """The candidate of a format that costs least with a noise of at most `cap`."""
        a, b = self.corrections(kind, cap)
        found: list[tuple] = []
        for weight in (0.0, *WEIGHTS):
            for share in DIVISIONS:
                cut = self._cut(cap * share / a, weight)
                cuts = self._cuts_noise(cut)
                sizes, costs = self._costs(cut)
                stored, noise, size = self._stored(kind, sizes, max(cap - a * cuts, 1e-12) / b)
                believed = self._believed(kind, sizes, costs, size)
                missed = self._budget.misses(believed, self._given)
                over = sum(value / allowed for value, allowed in missed.values())
                found.append((over, believed["bytes"], len(found), cut, stored, cuts, noise, size))
            if self._budget.ram is None or not min(found, key=lambda f: f[:3])[0] or not self.options.peaks:
                break
        _, _, _, cut, stored, cuts, noise, size = min(found, key=lambda f: f[:3])
        return self._candidate(kind, cut, stored, cuts, noise, size)

    def _believed(self, kind: str, sizes: Mapping[str, int], costs: Mapping[str, int], size: float) -> dict[str, float]:
        """Costs of a candidate: those of the network that is left, with its layers' weights in `size` bytes."""
        found = {"macs": float(costs["macs"]), "bytes": costs["bytes"] + size - 4 * sum(sizes.values())}
        found["peak_bytes"] = costs["peak_bytes"] / (4 if kind.startswith("int8") else 1)
        if self._local.spec.target is not None:
            found["flash"] = found["bytes"] + (median(self._added) if self._added else CODE)
            found["ram"] = found["peak_bytes"] * (median(self._by) if self._by else 1.0)
        return found

    def _cut(self, cap: float, weight: float) -> dict[Cut, float]:
        """What is cut, and how far: the cuts that save most with noises of at most `cap` together."""
        cuts: list[Cut] = [("channels", k) for k in range(len(self._local.sweep.units))]
        choices: list[list[float]] = []
        costs: list[list[float]] = []
        noises: list[list[float]] = []
        for k, savings in enumerate(self._savings):
            ratios = [r for r in RATIOS if (k, r) in self.options.channels]
            memory = 2 * weight * self._whole * self.options.peaks.get(k, 0.0)
            choices.append([0.0, *ratios])
            costs.append([0.0, *(-savings[r] - memory * r for r in ratios)])
            noises.append([0.0, *(self.options.channels[k, r] for r in ratios)])
        for cut, measured in self.options.others.items():
            values = [v for v, m in measured.items() if m["noise"] < WORST]
            memory = weight * self._whole if cut[0] == "resolution" else 0.0
            cuts.append(cut)
            choices.append([0.0, *values])
            costs.append([0.0, *(-measured[v][self._unit] - memory * (1 - v**2) for v in values)])
            noises.append([0.0, *(measured[v]["noise"] for v in values)])
        picked = choose(costs, noises, cap)
        return self._local.standing({c: vs[j] for c, vs, j in zip(cuts, choices, picked) if vs[j]})

    def _cuts_noise(self, cut: Mapping[Cut, float]) -> float:
        """The noises of cuts, added up."""
        return sum(
            self.options.channels[c[1], v] if c[0] == "channels" else self.options.others[c][v]["noise"]
            for c, v in cut.items()
        )

    def _costs(self, cut: Mapping[Cut, float]) -> tuple[dict[str, int], dict[str, int]]:
        key = tuple(sorted(cut.items(), key=str))
        if key not in self._known:
            self._known[key] = self._local.cut(cut)
        return self._known[key]

    def _measured(self, name: str) -> str:
        """The layer by whose measurements one is judged: itself, or the one that it is a factor of."""
        stored = self._local.stored
        if name in stored:
            return name
        return max((n for n in stored if name.startswith(f"{n}_")), key=len, default=name)

    def _stored(self, kind: str, sizes: Mapping[str, int], cap: float) -> tuple[dict[str, int], float, float]:
        """(layer -> bits, their noise, bytes of all layers); the factors of a layer count as that layer."""
        whole: dict[str, int] = {}
        for name, size in sizes.items():
            whole[self._measured(name)] = whole.get(self._measured(name), 0) + size
        options: list[dict[int, tuple[float, float]]] = []
        for name, size in whole.items():
            float_ = {FLOAT: (4.0 * size, 0.0)}
            if kind.startswith("int8"):
                more = {8: (1.0 * size, self.options.int8[name])} if name in self.options.int8 else {}
            else:
                noises = self.options.layer(name)
                more = {b: (_shared_bytes(size, b), n) for b, n in noises.items() if b > 0 or name in sizes}
                more = {b: pair for b, pair in more.items() if pair[0] < float_[FLOAT][0]}
            options.append(float_ | more)
        costs = [[c for c, _ in o.values()] for o in options]
        each = [[n for _, n in o.values()] for o in options]
        picked = choose(costs, each, cap)
        bits = {name: list(o)[j] for name, o, j in zip(whole, options, picked)}
        return bits, sum(n[j] for n, j in zip(each, picked)), sum(c[j] for c, j in zip(costs, picked))

    def _ahead(self, cut: Mapping[Cut, float]) -> list[Pass]:
        """What runs before weights are stored."""
        return [*self._local.head, *structural(cut, self._local), *self._local.joined]

    def _passes(self, kind: str, cut: Mapping[Cut, float], stored: dict[str, int]) -> tuple[Pass, ...]:
        return (*self._ahead(cut), *self._behind(kind, stored, _factored(cut)))

    def _behind(self, kind: str, stored: Mapping[str, int], factored: list[str]) -> list[Pass]:
        """What stores weights, and what runs behind that."""
        passes: list[Pass] = []
        if any(bits != FLOAT for bits in stored.values()):
            passes += [self._int8(stored, factored)] if kind.startswith("int8") else self._shared(stored, factored)
        if kind.endswith(TRAINED):
            learnt = {"epochs": EPOCHS, "steps": True} if kind.startswith("int8") else {"epochs": EPOCHS}
            passes.append(make("train.distill", learnt))
        if kind.startswith("shared") and passes:
            passes.append(make("quant.vectors"))
        return passes

    def _int8(self, stored: Mapping[str, int], factored: list[str]) -> Pass:
        others = set(self._local.stored) - set(self._local.products)  # float in any case
        floats = [name for name, bits in stored.items() if bits == FLOAT and name not in others]
        skip = [globbed(name) for name in floats] + [f"{globbed(name)}_*" for name in floats if name in factored]
        return make("quant.int8", {"skip": skip or None, "bias_correction": True})

    def _shared(self, stored: Mapping[str, int], factored: list[str]) -> list[Pass]:
        """Values by layer, then codes of runs, which are corrected for what layers ahead of theirs have lost."""
        passes = []
        values = {name: 0 if b == FLOAT or b < 0 else b for name, b in stored.items()}
        if any(values.values()):
            usual, by = _by_layer(values, factored)
            passes.append(make("quant.cluster", {"bits": usual, "bits_by": by, "refit": True}))
        codes = {name: 1 << -b if b < 0 else 0 for name, b in stored.items() if b < 0 or b == FLOAT}
        if any(codes.values()):
            usual, by = _by_layer(codes, factored)
            passes.append(make("quant.product", {"codebook": "layer", "centroids": usual, "centroids_by": by}))
        return passes


def _by_layer(numbers: Mapping[str, int], factored: list[str]) -> tuple[int, dict[str, int] | None]:
    """The number that most layers have that are not left alone (0), and by glob those of others: globs that also fit a layer's
    factors first, what these fit besides again by its own name."""
    many = [n for n in numbers.values() if n]
    usual = max(many, key=lambda n: (many.count(n), -n))
    wide = {f"{globbed(name)}*": numbers[name] for name in factored if numbers.get(name, usual) != usual}
    beside = {name for name in numbers if any(fnmatchcase(name, glob) for glob in wide)} - set(factored)
    by = wide | {globbed(n): b for n, b in numbers.items() if (b != usual and n not in factored) or n in beside}
    return usual, by or None
