"""Compiled libraries of another machine: the example program, linked by the cross tools, in an emulator.

    emulated = Emulated("build/resnet20")          # made for cortex-m7
    logits = emulated(image=batch)["logits"]       # through qemu-system-arm

Needs NumPy, the cross tools and the emulator.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import weakref
from contextlib import ExitStack
from pathlib import Path

from onnxc.ir import temporary
from onnxc.ir.errors import MissingTool, Unsupported
from onnxc.runtime.library import Library, read_manifest
from onnxc.runtime.program import Program
from onnxc.runtime.toolchain import TOOLCHAINS, host_features

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
    toolchain = TOOLCHAINS.get(manifest.get("toolchain", ""))
    here = toolchain is None or (toolchain.native and set(manifest.get("needs", ())) <= host_features())
    return Library(path, threads) if here else Emulated(path, threads)


class Emulated(Program):
    """A compiled library of another machine; each call starts the emulator anew."""

    def __init__(self, path: str | os.PathLike, threads: int | None = None):
        """Links the program of a folder that `onnxc compile` wrote.

        Raises BadModel for a damaged folder, MissingTool where linker or emulator is not installed, BadOption for more
        threads than the library was compiled for.
        """
        super().__init__(path, threads)
        runner = self._toolchain.runner()
        if runner is None:
            raise MissingTool(
                f"a library for {self.target} needs the emulator {self._toolchain.emulator[0]}, which is not installed",
                remedy=f"install it: apt-get install {self._toolchain.emulator_package}",
            )
        if not runner:
            raise Unsupported(
                f"this machine lacks {', '.join(sorted(self._needs - host_features()))}",
                expected=f"a machine for target {self.target}", remedy="compile the model for --target native",
            )  # fmt: skip
        self.where: str = runner[0]
        self._runner = runner
        held = ExitStack()
        self._work = held.enter_context(temporary.folder(Path(tempfile.gettempdir()), "run"))
        weakref.finalize(self, held.close)
        self._make(self._work)
        (self._work / "wasi.mjs").write_text(WASI, encoding="ascii")

    def _execute(self, data: bytes, numbers: list[str]) -> tuple[bytes, str]:
        work = self._work
        with tempfile.TemporaryDirectory(dir=work) as name:  # goes with the folder around it, whatever happens
            (Path(name) / "in.bin").write_bytes(data)
            command = self._command([f"{Path(name).name}/in.bin", f"{Path(name).name}/out.bin", *numbers])
            done = self._finish(command, cwd=work, stdin=subprocess.DEVNULL)
            return (Path(name) / "out.bin").read_bytes(), done.stdout.decode(errors="replace")

    def _command(self, args: list[str]) -> list[str]:
        if self._toolchain.bare:
            words = ",".join(f"arg={word}" for word in [self._program, *args])
            return [*self._runner, "-semihosting-config", f"enable=on,target=native,{words}", "-kernel", self._program]
        if self._toolchain.name == "wasm32":
            return [*self._runner, "--no-warnings", "wasi.mjs", self._program, *args]
        return [*self._runner, f"./{self._program}", *args]
