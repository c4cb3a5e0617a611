"""What a model wants to be fed: names, shapes and types of its inputs, which axis counts samples, the check against them."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from onnxc.ir.errors import BadData, Unsupported
from onnxc.runtime.containers import tensor_of
from onnxc.runtime.samples import sample_axes
from onnxc.runtime.values import Values, input_values, known_shapes, named

if TYPE_CHECKING:
    import onnx

Dim = int | str | None


class TensorSpec(NamedTuple):
    """Shape and type of one input. A dimension is an extent, a symbol, or None (unknown); shape None: unknown rank.

    values: what random ones are drawn from. sample: the axis that counts samples, None where there is none: the input is then
    fed whole.
    """

    shape: tuple[Dim, ...] | None
    dtype: np.dtype
    values: Values = Values()
    sample: int | None = 0

    @property
    def counts(self) -> bool:
        """Whether an axis counts samples, and any number of them."""
        if self.shape is None:
            return self.sample is not None
        return self.sample is not None and bool(self.shape) and not isinstance(self.shape[self.sample], int)

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} of unknown rank"
        return f"{self.dtype} [{', '.join('?' if dim is None else str(dim) for dim in self.shape)}]"


def input_specs(model: onnx.ModelProto, samples: str | None = None, *, values: bool = True) -> dict[str, TensorSpec]:
    """The inputs that must be fed, in the model's order; those with an initialiser have a default and are left out.

    samples: the symbol that counts samples, or "none"; found by itself where it is not said (see `runtime.samples`).
    values: whether to look for the values that random inputs may have, which takes a look at the whole graph.
    A sequence is an array whose first axis counts its tensors (see `runtime.containers`). Raises `Unsupported` for maps, nested
    sequences and inputs without a type.
    """
    import onnx

    defaults = {tensor.name for tensor in model.graph.initializer}
    shapes: dict[str, tuple[Dim, ...] | None] = {}
    several: dict[str, tuple[Dim, ...] | None] = {}
    dtypes: dict[str, np.dtype] = {}
    for value in model.graph.input:
        if value.name in defaults:
            continue
        held = tensor_of(value.type)
        if held is None or held[0].elem_type == onnx.TensorProto.UNDEFINED:
            found = "no type" if held is not None else str(value.type.WhichOneof("value")).removesuffix("_type")
            raise Unsupported(
                "this input cannot be fed", tensor=value.name, expected="a tensor, or a sequence of them", found=found,
                remedy="use --check shapes",
            )  # fmt: skip
        shapes[value.name] = _shape(held[0])
        dtypes[value.name] = onnx.helper.tensor_dtype_to_np_dtype(held[0].elem_type)
        if held[1]:
            several[value.name] = shapes.pop(value.name)
    axes = sample_axes(shapes, [_shape(value.type.tensor_type) for value in model.graph.output], samples)
    for name, shape in several.items():
        shapes[name], axes[name] = None if shape is None else (None, *shape), None
    told = any(dtype.kind in "iubO" for dtype in dtypes.values()) or any(map(named, shapes)) or _scaled(model, shapes)
    drawn = input_values(model.graph, known_shapes(model)) if values and told else {}
    return {n: TensorSpec(shapes[n], dtypes[n], drawn.get(n, Values()), axes[n]) for n in dtypes}


def _scaled(model: onnx.ModelProto, inputs: Container[str]) -> bool:
    """Whether an input says how much a Resize scales."""
    nodes = (n for n in model.graph.node if n.op_type in ("Resize", "Upsample"))
    return any(name in inputs for node in nodes for name in node.input[1:])


def _shape(tensor: onnx.TypeProto.Tensor) -> tuple[Dim, ...] | None:
    return tuple(_dim(dim) for dim in tensor.shape.dim) if tensor.HasField("shape") else None


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    kind = dim.WhichOneof("value")
    if kind == "dim_value":
        # Some exporters write an unknown extent as -1; 0 is what ONNX Runtime takes it for, no elements.
        return dim.dim_value if dim.dim_value >= 0 else None
    # "?" is what some exporters call every extent that they do not know
    return dim.dim_param if kind == "dim_param" and dim.dim_param not in ("", "?") else None


def check_array(
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    spec: TensorSpec,
    symbols: dict[str, int],
    skip: int | None = None,
) -> None:
    """Raise `BadData` where an array of `shape` and `dtype` does not fit the input `name`.

    `symbols` collects the extents met so far and catches two that disagree. `skip` leaves an axis, that of samples, out.
    """
    if dtype != spec.dtype and not (spec.dtype.kind == "O" and dtype.kind == "U"):
        raise BadData("wrong type", tensor=name, expected=spec.dtype, found=dtype, remedy="convert the array")
    if spec.shape is None:
        return
    if len(shape) != len(spec.shape):
        raise BadData("wrong number of axes", tensor=name, expected=spec, found=list(shape),
                      remedy=_missing_axis(shape, spec, skip))  # fmt: skip
    for axis, (extent, dim) in enumerate(zip(shape, spec.shape)):
        if axis == skip or dim is None:
            continue
        expected = symbols.setdefault(dim, extent) if isinstance(dim, str) else dim
        if extent != expected:
            what = "wrong extent" if isinstance(dim, int) else f"extent {dim} differs from another input's"
            raise BadData(what, tensor=name, axis=axis, expected=expected, found=extent, remedy=_turned(shape, spec))


def _matches(shape: tuple[int, ...], dims: tuple[Dim, ...], skip: int | None) -> bool:
    """Whether extents fit dimensions of a number, but for those of one axis."""
    pairs = enumerate(zip(shape, dims))
    return len(shape) == len(dims) and all(
        n == dim for axis, (n, dim) in pairs if axis != skip and isinstance(dim, int)
    )


def _missing_axis(shape: tuple[int, ...], spec: TensorSpec, skip: int | None) -> str | None:
    """How to add the axis that an array has too few."""
    dims = spec.shape or ()
    if len(shape) != len(dims) - 1:
        return None
    skip = spec.sample if skip is None else skip
    for axis, dim in enumerate(dims):
        # behind the axis of samples all stay where they are, ahead of it they move
        left = None if skip is None or axis == skip else skip - (axis < skip)
        if dim == 1 and axis != skip and _matches(shape, dims[:axis] + dims[axis + 1 :], left):
            return f"numpy.expand_dims(array, {axis}) adds the axis of extent 1"
    return "the first axis counts samples: add it with array[None]" if spec.sample == 0 else None


def _turned(shape: tuple[int, ...], spec: TensorSpec) -> str | None:
    """How to turn an array that has its channels last where they are second, or the other way round."""
    axes = range(len(shape))
    for order in ((0, len(shape) - 1, *axes[1:-1]), (0, *axes[2:], 1)) if len(shape) > 2 else ():
        if _matches(tuple(shape[axis] for axis in order), spec.shape or (), spec.sample):
            return f"array.transpose{order} has the model's order of axes"
    return None


def check_feeds(feeds: Mapping[str, np.ndarray], inputs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    """The part of `feeds` that `inputs` ask for; raises `BadData` if one is missing or does not fit."""
    symbols: dict[str, int] = {}
    chosen = {}
    for name, spec in inputs.items():
        if name not in feeds:
            raise BadData("no array for this input", tensor=name, expected=spec, found=listing(feeds))
        chosen[name] = np.asarray(feeds[name])
        check_array(name, chosen[name].shape, chosen[name].dtype, spec, symbols)
    return chosen


def listing(names: Mapping[str, object]) -> str:
    """Names for an error message."""
    return ", ".join(sorted(names)) or "nothing"
