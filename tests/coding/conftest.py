"""The decoder in C, compiled once for all of these tests, whether or not onnxc was installed with it."""

import shutil
import subprocess
from pathlib import Path

import pytest

import onnxc
from onnxc.coding import native

SOURCE = Path(onnxc.__file__).parent / "runtime/c/decode.c"


@pytest.fixture(scope="session")
def c_decoder(tmp_path_factory):
    """Decodes a slab through C."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("decode") / "decode.so"
    flags = ["-O2", "-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, str(SOURCE), "-o", str(library)], check=True)
    return native.load(library)


@pytest.fixture(params=["c", "numpy"])
def decoder(request):
    """Both decoders in turn."""
    return request.getfixturevalue("c_decoder") if request.param == "c" else native.numpy_decoder
