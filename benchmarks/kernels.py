"""Few-bit kernels against ONNX Runtime: layers, whole networks, and the share of what the machine's popcount allows.

    python benchmarks/kernels.py [--rounds 9] [--only layers,bits,avx2,networks] [--larq-python PYTHON] [--out benchmarks/results/kernels.json]

Layers: the packing kernel and the convolution (scale and bias), channels-last floats in and out; "packed" is the
convolution with thresholds alone, bits in and out. ONNX Runtime runs four of the layer in one session, in a chain where
its shape allows and side by side elsewhere, so that its layout changes at the ends count a quarter: float32 as Conv, int8
as QLinearConv (uint8 x int8 -> uint8, nothing to quantise). All candidates of a row are interleaved in one run on one
thread; times are CPU time, and ratios are medians over rounds. The ceiling is a loop of xor, popcount and add on registers
in the same run. Networks on two threads are in wall time, which other work on the machine disturbs.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import math
import platform
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxc.codegen import compile_model
from onnxc.codegen.cfunction import compile_functions
from onnxc.codegen.kernels import bits, choose, cost, planes, quantise
from onnxc.codegen.kernels.spec import BINARY, Encoding, KernelSpec, PackSpec, Schedule
from onnxc.codegen.kernels.thresholds import thresholds
from onnxc.codegen.kernels.tile import each
from onnxc.codegen.target import Target, resolve
from onnxc.ir.functions import function
from onnxc.runtime.bench import measure
from onnxc.runtime.library import Library

ROOT = Path(__file__).parents[1]
STEPS, TILE = 20_000, Schedule("ceiling", 7, 2, 8)
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


def packing(spec: KernelSpec) -> PackSpec:
    """The kernel that packs what `spec` reads."""
    a = spec.activation
    scales, low, high = (0, -1, 1) if a == BINARY else (1, a.low, a.high)
    return PackSpec(1, spec.h, spec.w, spec.c, 1, spec.pads, a, spec.x_shape, 0, scales, low, high)


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy at a multiple of 64 bytes."""
    raw = np.zeros(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    made = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    made[...] = array
    return made


def ceiling():
    """xor, popcount and add on 14 accumulators, operands in registers and the first cache lines."""
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("ceiling")
        x, w = (T.arg(name, T.buffer((16,), "uint64")) for name in "xw")
        y = T.arg("y", T.buffer((TILE.pixels * TILE.block,), "int64"))
        T.func_attr({"tirx.noalias": True})
        acc = T.alloc_buffer((TILE.pixels * TILE.block,), "int64")
        each(TILE, lambda p, c, i: T.buffer_store(acc, tirx.const(0, "int64"), [i]))
        with T.serial(0, STEPS) as k:

            def step(p, c, i):
                found = tirx.popcount(x[(k + p) % 16] ^ w[c])
                T.buffer_store(acc, acc[i] + tirx.Cast("int64", found), [i])

            each(TILE, step)
        each(TILE, lambda p, c, i: T.buffer_store(y, acc[i], [i]))
    return builder.get()


class Kernels:
    """Kernels of one target in a library; `caller(name, arrays)` is a call without checks."""

    def __init__(self, functions: dict, target: Target):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            self.made = compile_functions(functions, target, 1, path / "k.o")
            subprocess.run(["gcc", "-shared", "-o", path / "k.so", path / "k.o", "-lm"], check=True)
            self.library = ctypes.CDLL(str(path / "k.so"))

    def caller(self, name: str, *arrays: np.ndarray) -> Callable[[], None]:
        scratch = [aligned(np.zeros(self.made[name].workspace, np.uint8))] if self.made[name].workspace else []
        held = [*arrays, *scratch]
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in held]
        call = getattr(self.library, name)

        def run(held=held) -> None:  # keeps the arrays
            call(*pointers)

        return run


def few_bit_calls(spec: KernelSpec, target: Target, rng) -> tuple[dict, dict]:
    """(functions to compile, name -> arrays) of a layer: pack, conv, and packed for binary layers that keep their shape."""
    family, plan, _ = choose(spec, target)
    pack = packing(spec)
    codes = rng.integers(0, 1 << spec.weight.bits, (spec.oc, spec.c, spec.kh, spec.kw))
    bipolar = spec.weight.levels == "bipolar"
    weights = 2 * codes + spec.weight.low if bipolar else codes + spec.weight.low
    x = aligned(rng.standard_normal(spec.x_shape).astype("f"))
    packed, y = aligned(np.zeros(pack.shape, "u8")), aligned(np.zeros(spec.y_shape, "f"))
    scale = [aligned(np.float32([0.5]))] if pack.scales else []
    channel = [aligned(rng.random(spec.oc, np.float32)) for _ in range(2)]
    words = aligned(family.pack(spec, plan, weights))
    table = planes.table(spec, weights)
    functions = {"pack": quantise.emit(pack, "pack"), "conv": family.emit(spec, plan, "conv")}
    arrays = {
        "pack": [x, *scale, packed],
        "conv": [packed, words, aligned(table.astype(bits.table_dtype(spec))), *channel, y],
    }
    if spec.activation == spec.weight == BINARY and plan.lanes in (8, 16) and spec.oc % plan.lanes == 0:
        after = PackSpec(1, spec.oh, spec.ow, spec.oc, 1, (1, 1, 1, 1), BINARY, spec.y_shape)
        found, flip = thresholds(spec, table, channel)
        flips = bool(flip.any())
        form = KernelSpec(**{**vars(spec), "epilogue": (("threshold", flips),), "output": BINARY, "packed": after})
        functions["chained"] = family.emit(form, plan, "chained")
        arrays["chained"] = [
            packed,
            words,
            aligned(found),
            *([aligned(flip)] if flips else []),
            aligned(np.zeros(after.shape, "u8")),
        ]
    return functions, arrays


