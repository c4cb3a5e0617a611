"""Sums of two tensors on microcontrollers: which product takes them in, and that integers give the sums of floats."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxc.codegen import compile_model
from onnxc.codegen.micro.fixed import residual_ends
from onnxc.runtime.emulate import open_library

from .test_int8 import Layer
from .test_targets import ready

BOTH = ({"signed": True, "x": (1, 8, 7, 5)}, {"x": (1, 6, 4, 6)})
MAIN = {"oc": 12, "strides": (2, 2), "seed": 3}


def block(name: str, main: Layer, short: Layer, scale: float) -> tuple[str, dict, dict]:
    """Q(D(Q(Conv 1x1)) + D(Q(Conv 3x3))) of one input, as text, with what is stored and both layers' arrays."""
    a, b = main.arrays(), short.arrays()
    b |= {key: a[key] for key in ("xs", "xz")} | {"bs": a["xs"] * b["ws"]}
    stored = {f"{name}{side}_{key}": value for side, held in (("a", a), ("b", b)) for key, value in held.items()}
    stored[f"{name}_s"] = np.float32(scale).reshape(())
    text = "".join(
        f"""{name}{side}_w_ = DequantizeLinear<axis=0>({name}{side}_w, {name}{side}_ws)
        {name}{side}_b_ = DequantizeLinear<axis=0>({name}{side}_b, {name}{side}_bs)
        {name}{side}_c = Conv<pads=[{", ".join(map(str, layer.pads))}], strides=[2, 2]>({name}_x_, {name}{side}_w_, {name}{side}_b_)
        {name}{side}_q = QuantizeLinear({name}{side}_c, {name}{side}_ys, {name}{side}_yz)
        {name}{side}_y = DequantizeLinear({name}{side}_q, {name}{side}_ys, {name}{side}_yz)
        """
        for side, layer in (("b", short), ("a", main))
    )
    text = f"""{name}_x_ = DequantizeLinear({name}_x, {name}a_xs, {name}a_xz)
        {text} {name}_sum = Add({name}b_y, {name}a_y)
        {name}_y = QuantizeLinear({name}_sum, {name}_s, {name}a_yz)"""
    return text, stored, {"a": a, "b": b}


@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m3", "cortex-m55"])
def test_the_longer_of_two_products_takes_the_sum(target, tmp_path):
    """A shortcut of 1 x 1 with strides and odd extents ends in a tensor of its own; integers equal the definition's."""
    ready(target)
    parts, stored, wanted, feeds, inputs, outputs = [], {}, {}, {}, [], []
    for name, given in zip("ij", BOTH):
        main = Layer(**given, **MAIN)
        short = Layer(**given, **MAIN | {"seed": 4}, kernel=(1, 1), pads=(0, 0, 0, 0))
        text, held, arrays = block(name, main, short, 0.03)
        parts.append(text)
        stored |= held
        kind = arrays["a"]["xz"].dtype
        qx = np.random.default_rng(5).integers(*_limits(kind), main.x, endpoint=True).astype(kind)
        y = [layer.integers(arrays[side], qx) for side, layer in (("a", main), ("b", short))]
        zero, scale = int(arrays["a"]["yz"]), held[f"{name}_s"]
        sums = [
            (v - int(arrays[k]["yz"])).astype("f") * (arrays[k]["ys"] / scale) for v, k in zip(y, "ab", strict=True)
        ]
        wanted[f"{name}_y"] = np.clip(np.rint(sums[0] + sums[1]) + zero, *_limits(kind)).astype(int)
        feeds[f"{name}_x"] = qx
        inputs.append(f"{kind}[{','.join(map(str, main.x))}] {name}_x")
        outputs.append(f"{kind}[a,b,c,d] {name}_y")
    graph = f"g ({', '.join(inputs)}) => ({', '.join(outputs)}) {{ {' '.join(parts)} }}"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {graph}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), key) for key, v in stored.items())
    report = compile_model(model, tmp_path, name="net", target=target)
    taken = {row["spec"].split("kernel ")[1][:3]: "int_residual" in row["spec"] for row in report.kernels}
    assert report.fallbacks == () and taken == {"3x3": True, "1x1": False}
    found = open_library(tmp_path).run(feeds)
    for name, value in wanted.items():
        assert value.std() > 20, name
        assert np.array_equal(found[name].astype(int), value), name


def _limits(kind) -> tuple[int, int]:
    return np.iinfo(kind).min, np.iinfo(kind).max


@pytest.mark.parametrize("floats", [True, False])
def test_integers_give_the_sum_of_floats_for_every_pair(floats):
    rng = np.random.default_rng(8)
    byte = np.arange(-128, 128)
    for _ in range(6):
        a, b = (float(v) for v in rng.uniform(0.1, 2.5, 2))
        inner, other, zero = (int(v) for v in rng.integers(-128, 128, 3))
        ends = residual_ends((-128, 127, inner, a), (other, b, 0), (zero, -128, 127, 0))
        u, v, start = ends.whole(floats, 20)
        found = np.clip((byte[:, None] * u + byte * v + start) >> 20, -128, 127)
        own, r = byte[:, None] - inner, byte - other
        exact = own * a + r * b + zero
        wanted = own.astype("f") * np.float32(a) + r.astype("f") * np.float32(b)
        wanted = np.clip(np.rint(wanted) + zero, -128, 127)
        apart = found != wanted
        assert not apart.any() if floats else (np.abs(exact[apart] % 1 - 0.5) < 2.0**-11).all()


def test_halves_have_no_integers_that_give_them():
    """Floats round halves to even, up and down by turns."""
    assert residual_ends((-128, 127, 3, 0.5), (0, 0.5, 0), (1, -128, 127, 0)).whole(True, 20) is None
    assert residual_ends((-128, 127, 3, 5.5), (0, 0.3, 0), (1, -128, 127, 0)).whole(True, 19) is None


def test_a_clip_within_has_no_integers_that_give_it():
    assert residual_ends((-100, 127, 3, 0.7), (0, 0.6, 0), (1, -128, 127, 0)).whole(True, 20) is None
