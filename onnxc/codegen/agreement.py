"""What ONNX Runtime computes, and how far a library may be from it.

    library(x) == ONNX Runtime(x), within 1e-4 of the largest value, for every output

Types and shapes must be the same, NaN and infinities must stand in the same places. Floats may differ by 1e-4 of the largest
value of their output, and by more than 1e-5 only as below; with float16 or bfloat16 inside by four roundings to that type
(2e-3, 1.6e-2); integers of 8 bits and fewer, what is dequantised from such and float8 by one step, other integers not at all.
Where more differs, ONNX Runtime is asked how much its own optimiser changes, inputs that differ by 1e-6 of their value or a rounding of
their type, Sigmoid and Tanh computed in doubles, and float16 as float32, which is how a library computes it: a network that
goes on from a rounding to a step may differ by twice the greatest of these. Where that is more than a tenth of the largest value, the
inputs tell nothing; if they were drawn, `OTHERS` more are, and some must agree within 1e-5: where roundings are amplified no wrong
library does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx

from onnxc.codegen import exact, widened
from onnxc.ir.errors import Unsupported, VerificationError
from onnxc.ir.lean import Lean
from onnxc.runtime.data import open_data
from onnxc.runtime.draw import at, random_feeds
from onnxc.runtime.elements import BYTES, PACKED, step
from onnxc.runtime.reference import Session
from onnxc.runtime.specs import TensorSpec, input_specs

FLOAT_ERROR = 1e-4
ROUNDING = 1e-5  # more than sums in another order and polynomials of functions change, but where a network amplifies it
HALF_ERRORS: dict[int, float] = {kind: 4 * epsilon for kind, epsilon in widened.EPSILON.items()}
NUDGE = 1e-6
NUDGES = 8  # ways in which inputs are a little off, where roundings decide
OTHERS = 32
"""Inputs that are drawn where roundings decide all that comes of the first."""
MOST_DRIFT = 0.1  # what a network may differ from itself, as a share of its largest value, and still be compared

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Mismatch:
    """How one output differs. `excess` is above 1 where it is more than is allowed; drift: how far ONNX Runtime's own result
    was off, where it was asked."""

    tensor: str
    error: float
    steps: int
    differing: float
    excess: float
    what: str
    drift: float = 0.0

    @property
    def senseless(self) -> bool:
        """Whether the inputs tell nothing: ONNX Runtime's own result hangs on a rounding of them."""
        return self.excess > 1 and not self.steps and self.drift > MOST_DRIFT


def make_feeds(proto: onnx.ModelProto, shapes: Sequence[Sequence[tuple]], data, seed: int = 0) -> list[Arrays]:
    """Inputs for each shape of a library (its (name, shape, dtype)s): from `data`, or seeded random ones where it is None."""
    given = input_specs(proto)
    feeds = []
    for inputs in shapes:
        specs = at({name: given[name] for name, _, _ in inputs}, {name: tuple(shape) for name, shape, _ in inputs})
        if data is None:
            feeds.append(random_feeds(specs, seed))
            continue
        opened = open_data(data, {n: _free(s, given[n]) for n, s in specs.items()}, seed=seed)
        counted = (s.shape[s.sample] for n, s in specs.items() if given[n].counts and s.shape and s.sample is not None)
        batch = next(counted, 1)
        chunk = next(opened.batches(batch if isinstance(batch, int) else 1))
        feeds.append({name: np.ascontiguousarray(chunk[name]) for name in specs})
    return feeds


def others(proto: onnx.ModelProto, like: Arrays, seed: int) -> list[Arrays]:
    """Other inputs of the shapes of `like`, drawn anew."""
    inputs = [(name, array.shape, array.dtype.name) for name, array in like.items()]
    return [make_feeds(proto, [inputs], None, seed + i)[0] for i in range(1, OTHERS + 1)]


def _free(spec: TensorSpec, given: TensorSpec) -> TensorSpec:
    """The static spec, but with the sample axis that the model leaves free."""
    axis = given.sample
    if not spec.shape or not given.counts or axis is None:
        return spec
    return spec._replace(shape=(*spec.shape[:axis], "samples", *spec.shape[axis + 1 :]))