def session(model: onnx.ModelProto, threads: int = 1):
    """An ONNX Runtime session."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def ort_four(spec: KernelSpec, integer: bool, rng) -> Callable[[], object]:
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
    made = session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    x = rng.standard_normal(shape).astype("f") if not integer else rng.integers(0, 256, shape).astype(np.uint8)
    return lambda: made.run(None, {"t0": x})


def compare(name: str, spec: KernelSpec, target: Target, rounds: int) -> dict:
    """A row: times, ratios and shares of one layer."""
    rng = np.random.default_rng(0)
    functions, arrays = few_bit_calls(spec, target, rng)
    native = target.lanes == 16
    if native:
        functions["ceiling"] = ceiling()
    kernels = Kernels(functions, target)
    calls = {key: kernels.caller(key, *value) for key, value in arrays.items()}

    def four(*which: str) -> Callable[[], None]:
        chosen = [calls[key] for key in which] * 4

        def run() -> None:
            for call in chosen:
                call()

        return run

    candidates = {"onnxc": four("pack", "conv"), "conv": four("conv")}
    if "chained" in calls:
        candidates["packed"] = four("chained")
    if native:
        empty = [
            aligned(np.zeros(16, "u8")),
            aligned(np.zeros(16, "u8")),
            aligned(np.zeros(TILE.pixels * TILE.block, "i8")),
        ]
        candidates["ceiling"] = kernels.caller("ceiling", *empty)
    candidates |= {"ort float32": ort_four(spec, False, rng), "ort int8": ort_four(spec, True, rng)}
    rows = {row.name: row for row in measure(candidates, rounds=rounds, clock="cpu")}
    ours, pairs = rows["onnxc"], spec.activation.bits * spec.weight.bits
    found = {
        "layer": name, "kernel": choose(spec, target)[1].text(), "microseconds": ours.median / 4 * 1e6,
        "gmac_per_second": spec.macs * 4 / ours.median / 1e9,
        "by_float32": rows["ort float32"].ratio, "by_int8": rows["ort int8"].ratio,
    }  # fmt: skip
    if "packed" in rows:
        faster = ours.median / rows["packed"].median
        found |= {"packed_by_float32": found["by_float32"] * faster, "packed_by_int8": found["by_int8"] * faster}
    if native:
        counts = STEPS * TILE.pixels * TILE.block * 64 / (spec.macs * 4 * pairs)
        share = {
            key: rows["ceiling"].ratio / counts * ours.median / rows[key].median
            for key in ("onnxc", "conv", "packed")
            if key in rows
        }
        found["share_of_popcount"] = share
        turn = STEPS * TILE.pixels * TILE.vectors * 1.5 / rows["ceiling"].median  # cycles a second
        found["cycles"] = {
            "predicted": cost.cycles(spec, choose(spec, target)[1], target), "measured": rows["conv"].median / 4 * turn,
        }  # fmt: skip
        found["ceiling_gmac_per_second"] = STEPS * TILE.pixels * TILE.block * 64 / rows["ceiling"].median / 1e9
    return found


def mean(rows: list[dict], key: str) -> float:
    """Geometric mean."""
    return math.exp(sum(math.log(row[key]) for row in rows) / len(rows))


def summary(rows: list[dict]) -> dict:
    """Geometric means of what all rows have."""
    keys = [key for key, value in rows[0].items() if isinstance(value, float) and all(key in row for row in rows)]
    made = {key: mean(rows, key) for key in keys if "by_" in key}
    if all("share_of_popcount" in row for row in rows):
        names = set.intersection(*(set(row["share_of_popcount"]) for row in rows))
        made["share_of_popcount"] = {
            key: mean([row["share_of_popcount"] for row in rows], key) for key in sorted(names)
        }
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
        pack, conv = (kernels.caller(key, *arrays[key]) for key in ("pack", "conv"))
        peer = Larq(python, spec)
        found = measure({"onnxc": lambda: (pack(), conv()), "larq": peer}, rounds=rounds, clock="cpu")
        peer.close()
        rows.append(
            {"layer": f"3x3 {c} on {h}x{h}", "larq_milliseconds": found[1].median * 1e3, "by_larq": found[1].ratio}
        )
    return {"version": peer.version, "rows": rows, "mean": summary(rows)}


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
    if options.larq_python or "larq" not in found:
        found["larq"] = larq(options.larq_python, options.rounds)
    if options.test:
        found["answers"] = answers(options.test)
    options.out.write_text(json.dumps(found, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
