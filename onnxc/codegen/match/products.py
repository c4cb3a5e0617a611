"""Finds convolutions and matrix products in the imported graph, and the operators their epilogues can take in.

    conv2d(x, w) * s + b        ->   weights w * s, bias b
    relu(conv2d(x, w) + r)      ->   epilogue residual, relu

A following operator is taken in while its operand has no other reader and is no output. Algebra of an affine chain:
(a s + t) s' + t' = a (s s') + (t s' + t'), so scales go into the weights and shifts into one bias; after a residual
or an activation a scale stays a step of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxc.codegen.kernels.spec import KernelSpec
from onnxc.codegen.kernels.weight import MOST_COPIES, copies
from onnxc.codegen.match import fewbit
from onnxc.codegen.match.constants import Constants
from onnxc.codegen.match.held import held
from onnxc.codegen.prepare.matrices import Matrix
from onnxc.codegen.prepare.stored import Vectors
from onnxc.codegen.tvm_api import tvm_modules


@dataclass(frozen=True)
class Depth:
    """How a convolution over three axes is one over the last two: for each of its `out` planes the `taps` planes of the input
    (n, size, h, w, c) that it reads lie side by side, as channels (groups, taps, c / groups)."""

    n: int
    size: int
    out: int
    taps: int
    stride: int
    dilation: int
    before: int

    @property
    def plain(self) -> bool:
        """Whether each plane reads the one of the same number alone."""
        return (self.taps, self.stride, self.before, self.out) == (1, 1, 0, self.size)


@dataclass
class Match:
    """One kernel: its operands in the imported graph and what its epilogue computes.

    `weight` is an array (oc, c/groups, kh, kw), or an expression when it is computed at run time. `operands` follow
    the epilogue's steps: arrays (oc,) or expressions. `spatial` kernels read and write (n, h, w, c) tensors. `few_bit` is
    the same kernel on few-bit integers, where its operands are such; `weight_only` where its weights alone are. `depth` says how
    planes are gathered ahead of it, if they are.
    """

    spec: KernelSpec
    source: Any
    weight: Any
    weight_var: Any
    spatial: bool
    operands: list = field(default_factory=list)
    scale: np.ndarray | None = None
    few_bit: fewbit.FewBit | None = None
    weight_only: Match | None = None
    depth: Depth | None = None

    @property
    def scale_key(self) -> bytes | None:
        """What tells two scaled packings of the same weights apart."""
        return None if self.scale is None else self.scale.tobytes()


@dataclass
class Matches:
    """`kernels`: last variable of a chain -> Match. `absorbed`: the variables before it, which nobody else reads.
    `starts`: first variable of a chain -> last. `quantising`: variables of quantisers. `readers`: variable -> bindings.
    """

    kernels: dict = field(default_factory=dict)
    absorbed: set = field(default_factory=set)
    starts: dict = field(default_factory=dict)
    quantising: set = field(default_factory=set)
    readers: dict = field(default_factory=dict)
    outputs: set = field(default_factory=set)


def rank(expr) -> int:
    """Number of axes of a tensor expression; -1 for what is none."""
    return int(expr.ty.ndim) if hasattr(expr.ty, "dtype") else -1


def shape_of(expr) -> tuple[int, ...]:
    """Static shape of a tensor expression."""
    return tuple(int(extent) for extent in expr.ty.shape.values)


def find(bindings: list, body, constants: Constants, begin: Callable | None = None, deepest: bool = False) -> Matches:
    """All kernels of a straight-line graph, each with as long an epilogue as it can take.

    `begin(found, var, made, constants)` may answer another Fusion for a product at `var`; `made` holds the bindings' values. What
    two products could take in, as a sum of both, goes to the first of the graph, or if `deepest` to that of the longest sums,
    to whose cost it adds the smaller part.
    """
    relax = tvm_modules().relax
    readers: dict = {}
    uses: Counter = Counter()
    outputs: set = set()
    for binding in bindings:
        for arg in _operands(binding.value):
            uses[arg] += 1
            readers.setdefault(arg, []).append(binding)
    for part in body.fields if isinstance(body, relax.Tuple) else [body]:
        uses[part] += 2  # an output is never taken in
        outputs.add(part)
    quantisers = fewbit.Quantisers(constants, uses)
    for binding in bindings:
        quantisers.note(binding)
    matches = Matches(quantising=quantisers.inner, readers=readers, outputs=outputs)
    done: set = set(quantisers.inner)  # no epilogue takes in a part of a quantiser
    made = {binding.var: binding.value for binding in bindings}
    calls = [b for b in bindings if b.var not in constants and isinstance(b.value, relax.Call)]
    products = [(b.var, found) for b in calls if (found := _start(b, constants)) is not None]
    if deepest:
        products.sort(key=lambda product: _window(product[1].spec), reverse=True)
    for var, found in products:
        other = begin(found, var, made, constants) if begin and found.depth is None else None
        fusion = Fusion(found, var, constants) if other is None else other
        while taken := _extend(fusion, readers, uses, done):
            matches.absorbed.update(taken)
            done.add(fusion.var)
        finished = fusion.finish(quantisers)  # may give back the last operator
        matches.starts[var] = fusion.var
        matches.kernels[fusion.var] = finished
        matches.absorbed.discard(fusion.var)
    return matches


def _window(spec: KernelSpec) -> int:
    """Products of an output; depthwise layers, which add no tensors on small processors, count as having none."""
    return 0 if spec.groups > 1 else spec.kh * spec.kw * spec.c


def _extend(fusion: Fusion, readers: dict, uses: Counter, done: set) -> list:
    """Takes one more operator, or one gate, into the chain; the variables that vanish by it."""
    end, next_ones = fusion.var, readers.get(fusion.var, [])
    if any(binding.var in done for binding in next_ones):
        return []
    if uses[end] == 1 and fusion.take(next_ones[0]):
        return [end]
    if uses[end] == 2 and len(next_ones) == 2:
        branch = fusion.take_gate(next_ones, readers, uses)
        return [end, *branch] if branch else []
    return []


def _operands(value) -> list:
    relax = tvm_modules().relax
    if isinstance(value, relax.Var):
        return [value]
    if isinstance(value, relax.Tuple):
        return [part for field_ in value.fields for part in _operands(field_)]
    if isinstance(value, relax.TupleGetItem):
        return [value.tuple_value]
    return [part for arg in value.args for part in _operands(arg)] if isinstance(value, relax.Call) else []


def _start(binding, constants: Constants) -> Match | None:
    name = getattr(binding.value.op, "name", "")
    if rank(binding.var) < 0 or str(binding.var.ty.dtype) != "float32":
        return None
    if name in CONVOLUTIONS:
        return _conv(binding, constants)
    if name == "relax.matmul":
        return _matmul(binding, constants)
    return None


CONVOLUTIONS = {"relax.nn.conv1d": "NCW OIW", "relax.nn.conv2d": "NCHW OIHW", "relax.nn.conv3d": "NCDHW OIDHW"}


def _conv(binding, constants: Constants) -> Match | None:
    """A convolution over one axis has rows of height 1, one over three planes as channels."""
    call = binding.value
    x, w = call.args
    a = call.attrs
    if w not in constants or f"{a.data_layout} {a.kernel_layout}" != CONVOLUTIONS[call.op.name]:
        return None
    (n, c, *sizes), (oc, _, *kernel), (_, _, *out) = shape_of(x), shape_of(w), shape_of(binding.var)
    strides, dilation = ([int(v) for v in part] for part in (a.strides, a.dilation))
    pads, rank, groups, weight, depth = [int(p) for p in a.padding], len(sizes), int(a.groups), constants.value(w), None
    x_shape = (n, *sizes, c)
    if rank == 3:
        depth = Depth(n, sizes[0], out[0], kernel[0], strides[0], dilation[0], pads[0])
        if not depth.plain:
            x_shape = (n, out[0], *sizes[1:], depth.taps * c)
        weight = weight.swapaxes(1, 2).reshape(oc, -1, *kernel[1:])
        n, c = n * out[0], c * kernel[0]
    elif rank == 1:
        weight = weight[:, :, None]
    low, high = (([0] * (2 - rank) + part)[-2:] for part in (pads[:rank], pads[rank:]))
    sizes, kernel = (([1] * (2 - rank) + part)[-2:] for part in (sizes, kernel))
    strides, dilation = (([1] * (2 - rank) + part)[-2:] for part in (strides, dilation))
    spec = KernelSpec(
        n=n, h=sizes[0], w=sizes[1], c=c, oc=oc, kh=kernel[0], kw=kernel[1], stride=_pair(strides), pads=(*_pair(low), *_pair(high)),
        dilation=_pair(dilation), groups=groups, x_shape=x_shape, y_shape=(shape_of(x)[0], *out, oc),
    )  # fmt: skip
    if depth is not None and (depth.plain or (groups > 1 and spec.oc // groups == 1 and depth.taps > 1)):
        return None if not depth.plain else Match(spec, x, weight, _root(w, constants), spatial=True)
    return Match(spec, x, weight, _root(w, constants), spatial=True, depth=depth)


def _pair(values) -> tuple[int, int]:
    return int(values[0]), int(values[1])


def _root(var, constants: Constants):
    """The parameter that a constant expression starts from; its name leads to the node in the model."""
    relax = tvm_modules().relax
    while var in constants.calls:
        call = constants.calls[var]
        var = call if isinstance(call, relax.Var) else call.args[0]
    return var


def _matmul(binding, constants: Constants) -> Match | None:
    x, w = binding.value.args
    if (x in constants and w in constants) or rank(x) < 2 or rank(w) < 2:
        return None
    xs, ws, ys = shape_of(x), shape_of(w), shape_of(binding.var)
    k, columns = ws[-2:]
    if w in constants and all(extent == 1 for extent in ws[:-2]):
        rows = int(np.prod(xs[:-1]))
        spec = _product_spec(1, rows, k, columns, xs, ys)
        weight = constants.value(w).reshape(k, columns)
        weight = weight.kernel() if isinstance(weight, Vectors | Matrix) else weight.T[:, :, None, None]
        return Match(spec, x, weight, _root(w, constants), spatial=False)
    if xs[:-2] != ws[:-2]:
        return None
    spec = _product_spec(int(np.prod(xs[:-2])), xs[-2], k, columns, xs, ys, w_shape=ws)
    return Match(spec, x, w, None, spatial=False)


def _product_spec(n: int, rows: int, k: int, columns: int, xs: tuple, ys: tuple, w_shape=None) -> KernelSpec:
    return KernelSpec(
        n=n, h=1, w=rows, c=k, oc=columns, kh=1, kw=1, stride=(1, 1), pads=(0, 0, 0, 0), dilation=(1, 1), groups=1,
        x_shape=xs, y_shape=ys, w_shape=w_shape,
    )  # fmt: skip


class Fusion:
    """A kernel that takes in the operators after it, one at a time."""

    def __init__(self, found: Match, var, constants: Constants):
        self.found, self.var, self.constants = found, var, constants
        self.absorbed = None
        self.affine = True
        self.scale: np.ndarray | None = None
        self.shift: np.ndarray | None = None
        self.steps: list[tuple] = []
        self.copies = 1
        self.axis = 1 if found.spatial else rank(var) - 1

    def take(self, binding) -> bool:
        """Whether the operator of `binding`, the only reader of the chain's end, could be taken in."""
        relax = tvm_modules().relax
        call = binding.value
        if not isinstance(call, relax.Call) or shape_of_or_none(binding.var) != shape_of(self.var):
            return False
        if str(binding.var.ty.dtype) != "float32" or not self._step(call, getattr(call.op, "name", "")):
            return False
        self.absorbed, self.var = self.var, binding.var
        return True

    def _step(self, call, name: str) -> bool:
        match name:
            case "relax.add" | "relax.multiply" | "relax.subtract" | "relax.divide":
                return self._arithmetic(call, name)
            case "relax.nn.relu":
                return self._activation(("relu",))
            case "relax.clip":
                return self._activation(("clip", *(float(_number(arg)) for arg in call.args[1:3])))
            case "relax.sigmoid":
                return self._activation(("sigmoid",))
            case "relax.nn.leakyrelu":
                return self._activation(("leaky_relu", float(call.attrs.alpha)))
            case "relax.nn.prelu":
                if call.args[1] not in self.constants or int(call.attrs.axis) % rank(self.var) != self.axis:
                    return False
                slope = self.constants.value(call.args[1]).reshape(-1)
                return self._activation(("prelu",), np.broadcast_to(slope, (self.found.spec.oc,)))
        return False

    def take_gate(self, pair: list, readers: dict, uses: Counter) -> list:
        """Takes v * f(v), f a chain of scalar steps (swish, hard swish); the variables inside f, or nothing.

        `pair` are the two readers of the chain's end: the product, and the first operator of f.
        """
        product, start = pair if _reads_both(pair[0], self.var) else reversed(pair)
        steps, inside, here, source = [], [], start, self.var
        while not here.var.same_as(product.var):
            step = self._scalar_step(here.value, source)
            if step is None or uses[here.var] != 1:
                return []
            steps.append(step)
            inside.append(here.var)
            source, here = here.var, readers[here.var][0]
        args = getattr(product.value, "args", ())
        if not inside or not _is_call(product.value, "relax.multiply") or not any(a.same_as(source) for a in args):
            return []
        if not self._activation(("gate", tuple(steps))):
            return []
        self.var = product.var
        return inside

    def _scalar_step(self, call, source) -> tuple | None:
        """An operator on `source` that needs scalars alone, as a step of a gate."""
        name = getattr(getattr(call, "op", None), "name", "")
        if name == "relax.sigmoid":
            return ("sigmoid",)
        if name == "relax.clip":
            return ("clip", *(_number(arg) for arg in call.args[1:3]))
        if name not in ("relax.add", "relax.multiply", "relax.divide"):
            return None
        other = call.args[1] if call.args[0].same_as(source) else call.args[0]
        if other not in self.constants or (name == "relax.divide" and not call.args[0].same_as(source)):
            return None
        value = self.constants.value(other)
        if value.size != 1:
            return None
        scalar = float(value.reshape(-1)[0])
        return (
            ("add_scalar", scalar)
            if name == "relax.add"
            else ("mul_scalar", 1 / scalar if name == "relax.divide" else scalar)
        )

    def _activation(self, step: tuple, operand: np.ndarray | None = None) -> bool:
        if self.copies * copies(step) > MOST_COPIES:
            return False
        self.copies *= copies(step)
        self.affine = False
        self.steps.append(step)
        if operand is not None:
            self.found.operands.append(np.ascontiguousarray(operand))
        return True

    def _arithmetic(self, call, name: str) -> bool:
        first = call.args[0].same_as(self.var)
        other = call.args[1] if first else call.args[0]
        if other.same_as(self.var) or (name in ("relax.subtract", "relax.divide") and not first):
            return False
        if other in self.constants:
            vector = self._channel_vector(self.constants.value(other))
            if vector is None:
                return False
            if name == "relax.subtract":
                name, vector = "relax.add", -vector
            elif name == "relax.divide":
                if not vector.all():
                    return False
                name, vector = "relax.multiply", 1 / vector
            self._channelwise(name, vector)
            return True
        residual_taken = ("residual",) in self.steps
        if name != "relax.add" or residual_taken or shape_of_or_none(other) != shape_of(self.var):
            return False
        self.affine = False
        self.steps.append(("residual",))
        self.found.operands.append(other)
        return True

    def _channel_vector(self, array: np.ndarray) -> np.ndarray | None:
        """A constant that has one value per output channel, or one in all, as (oc,)."""
        dims = rank(self.var)
        if array.ndim > dims:
            return None
        shape = (1,) * (dims - array.ndim) + array.shape
        if any(extent != 1 for axis, extent in enumerate(shape) if axis != self.axis):
            return None
        return np.broadcast_to(array.reshape(-1), (self.found.spec.oc,)).astype(np.float64)

    def _channelwise(self, name: str, vector: np.ndarray) -> None:
        if self.affine and (self.found.spec.weight_constant or name == "relax.add"):
            if name == "relax.multiply":
                self.scale = vector if self.scale is None else self.scale * vector
                self.shift = None if self.shift is None else self.shift * vector
            else:
                self.shift = vector if self.shift is None else self.shift + vector
            return
        self.affine = False
        self.steps.append(("mul",) if name == "relax.multiply" else ("add",))
        self.found.operands.append(vector.astype(np.float32))

    def finish(self, quantisers: fewbit.Quantisers) -> Match:
        """The kernel with its whole epilogue, and its few-bit form if it has one."""
        if self.shift is not None:
            self.steps.insert(0, ("bias",))
            self.found.operands.insert(0, self.shift.astype(np.float32))
        self.found.scale = None if self.scale is None else self.scale.astype(np.float32)
        found = self.found
        found.spec = replace(found.spec, epilogue=tuple(self.steps))
        source = quantisers.known.get(found.source)
        weights = held(found.weight, found.spec) if found.spec.weight_constant else None
        if weights is not None:
            spec, operands = replace(found.spec, weight=weights[0]), found.operands
            if found.scale is not None:
                spec, operands = replace(spec, epilogue=(("mul",), *spec.epilogue)), [found.scale, *operands]
            found.weight_only = replace(found, spec=spec, weight=weights[1], operands=operands, scale=None)
            return found
        if source is not None and source.pool is not None and not found.spatial:
            source = replace(source, source=found.source, pool=None)  # packed words are pooled in rows and columns
        if source is not None and found.spec.weight_constant and found.depth is None:
            found.few_bit = fewbit.few_bit_form(found.spec, source, found.weight, found.scale, found.operands)
        if found.spec.weight_constant:
            few = fewbit.few_weights(found.spec, found.weight, found.scale, found.operands)
            if few is not None:
                spec, integers, operands = few
                found.weight_only = replace(found, spec=spec, weight=integers, operands=operands, scale=None)
        return found


def _is_call(value, name: str) -> bool:
    return getattr(getattr(value, "op", None), "name", None) == name


def _reads_both(binding, var) -> bool:
    """Whether `binding` is a product of `var` with something else."""
    args = getattr(binding.value, "args", ())
    return _is_call(binding.value, "relax.multiply") and any(arg.same_as(var) for arg in args)


def shape_of_or_none(expr) -> tuple[int, ...] | None:
    """Static shape, or None for what has none."""
    return shape_of(expr) if rank(expr) >= 0 else None


def _number(arg) -> float:
    value = arg.value if hasattr(arg, "value") else arg
    return float(value.value if hasattr(value, "value") else value)
