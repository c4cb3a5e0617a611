"""Few-bit kernels on every machine: the integers of NumPy, in emulators."""

from __future__ import annotations

import pytest
from onnxc.codegen.kernels.spec import BINARY, Encoding
from onnxc.codegen.target import TARGETS

from . import bulk, cross
from .test_targets import ready

MACHINES = ("x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64", "armv7", "riscv64", "riscv64-v")


def bits(count: int, levels: str) -> Encoding:
    return Encoding("bits", count, levels)


SPECS = [
    bulk.make(h=7, w=9, c=70, oc=33, activation=BINARY, weight=BINARY, pad_value=0),
    bulk.make(h=4, w=5, c=256, oc=24, activation=BINARY, weight=BINARY, pad_value=1),
    bulk.make(h=5, w=8, c=33, oc=7, k=(2, 3), stride=(2, 1), dilation=(1, 2), groups=2, activation=BINARY, weight=BINARY),
    bulk.make(h=1, w=5, c=640, oc=18, k=(1, 1), pads=(0, 0, 0, 0), activation=BINARY, weight=BINARY),
    bulk.make(h=5, w=6, c=40, oc=17, activation=bits(2, "unsigned"), weight=BINARY),
    bulk.make(h=5, w=6, c=100, oc=16, activation=bits(2, "unsigned"), weight=bits(2, "signed")),
    bulk.make(h=5, w=6, c=20, oc=9, activation=bits(4, "signed"), weight=bits(2, "bipolar")),
    bulk.make(h=3, w=4, c=20, oc=9, activation=bits(8, "unsigned"), weight=bits(4, "signed")),
]


@pytest.mark.parametrize("name", MACHINES)
def test_every_integer_of_every_machine(name, tmp_path):
    ready(name)
    cross.check_integers(SPECS, TARGETS[name], tmp_path)
