"""`compile --flash --ram`: whether a library fits a processor, and its RAM over time."""

from __future__ import annotations

import pytest

from onnxc.cli.compile import fits, memory_chart
from onnxc.codegen import CompileReport
from onnxc.codegen.memory.arena import Overlap, Tenant, live_bytes
from onnxc.codegen.memory.flash import extent


def report(**more) -> CompileReport:
    fields = {"name": "net", "target": "cortex-m4", "library": "", "header": "", "manifest": "", "kernels": (),
              "fallbacks": (), "arena_bytes": 9000, "live_bytes": 8000, "weights_bytes": 30000, "library_bytes": 40000,
              "seconds": 1.0, "flash_bytes": 36000, "io_bytes": 500, "ram": (("kernel0", 4000), ("kernel1", 8000))}  # fmt: skip
    return CompileReport(**fields | more)


def test_whether_it_fits_and_what_to_do():
    assert fits(report(), {"flash": 64 << 10, "ram": 16 << 10}).endswith("64 kB flash, 16 kB ram: yes")
    text = fits(report(), {"flash": 32 << 10, "ram": 8 << 10})
    assert "no; 3,232 bytes of flash too many: take fewer bits" in text and "1,308 bytes of ram too many" in text
    assert fits(report(flash_bytes=None), {"flash": 1}).endswith("yes")  # nothing is known of WebAssembly's


def test_a_bar_for_each_call():
    rows = memory_chart(report()).split("\n")
    assert rows[0] == "RAM at each call" and [row.count("█") for row in rows[1:]] == [20, 40]
    assert memory_chart(report(ram=())) == ""


@pytest.mark.parametrize(
    "text, wanted", [("256k", 262144), ("1M", 1 << 20), ("96", 96), ("k", None), ("-1k", None), ("", None)]
)
def test_sizes_of_memories(text, wanted):
    assert extent(text) == wanted


def test_live_bytes_count_what_lies_over_another_once():
    tenants = [Tenant(10, 0, 1), Tenant(6, 1, 2), Tenant(3, 2, 2)]
    assert live_bytes(tenants, (), 3) == [10, 16, 9]
    assert live_bytes(tenants, [Overlap(0, 1, True)], 3) == [10, 10, 9]
