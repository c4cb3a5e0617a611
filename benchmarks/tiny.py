"""MLPerf Tiny's int8 networks on a Cortex-M4: flash, RAM and instructions, and how far from ONNX Runtime on real inputs.

    PYTHONPATH=. python benchmarks/tiny.py --models DIR [--data DIR] [--samples N] [--nets ic vww kws ad] [--io float int8]
        [--target T] [--optimise size]

Compiles DIR/<net>_int8.onnx for cortex-m4, links it with a program that counts instructions, and runs that in QEMU: board
mps2-an386, -icount shift=0, where every instruction takes a nanosecond, and SysTick, which counts 25 MHz, 40 instructions a tick. Other targets run on their own board. DATA has
<net>.npz with the input's name and labels where there are some; without a file inputs are drawn.
Writes benchmarks/results/tiny.json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime

sys.path.insert(0, str(Path(__file__).parent))
from tiny_exact import apart, exact

from onnxc.codegen import compile_model
from onnxc.codegen.micro import fewbit, fields
from onnxc.codegen.prepare.ends import integer_ends
from onnxc.codegen.target import resolve
from onnxc.compiling import optimiser
from onnxc.ir.functions import function
from onnxc.runtime.draw import random_feeds
from onnxc.runtime.reference import Session
from onnxc.runtime.specs import input_specs

RESULTS = Path(__file__).parent / "results" / "tiny.json"
TARGET = "cortex-m4"
CMSIS = {"ic": 27.5, "vww": 24.7, "kws": 7.79, "ad": 0.579}  # million instructions: CMSIS-NN, July 2026, gcc 12.2 -O3
EXACT = 200  # samples that exact arithmetic is computed for
NANOSECONDS = {"mps3-an547": 31.25}  # of a tick of SysTick, and so instructions; 40 on the other boards
MAIN = r"""#include <stdint.h>
#include <stdio.h>
#include "net.h"
#define CSR (*(volatile uint32_t *)0xe000e010)
#define RVR (*(volatile uint32_t *)0xe000e014)
#define CVR (*(volatile uint32_t *)0xe000e018)
static char arena[NET_ARENA_BYTES] __attribute__((aligned(NET_ARENA_ALIGN)));
static char input[NET_INPUT0_BYTES] __attribute__((aligned(64)));
static char output[NET_OUTPUT0_BYTES] __attribute__((aligned(64)));
int main(void) {
  FILE *in = fopen("in.bin", "rb"), *out = fopen("out.bin", "wb");
  const void *inputs[] = {input};
  void *outputs[] = {output};
  int status = net_init(arena, 1);
  while (status == NET_OK && fread(input, 1, sizeof input, in) == sizeof input) {
    uint32_t start;
    RVR = 0xffffff;
    CVR = 0;
    CSR = 5;
    start = CVR;
    status = net_run(arena, inputs, outputs);
    printf("ticks %lu\n", (unsigned long)((start - CVR) & 0xffffff));
    fwrite(output, 1, sizeof output, out);
  }
  return fclose(out) != 0 || status;
}
"""


def program(folder: Path, target: str) -> Path:
    """Links the library `net` in `folder` with MAIN."""
    (folder / "count.c").write_text(MAIN)
    linker = resolve(target).toolchain.linker()
    flags = ["-std=c11", "-O2", "-I.", "--specs=rdimon.specs", "-Wl,-z,noexecstack", "-T", "example/board.ld"]
    command = [*linker.static_command(), *flags, "count.c", "example/startup.c", "libnet.a", "-lm", "-o", "count.elf"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "count.elf"


def run(folder: Path, data: bytes, target: str) -> tuple[bytes, int]:
    """What the program writes for the inputs `data`, and the most instructions of a run."""
    (folder / "in.bin").write_bytes(data)
    command = list(resolve(target).toolchain.emulator)
    tick = NANOSECONDS.get(command[2], 40)
    command += ["-icount", "shift=0", "-semihosting-config", "enable=on,target=native", "-kernel", "count.elf"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    ticks = [int(text) for text in re.findall(r"ticks (\d+)", done.stdout)]
    return (folder / "out.bin").read_bytes(), round(max(ticks) * tick)


def code_bytes(folder: Path) -> int:
    """Bytes of all sections of the library but the weights that a program with it holds in flash."""
    done = subprocess.run(["arm-none-eabi-size", "libnet.a"], cwd=folder, check=True, capture_output=True, text=True)
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    return sum(int(row[0]) + int(row[1]) for row in rows if "weights" not in row[5])


def inputs_of(
    net: str, proto: onnx.ModelProto, data: Path | None, samples: int
) -> tuple[dict, np.ndarray | None, bool]:
    """Inputs by name with the samples first, labels, and whether they are real."""
    path = data / f"{net}.npz" if data else None
    specs = input_specs(proto)
    (name,) = specs
    if path is not None and path.is_file():
        with np.load(path) as held:
            x, labels = held[name][:samples], held["labels"][:samples] if "labels" in held else None
        x = x.astype(np.float32) / (255 if net == "vww" else 1)
        return {name: x}, labels, True
    drawn = [random_feeds(specs, seed)[name] for seed in range(min(samples, 20))]
    return {name: np.concatenate(drawn)}, None, False


def built(
    proto: onnx.ModelProto, folder: Path, io: str, x: np.ndarray, target: str, code: str = "speed"
) -> tuple[object, np.ndarray, int]:
    """The report of a library, its outputs as integers or floats (samples, elements), and its instructions."""
    made = optimiser()
    options = {"check": "shapes", "io": io, "optimise": made, "code": code}
    report = compile_model(proto, folder, name="net", target=target, **options)
    program(folder, target)
    manifest = json.loads((folder / "manifest.json").read_text())
    (given,), (result,) = manifest["inputs"], manifest["outputs"]
    if given["dtype"] != "float32":
        limits = np.iinfo(given["dtype"])
        x = np.rint(x / np.float32(given["scale"])) + given["zero_point"]
        x = np.clip(x, limits.min, limits.max).astype(given["dtype"])
    made, instructions = run(folder, np.ascontiguousarray(x).tobytes(), target)
    return report, np.frombuffer(made, result["dtype"]).reshape(len(x), -1), instructions


def without_softmax(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model up to the integers that it ends with."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    last = made.graph.node[-1]
    if last.op_type == "Softmax":
        made.graph.output[0].name = last.input[0]
        made.graph.node.remove(last)
    return made


def integers(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """What ONNX Runtime's integer kernels give for each sample. Its optimiser takes them for int8 activations on x86 too where it
    is told to; else layers whose input two others read run in floats, whose sums are rounded on the way."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    ((key, x),) = feeds.items()
    return np.concatenate([session.run(None, {key: row[None]})[0].reshape(1, -1) for row in x])