class Reference:
    """ONNX Runtime's outputs of a model, and what it allows a library to differ."""

    def __init__(self, model: onnx.ModelProto | Lean, feeds: Sequence[Arrays]):
        """Runs the model node by node as it stands, with the weights of a `Lean` where they lie. Raises Unsupported where ONNX
        Runtime does not take or run it."""
        self.model = model if isinstance(model, Lean) else Lean(model, {})
        self.feeds, proto = feeds, self.model.proto
        try:
            session = Session(self.model, optimise=False)
            self.outputs = [session.run(one) for one in feeds]
        except (VerificationError, Unsupported) as error:
            what = f"the library cannot be compared: {error.what}"
            raise Unsupported(
                what, node=error.node, remedy="give --data that the model takes, or use --check shapes"
            ) from error
        self.tolerance = max([FLOAT_ERROR, *(HALF_ERRORS[kind] for kind in _types(proto) if kind in HALF_ERRORS)])
        self.quanta = _quanta(self.model)

    @cached_property
    def proto(self) -> onnx.ModelProto:
        """The model with all its weights: a copy of those of a `Lean`, made where something has to be looked into."""
        return self.model.whole() if self.model.arrays else self.model.proto

    def judge(self, number: int, found: Arrays) -> list[Mismatch]:
        """How the outputs `found` for feeds `number` differ, an item an output."""
        wanted = self.outputs[number]
        made = [self._compare(name, found[name], wanted[name]) for name in wanted]
        if all(one.excess <= 1 and not self._notable(one) for one in made):
            return made
        for nudges in (1, NUDGES):
            drift = self._drift(number, nudges)
            told = [
                self._allow(one, drift[one.tensor]) if one.excess > 1 or self._notable(one) else one for one in made
            ]
            if all(one.excess <= 1 for one in told) or not self.rounds:
                break
        return told

    def equal(self, number: int, found: Arrays) -> list[Mismatch]:
        """The differences of the outputs `found` for feeds `number` where all are roundings, else none."""
        wanted = self.outputs[number]
        made = [self._compare(name, found[name], wanted[name]) for name in wanted]
        return made if all(one.excess <= 1 and one.error <= ROUNDING for one in made) else []

    def _notable(self, one: Mismatch) -> bool:
        """Whether floats differ by more than roundings do of themselves."""
        return self.tolerance == FLOAT_ERROR and one.tensor not in self.quanta and ROUNDING < one.error <= FLOAT_ERROR

    def _compare(self, name: str, found: np.ndarray, wanted: np.ndarray) -> Mismatch:
        if found.dtype != wanted.dtype or found.shape != wanted.shape:
            what = f"{found.dtype} {list(found.shape)} where ONNX Runtime has {wanted.dtype} {list(wanted.shape)}"
            return Mismatch(name, np.inf, 0, 1.0, np.inf, what)
        if _whole(wanted.dtype):
            distance = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
            steps, allowed = int(distance.max(initial=0)), int(wanted.dtype.itemsize == 1 and wanted.dtype.kind != "b")
            differing = float(np.mean(distance > 0)) if distance.size else 0.0
            excess = 0.0 if steps <= allowed else np.inf
            return Mismatch(name, 0.0, steps, differing, excess, f"{steps} in {differing:.2%} of the integers")
        error, what = relative(found, wanted)
        if wanted.dtype.name in BYTES and error < np.inf:
            a, b = found.astype(np.float64), wanted.astype(np.float64)
            further = (np.abs(a - b) > step(wanted))[np.isfinite(b)].any()
            excess = np.inf if further else 0.0
            return Mismatch(name, error, 0, 0.0, excess, f"{what}, in steps of {wanted.dtype}")
        largest = float(np.abs(np.where(np.isfinite(wanted), wanted, 0).astype(np.float64)).max(initial=0))
        bound = max(self.tolerance, 1.01 * self.quanta.get(name, 0.0) / max(largest, 1e-30))
        return Mismatch(name, error, 0, 0.0, error / bound, what)

    def _allow(self, one: Mismatch, drift: float) -> Mismatch:
        amount = one.steps if one.steps else one.error
        if drift <= (MOST_DRIFT if not one.steps else np.inf) and amount <= 2 * drift:
            return replace(one, excess=1.0, drift=drift)
        what = f"{one.what}; ONNX Runtime's own optimiser changes {drift:.2g}"
        return replace(one, what=what, excess=max(one.excess, one.error / max(ROUNDING, 2 * drift)), drift=drift)

    @cached_property
    def rounds(self) -> bool:
        """Whether the model rounds to integers by scales that it finds itself: one rounding then moves all that comes after."""
        return any(node.op_type.startswith("DynamicQuantize") for node in self.model.proto.graph.node)

    def _drift(self, number: int, nudges: int = 1) -> dict[str, float]:
        """What changes of each output by ONNX Runtime's optimiser and by inputs that are a little off, in `nudges` ways; in all but
        the first, what the model holds in floats is off too, as sums and functions within it may be."""
        feeds, wanted = self.feeds[number], self.outputs[number]
        others = [Session(self.proto).run(feeds), Session(self.proto, optimise=False).run(_nudge(feeds))]
        for seed in range(2, nudges + 1):
            others.append(Session(_nudged(self.proto, seed), optimise=False).run(_nudge(feeds, seed)))
        if self.tolerance > FLOAT_ERROR and (wide := widened.outputs(self.proto, feeds)) is not None:
            others.append(wide)
        if (true := exact.outputs(self.proto, feeds, _types(self.proto))) is not None:
            others.append(true)
        return {name: max(_distance(other[name], wanted[name]) for other in others) for name in wanted}


