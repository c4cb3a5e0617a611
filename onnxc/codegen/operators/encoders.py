"""Encoders of numbers (ai.onnx.ml): LabelEncoder, OneHotEncoder. Texts are no tensors of a library."""

from __future__ import annotations

import numpy as np
import onnx

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.loops import loops, when
from onnxc.codegen.operators.node import Node, Refused, dtype_of, shape_of
from onnxc.codegen.operators.table import row

ML = "ai.onnx.ml"
TEXT = "use labels that are numbers"
NUMBERS = {"int64s": np.int64, "floats": np.float32}


def _list(n: Node, name: str) -> np.ndarray:
    """The keys or the values of an encoder, from whichever attribute has them."""
    if n.attribute(f"{name}_strings"):
        raise Refused(f"attribute {name}_strings: labels that are text are not known", TEXT)
    found = n.attribute(f"{name}_tensor")
    made = [] if found is None else [onnx.numpy_helper.to_array(found)]
    made += [np.asarray(given, kind) for end, kind in NUMBERS.items() if (given := n.attribute(f"{name}_{end}"))]
    if len(made) != 1 or made[0].dtype.kind not in "fi":
        raise Refused(
            f"its {name} are given {len(made)} times, or as text" if made else f"it has no {name} that are numbers",
            TEXT,
        )
    return made[0]


@row("LabelEncoder", domain=ML, since=2)
def label_encoder(n: Node, x):
    """values[i] where x is keys[i], NaN being NaN; the default elsewhere."""
    keys, values = _list(n, "keys"), _list(n, "values")
    if len(keys) != len(values):
        raise Refused(f"it has {len(keys)} keys and {len(values)} values")
    n.attribute("default_string")
    given, plain = n.attribute("default_tensor"), {"i": ("default_int64", -1), "f": ("default_float", -0.0)}
    defaults = {kind: n.attribute(*own) for kind, own in plain.items()}
    default = onnx.numpy_helper.to_array(given).reshape(-1)[0] if given is not None else defaults[values.dtype.kind]
    kind, made_as, x_ = dtype_of(x), values.dtype.name, tvm.tirx
    count = int(np.prod(shape_of(x)))

    def body(T, t, key, value, made):
        with T.serial(0, count) as i:
            T.buffer_store(made, x_.const(default, made_as), (i,))
            with T.serial(0, len(keys)) as k:
                same = t[i] == key[k]
                if kind.startswith("float"):
                    same = x_.any(same, x_.all(x_.isnan(t[i]), x_.isnan(key[k])))
                with when(T, same):
                    T.buffer_store(made, value[k], (i,))

    tables = [n.weight(np.asarray(keys, kind)[::-1].copy()), n.weight(values[::-1].copy())]  # of equal keys the first
    return n.reshape(loops(n, [n.reshape(x, (count,)), *tables], [((count,), made_as)], body), shape_of(x))


@row("OneHotEncoder", domain=ML)
def one_hot_encoder(n: Node, x):
    """1 at the place of the category that x is, along a new last axis."""
    if n.attribute("cats_strings"):
        raise Refused("attribute cats_strings: categories that are text are not known", TEXT)
    n.only("zeros", 1)
    categories = n.weight(np.asarray(n.attribute("cats_int64s"), np.int64))
    whole = n.cast(x, "int64")

    def compute(t, known):
        def element(*index):
            one, zero = (tvm.tirx.const(v, "float32") for v in (1, 0))
            return tvm.tirx.Select(t(*index[:-1]) == known(index[-1]), one, zero)

        return tvm.te.compute((*t.shape, known.shape[0]), element, name="one_hot")

    return n.te(compute, whole, categories)
