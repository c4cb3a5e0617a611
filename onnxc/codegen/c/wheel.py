"""A compiled library as a pip package: the shared library, its manifest, and the Python that loads it.

    net-1.0.0+3f2a91c07d1e-py3-none-linux_aarch64.whl
      net/__init__.py   net/libnet.so   net/manifest.json   net/_onnxc/...   net-1.0.0+3f2a91c07d1e.dist-info/...

The loader is runtime/library.py itself with what it imports, under `_onnxc`, so a wheel needs NumPy and nothing of onnxc.
The local part of the version is the beginning of the model's digest. The format is that of PEP 427; the same library gives
the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from pathlib import Path

from onnxc.codegen.c.header import Interface
from onnxc.codegen.c.names import check_package
from onnxc.ir.errors import Unsupported
from onnxc.ir.escape import comment
from onnxc.runtime.elements import BORROWED
from onnxc.runtime.toolchain import Toolchain

ROOT = Path(__file__).parents[2]
LOADER = (
    "ir/errors.py",
    "ir/escape.py",
    "runtime/call.py",
    "runtime/elements.py",
    "runtime/library.py",
    "runtime/toolchain.py",
)
VERSION = "1.0.0"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can say


def check_wheel(toolchain: Toolchain, name: str) -> None:
    """Raises Unsupported for a machine that Python loads no shared libraries on, BadOption for a name that is taken."""
    check_package(name)
    if "so" not in toolchain.libraries:
        raise Unsupported(
            f"a wheel for {toolchain.name}, which has no shared libraries", remedy="link the static library"
        )


def _distribution(name: str) -> str:
    """What pip calls the package of a library."""
    return re.sub(r"_+", "_", name).strip("_").lower()


def wheels_in(folder: Path, name: str) -> list[str]:
    """The names of the wheels of a library `name` in a folder."""
    return sorted(path.name for path in folder.glob(f"{_distribution(name)}-{VERSION}+{'?' * 12}-py3-none-*.whl"))


def write_wheel(work: Path, face: Interface, toolchain: Toolchain, digest: str) -> str:
    """Writes the wheel of the library in `work` into it; returns its file name."""
    version, distribution = f"{VERSION}+{digest[:12]}", _distribution(face.name)
    stem, tag = f"{distribution}-{version}", f"py3-none-linux_{toolchain.machine}"
    info = f"{stem}.dist-info"
    files: dict[str, bytes] = {
        f"{face.name}/__init__.py": _init(face).encode(),
        f"{face.name}/lib{face.name}.so": (work / f"lib{face.name}.so").read_bytes(),
        f"{face.name}/manifest.json": (work / "manifest.json").read_bytes(),
        f"{face.name}/_onnxc/__init__.py": b"",
        f"{face.name}/_onnxc/ir/__init__.py": b"",
        f"{face.name}/_onnxc/runtime/__init__.py": b"",
        **{f"{face.name}/_onnxc/{part}": (ROOT / part).read_bytes() for part in LOADER},
        f"{info}/METADATA": _metadata(face, distribution, version).encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: onnxc\nRoot-Is-Purelib: false\nTag: {tag}\n".encode(),
    }
    rows = [f"{path},sha256={_digest(data)},{len(data)}" for path, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    name = f"{stem}-{tag}.whl"
    with zipfile.ZipFile(work / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            entry = zipfile.ZipInfo(path, EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return name


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _init(face: Interface) -> str:
    lines = []
    for kind, tensors in (("in ", face.inputs), ("out", face.outputs)):
        lines += [f"#   {kind}  {comment(name)}: {dtype} {'x'.join(map(str, shape))}" for name, shape, dtype in tensors]
    return _INIT.replace("@name@", face.name).replace("@tensors@", "\n".join(lines))


def _metadata(face: Interface, distribution: str, version: str) -> str:
    borrowed = any(dtype in BORROWED for tensors in face.shapes[0] for _, _, dtype in tensors)
    made = _METADATA.format(name=distribution, version=version)
    return f"{made}Requires-Dist: ml_dtypes\n" if borrowed else made


_METADATA = """Metadata-Version: 2.1
Name: {name}
Version: {version}
Summary: A compiled model. Made by onnxc.
Requires-Python: >=3.10
Requires-Dist: numpy
"""

_INIT = '''"""A compiled model. Made by onnxc.

    import @name@
    outputs = @name@.run({"name of an input": array, ...})

NumPy in, NumPy out, both by name. Calls from several threads run at the same time.
"""

from pathlib import Path

from ._onnxc.ir.errors import OnnxcError
from ._onnxc.runtime.library import Library

__all__ = ["Library", "OnnxcError", "inputs", "library", "outputs", "run"]

@tensors@
library = Library(Path(__file__).parent)
inputs, outputs, run = library.inputs, library.outputs, library.run
'''