def measure(net: str, models: Path, data: Path | None, samples: int, io: str, target: str, code: str) -> dict:
    """One row."""
    proto = onnx.load(models / f"{net}_int8.onnx")
    weights = sum(int(np.prod(t.dims)) for t in proto.graph.initializer if t.data_type == 3 and len(t.dims) > 1)
    feeds, labels, real = inputs_of(net, proto, data, samples)
    ((key, x),) = feeds.items()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report, found, instructions = built(proto, folder, io, x, target, code)
        program_bytes = code_bytes(folder)
        _, levels, _ = built(without_softmax(proto), folder / "cut", "int8", x, target, code)
    ends, scaled = integer_ends(without_softmax(proto))
    limits = np.iinfo(levels.dtype)
    qx = np.clip(np.rint(x / np.float32(scaled[key].scale)) + scaled[key].zero, limits.min, limits.max)
    qx = qx.astype(levels.dtype)
    wanted = integers(ends, {key: qx})
    session = Session(ends, optimise=False)
    (output,) = session.outputs
    floats = np.concatenate([session.run({key: row[None]})[output].reshape(1, -1) for row in qx])
    true = exact(ends, {key: qx[:EXACT]})
    row = {
        "io": io, "samples": len(x), "real": real, "int8_bytes": weights,
        "weights_bytes": report.stored_bytes["weights"], "tables_bytes": report.stored_bytes["tables"],
        "code_bytes": program_bytes, "arena_bytes": report.arena_bytes, "live_bytes": report.live_bytes,
        "instructions": instructions, "of_cmsis": instructions / CMSIS[net] / 1e6,
        "macs": sum(row["macs"] for row in report.kernels), "of_integer_kernels": apart(levels, wanted),
        "of_default_kernels": apart(levels, floats), "of_exact": apart(levels[:EXACT], true),
        "default_kernels_of_exact": apart(floats[:EXACT], true),
        "classes_equal": float((found.argmax(1) == wanted.argmax(1)).mean()),
        "classes_equal_of_default_kernels": float((found.argmax(1) == floats.argmax(1)).mean()),
    }  # fmt: skip
    if labels is not None:
        row["accuracy"] = float((found.argmax(1) == labels).mean())
        row["accuracy_onnx_runtime"] = float((wanted.argmax(1) == labels).mean())
    return row


