"""Compiled libraries of another machine: the example program, linked by the cross tools, in an emulator.

    emulated = Emulated("build/resnet20")          # made for cortex-m7
    logits = emulated(image=batch)["logits"]       # through qemu-system-arm

The program reads its inputs from a file and writes its outputs to one. Needs NumPy, the cross tools and the emulator.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from onnxc.ir.errors import BadData, BadModel, MissingTool, Unsupported
from onnxc.runtime.library import Library, Tensors, check_inputs, read_manifest, shape_number, shapes_of, threads_of
from onnxc.runtime.toolchain import TOOLCHAINS, Toolchain, host_features

TIMEOUT = 600  # seconds that one run in an emulator may take
WASI = """import { readFileSync } from 'node:fs';
import { WASI } from 'node:wasi';
const [program, ...args] = process.argv.slice(2);
const wasi = new WASI({ version: 'preview1', args: [program, ...args], preopens: { '.': '.' }, returnOnExit: true });
const module = await WebAssembly.compile(readFileSync(program));
const instance = await WebAssembly.instantiate(module, { wasi_snapshot_preview1: wasi.wasiImport });
process.exitCode = wasi.start(instance);
"""


def open_library(path: str | os.PathLike, threads: int | None = None) -> Library | Emulated:
    """A library of this machine loaded, one of another machine in its emulator. Raises as the two do."""
    manifest = read_manifest(path)
    chain = TOOLCHAINS.get(manifest.get("toolchain", ""))
    here = chain is None or (chain.native and set(manifest.get("needs", ())) <= host_features())
    return Library(path, threads) if here else Emulated(path, threads)


def build_program(folder: Path, name: str, chain: Toolchain, out: Path) -> None:
    """Links the example program of the library in `folder` into the file `out`, statically.

    Raises MissingTool where no linker is installed or it fails, Unsupported where the C library lacks a function.
    """
    sources = ["example/main.c", *(["example/startup.c"] if chain.bare else []), f"lib{name}.a"]
    flags = ["-std=c11", "-O2", "-I.", "-s"]
    if chain.bare:
        flags += ["--specs=rdimon.specs", "-Wl,-z,noexecstack", "-T", "example/board.ld"]
    elif chain.machine:
        flags += ["-static", "-pthread", "-Wl,--build-id=none"]
    run_tool([*chain.linker().static_command(), *flags, *sources, "-lm", "-o", str(out.resolve())], folder)


def run_tool(command: list[str], folder: Path) -> None:
    """Runs a compiler, linker or archiver in `folder`.

    Raises Unsupported where functions are missing, MissingTool for any other failure.
    """
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 0:
        return
    found = re.findall(r"undefined (?:reference to|symbol:) [`']?(\w+)", done.stderr)
    if found:
        raise Unsupported(
            f"the kernels need {', '.join(sorted(set(found)))}, which libc and libm lack",
            remedy="compile the part of the model without the operator that calls it",
        )
    tool = "zig" if "ziglang" in command else Path(command[0]).name
    lines = [line for line in done.stderr.strip().splitlines() if "error" in line] or done.stderr.strip().splitlines()
    text = (lines or ["no message"])[-1][:300]
    raise MissingTool(f"{tool} failed: {text}", remedy="check compiler and disk space")


class Emulated:
    """A compiled library of another machine, with the face of `Library`; each call starts the emulator anew."""

    def __init__(self, path: str | os.PathLike, threads: int | None = None):
        """Links the program of a folder that `onnxc compile` wrote.

        Raises BadModel for a damaged folder, MissingTool where linker or emulator is not installed, BadOption for more
        threads than the library was compiled for.
        """
        manifest = read_manifest(path)
        folder = Path(path) if Path(path).is_dir() else Path(path).parent
        chain = TOOLCHAINS.get(manifest.get("toolchain", ""))
        if chain is None:
            raise BadModel(f"{folder} does not say what machine it is for", remedy="compile the model again")
        runner = chain.runner()
        if runner is None:
            raise MissingTool(
                f"a library for {manifest['target']} needs the emulator {chain.emulator[0]}, which is not installed",
                remedy=f"install it: apt-get install {chain.emulator_package}",
            )
        if not runner:
            raise Unsupported(
                f"this machine lacks {', '.join(sorted(set(manifest['needs']) - host_features()))}",
                expected=f"a machine for target {manifest['target']}", remedy="compile the model for --target native",
            )  # fmt: skip
        self.name: str = manifest["name"]
        self.target: str = manifest["target"]
        self.emulator: str = runner[0]
        self.arena_bytes: int = manifest["arena_bytes"]
        self.shapes = shapes_of(manifest)
        self.inputs, self.outputs = self.shapes[0]
        self.threads = threads_of(manifest, threads)
        self._chain, self._runner = chain, runner
        self._work = tempfile.TemporaryDirectory(prefix="onnxc-run-")
        self._program = f"run_{self.name}{chain.suffix}"
        work = Path(self._work.name)
        built = folder / self._program
        if built.is_file():
            shutil.copy(built, work / self._program)
        else:
            build_program(folder, self.name, chain, work / self._program)
        (work / "wasi.mjs").write_text(WASI, encoding="ascii")

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Runs the model on inputs given by name; see `run`."""
        return self.run(inputs)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the model once. Raises BadData as `Library.run` does, and where the program fails."""
        return self.timed(inputs, 1)[0]

    def timed(self, inputs: dict[str, np.ndarray], runs: int) -> tuple[dict[str, np.ndarray], float]:
        """The outputs, and the seconds that each of `runs` runs took by the clock of the emulated machine."""
        number = shape_number(self.shapes, inputs)
        arrays = check_inputs(self.shapes[number][0], inputs)
        work = Path(self._work.name)
        with tempfile.TemporaryDirectory(dir=work) as name:
            folder = Path(name)
            (folder / "in.bin").write_bytes(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays))
            command = self._command(folder.name, runs, number)
            try:
                done = subprocess.run(
                    command, cwd=work, capture_output=True, text=True, errors="replace", check=False, timeout=TIMEOUT,
                    stdin=subprocess.DEVNULL,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise BadData(f"{self._program} did not end within {TIMEOUT} s in {command[0]}") from None
            seconds = re.search(r"seconds per run: ([0-9.]+)", done.stdout)
            if done.returncode or not seconds:
                text = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1][:300]
                raise BadData(f"{self._program} failed in {command[0]}: {text}")
            data = (folder / "out.bin").read_bytes()
            return split_outputs(data, self.shapes[number][1], self._program), float(seconds.group(1))

    def _command(self, folder: str, runs: int, shape: int) -> list[str]:
        args = [f"{folder}/in.bin", f"{folder}/out.bin", str(runs), str(self.threads), str(shape)]
        if self._chain.bare:
            words = ",".join(f"arg={word}" for word in [self._program, *args])
            return [*self._runner, "-semihosting-config", f"enable=on,target=native,{words}", "-kernel", self._program]
        if self._chain.name == "wasm32":
            return [*self._runner, "--no-warnings", "wasi.mjs", self._program, *args]
        return [*self._runner, f"./{self._program}", *args]


def split_outputs(data: bytes, outputs: Tensors, program: str) -> dict[str, np.ndarray]:
    """The outputs whose bytes `program` wrote one after the other. Raises BadData where some are missing."""
    found, at = {}, 0
    for name, (shape, dtype) in outputs.items():
        count = int(np.prod(shape, dtype=np.int64))
        if len(data) - at < count * dtype.itemsize:
            raise BadData(f"{program} wrote too few bytes", tensor=name)
        found[name] = np.frombuffer(data, dtype, count, at).reshape(shape).copy()
        at += count * dtype.itemsize
    return found
