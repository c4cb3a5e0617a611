"""Packaging of onnxc. The version stands in `onnxc/__init__.py` alone."""

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "onnxc/__init__.py").read_text(encoding="utf-8"), re.M).group(1)

EXTRAS = {
    "test": [
        "pytest>=8",
        "pytest-xdist>=3.5",
        "hypothesis>=6.100",
        "pyte>=0.8",
        "ruff>=0.12",
        "mypy>=1.15",
        "onnxslim>=0.1.80",
        "ziglang>=0.13",
        "faster-coco-eval>=1.6",
    ],
    # Links for every target but bare metal where no cross compiler is installed; for WebAssembly always.
    "cross": ["ziglang>=0.13"],
    "bench": ["onnxslim>=0.1.80", "onnxsim>=0.4.36", "scikit-learn>=1.5"],
    "train": ["torch>=2.4"],
    # A cluster for `onnxc auto --executor dask://HOST:PORT`.
    "dask": ["distributed>=2024.8"],
    # The same for ray://HOST:PORT.
    "ray": ["ray[client]>=2.40"],
    # COCO's mean average precision, for --task detection.
    "detection": ["faster-coco-eval>=1.6"],
    "plot": ["matplotlib>=3.8"],
    # The site of docs/: mkdocs build --strict; a page in it is a network compiled to WebAssembly.
    "docs": ["mkdocs-material>=9.5", "ziglang>=0.13"],
}
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})

setup(
    name="onnxc",
    version=VERSION,
    description="Compiler-style graph rewriting on ONNX: prune, factorise, quantise, verify, compile",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="the onnxc maintainers",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["onnxc", "onnxc.*"]),
    package_data={"onnxc": ["data/*", "cli/*.j2", "runtime/c/*"]},
    # A plain shared library that onnxc/coding/native.py loads by ctypes; without a compiler, NumPy decodes instead.
    ext_modules=[
        Extension(
            "onnxc.coding._decode",
            ["onnxc/runtime/c/decode.c", "onnxc/runtime/c/encode.c"],
            depends=[f"onnxc/runtime/c/{name}.h" for name in ("adaptive", "bytes", "decode", "encode", "planes")],
            extra_compile_args=["-O2"],
            optional=True,
        )
    ],
    install_requires=[
        "numpy>=2.0",
        "scipy>=1.14",
        "onnx>=1.19",
        "onnxruntime>=1.22",
        "onnx-graphsurgeon>=0.6.1",
        # Pinned: apache-tvm-ffi 0.1.15 crashes in Schedule.tensorize under this release of TVM.
        "apache-tvm==0.27.0.post1",
        "apache-tvm-ffi==0.1.14.post1",
        "typer>=0.15",
        "rich>=13.7",
        "jinja2>=3.1",
        'tomli>=2; python_version < "3.11"',
    ],
    extras_require=EXTRAS,
    # A package that brings passes of its own lists the modules that register them in the group "onnxc.passes":
    #   entry_points={"onnxc.passes": ["mine = mine.passes"]}
    entry_points={"console_scripts": ["onnxc = onnxc.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Software Development :: Compilers",
    ],
)
