"""A compiled library on a board, over ssh.

    board = Remote("build/resnet20", "ssh://pi@raspberrypi.local")
    logits = board(image=batch)["logits"]

The program goes over once, into a folder of its own that goes away with the object; each call sends inputs through the
connection and gets outputs back. The board needs an ssh server, a POSIX shell and mktemp, this machine a key that ssh
takes without asking.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from onnxc.ir import temporary
from onnxc.ir.errors import BadOption, MissingTool, Unsupported
from onnxc.runtime.program import Program

UNREACHED = 255  # the status by which ssh says that the connection failed
FORM = "ssh://[USER@]HOST[:PORT][/FOLDER]"


class Remote(Program):
    """A compiled library of a machine with Linux, on such a machine."""

    def __init__(self, path: str | os.PathLike, address: str, threads: int | None = None):
        """Links the program of a folder that `onnxc compile` wrote, and sends it to `address`.

        Raises BadOption for an address that does not fit and for too many threads, Unsupported for a machine without
        Linux, MissingTool where ssh is not installed or does not reach the board, BadModel for a damaged folder.
        """
        self._ssh, folder = parse_address(address)
        self.where = address
        super().__init__(path, threads)
        if not self._toolchain.machine:
            raise Unsupported(
                f"a library for {self.target} over ssh", remedy="run it in its emulator, without --remote"
            )
        if shutil.which("ssh") is None:
            raise MissingTool("--remote needs ssh", remedy="apt-get install openssh-client")
        with temporary.folder(Path(tempfile.gettempdir()), "run") as work:
            program = self._make(work).read_bytes()
        target = f'"$d/{self._program}"'
        send = f'cat >{target} && chmod 700 {target} && echo "$d" || {{ rm -rf "$d"; exit 1; }}'
        made = self._send(f"d=$(mktemp -d {shlex.quote(folder + '/onnxc-XXXXXX')}) || exit 1; {send}", program)
        self._there = made.stdout.decode().strip()
        weakref.finalize(self, _remove, self._ssh, self._there)

    def _execute(self, data: bytes, numbers: list[str]) -> tuple[bytes, str]:
        there = shlex.quote(self._there)
        program = f'{there}/{self._program} "$t/in" "$t/out" {" ".join(numbers)}'
        steps = f'cat >"$t/in" && {program} >&2 && cat "$t/out"; s=$?; rm -rf "$t"; exit $s'
        done = self._send(f"t=$(mktemp -d {there}/XXXXXX) || exit 1; {steps}", data)
        return done.stdout, done.stderr.decode(errors="replace")

    def _send(self, script: str, data: bytes) -> subprocess.CompletedProcess:
        """Runs a shell script on the board with `data` as its input."""
        return self._finish([*self._ssh, f"sh -c {shlex.quote(script)}"], input=data)

    def _failed(self, status: int, said: str) -> Exception:
        if status == UNREACHED:
            start = " ".join(self._ssh)
            return MissingTool(f"{self.where} is not reached: {said}", remedy=f"see that {start} true works")
        return super()._failed(status, said)


def parse_address(address: str) -> tuple[list[str], str]:
    """The start of the ssh command for `address`, and the folder on the board. Raises BadOption."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise BadOption("--remote does not fit", expected=FORM, found=address) from None
    host = parts.hostname or ""
    words = [parts.username, host] if parts.username is not None else [host]
    good = parts.scheme == "ssh" and parts.password is None and not parts.query and not parts.fragment
    # a leading - would be an option of ssh
    if not good or not all(re.fullmatch(r"[A-Za-z0-9_.:%][A-Za-z0-9_.:%-]*", word) for word in words):
        raise BadOption("--remote does not fit", expected=FORM, found=address)
    command = ["ssh", "-o", "BatchMode=yes", *(["-p", str(port)] if port else []), "--", "@".join(words)]
    return command, parts.path.rstrip("/") or "/tmp"


def _remove(ssh: list[str], folder: str) -> None:
    """Takes the folder away again; a board that is gone by now keeps it."""
    with suppress(subprocess.TimeoutExpired, OSError):
        command = [*ssh, f"rm -rf {shlex.quote(folder)}"]
        subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=60)