def said(row: dict) -> str:
    """How far from ONNX Runtime and from exact arithmetic, as text."""
    names = {
        "of_integer_kernels": "its integer kernels",
        "of_default_kernels": "its default kernels",
        "of_exact": "exact arithmetic",
    }
    return "; ".join(
        f"{row[key]['differing']:.2%} by up to {row[key]['most_steps']} off {name}" for key, name in names.items()
    )


EMX = r"""#include <stdint.h>
#include <stdio.h>
#define CSR (*(volatile uint32_t *)0xe000e010)
#define RVR (*(volatile uint32_t *)0xe000e014)
#define CVR (*(volatile uint32_t *)0xe000e018)
void net(const void *, void *);
static float input[@in@], output[@out@];
int main(void) {
  FILE *in = fopen("in.bin", "rb"), *out = fopen("out.bin", "wb");
  while (fread(input, 1, sizeof input, in) == sizeof input) {
    uint32_t start;
    RVR = 0xffffff, CVR = 0, CSR = 5;
    start = CVR;
    net(input, output);
    printf("ticks %lu\n", (unsigned long)((start - CVR) & 0xffffff));
    fwrite(output, 1, sizeof output, out);
  }
  return fclose(out);
}
"""


def emx(net: str, models: Path, tool: str) -> dict:
    """The plain C of emx-onnx-cgen (PyPI), with gcc -O2 on cortex-m4 and floats at the ends: instructions, flash of its object, stack
    of its functions, and how many outputs are ONNX Runtime's."""
    proto = onnx.load(models / f"{net}_int8.onnx")
    ((key, x),) = {name: random_feeds(input_specs(proto), 0)[name] for name in input_specs(proto)}.items()
    wanted = next(iter(Session(proto, optimise=False).run({key: x}).values()))
    chain = resolve(TARGET).toolchain
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = ["--large-temp-threshold", "0", "--large-weight-threshold", "0", "--model-name", "net"]
        made = [tool, "compile", *options, str((models / f"{net}_int8.onnx").resolve()), "net.c"]
        subprocess.run(made, cwd=folder, check=True, capture_output=True)
        (folder / "count.c").write_text(EMX.replace("@in@", str(x.size)).replace("@out@", str(wanted.size)))
        toolchain = chain.linker().command()
        subprocess.run([*toolchain, "-O2", "-fstack-usage", "-c", "net.c"], cwd=folder, check=True, capture_output=True)
        compile_model(chain_of_one(), folder, name="one", target=TARGET, check="shapes")
        link = [
            *toolchain,
            "-O2",
            "count.c",
            "net.o",
            "example/startup.c",
            "--specs=rdimon.specs",
            "-T",
            "example/board.ld",
            "-lm",
        ]
        subprocess.run([*link, "-o", "count.elf"], cwd=folder, check=True, capture_output=True)
        data, instructions = run(folder, x.tobytes(), TARGET)
        size = subprocess.run(["arm-none-eabi-size", "net.o"], cwd=folder, check=True, capture_output=True, text=True)
        stack = sum(int(line.split("\t")[1]) for line in (folder / "net.su").read_text().splitlines())
    found = np.frombuffer(data, np.float32).reshape(wanted.shape)
    text, initialised, zeros, *_ = (int(word) for word in size.stdout.splitlines()[1].split()[:3])
    return {
        "instructions": instructions, "flash_bytes": text + initialised, "ram_bytes": stack + zeros + initialised,
        "most_off": float(np.abs(found - wanted).max()),
    }  # fmt: skip


