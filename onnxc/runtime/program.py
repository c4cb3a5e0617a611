"""The program of a compiled library, example/main.c: linked statically, and run somewhere else than in this process.

It reads its inputs from a file and writes its outputs to one. Where it runs is a subclass's: `emulate`, `remote`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np

from onnxc.ir.errors import BadData, BadModel, MissingTool, Unsupported
from onnxc.runtime.call import cut, lengths_of
from onnxc.runtime.elements import PACKED, packed, stored_bytes, unpacked
from onnxc.runtime.library import (
    Tensors,
    check_digest,
    check_inputs,
    read_manifest,
    shape_number,
    shapes_of,
    threads_of,
)
from onnxc.runtime.toolchain import TOOLCHAINS, Toolchain

TIMEOUT = 600  # seconds that one run elsewhere may take


def build_program(folder: Path, name: str, toolchain: Toolchain, out: Path) -> None:
    """Links the example program of the library in `folder` into the file `out`, statically.

    Raises MissingTool where no linker is installed or it fails, Unsupported where the C library lacks a function.
    """
    sources = ["example/main.c", *(["example/startup.c"] if toolchain.bare else []), f"lib{name}.a"]
    flags = ["-std=c11", "-O2", "-I.", "-s"]
    if toolchain.bare:
        flags += ["--specs=rdimon.specs", "-Wl,-z,noexecstack", "-T", "example/board.ld"]
    elif toolchain.machine:
        flags += ["-static", "-pthread", "-Wl,--build-id=none"]
    run_tool(
        [*toolchain.linker().static_command(), *flags, *sources, "-lm", "-o", str(out.resolve())], folder, out.parent
    )


def run_tool(command: list[str], folder: Path, temporary: Path | None = None) -> None:
    """Runs a compiler, linker or archiver in `folder`; files that it needs for a while stand there too, or in `temporary`.

    Raises Unsupported where functions are missing, MissingTool for any other failure.
    """
    environment = os.environ | {"TMPDIR": str((temporary or folder).resolve())}  # gone with the folder if it is killed
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode == 0:
        return
    if full := re.search(r"region .(?:FLASH|RAM)' (?:overflowed by \d+ bytes|has no .*)", done.stderr):
        raise MissingTool(
            f"the program does not fit the example's board: {full[0]}",
            remedy="leave out --program, or make the model smaller: --io int8, --buffers arena, --optimise size; prune, quant",
        )
    found = re.findall(r"undefined (?:reference to|symbol:) [`']?(\w+)", done.stderr)
    if found:
        raise Unsupported(
            f"the kernels need {', '.join(sorted(set(found)))}, which libc and libm lack",
            remedy="compile the part of the model without the operator that calls it",
        )
    tool = "zig" if "ziglang" in command else Path(command[0]).name
    said = [line for line in done.stderr.strip().splitlines() if "ld returned" not in line]  # which says no reason
    lines = [
        line for line in said if re.search("error|truncated|cannot|No space", line) and "being treated" not in line
    ] or said
    text = (lines or ["no message"])[-1][:300]
    raise MissingTool(f"{tool} failed: {text}", remedy="check compiler and disk space")


class Program:
    """A compiled library that runs elsewhere, with the face of `Library`. `where` says where, in a word."""

    where = ""

    def __init__(self, path: str | os.PathLike, threads: int | None = None):
        """Reads the manifest of a folder that `onnxc compile` wrote. Raises BadModel, BadOption (too many threads)."""
        manifest = read_manifest(path)
        self._folder = Path(path) if Path(path).is_dir() else Path(path).parent
        toolchain = TOOLCHAINS.get(manifest.get("toolchain", ""))
        if toolchain is None:
            raise BadModel(f"{self._folder} does not say what machine it is for", remedy="compile the model again")
        self._manifest = manifest
        self.name: str = manifest["name"]
        self.target: str = manifest["target"]
        self.arena_bytes: int = manifest["arena_bytes"]
        self.shapes = shapes_of(manifest)
        self.inputs, self.outputs = self.shapes[0]
        self._lengths = lengths_of(manifest)
        self.threads = threads_of(manifest, threads)
        self._needs = frozenset(manifest.get("needs", ()))
        self._toolchain = toolchain
        self._program = f"run_{self.name}{toolchain.suffix}"
        self._built = manifest.get("program") == self._program

    def _make(self, folder: Path) -> Path:
        """The program in `folder`: the one that the compilation made, else linked now. Raises as `build_program`."""
        out = folder / self._program
        if self._built and (self._folder / self._program).is_file():
            shutil.copy(self._folder / self._program, out)
        else:
            build_program(self._folder, self.name, self._toolchain, out)
        return out

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Runs the model on inputs given by name; see `run`."""
        return self.run(inputs)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the model once. Raises BadData as `Library.run` does, and where the program fails."""
        return self.timed(inputs, 1)[0]

    def timed(self, inputs: dict[str, np.ndarray], runs: int) -> tuple[dict[str, np.ndarray], float]:
        """The outputs, and the seconds that each of `runs` runs took by the clock of the other machine."""
        number = shape_number(self.shapes, inputs)
        arrays = check_inputs(self.shapes[number][0], inputs)
        data = b"".join(np.ascontiguousarray(packed(array)).tobytes() for array in arrays)
        made, said = self._execute(data, [str(runs), str(self.threads), str(number)])
        seconds = re.search(r"seconds per run: ([0-9.]+)", said)
        if not seconds:
            raise BadData(f"{self._program} said nothing of its time in {self.where}")
        digest = re.search(r"digest: ([0-9a-f]{64})", said)
        check_digest(self._manifest, digest.group(1) if digest else "")
        outputs = split_outputs(made, self.shapes[number][1], self._program)
        return cut(outputs, self._lengths), float(seconds.group(1))

    def _execute(self, data: bytes, numbers: list[str]) -> tuple[bytes, str]:
        """Runs the program on the bytes of all inputs, with runs, threads and shape: the bytes of all outputs, and what it says."""
        raise NotImplementedError

    def _finish(self, command: list[str], **options) -> subprocess.CompletedProcess:
        """Runs `command` to its end. Raises BadData where it fails or takes too long."""
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=TIMEOUT, **options)
        except subprocess.TimeoutExpired:
            raise BadData(f"{self._program} did not end within {TIMEOUT} s in {self.where}") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise self._failed(done.returncode, (said or [f"status {done.returncode}"])[-1][:300])
        return done

    def _failed(self, status: int, said: str) -> Exception:
        """The error for a command that ended with `status` and `said` last."""
        return BadData(f"{self._program} failed in {self.where}: {said}")


def split_outputs(data: bytes, outputs: Tensors, program: str) -> dict[str, np.ndarray]:
    """The outputs whose bytes `program` wrote one after the other. Raises BadData where some are missing."""
    found, at = {}, 0
    for name, (shape, dtype) in outputs.items():
        size = stored_bytes(shape, dtype.name)
        if len(data) - at < size:
            raise BadData(f"{program} wrote too few bytes", tensor=name)
        raw = np.frombuffer(data, np.uint8, size, at)
        found[name] = unpacked(raw, shape, dtype) if dtype.name in PACKED else raw.view(dtype).reshape(shape).copy()
        at += size
    if at < len(data):
        raise BadData(f"{program} wrote too many bytes", expected=at, found=len(data))
    return found
