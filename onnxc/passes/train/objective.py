"""What a training pass asks of the Trainer, as plain data: losses, penalties, forms of weights, a schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ...ir.model import Model

Source = Callable[[], object]


@dataclass(frozen=True)
class Teacher:
    """Distillation from `model`, whose outputs are called as the student's.

    temperature: of softened classes (Hinton 2015). features: weight of the maps of attention, the mean of squares over
    the channels at each position, scaled to length 1 (Zagoruyko 2017, eq. 2), of tensors that bear the same name and
    the same extents but for the channels in both.
    """

    model: Model
    temperature: float = 2.0
    features: float = 0.0


@dataclass(frozen=True)
class Penalty:
    """A pull on a weight towards zero, as a proximal step after each step of the optimiser (Parikh and Boyd 2014, 6.5).

    Groups share all indices but those of `axes`. Over the whole training, spread as the learning rate is, a group that the
    loss does not hold is shortened by `strength` times the mean size that groups had at the start; what reaches zero is
    zero. So a strength means the same whatever the rate, the epochs and the scale of weights.

    l1: each weight by itself. group: its Euclidean norm (Yuan and Lin 2006). exclusive: each weight by the mean |w| of its
    group, so that the members of a group compete (Zhou 2010). decay: by a share of itself. hanson: the slope of
    u / (1 + u), u = |w| / (`scale` times the deviation): small ones shrink fastest (Hanson and Pratt 1989).
    """

    kind: Literal["l1", "group", "exclusive", "decay", "hanson"]
    tensor: str
    strength: float
    axes: tuple[int, ...] = ()
    scale: float = 1.0


@dataclass(frozen=True)
class Form:
    """How a weight is read while it is trained, and left when training ends.

    fixed: as it was. zeros: what is zero stays so. magnitude: the smallest share `sparsity` reads as zero; it grows from `first` by a
    cubic schedule over the first half of the steps (Zhu and Gupta 2017, eq. 1), and what is zero may come back (dynamic
    network surgery, Guo 2016). binary: the sign times the mean of |w| of each output channel along `axis` (XNOR-Net,
    Rastegari 2016, eq. 6). connect: the sign times one mean of |w| (BinaryConnect, Courbariaux 2015, by a scale that
    ternary and binary share here). chance: likewise, but up with the probability (w / a + 1) / 2 while it is trained (its
    stochastic kind). ternary: -a, 0, a with the threshold 0.7 mean |w| (Li 2016, eq. 6). trained: a learnt scale of each
    sign (Zhu 2017). nearest: a times the nearest of `codes`, both fitted in turn (Leng 2018). felt: likewise, where the
    loss curves most (Hou 2017). split: drawn by `strength` to the largest weights (`sparsity`) or to the nearest levels of
    `codes`, and projected onto them in the end (ADMM, Zhang 2018, Leng 2018). average: left as its moving average, which
    looks back on the share `strength` of the steps. mixture: under a prior of `components` Gaussians, by `strength`, and left
    at their means (Ullrich 2017). shared: the nearest of values that begin as `codes` and learn by the sums of gradients (Han 2016),
    chosen anew at each step; what is zero stays so.

    after: the share of the training from which on the form holds; the weight is read as it is until then.
    """

    kind: Literal[
        "fixed",
        "zeros",
        "magnitude",
        "binary",
        "connect",
        "chance",
        "ternary",
        "trained",
        "nearest",
        "felt",
        "split",
        "average",
        "mixture",
        "shared",
    ]
    sparsity: float = 0.0
    first: float = 0.0
    axis: int = 0
    codes: tuple[float, ...] = ()
    strength: float = 0.0
    components: int = 0
    after: float = 0.0


@dataclass(frozen=True)
class Arithmetic:
    """In what numbers a training computes: cheaper gradients and short formats, emulated in floats, but for bfloat16.

    topk: the share of the entries of a product's output gradient that go further, the largest of each sample (meProp, Sun
    2017), or of the whole batch, or whole units, by topk_over. ternary: the gradient of each weight becomes -s, 0 or s at random, right in
    the mean (TernGrad, Wen 2017). shared_exponent: bits of the whole numbers of a tensor that share an exponent (Flexpoint,
    Koester 2017). fixed_point: bits behind the point of 16-bit numbers, rounded at random (Gupta 2015). The last two hold
    for weights, for what products make and for its gradient. precision: bfloat16 for products and what they make, forwards and
    backwards; weights, their steps, statistics and losses stay float32 (Micikevicius 2018, by torch's autocast).
    """

    topk: float | None = None
    topk_over: Literal["sample", "batch", "units"] = "sample"
    ternary: bool = False
    shared_exponent: int | None = None
    fixed_point: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"

    def __bool__(self) -> bool:
        return self != Arithmetic()


@dataclass(frozen=True)
class Objective:
    """What is learnt: from labels, from a teacher, or both; under penalties; by weights of the given forms.

    smooth: label smoothing. steps: the scales of quantisers are learnt too (LSQ). smooth_signs: the gradient of a sign falls
    off towards its ends (Liu 2018, eq. 8).
    """

    labels: bool = False
    smooth: float = 0.0
    teacher: Teacher | None = None
    penalties: tuple[Penalty, ...] = ()
    forms: Mapping[str, Form] = field(default_factory=dict)
    steps: bool = False
    smooth_signs: bool = False


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    epochs: over the samples not held out. batch: samples a step. rate: the largest learning rate of one cycle (Smith
    2018); None: the best of six in short trials. held: share of samples on which progress is judged. patience: epochs without
    progress before it ends. augment: flip, shift, mix, module:function. checkpoint: a file that a killed run goes on from, written after
    each epoch. arithmetic: in what numbers. average: what is judged and left are moving averages of the weights over the steps,
    which keep this share of themselves (Polyak and Juditsky 1992); 0: the weights themselves.
    """

    epochs: int = 3
    batch: int = 32
    rate: float | None = None
    held: float = 0.1
    patience: int = 0
    augment: tuple[str, ...] = ()
    checkpoint: str | None = None
    threads: int = 1
    arithmetic: Arithmetic = Arithmetic()
    average: float = 0.0


@dataclass
class History:
    """What training did: the loss on the held samples at the start and after each epoch, and what was chosen.

    train: the mean loss of each epoch's steps, with what forms add. scales: at the start and after each epoch, a histogram of
    |batch-norm scales| in equal bins from 0 to `widest`. scores: at the start and after each epoch, the share of held samples
    whose class is right (score "accuracy"), or the teacher's ("agreement"). weights: histograms of all weights before and
    after, in equal bins from -span to span. sent: bytes that this process sent for gradients, where there are
    several. notes: what else the report says.
    """

    rate: float
    start: float
    losses: list[float] = field(default_factory=list)
    best: int = 0
    steps: int = 0
    changed: list[str] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    scales: list[list[int]] = field(default_factory=list)
    widest: float = 0.0
    score: str = ""
    scores: list[float] = field(default_factory=list)
    weights: list[list[int]] = field(default_factory=list)
    span: float = 0.0
    sent: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def loss(self) -> float:
        """The held loss of the weights that were kept; epoch 0 is before training."""
        return self.start if self.best == 0 else self.losses[self.best - 1]