def chain_of_one() -> onnx.ModelProto:
    """A model whose library brings the start-up code of a board."""
    return onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[4] x) => (float[4] y) { y = Neg(x) }'
    )


FEW = {"W1A1": (1, 1), "W1A2": (1, 2), "W2A2": (2, 2), "W4A4": (4, 4), "W4A8": (4, 8), "W8A8": (8, 8)}
"""Bits of weights and activations of the layers that `few_bits` measures."""


def chain(layers: int, weight_bits: int, bits: int, extent: int = 8, c: int = 64) -> onnx.ModelProto:
    """So many layers of 3 x 3 with `c` channels, a factor and a shift for each, between quantisers."""
    rng, arrays = np.random.default_rng(layers), {}
    whole = (weight_bits, bits) == (8, 8)
    quantise = (
        "QuantizeLinear({0}, s, z)"
        if whole
        else "ai.onnxc.Binarize({0})"
        if bits == 1
        else "ai.onnxc.Quantize({0}, s, z, high)"
    )
    text = f"g (float[1,{c},{extent},{extent}] x) => (float[1,{c},{extent},{extent}] y) {{ q0 = {quantise.format('x')}"
    arrays |= {
        "s": np.float32(0.02 if whole else 1),
        "z": np.int8(-3) if whole else np.float32(0),
        "high": np.float32(2**bits - 1),
    }
    for i in range(layers):
        if whole:
            arrays |= {
                f"w{i}": rng.integers(-127, 128, (c, c, 3, 3)).astype(np.int8),
                f"v{i}": np.full(c, 5e-4, np.float32),
            }
            arrays |= {f"b{i}": rng.integers(-3000, 3000, c).astype(np.int32), f"u{i}": arrays[f"v{i}"] * arrays["s"]}
            text += f" x{i} = DequantizeLinear(q{i}, s, z) k{i} = DequantizeLinear<axis=0>(w{i}, v{i})"
            text += f" d{i} = DequantizeLinear<axis=0>(b{i}, u{i}) t{i} = Conv<pads=[1,1,1,1]>(x{i}, k{i}, d{i})"
        else:
            levels = (
                np.array([-1, 1]) if weight_bits == 1 else np.arange(-(2 ** (weight_bits - 1)), 2 ** (weight_bits - 1))
            )
            arrays |= {
                f"w{i}": rng.choice(levels, (c, c, 3, 3)).astype(np.float32),
                f"b{i}": rng.normal(0, 0.5, (c, 1, 1)).astype(np.float32),
            }
            arrays[f"v{i}"] = rng.uniform(0.02, 0.05, (c, 1, 1)).astype(np.float32)
            text += f" p{i} = Conv<pads=[1,1,1,1]>(q{i}, w{i}) m{i} = Mul(p{i}, v{i}) t{i} = Add(m{i}, b{i})"
        text += f" q{i + 1} = {quantise.format(f't{i}')}"
    text += f" y = DequantizeLinear(q{layers}, s, z) }}" if whole else f" y = Identity(q{layers}) }}"
    made = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17, "ai.onnxc": 1]>\n{text}')
    if not whole:
        made.functions.append(function("Binarize" if bits == 1 else "Quantize", 17))
    made.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), key) for key, v in arrays.items())
    return made


