"""`compile --flash --ram`: whether a library fits a processor, and its RAM over time."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from onnxc.cli.compile import CALLS, call_cells, fits, memory_chart, sums
from onnxc.cli.html import compile_page
from onnxc.codegen import CompileReport
from onnxc.codegen.kernels.spec import INT8, Schedule
from onnxc.codegen.memory.arena import Overlap, Tenant, live_bytes
from onnxc.codegen.memory.flash import extent
from onnxc.codegen.micro import fewbit, layers
from onnxc.codegen.micro.fixed import FLOATS, INTEGERS
from onnxc.codegen.micro.waits import flash_waits, passes
from onnxc.codegen.target import resolve

from ..codegen import bulk


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


def test_a_page_draws_ram_over_time_to_scale():
    calls = tuple({"nodes": (name,), "schedule": "micro.conv", "macs": 3, "cycles": 5.0, "flash": 700, "ram": ram}
                  for name, ram in (("a<b", 4000), ("c", 8000)))  # fmt: skip
    made = report(calls=calls)
    page = compile_page(made, CALLS, call_cells(made), sums(made))
    drawn = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    steps, (base, arena) = drawn.findall("g/rect"), (float(line.attrib["y1"]) for line in drawn.findall("line"))
    heights = [float(step.attrib["height"]) for step in steps]
    assert heights == pytest.approx([(base - arena) * ram / 9000 for ram in (4000, 8000)], abs=0.06)
    assert all(float(s.attrib["y"]) + h == pytest.approx(base, abs=0.11) for s, h in zip(steps, heights, strict=True))
    assert [title.text for title in drawn.findall("g/title")] == ["1 a<b: 4.00 kB", "2 c: 8.00 kB"]
    assert drawn.findtext("text") == "arena: 9.00 kB" and page.count(">700 B</td>") == 2
    assert "the arena can be no less than 8.00 kB" in page and "http" not in page
    few = report(kernels=({"node": "n", "kernel": "micro.bits.products", "bits": (8, 4)},))
    assert (
        "1 few-bit layer will take more instructions than with 8 bits here" in sums(few)[1] and "n 1.8x" in sums(few)[1]
    )
    waiting = report(kernels=({"node": "n", "kernel": "micro.conv.floats", "cycles": 4e6, "waits": 1e6},))
    assert sums(waiting)[1] == "Of 4.00M predicted cycles 1.00M wait for flash (25%)"
    assert "<svg" not in compile_page(report(ram=()), CALLS, [], [])


def test_waits_for_flash():
    """Constants once a pass through them, or once where a cache holds them; instructions too where no cache holds a loop."""
    spec = bulk.make(h=4, w=4, c=16, oc=8, k=(1, 1), pads=(0,) * 4, activation=INT8, weight=INT8)
    plan = Schedule("micro.conv", 2, 2, 1, INTEGERS)

    def waits(given: str, plan: Schedule = plan, constants: int = 160, instructions: float = 3200) -> float:
        return flash_waits(spec, plan, resolve(f"cortex-m4{given}"), constants, instructions)

    assert waits("") == 0 and waits(",waits=0,fetch=8") == 0
    assert waits(",waits=5,cache=512") == 5 * 8 * 160 / 16  # two pixels a pass
    assert waits(",waits=5,cache=512", replace(plan, pixels=4, detail=FLOATS)) == 5 * 4 * 160 / 16
    assert waits(",waits=5,cache=512", replace(plan, detail=layers.HELD)) == 5 * 16 * 160 / 16
    assert waits(",waits=5,cache=512", replace(plan, family="micro.depthwise")) == waits(",waits=5,cache=672") == 50
    assert waits(",waits=5,fetch=32") == 5 * (8 * 160 + 3 * 3200) / 32
    assert waits(",waits=50,cache=512,prefetch=1") == 80 * (50 - 40) and waits(",waits=5,cache=512,prefetch=1") == 0
    assert passes(spec, Schedule("micro.bits", 1, 1, 1, fewbit.PRODUCTS)) == 8
    assert passes(spec, Schedule("micro.bits", 1, 1, 1, fewbit.SLICES)) == 16 * 8


@pytest.mark.parametrize(
    "text, wanted", [("256k", 262144), ("1M", 1 << 20), ("96", 96), ("k", None), ("-1k", None), ("", None)]
)
def test_sizes_of_memories(text, wanted):
    assert extent(text) == wanted


def test_live_bytes_count_what_lies_over_another_once():
    tenants = [Tenant(10, 0, 1), Tenant(6, 1, 2), Tenant(3, 2, 2)]
    assert live_bytes(tenants, (), 3) == [10, 16, 9]
    assert live_bytes(tenants, [Overlap(0, 1, True)], 3) == [10, 10, 9]