def relative(found: np.ndarray, wanted: np.ndarray) -> tuple[float, str]:
    """The largest difference as a share of the largest finite value, infinite where NaN or infinities differ; and in words."""
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(wanted)
    if not np.array_equal(finite, np.isfinite(found)) or not np.array_equal(
        found[~finite], wanted[~finite], equal_nan=True
    ):
        return np.inf, "NaN or an infinity at another place"
    if not finite.any():
        return 0.0, "nothing"
    largest = float(np.abs(wanted[finite]).max())
    distance = float(np.abs(found[finite] - wanted[finite]).max())
    error = distance / largest if largest else distance
    return error, f"{error:.2g} of the largest value"


def _distance(found: np.ndarray, wanted: np.ndarray) -> float:
    if _whole(wanted.dtype):
        return float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max(initial=0))
    error, _ = relative(found, wanted)
    return error if np.isfinite(error) else 0.0


def _whole(dtype: np.dtype) -> bool:
    """Whether a type holds integers or truth values."""
    return dtype.kind in "biu" or dtype.name in PACKED


def _nudge(feeds: Arrays, seed: int = 1) -> Arrays:
    rng = np.random.default_rng(seed)
    made = {}
    for name, array in feeds.items():
        if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
            made[name] = array
            continue
        eps = 2.0**-7 if array.dtype.name == "bfloat16" else float(np.finfo(array.dtype).eps)
        least = max(NUDGE, eps)  # less is rounded away
        wide = array.astype(np.float64)
        made[name] = (wide * (1 + least * rng.choice([-1.0, 1.0], array.shape))).astype(array.dtype)
    return made


def _nudged(proto: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The model with other roundings within: its float32 scales, biases and weights are a little off."""
    rng, made = np.random.default_rng(seed), onnx.ModelProto()
    made.CopyFrom(proto)
    for tensor in made.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor)
            off = (array * (1 + NUDGE * rng.choice([-1.0, 1.0], array.shape))).astype(array.dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(off, tensor.name))
    return made


def _types(proto: onnx.ModelProto) -> set[int]:
    """Element types of inputs, outputs, weights and casts, bodies of functions included."""
    graph = proto.graph
    found = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    found.update(tensor.data_type for tensor in graph.initializer)
    nodes = [*graph.node, *(node for function in proto.functions for node in function.node)]
    return found | {a.i for node in nodes if node.op_type == "Cast" for a in node.attribute if a.name == "to"}


def _quanta(model: Lean) -> dict[str, float]:
    """Outputs that a DequantizeLinear makes, through operators that move values only: its largest scale."""
    proto = model.proto
    scales = {tensor.name: tensor for tensor in proto.graph.initializer}
    made = {name: node for node in proto.graph.node for name in node.output}
    found = {}
    for value in proto.graph.output:
        name, node = value.name, made.get(value.name)
        while node is not None and node.op_type in MOVES:
            node = made.get(node.input[0])
        if node is not None and node.op_type == "DequantizeLinear" and node.input[1] in scales:
            held = model.arrays.get(node.input[1])
            scale = onnx.numpy_helper.to_array(scales[node.input[1]]) if held is None else held
            found[name] = float(np.abs(scale.astype(np.float64)).max(initial=0))
    return found


MOVES = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Relu", "Clip", "MaxPool", "Slice")
