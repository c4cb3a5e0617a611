"""Few-bit kernels against ONNX Runtime: layers, whole networks, and the share of what the machine's popcount allows.

    python benchmarks/kernels.py [--rounds 9] [--only layers,bits,avx2,networks] [--larq-python PYTHON] [--out benchmarks/results/kernels.json]

Layers: packing and the convolution (scale and bias), in one kernel where the compiler would do so or in two, channels-last
floats in and out; "conv" is the second of two alone; "packed" is the convolution with thresholds, bits in and out. ONNX Runtime runs four of the layer in one session, in a chain where
its shape allows and side by side elsewhere, so that its layout changes at the ends count a quarter: float32 as Conv, int8
as QLinearConv (uint8 x int8 -> uint8, nothing to quantise). All candidates of a row are interleaved in one run on one
thread; times are CPU time, and ratios are medians over rounds. Two limits are measured in the same run: a loop of xor,
popcount and add on registers, and a loop that reads the layer's floats once and writes its floats once. Times on two
threads are wall time, which other work on the machine disturbs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from native import COUNTED, STEPS, TILE, Kernels, aligned, ceiling, ceiling_operands, moves
from onnx import helper, numpy_helper

from onnxc.codegen import compile_model
from onnxc.codegen.kernels import bits, choose, planes, quantise
from onnxc.codegen.kernels.spec import BINARY, Encoding, KernelSpec, PackSpec, Schedule
from onnxc.codegen.kernels.thresholds import thresholds
from onnxc.codegen.match.fewbit import WORTH_SHARING
from onnxc.codegen.target import Target, resolve
from onnxc.ir.functions import function
from onnxc.measure.bench import measure
from onnxc.runtime.library import Library

ROOT = Path(__file__).parents[1]
RESNET = ((56, 64), (28, 128), (14, 256), (7, 512))
BITS = {"1x2": (BINARY, Encoding("bits", 2, "bipolar")), "2x2": (Encoding("bits", 2, "unsigned"), Encoding("bits", 2, "signed")),
        "2x1": (Encoding("bits", 2, "unsigned"), BINARY)}  # fmt: skip


def layer(h: int, w: int, c: int, oc: int, k: int, stride: int = 1, **more) -> KernelSpec:
    """A convolution that keeps the extents, but for its stride, with scale and bias."""
    pad = k // 2
    oh, ow = ((extent + 2 * pad - k) // stride + 1 for extent in (h, w))
    return KernelSpec(
        n=1, h=h, w=w, c=c, oc=oc, kh=k, kw=k, stride=(stride, stride), pads=(pad,) * 4, dilation=(1, 1), groups=1,
        x_shape=(1, h, w, c), y_shape=(1, oh, ow, oc), epilogue=(("mul",), ("bias",)), **more,
    )  # fmt: skip


def predicted(spec: KernelSpec, target: Target) -> float:
    """Cycles of the kernel that is taken."""
    family, plan, _ = choose(spec, target)
    return family.cost(spec, plan, target)


def thinned(spec: KernelSpec) -> KernelSpec:
    """The kernel on the pixels that it reads, which alone are packed."""
    return replace(spec, h=spec.oh, w=spec.ow, stride=(1, 1)) if spec.kh == 1 else spec


def packing(spec: KernelSpec) -> PackSpec:
    """The kernel that packs what `spec` reads."""
    a, form = spec.activation, thinned(spec)
    scales, low, high = (0, -1, 1) if a == BINARY else (1, a.low, a.high)
    step = spec.stride if spec.kh == 1 else (1, 1)
    threads = spec.threads if form.h * form.w * spec.c >= WORTH_SHARING else 1
    return PackSpec(1, form.h, form.w, spec.c, 1, spec.pads, a, spec.x_shape, 0, scales, low, high, threads, step)


def few_bit_calls(spec: KernelSpec, target: Target, rng) -> tuple[dict, dict]:
    """(functions to compile, name -> arrays) of a layer: pack, conv, and packed for binary layers that keep their shape."""
    codes = rng.integers(0, 1 << spec.weight.bits, (spec.oc, spec.c, spec.kh, spec.kw))
    bipolar = spec.weight.levels == "bipolar"
    weights = 2 * codes + spec.weight.low if bipolar else codes + spec.weight.low
    pack, form = packing(spec), thinned(spec)
    family, plan, _ = choose(form, target)
    x = aligned(rng.standard_normal(spec.x_shape).astype("f"))
    packed, y = aligned(np.zeros(pack.shape, "u8")), aligned(np.zeros(spec.y_shape, "f"))
    scale = [aligned(np.float32([0.5]))] if pack.scales else []
    channel = [aligned(rng.random(spec.oc, np.float32)) for _ in range(2)]
    words = aligned(family.pack(form, plan, weights))
    table = planes.table(spec, weights)
    functions = {"pack": quantise.emit(pack, "pack"), "conv": family.emit(form, plan, "conv")}
    rest = [aligned(table.astype(bits.table_dtype(spec))), *channel, y]
    arrays = {"pack": [x, *scale, packed], "conv": [packed, words, *rest]}
    one = replace(form, source=pack)
    plan = family.schedule(one, target) if family.takes_floats else None
    if isinstance(plan, Schedule):
        functions["whole"] = family.emit(one, plan, "whole")
        arrays["whole"] = [x, *scale, aligned(family.pack(one, plan, weights)), *rest]
    family, plan, _ = choose(spec, target)
    if spec.activation == spec.weight == BINARY and plan.lanes in (8, 16) and spec.oc % plan.lanes == 0:
        after = PackSpec(1, spec.oh, spec.ow, spec.oc, 1, (1, 1, 1, 1), BINARY, spec.y_shape)
        found, flip = thresholds(spec, table, channel)
        form = replace(spec, epilogue=(("threshold", bool(flip.any())),), output=BINARY, packed=after)
        functions["chained"] = family.emit(form, plan, "chained")
        arrays["chained"] = [
            aligned(rng.integers(0, 1 << 63, planes.packed_shape(spec)).astype("u8")),
            aligned(family.pack(spec, plan, weights)),
            aligned(found),
            *([aligned(flip)] if flip.any() else []),
            aligned(np.zeros(after.shape, "u8")),
        ]
    return functions, arrays


def session(model: onnx.ModelProto, threads: int = 1):
    """An ONNX Runtime session."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or its threads disturb who is measured next
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def ort_four(spec: KernelSpec, integer: bool, rng, threads: int = 1) -> Callable[[], object]:
    """Four of a layer in one session of ONNX Runtime, float32 or int8."""
    graph = onnx.GraphProto(name="g")
    kind, shape = (np.uint8, np.int8) if integer else (np.float32, np.float32), (1, spec.c, spec.h, spec.w)
    chain = spec.c == spec.oc and spec.stride == (1, 1)
    pads, strides = list(spec.pads), list(spec.stride)

    def give(name: str, value: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def tensor(name: str, dims):
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind[0])), dims)

    graph.input.append(tensor("t0", shape))
    if integer:
        scales = [
            give("s", np.float32(0.05)),
            give("z", np.uint8(128)),
            give("ws", np.float32(0.001)),
            give("wz", np.int8(0)),
        ]
    for i in range(4):
        source, result = f"t{i if chain else 0}", f"t{i + 1}"
        w = rng.standard_normal((spec.oc, spec.c, spec.kh, spec.kw)) * (30 if integer else 0.02)
        weight = give(f"w{i}", np.clip(w, -127, 127).astype(kind[1]))
        bias = give(f"b{i}", np.zeros(spec.oc, np.int32 if integer else np.float32))
        more = {"pads": pads, "strides": strides}
        if integer:
            operands = [source, scales[0], scales[1], weight, scales[2], scales[3], scales[0], scales[1], bias]
            graph.node.append(helper.make_node("QLinearConv", operands, [result], **more))
        else:
            graph.node.append(helper.make_node("Conv", [source, weight, bias], [result], **more))
        if i == 3 or not chain:
            graph.output.append(tensor(result, (1, spec.oc, spec.oh, spec.ow)))
    made = session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), threads)
    x = rng.standard_normal(shape).astype("f") if not integer else rng.integers(0, 256, shape).astype(np.uint8)
    return lambda: made.run(None, {"t0": x})