def few_bits(target: str, counted: bool = False) -> dict[str, dict]:
    """What one of such layers takes within a network: instructions, flash (weights and tables) and RAM (what it reads and makes);
    `counted`: by counts of bits where products take less."""
    rows = {}
    helium = resolve(target).helium
    if counted:
        fewbit._multiplied = fields.detail = lambda spec: None
    for name, (weight_bits, bits) in FEW.items():
        if counted and not helium and weight_bits * bits < fewbit.MOST_PAIRS:
            continue
        found = []
        for layers in (2, 3):
            proto = chain(layers, weight_bits, bits)
            x = random_feeds(input_specs(proto), 0)["x"]
            with tempfile.TemporaryDirectory() as folder:
                report, y, instructions = built(proto, Path(folder), "float", x, target)
            wanted = Session(proto, optimise=False).run({"x": x})["y"]
            off = float((np.abs(y.reshape(-1) - wanted.reshape(-1)) > 1e-4).mean())
            found.append((instructions, report.kernels[0]["flash"], report.kernels[0]["kernel"], off))
        (few, *_), (more, flash, kernel, off) = found
        rows[name] = {"instructions": more - few, "flash": flash, "kernel": kernel, "differing": off}
        print(name, rows[name], flush=True)
    whole = rows["W8A8"]
    for row in rows.values():
        row |= {"of_int8": row["instructions"] / whole["instructions"], "flash_of_int8": row["flash"] / whole["flash"]}
    return rows


def main() -> None:
    """Prints a line a row and writes RESULTS."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path, default=Path("../shared/tiny"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--nets", nargs="+", default=list(CMSIS))
    parser.add_argument("--io", nargs="+", default=["float", "int8"])
    parser.add_argument("--target", default=TARGET)
    parser.add_argument("--optimise", default="speed", help="speed or size, of the C code")
    parser.add_argument("--emx", help="the command emx-onnx-cgen, to be measured instead")
    parser.add_argument("--few-bit", action="store_true", help="measure layers of few bits instead")
    parser.add_argument("--counted", action="store_true", help="with --few-bit: by counts of bits, none by products")
    args = parser.parse_args()
    made: dict[str, dict] = {}
    if args.emx:
        for net in args.nets:
            made[f"{net} emx-onnx-cgen"] = emx(net, args.models, args.emx)
            print(net, made[f"{net} emx-onnx-cgen"], flush=True)
        args.nets = []
    if args.few_bit:
        key = "few bits" + (" counted" if args.counted else "") + ("" if args.target == TARGET else f" {args.target}")
        made[key] = few_bits(args.target, args.counted)
        args.nets = []
    for net in args.nets:
        for io in args.io:
            key = f"{net} {io}" + ("" if args.target == TARGET else f" {args.target}")
            key += " size" if args.optimise == "size" else ""
            data = args.data or args.models
            made[key] = row = measure(net, args.models, data, args.samples, io, args.target, args.optimise)
            print(f"{net:4} {io:6} weights {row['weights_bytes']} = {row['weights_bytes'] / row['int8_bytes']:.3f}x, tables {row['tables_bytes']},"
                  f" code {row['code_bytes']}, arena {row['arena_bytes']} (bound {row['live_bytes']}),"
                  f" {row['instructions'] / 1e6:.3f} M instructions = {row['of_cmsis']:.2f}x CMSIS-NN,"
                  f" {row['instructions'] / row['macs']:.2f} a MAC, classes {row['classes_equal']:.3f},"
                  f" {said(row)} {row.get('accuracy', '')}", flush=True)  # fmt: skip
    held = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(held | made, indent=1) + "\n")


if __name__ == "__main__":
    main()
