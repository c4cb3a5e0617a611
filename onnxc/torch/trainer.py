"""The Trainer that training passes are handed: it fits a Model's weights to an objective and puts them back.

The learning rate follows one cycle over all steps (Smith 2018): up from a tenth over the first quarter, then down along
a cosine. Its height, where none is given, is the one of RATES that leads to the least held loss in TRIAL steps of a copy.
Sums depend on how work is spread, so the number of threads belongs to the schedule: equal schedules give equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onnxc.ir.errors import BadOption, OnnxcError
from onnxc.ir.model import Model
from onnxc.passes.train.objective import History, Objective, Schedule

from .arithmetic import at_products, is_slow, shorten, skipping
from .average import Average
from .checkpoints import mark, resume, save, writable
from .forms import Clock, form
from .losses import Classes, Tally, alike, attention, labelled, taught
from .network import Network, store
from .ranks import Ranks
from .samples import LABELS, Samples, augmented, functions
from .shrink import Pulls
from .steps import tensor

RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
TRIAL = 12
WARM = 0.25
BINS = 24
WIDTH = 3.0
"""Deviations that histograms of weights show."""
CLIP = 5.0
"""Gradients longer than this are shortened to it."""


class Trainer:
    """Fits models; the context's `progress` is told how far it has come, in words and as a share."""

    def fit(self, model: Model, objective: Objective, schedule: Schedule, ctx, keep_last: bool = False) -> History:
        """Train the weights of `model` in place; ctx has `data`, `synthetic` and `seed`. Raises BadOption, BadData."""
        if objective.labels and not getattr(ctx.data, "labelled", False):
            raise BadOption(
                "training on labels needs labels",
                remedy="give --data with an array `labels`, or train.distill, which needs none",
            )
        if schedule.checkpoint:
            writable(Path(schedule.checkpoint))
        with _settled(schedule.threads, ctx.seed):
            return _Fit(model, objective, schedule, ctx).run(keep_last)


@contextmanager
def _settled(threads: int, seed: int) -> Iterator[None]:
    """Threads, seed, device and deterministic kernels for a training; what was set before is set again after it."""
    before, exact = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    state, home = torch.get_rng_state(), torch.get_default_device()
    torch.set_num_threads(threads)
    if (device := "cuda" if torch.cuda.is_available() else "cpu") != home.type:
        torch.set_default_device(device)  # each call of torch then costs a little more
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory: Any = torch.utils.deterministic
    filled, memory.fill_uninitialized_memory = memory.fill_uninitialized_memory, False  # nothing here reads such
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(exact)
        memory.fill_uninitialized_memory = filled
        if device != home.type:
            torch.set_default_device(home)
        torch.set_rng_state(state)