def four(kernels: Kernels, arrays: dict, *which: str) -> Callable[[], None]:
    """Four turns of some kernels of a layer."""
    return kernels.caller(*((key, *arrays[key]) for key in which), turns=4)


def own(arrays: dict) -> list[str]:
    """The kernels of `few_bit_calls` that the compiler would use from floats to floats."""
    return ["whole"] if "whole" in arrays else ["pack", "conv"]


def compare(name: str, spec: KernelSpec, target: Target, rounds: int) -> dict:
    """A row: times, ratios and shares of one layer."""
    rng = np.random.default_rng(0)
    start = time.process_time()
    functions, arrays = few_bit_calls(spec, target, rng)
    kernels = Kernels(functions, target)
    seconds = time.process_time() - start
    native = target.lanes == 16
    one = own(arrays)
    candidates = {"onnxc": four(kernels, arrays, *one), "conv": four(kernels, arrays, "conv")}
    if "chained" in arrays:
        candidates["packed"] = four(kernels, arrays, "chained")
    if native:
        machine = Kernels({"ceiling": ceiling(), "moves": moves(spec)}, target)
        moved = [arrays["pack"][0], arrays["conv"][-1], aligned(np.zeros(64, "f"))]
        candidates["ceiling"] = machine.caller(("ceiling", *ceiling_operands()))
        candidates["moves"] = four(machine, {"moves": moved}, "moves")
    candidates |= {"ort float32": ort_four(spec, False, rng), "ort int8": ort_four(spec, True, rng)}
    rows = {row.name: row for row in measure(candidates, rounds=rounds, clock="cpu")}
    ours = rows["onnxc"]
    found = {
        "layer": name, "kernel": choose(spec, target)[1].text(), "microseconds": ours.median / 4 * 1e6,
        "gmac_per_second": spec.macs * 4 / ours.median / 1e9,
        "by_float32": rows["ort float32"].ratio, "by_int8": rows["ort int8"].ratio,
        "compile_seconds": seconds / len(functions),
    }  # fmt: skip
    if "packed" in rows:
        faster = ours.median / rows["packed"].median
        found |= {"packed_by_float32": found["by_float32"] * faster, "packed_by_int8": found["by_int8"] * faster}
    found["two_threads"] = on_two_threads(spec, target, four(kernels, arrays, *one), arrays, rounds)
    return found | (limits(spec, target, rows) if native else {})


