"""Numbers of few bits: codes and roundings against ml_dtypes and ONNX's own, every code and many floats."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from onnxc.runtime.elements import PACKED, dtype_of, packed, stored, unpacked

from .programs import Programs

FLOATS = {
    "bfloat16": TensorProto.BFLOAT16, "float8_e4m3fn": TensorProto.FLOAT8E4M3FN, "float8_e4m3fnuz": TensorProto.FLOAT8E4M3FNUZ,
    "float8_e5m2": TensorProto.FLOAT8E5M2, "float8_e5m2fnuz": TensorProto.FLOAT8E5M2FNUZ,
    "float4_e2m1fn": TensorProto.FLOAT4E2M1,
}  # fmt: skip
INTEGERS = {"int4": TensorProto.INT4, "uint4": TensorProto.UINT4, "int2": TensorProto.INT2, "uint2": TensorProto.UINT2}
POWERS = {"float8_e8m0fnu": TensorProto.FLOAT8E8M0}


def cast(source: int, to: int, shape, **attributes) -> onnx.ModelProto:
    """y = Cast(x)."""
    node = helper.make_node("Cast", ["x"], ["y"], to=to, **attributes)
    x, y = (helper.make_tensor_value_info(n, kind, shape) for n, kind in (("x", source), ("y", to)))
    return helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 25)])


def numbers(rng, dtype: str) -> np.ndarray:
    """Floats of every size near the range of a type, with its own numbers, the ties between them, and special values."""
    every = np.arange(256, dtype=np.uint8).view(getattr(ml_dtypes, dtype)) if dtype != "bfloat16" else np.zeros(1)
    if dtype == "float4_e2m1fn":
        every = every[:16]
    own = np.sort(every.astype(np.float64)[np.isfinite(every.astype(np.float64))])
    ties = (own[1:] + own[:-1]) / 2
    near = [np.nextafter(np.float32(ties), np.float32(way)) for way in (-np.inf, np.inf)]
    drawn = rng.standard_normal(600) * np.exp2(rng.integers(-40, 40, 600).astype(np.float64))
    bits = rng.integers(0, 1 << 32, 400, dtype=np.uint32).view(np.float32)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4028235e38, -3.4028235e38]
    with np.errstate(over="ignore", invalid="ignore"):
        return np.concatenate([own, ties, *near, drawn, bits, special]).astype(np.float32)


def same(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where two arrays hold the same number: NaN is NaN, and zero has a sign."""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    return (np.isnan(a) & np.isnan(b)) | ((a == b) & (np.signbit(a) == np.signbit(b)))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_floats_are_rounded_as_onnx_says(tmp_path):
    rng, programs, cases = np.random.default_rng(3), Programs(tmp_path), {}
    for dtype, kind in FLOATS.items():
        x = numbers(rng, dtype)
        for saturate in (1, 0):
            for wide in ("float32", "float64"):
                model = cast(helper.np_dtype_to_tensor_dtype(np.dtype(wide)), kind, x.shape, saturate=saturate)
                name = f"{wide} to {dtype}, saturate {saturate}"
                cases[name] = model, x.astype(wide)
    kinds = (TensorProto.DOUBLE, TensorProto.FLOAT8E4M3FN)
    cases["once"] = cast(*kinds, (2,)), np.array([400, 400 * (1 + 2.0**-40)])  # a tie, and what float32 takes for one
    for name, (model, _) in cases.items():
        assert programs.add(name, model) is None
    programs.build()
    for name, (model, x) in cases.items():
        wanted = ReferenceEvaluator(model).run(None, {"x": x})[0] if name != "once" else np.array([384.0, 416.0])
        found = programs.run(name, {"x": x})["y"]
        bad = ~same(found, wanted)
        assert not bad.any(), (name, x[bad][:5], found[bad][:5], wanted[bad][:5])


def test_every_code_is_read_and_written(tmp_path):
    programs, cases = Programs(tmp_path), {}
    for dtype, kind in (FLOATS | INTEGERS | POWERS).items():
        if dtype == "bfloat16":
            x = (np.arange(512, dtype=np.uint32) * 129).astype(np.uint16).view(ml_dtypes.bfloat16)
        elif dtype in PACKED:
            count = 1 << PACKED[dtype]
            codes = np.arange(count, dtype=np.uint8)
            x = (
                unpacked(packed(codes.view(ml_dtypes.float4_e2m1fn)), (count,), dtype_of(dtype))
                if "f" in dtype
                else codes
            )
            x = x.astype(dtype_of(dtype))[: count - 1].reshape(3, -1)  # no whole number of bytes
        else:
            x = np.arange(256, dtype=np.uint8).view(dtype_of(dtype))
        for way, model in (
            ("out", cast(kind, TensorProto.FLOAT, x.shape)),
            ("through", cast(kind, kind, x.shape, saturate=0)),
        ):
            cases[f"{dtype} {way}"] = model, x
            assert programs.add(f"{dtype} {way}", model) is None
    programs.build()
    for name, (_, x) in cases.items():
        found = programs.run(name, {"x": x})["y"]
        assert same(found, x).all(), (name, found, x)


@pytest.mark.parametrize("dtype", ["int4", "uint2", "float4_e2m1fn"])
def test_packed_bytes_are_those_of_onnx(dtype):
    x = (
        np.arange(-3, 4).astype(dtype_of(dtype))
        if dtype != "uint2"
        else np.arange(7).astype(np.uint8).astype(dtype_of(dtype))
    )
    raw = onnx.numpy_helper.from_array(x).raw_data
    assert packed(x).tobytes() == raw
    assert stored(x.shape, dtype) == ((len(raw),), "uint8")
    assert same(unpacked(packed(x), x.shape, x.dtype), x).all()