def _seed(seed: int) -> None:
    """What torch.manual_seed sets, without what it costs at each call where no GPU is there (it keeps the stack for later)."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


class _Fit:
    """One training of one model."""

    def __init__(self, model: Model, objective: Objective, schedule: Schedule, ctx):
        self.model, self.objective, self.schedule = model, objective, schedule
        self.seed, self.progress, self.device = ctx.seed, ctx.progress, torch.get_default_device().type
        self.clock, self.ranks = Clock(), Ranks()
        self.own = functions(schedule.augment)
        self.net = Network(model, learn_steps=objective.steps)
        self.weights = dict(self.net.named_parameters())
        if not self.weights:
            raise BadOption("the model has no weights to train")
        self.net.take_forms(
            {
                n: form(f, self.weights[n].detach().clone(), self.clock)
                for n, f in objective.forms.items() if n in self.weights
            }
        )  # fmt: skip
        self.net.smooth = objective.smooth_signs
        self.net.made = at_products(schedule.arithmetic)
        self.net.multiply = skipping if schedule.arithmetic.topk_over == "units" else torch.matmul
        self.pulls = Pulls(objective.penalties, self.weights)
        self.teacher = Network(objective.teacher.model) if objective.teacher else None
        self.classes = Classes(self.net)
        self.tally: Tally | None = None
        self.their_classes = Classes(self.teacher) if self.teacher else None
        self.features: list[str] | None = None
        self.samples = Samples(ctx.data, schedule.batch, schedule.held, self.seed)
        self.clock.samples = self.samples.count
        self.clock.steps = self.samples.batches() * schedule.epochs
        self.many = self.samples.stacked and self._takes_many()
        self.average = Average(schedule.average, self._places()) if schedule.average else None

    # losses

    def feeds(self, chunk: dict[str, np.ndarray], rng: np.random.Generator | None) -> dict[str, torch.Tensor]:
        """A batch as tensors, changed at random where `rng` is given. Where runs are stacked and one run takes many, they are joined."""
        made = {n: tensor(a, n) for n, a in chunk.items()}
        if self.many:
            made = {n: t.flatten(0, 1) for n, t in made.items()}
        return (
            augmented(made, self.schedule.augment, rng, self.own) if rng is not None and self.schedule.augment else made
        )

    def loss(self, feeds: dict[str, torch.Tensor]) -> torch.Tensor:
        """The losses of labels and teacher for one batch, by one run or run by run."""
        if not self.samples.stacked or self.many:
            return self._loss(feeds)
        count = len(next(iter(feeds.values())))
        return torch.stack([self._loss({n: t[i] for n, t in feeds.items()}) for i in range(count)]).mean()

    def _loss(self, feeds: dict[str, torch.Tensor]) -> torch.Tensor:
        goal, total = self.objective, torch.zeros(())
        names, features = list(self.net.outputs), self._features(feeds)
        theirs: dict[str, torch.Tensor] = {}
        if self.teacher is not None:
            with torch.no_grad():
                theirs = self.teacher(feeds, names + features)
        mine = self.net(feeds, names + features)
        outputs = {n: mine[n] for n in names}
        logits = self.classes.of(outputs)
        wanted: dict[str, torch.Tensor] = {}
        if goal.labels:
            total = total + labelled(outputs, self.classes, feeds[LABELS], goal.smooth)
        if goal.teacher is not None and self.their_classes is not None:
            wanted = self.their_classes.of({n: theirs[n] for n in names})
            total = total + taught(outputs, logits, theirs, wanted, goal.teacher.temperature)
            for name in features:
                total = total + goal.teacher.features * attention(mine[name], theirs[name])
        if self.tally is not None:
            self.tally.count(logits, feeds[LABELS] if goal.labels else None, wanted)
        return total

    def _features(self, feeds: dict[str, torch.Tensor]) -> list[str]:
        """The tensors whose maps of attention are compared; none where only outputs are."""
        asked = self.objective.teacher
        if self.features is None and self.teacher is not None and asked is not None and asked.features:

            def every(net: Network) -> dict[str, torch.Tensor]:
                return net(feeds, [n for s in net.steps for n in s.outputs if n])

            with torch.no_grad():
                self.features = alike(self.net, self.teacher, every(self.net), every(self.teacher))
        return self.features or []

    def judge(self, history: History | None = None) -> float:
        """The loss on the held samples, without penalties, by the weights as they would be left; `history` gets their score."""
        self.net.eval()
        self.tally = tally = Tally()
        self.clock.over = True
        total, count = 0.0, 0
        with torch.no_grad():
            for chunk in self.samples.judged():
                feeds = self.feeds(chunk, None)
                n = self.samples.size_of(chunk)
                total, count = total + n * float(self.loss(feeds)), count + n
        self.net.train()
        self.clock.over = False
        self.tally = None
        if history is not None and tally.all:
            history.score = "accuracy" if self.objective.labels else "agreement"
            history.scores.append(tally.right / tally.all)
        return total / max(count, 1)

    def _takes_many(self) -> bool:
        """Whether two runs of a model of fixed extents may be one, joined along the first axis."""
        feeds = {n: tensor(a, n)[:2] for n, a in next(self.samples.judged()).items() if n in self.net.inputs}
        if not all(t.ndim > 1 and len(t) == 2 for t in feeds.values()):
            return False
        try:
            with torch.no_grad():
                both = self.net({n: t.flatten(0, 1) for n, t in feeds.items()})
                ones = [self.net({n: t[i] for n, t in feeds.items()}) for i in (0, 1)]
        except (OnnxcError, RuntimeError):
            return False
        joined = {n: torch.cat([one[n] for one in ones]) for n in both if ones[0][n].ndim}
        return joined.keys() == both.keys() and all(
            t.shape == joined[n].shape and torch.allclose(t.float(), joined[n].float(), 1e-4, 1e-5)
            for n, t in both.items()
        )

    # steps

    def step(self, optimiser, chunk, rate: float, seed: Sequence[int]) -> float:
        """One step on a batch; all that is drawn at random follows from `seed`."""
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
        _seed(int(np.random.SeedSequence([*seed, 1]).generate_state(1)[0]))
        share = self.ranks.share(self.samples.size_of(chunk))
        feeds = self.feeds(self.samples.of(chunk, share) if share else chunk, np.random.default_rng(list(seed)))
        with torch.autocast(self.device, torch.bfloat16, enabled=self.schedule.arithmetic.precision == "bfloat16"):
            loss = self.loss(feeds)
        if not loss.requires_grad:
            raise BadOption(
                "no weight has a share in the loss", expected="an output of real numbers that follows from weights",
                remedy="cut the graph ahead of what chooses (ArgMax and the like), or leave out the passes train.*",
            )  # fmt: skip
        for pull in (reading.pull(self.weights[n]) for n, reading in self.net.forms.items()):
            loss = loss if pull is None else loss + pull
        loss.backward()
        weights, arithmetic = list(self.net.parameters()), self.schedule.arithmetic
        self.ranks.average(weights, arithmetic.ternary, list(seed))
        torch.nn.utils.clip_grad_norm_(weights, CLIP)
        optimiser.step()
        shorten(weights, arithmetic)
        with torch.no_grad():
            for n, reading in self.net.forms.items():
                reading.step(self.weights[n])
        return float(loss.detach())

    def optimiser(self):
        return torch.optim.Adam(self.net.parameters(), lr=0.0, fused=True)

    def _state(self) -> dict[str, torch.Tensor]:
        return {n: t.detach().clone() for n, t in self._places().items()}

    def _finite(self, loss: float) -> bool:
        return math.isfinite(loss) and all(bool(torch.isfinite(t).all()) for t in self._places().values())

    def _places(self) -> dict[str, torch.Tensor]:
        return {**dict(self.net.named_parameters()), **dict(self.net.named_buffers())}

    def _set(self, state: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, t in self._places().items():
                t.copy_(state[name])

    @contextmanager
    def _as_left(self) -> Iterator[None]:
        """The weights as training leaves them: their averages, where there are any. Behind it they are as they were."""
        if self.average is None:
            yield
            return
        own = self._state()
        self._set(self.average.left(own))
        yield
        self._set(own)

    def try_rates(self) -> float:
        """The rate of RATES that takes the weights furthest in a short training of a copy; least rates win ties."""
        before, found = self._state(), {}
        for k, rate in enumerate(RATES):
            self.progress(f"rate {k + 1} of {len(RATES)} is tried", k / len(RATES))
            optimiser, batches = self.optimiser(), self._endless()
            for i in range(TRIAL):
                self.step(optimiser, next(batches), rate, (self.seed, 3, i))
            self._agree()  # or processes would judge by statistics of their own and choose different rates
            loss = self.judge()
            found[rate] = loss if math.isfinite(loss) else math.inf
            self._set(before)
        return min(found, key=found.__getitem__)

    def _endless(self):
        number = 0
        while True:
            yield from self.samples.epoch(number)
            number += 1

    def run(self, keep_last: bool) -> History:
        self.net.train()
        saved = self._resume()
        if saved is None:
            history = History(0.0, 0.0)
            if is_slow(self.schedule.arithmetic, self.device):
                history.notes.append("this processor has no bfloat16: float32 would take less time")
            self.progress("the model as it comes", 0.0)
            history.start = start = self.judge(history)
            if not math.isfinite(start):
                raise BadOption(
                    "the loss of the model as it comes is no number, so that there is nothing to learn by",
                    expected="finite outputs for all samples", found=start, remedy="look for samples that are not finite",
                )  # fmt: skip
            history.rate = rate = self.schedule.rate or self.try_rates()
            optimiser, at = self.optimiser(), 0
            best, kept = start, self._state()
            self._look(history)
            self._spread(history)
        else:
            rate, history, at = saved["history"].rate, saved["history"], saved["at"]
            optimiser, best, kept = self.optimiser(), saved["best"], saved["kept"]
            self._set(saved["state"])
            if self.average is not None:
                self.average.values = saved["average"]
            optimiser.load_state_dict(saved["optimiser"])
        every, steps = self.samples.batches(), self.clock.steps
        pull = sum(cycle(i / steps) for i in range(steps))
        for epoch in range(at, self.schedule.epochs):
            if self.schedule.patience and epoch - history.best >= self.schedule.patience:
                break
            total, taken = 0.0, 0
            for i, chunk in enumerate(self.samples.epoch(epoch)):
                done = min((epoch * every + i) / steps, 1.0)
                self.clock.share = done
                loss = self.step(optimiser, chunk, rate * cycle(done), (self.seed, 4, epoch, i))
                total, taken = total + loss, i + 1
                self.pulls.apply(cycle(done) / pull)
                history.steps += 1
                if self.average is not None:
                    self.average.step(self._places(), history.steps)
                if i % 10 == 0:
                    score = f", {history.score} {history.scores[-1]:.3f}" if history.scores else ""
                    self.progress(f"epoch {epoch + 1} of {self.schedule.epochs}, loss {loss:.4g}{score}", done)
            self.clock.share = (epoch + 1) / self.schedule.epochs
            self._agree()
            self.progress(f"epoch {epoch + 1} of {self.schedule.epochs} is judged", self.clock.share)
            history.train.append(total / max(taken, 1))
            history.sent = self.ranks.sent
            with self._as_left():
                self._look(history)
                history.losses.append(self.judge(history))
                loss = history.losses[-1]
                if self._finite(loss) if keep_last else loss < best:
                    best, kept, history.best = loss, self._state(), epoch + 1
            self._save(history, epoch + 1, optimiser, best, kept)
        if keep_last and not history.best:
            raise BadOption(
                "the training diverged", expected="finite losses and weights", found=f"loss {history.losses[-1]:.3g}",
                remedy="give a smaller rate, or none: several are then tried",
            )  # fmt: skip
        self._set(kept)
        self.net.eval()
        self.clock.over = True
        self._spread(history)
        if history.best:
            history.changed = store(self.net, self.model)
        return history

    def _agree(self) -> None:
        """Statistics of batches become those of all processes."""
        self.ranks.agree(b for b in self.net._buffers.values() if b is not None)
        if self.average is not None:
            self.ranks.agree(self.average.values[n] for n, b in self.net._buffers.items() if b is not None)

    # checkpoints

    @cached_property
    def _mark(self) -> str:
        """What this training follows from: all that is asked, the weights and the teacher's, and the samples that are held."""
        teacher = self.objective.teacher
        asked = replace(self.objective, teacher=None, forms=dict(self.objective.forms))
        shown = mark(self.teacher.places()) if self.teacher is not None else None
        taught = teacher and (teacher.temperature, teacher.features, shown)
        return mark(
            self.net._initial, replace(self.schedule, checkpoint=None), self.seed, self.ranks.count, asked, taught,
            self.samples.digest(),
        )  # fmt: skip

    def _save(self, history: History, at: int, optimiser, best: float, kept) -> None:
        if self.schedule.checkpoint and self.ranks.rank == 0:
            state = {"history": vars(history), "at": at, "state": self._state(), "best": best, "kept": kept}
            state |= {"average": self.average.values} if self.average is not None else {}
            save(Path(self.schedule.checkpoint), {"mark": self._mark, **state, "optimiser": optimiser.state_dict()})

    def _resume(self) -> dict | None:
        saved = resume(Path(self.schedule.checkpoint), self._mark) if self.schedule.checkpoint else None
        return saved and {**saved, "history": History(**saved["history"])}

    # what the report draws

    def _look(self, history: History) -> None:
        """Add the histogram of batch-norm scales as they are."""
        names = {s.inputs[1] for s in self.net.steps if s.op == "BatchNormalization" and s.domain == ""}
        scales = [self.weights[n].detach().abs().reshape(-1).cpu() for n in sorted(names) if n in self.weights]
        if not scales:
            return
        sizes = torch.cat(scales)
        history.widest = history.widest or 1.25 * float(sizes.max()) or 1.0
        history.scales.append(torch.histc(sizes.clamp(max=history.widest), BINS, 0, history.widest).int().tolist())

    def _spread(self, history: History) -> None:
        """Add the histogram of all weights as the graph reads them, but for those stored as integers and the scales of steps."""
        others = {*self.net.grids, *self.net.scales}
        with torch.no_grad():
            read = self.net.values()
            found = [read[n].detach().float().reshape(-1).cpu() for n in self.weights if n in read and n not in others]
        if not found:
            return
        every = torch.cat(found)
        history.span = history.span or WIDTH * float(every.std(correction=0)) or 1.0
        inside = every[every.abs() <= history.span]
        history.weights.append(torch.histc(inside, 2 * BINS + 1, -history.span, history.span).int().tolist())


def cycle(done: float) -> float:
    """The learning rate, as a share of the largest, when the share `done` of all steps is done."""
    if done < WARM:
        return 0.1 + 0.9 * done / WARM
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (done - WARM) / (1 - WARM))) / 2