def limits(spec: KernelSpec, target: Target, rows: dict) -> dict:
    """Shares of what the machine allows: of the time to count the bits alone, and of that and the time to move the floats.

    "roofline" is the longer of both, as if everything overlapped; "attainable" their sum, as for passes one after the other.
    """
    pairs = spec.activation.bits * spec.weight.bits
    count = rows["ceiling"].ratio * spec.macs * 4 * pairs / COUNTED  # of the time of ours
    move = rows["moves"].ratio
    slower = {key: rows[key].median / rows["onnxc"].median for key in ("onnxc", "conv", "packed") if key in rows}
    turn = STEPS * TILE.pixels * TILE.vectors * 1.5 / rows["ceiling"].median  # cycles a second
    form = thinned(spec)
    return {
        "share_of_popcount": {key: count / ratio for key, ratio in slower.items()},
        "share_of_moves": move, "share_of_roofline": max(count, move), "share_of_attainable": count + move,
        "cycles": {
            "predicted": predicted(form, target), "measured": rows["conv"].median / 4 * turn,
        },
        "ceiling_gmac_per_second": COUNTED / rows["ceiling"].median / 1e9,
    }  # fmt: skip


def on_two_threads(spec: KernelSpec, target: Target, alone: Callable, arrays: dict, rounds: int) -> dict:
    """Wall times of the layer on two threads, with the operands of `arrays`, beside `alone` and ONNX Runtime on two."""
    shared = replace(spec, threads=2)
    functions, _ = few_bit_calls(shared, target, np.random.default_rng(0))
    kernels = Kernels({key: functions[key] for key in ("pack", "conv")}, target, 2)
    candidates = {
        "onnxc": four(kernels, arrays, "pack", "conv"),
        "one": alone,
        "ort float32": ort_four(spec, False, np.random.default_rng(0), 2),
        "ort int8": ort_four(spec, True, np.random.default_rng(0), 2),
    }
    rows = {row.name: row for row in measure(candidates, rounds=rounds, threads=2)}
    kernels.close()
    return {
        "microseconds": rows["onnxc"].median / 4 * 1e6, "by_one_thread": rows["one"].ratio,
        "by_float32": rows["ort float32"].ratio, "by_int8": rows["ort int8"].ratio,
    }  # fmt: skip


