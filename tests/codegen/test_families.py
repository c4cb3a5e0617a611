"""The contract of kernel families, and of the stages beside them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxc.codegen.kernels import FAMILIES
from onnxc.codegen.kernels.spec import FLOAT32, INT8, Encoding, Schedule
from onnxc.codegen.kernels.sums import Coded
from onnxc.codegen.lower import contracts
from onnxc.codegen.match.products import Match, Matches
from onnxc.codegen.prepare.matrices import Blocks, Kernel
from onnxc.codegen.target import TARGETS
from onnxc.ir.errors import VerificationError

from . import bulk

MACHINES = ("znver4", "x86-64-v3", "cortex-a72", "riscv64", "cortex-m4")
seen: Counter = Counter()


@st.composite
def pairs(draw, kind: str):
    """Two specs with weights of the same shape that differ in anything else."""
    spec = draw(bulk.specs())
    if kind in ("weights", "bits"):
        spec = replace(spec, oc=draw(st.integers(32, 70)) * spec.groups, h=spec.h + 9, w=spec.w + 9)
    elif kind == "tiles":
        spec = bulk.make(
            1, draw(st.integers(5, 30)), 9, draw(st.integers(16, 40)), draw(st.integers(16, 40)), weight=spec.weight
        )
    elif draw(st.booleans()):
        spec = bulk.make(spec.n, 9, 9, 1, 1, (3, 3), groups=draw(st.integers(2, 40)), weight=spec.weight)
    if kind == "codes":
        held = Encoding("codes", 3, length=2, centroids=6, books=2)
        spec = bulk.make(spec.n, 12, 12, 4, 6, (3, 3), groups=2, activation=FLOAT32, weight=held)
    elif kind == "narrow":
        blocks = Encoding("blocks", 4, "", draw(st.sampled_from([8, 16])))
        spec = bulk.make(1, 1, 9, 16, 40, (1, 1), pads=(0, 0, 0, 0), activation=FLOAT32, weight=blocks)
    elif kind == "int8":
        spec = replace(spec, activation=INT8, weight=INT8, epilogue=(("int_bias",), ("mul",)))
    elif kind != "bits":
        spec = replace(
            spec, activation=FLOAT32, pad_value=0, weight=FLOAT32 if kind in ("float", "tiles") else spec.weight
        )
    small = st.integers(1, 2)
    changes = draw(st.fixed_dictionaries({}, optional={
        "dilation": st.tuples(small, small), "stride": st.tuples(small, small), "h": st.integers(9, 14),
        "w": st.integers(9, 40), "pads": st.tuples(*[st.integers(0, 2)] * 4), "threads": st.just(2),
        "n": st.integers(1, 2), "epilogue": st.just((*spec.epilogue, ("relu",))),
    }))  # fmt: skip
    if kind == "narrow":
        changes = {"w": changes.get("w", 9), "threads": changes.get("threads", 1)}
    other = replace(spec, **changes)
    other = replace(other, x_shape=(other.n, other.h, other.w, other.c))
    return spec, replace(other, y_shape=(other.n, other.oh, other.ow, other.oc))


@pytest.mark.parametrize("kind", ["float", "tiles", "int8", "weights", "bits", "codes", "narrow"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data(), st.integers(0, 99), st.sampled_from(MACHINES))
def test_equal_keys_are_equal_packings(kind, data, seed, machine):
    pair = data.draw(pairs(kind))
    rng = np.random.default_rng(seed)
    one = pair[0]
    shape = (one.oc, one.c // one.groups, one.kh, one.kw)
    integers = Encoding("bits", 7, "signed") if one.weight.kind != "bits" else one.weight
    weights = bulk.integers(integers, shape, rng).astype("f" if one.weight == FLOAT32 else np.int8)
    if kind == "codes":
        codes = rng.integers(0, 6, (one.oc, 2, one.kh, one.kw), np.uint8)
        weights = Coded(codes, rng.normal(size=(2, 6, 2)).astype("f"))
    if kind == "narrow":
        block = one.weight.length
        levels, scale = rng.integers(0, 16, (40, 16), np.uint8), rng.normal(size=(40, 16 // block)).astype("f")
        weights = Kernel(Blocks(levels, scale, None, 1, block, 4))
    for family in FAMILIES:
        plans = [family.schedule(spec, TARGETS[machine]) for spec in pair]
        if not all(isinstance(plan, Schedule) for plan in plans):
            continue
        packed = [family.pack(spec, plan, weights) for spec, plan in zip(pair, plans, strict=True)]
        if family.pack_key(pair[0], plans[0]) == family.pack_key(pair[1], plans[1]):
            seen[family.name] += pair[0] != pair[1]
            assert packed[0].shape == packed[1].shape and packed[0].tobytes() == packed[1].tobytes(), family.name


def test_every_family_was_among_them():
    assert not seen or {family.name for family in FAMILIES} == {name for name, count in seen.items() if count}


def test_a_product_that_does_not_fit_is_told():
    spec = bulk.make(c=3, oc=4, k=(1, 1), pads=(0, 0, 0, 0), epilogue=(("bias",), ("gate", (("sigmoid",),))))
    weight, bias = np.ones((4, 3, 1, 1), "f"), np.ones(4, "f")

    def matches(**changes) -> Matches:
        match = replace(Match(spec, "x", weight, None, True, [bias]), **changes)
        return Matches({"y": match}, {"c"}, {"c": "y"}, outputs={"y"})

    assert contracts.check_matches(matches())
    for changes, reason in (
        ({"weight": weight[:3]}, "weight does not fit, expected .4, 3, 1, 1., found .3, 3"),
        ({"operands": []}, "operands of an epilogue, expected 1"),
        ({"spec": replace(spec, h=6)}, "what a kernel reads"),
    ):
        with pytest.raises(VerificationError, match=reason):
            contracts.check_matches(matches(**changes))
    broken = matches()
    broken.absorbed.add("y")
    with pytest.raises(VerificationError, match="absorbed by another"):
        contracts.check_matches(broken)