def mean(rows: list[dict], key: str) -> float:
    """Geometric mean."""
    return math.exp(sum(math.log(row[key]) for row in rows) / len(rows))


def summary(rows: list[dict]) -> dict:
    """Geometric means of what all rows have."""
    made = {}
    for key, value in rows[0].items():
        if not all(key in row for row in rows):
            continue
        if isinstance(value, dict) and key != "cycles":
            names = set.intersection(*(set(row[key]) for row in rows))
            made[key] = {
                name: mean([row[key] for row in rows], name) for name in sorted(names) if name != "microseconds"
            }
        elif isinstance(value, float) and ("by_" in key or "share" in key):
            made[key] = mean(rows, key)
    return made


def group(specs: dict[str, KernelSpec], target: Target, rounds: int) -> dict:
    """Rows of several layers and their means."""
    rows = [compare(name, spec, target, rounds) for name, spec in specs.items()]
    return {"rows": rows, "mean": summary(rows)}


def binary(h: int, w: int, c: int, oc: int, k: int, stride: int = 1) -> KernelSpec:
    return layer(h, w, c, oc, k, stride, activation=BINARY, weight=BINARY)


def layers(rounds: int) -> dict:
    """Binary layers of ResNet-18, and odd ones."""
    three = {f"3x3 {c} on {h}x{h}": binary(h, h, c, c, 3) for h, c in RESNET}
    other = {f"3x3 stride 2 {c} to {2 * c} on {h}x{h}": binary(h, h, c, 2 * c, 3, 2) for h, c in RESNET[:3]}
    other |= {f"1x1 stride 2 {c} to {2 * c} on {h}x{h}": binary(h, h, c, 2 * c, 1, 2) for h, c in RESNET[:3]}
    other |= {f"1x1 {c} on {h}x{h}": binary(h, h, c, c, 1) for h, c in RESNET}
    other["3x3 96 on 23x17"] = binary(23, 17, 96, 96, 3)
    native = resolve("native")
    return {"binary_3x3": group(three, native, rounds), "other": group(other, native, rounds)}


def more_bits(rounds: int) -> dict:
    """Activations x weights of one and two bits, ResNet-18's 3x3 layers."""
    native = resolve("native")
    return {
        name: group(
            {f"{c} on {h}x{h}": layer(h, h, c, c, 3, activation=a, weight=w) for h, c in RESNET}, native, rounds
        )
        for name, (a, w) in BITS.items()
    }


def avx2(rounds: int) -> dict:
    """The same binary layers compiled for AVX2 alone; ONNX Runtime uses all that the machine has."""
    specs = {f"3x3 {c} on {h}x{h}": binary(h, h, c, c, 3) for h, c in RESNET}
    return {"binary_3x3": group(specs, resolve("x86-64-v3"), rounds)}


def resnet18(is_binary: bool) -> onnx.ModelProto:
    """ResNet-18 on 224 x 224 with random weights; binary as Bi-Real Net (Liu 2018): a shortcut around each convolution."""
    rng = np.random.default_rng(1)
    graph = onnx.GraphProto(name="g")
    names = itertools.count()

    def node(op: str, *inputs: str, domain: str = "", **attributes) -> str:
        graph.node.append(helper.make_node(op, list(inputs), [f"n{next(names)}"], domain=domain, **attributes))
        return graph.node[-1].output[0]

    def give(value: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(value.astype("f"), f"c{next(names)}"))
        return graph.initializer[-1].name

    def conv(x: str, c: int, oc: int, k: int, stride: int, bits: bool) -> str:
        w = rng.standard_normal((oc, c, k, k)) / math.sqrt(c * k * k)
        if bits:
            x, w = (
                node("Binarize", x, domain="ai.onnxc"),
                np.where(w >= 0, 1, -1) * np.abs(w).mean(axis=(1, 2, 3), keepdims=True),
            )
        y = node("Conv", x, give(w), pads=[k // 2] * 4, strides=[stride] * 2)
        return node("BatchNormalization", y, *(give(rng.random(oc) + 0.5) for _ in range(4)))

    x = node("Relu", conv("x", 3, 64, 7, 2, False))
    x, c = node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 64
    for i in range(4):
        oc = 64 << i
        for stride in (1 if i == 0 else 2, 1):
            short = x if stride == 1 else conv(x, c, oc, 1, 2, is_binary)
            y = conv(x, c, oc, 3, stride, is_binary)
            y = node("Add", y, short) if is_binary else node("Relu", y)
            z = conv(y, oc, oc, 3, 1, is_binary)
            x = node("Add", z, y) if is_binary else node("Relu", node("Add", z, short))
            c = oc
    x = node("Flatten", node("GlobalAveragePool", x))
    graph.node.append(
        helper.make_node(
            "Gemm", [x, give(rng.standard_normal((1000, 512)) / 20), give(np.zeros(1000))], ["y"], transB=1
        )
    )
    graph.input.append(helper.make_tensor_value_info("x", 1, (1, 3, 224, 224)))
    graph.output.append(helper.make_tensor_value_info("y", 1, (1, 1000)))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnxc", 1)]
    model = helper.make_model(graph, opset_imports=imports if is_binary else imports[:1], ir_version=8)
    model.functions.extend([function("Binarize", 17)] if is_binary else [])
    return model


def network(name: str, model: onnx.ModelProto, like: onnx.ModelProto, feeds: dict, rounds: int) -> dict:
    """A compiled network against ONNX Runtime on it and on the float network `like`, on one thread and two."""
    found: dict = {"network": name, "threads": {}}
    for threads in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            report = compile_model(model, folder, name="net", threads=threads)
            library = Library(folder)
        floats, same = session(like, threads), session(model, threads)
        candidates = {
            "onnxc": lambda library=library: library.run(feeds),
            "ort float32": lambda floats=floats: floats.run(None, feeds),
            "ort same": lambda same=same: same.run(None, feeds),
        }
        clock = "cpu" if threads == 1 else "wall"
        rows = {row.name: row for row in measure(candidates, rounds=rounds, clock=clock, threads=threads)}
        found["threads"][threads] = {
            "clock": clock, "milliseconds": rows["onnxc"].median * 1e3,
            "by_float32": rows["ort float32"].ratio, "by_the_same_model": rows["ort same"].ratio,
        }  # fmt: skip
        found["kernels"] = sorted({row["kernel"] for row in report.kernels})
    return found


def networks(rounds: int) -> dict:
    """A binary ResNet-18, and the small network that the tests have, with its answers on every test image that is there."""
    rng = np.random.default_rng(0)
    image = {"x": rng.standard_normal((1, 3, 224, 224)).astype("f")}
    rows = [network("binary ResNet-18", resnet18(True), resnet18(False), image, rounds)]
    small = onnx.load(ROOT / "tests/data/binary_fashion.onnx")
    rows.append(network("binary_fashion", small, small, {"image": rng.random((1, 1, 28, 28), np.float32)}, rounds))
    return {"rows": rows}


def answers(test: Path) -> dict:
    """How many test images get ONNX Runtime's class from the compiled binary_fashion."""
    data, model = np.load(test), onnx.load(ROOT / "tests/data/binary_fashion.onnx")
    images = data["image" if "image" in data else data.files[0]].astype("f")
    with tempfile.TemporaryDirectory() as folder:
        compile_model(model, folder, name="net")
        library = Library(folder)
    found = np.concatenate([library(image=images[i : i + 1])["logits"] for i in range(len(images))])
    wanted = session(model).run(None, {"image": images})[0]
    difference = np.abs(found - wanted).max(axis=1)
    return {
        "images": len(images), "same_class": int((found.argmax(1) == wanted.argmax(1)).sum()),
        "within_1e-4": int((difference < 1e-4).sum()), "largest_difference": float(difference.max()),
    }  # fmt: skip


class Larq:
    """A layer in Larq Compute Engine, in a Python of its own that has the package; it times itself on request."""

    def __init__(self, python: str, spec: KernelSpec):
        shape = map(str, (spec.h, spec.w, spec.c, spec.oc, spec.kh))
        command = [python, str(ROOT / "benchmarks/larq_peer.py"), *shape]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, text=True, **pipes)
        self.version = self.process.stdout.readline().strip()

    def __call__(self) -> None:
        self.seconds_per_call(1)

    def seconds_per_call(self, calls: int) -> float:
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def larq(python: str | None, rounds: int) -> dict:
    """ResNet-18's binary 3x3 layers in Larq Compute Engine, its best path of two; skipped without a Python that has it."""
    if (
        python is None
        or subprocess.run([python, "-c", "import larq_compute_engine, larq"], capture_output=True).returncode
    ):
        return {"skipped": "no Python with larq-compute-engine and larq: --larq-python"}
    rows, target = [], resolve("native")
    for h, c in RESNET:
        spec = binary(h, h, c, c, 3)
        functions, arrays = few_bit_calls(spec, target, np.random.default_rng(0))
        kernels = Kernels(functions, target)
        ours = kernels.caller(*((key, *arrays[key]) for key in own(arrays)))
        peer = Larq(python, spec)
        found = measure({"onnxc": ours, "larq": peer}, rounds=rounds, clock="cpu")
        peer.close()
        rows.append(
            {"layer": f"3x3 {c} on {h}x{h}", "larq_milliseconds": found[1].median * 1e3, "by_larq": found[1].ratio}
        )
    return {"version": peer.version, "rows": rows, "mean": summary(rows)}


def table(found: dict) -> None:
    """Prints the groups of layers: times ONNX Runtime on one thread (CPU time) and two (wall time), shares of the limits."""
    print(f"a kernel compiles in {found.get('compile_seconds', math.nan):.2f} s on average")
    groups = {
        f"{part} {name}": rows for part in ("layers", "bits", "avx2") for name, rows in found.get(part, {}).items()
    }
    print(
        f"{'layer':42}{'us':>8}{'float32':>9}{'int8':>7}{'count':>7}{'roof':>6}{'sum':>6} | two threads: {'float32':>7}{'int8':>7}{'one':>6}"
    )
    for name, rows in groups.items():
        for row in [*rows["rows"], rows["mean"] | {"layer": f"mean of {name}"}]:
            share, two = row.get("share_of_popcount", {}), row["two_threads"]
            limits = [
                share.get("onnxc", math.nan),
                row.get("share_of_roofline", math.nan),
                row.get("share_of_attainable", math.nan),
            ]
            print(
                f"{row['layer']:42}{row.get('microseconds', math.nan):8.1f}{row['by_float32']:9.1f}{row['by_int8']:7.2f}"
                f"{limits[0]:7.2f}{limits[1]:6.2f}{limits[2]:6.2f} |              {two['by_float32']:7.1f}{two['by_int8']:7.2f}"
                f"{two['by_one_thread']:6.2f}"
            )


PARTS = {"layers": layers, "bits": more_bits, "avx2": avx2, "networks": networks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--test", type=Path, help="an .npz of Fashion-MNIST images for binary_fashion")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/kernels.json")
    parser.add_argument("--larq-python", help="a Python with larq-compute-engine, larq and tensorflow")
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    found["machine"] = {
        "processor": platform.processor() or platform.machine(),
        "target": resolve("native").tvm_dict()["mcpu"],
    }
    for part in options.only.split(","):
        if part:
            found[part] = PARTS[part](options.rounds)
    seconds = [
        row["compile_seconds"]
        for part in ("layers", "bits", "avx2")
        for g in found.get(part, {}).values()
        for row in g["rows"]
    ]
    found["compile_seconds"] = sum(seconds) / max(len(seconds), 1)
    if options.larq_python or "larq" not in found:
        found["larq"] = larq(options.larq_python, options.rounds)
    if options.test:
        found["answers"] = answers(options.test)
    options.out.write_text(json.dumps(found, indent=1, default=float) + "\n")
    table(found)


if __name__ == "__main__":
    main()
