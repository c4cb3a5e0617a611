"""Which runtimes take what each pass writes, as it is and after `portable`.

    python benchmarks/portable.py [--runtime NAME ...] [--write docs/quantisation.md]

Each pass runs on the bundled ResNet-20, at one image; a runtime takes a model where it loads it and gives the outputs that ONNX Runtime
gives for it, within 1 % of the largest (integer kernels round differently). ONNX Runtime, OpenVINO and ncnn (converted by pnnx)
are asked as they come from PyPI (`pip install openvino ncnn pnnx`), TVM through its own importer. Writes
benchmarks/results/portable.json; --write puts the table into a document.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
MODEL, CALIB = ROOT / "onnxc/data/resnet20_fashion.onnx", ROOT / "onnxc/data/fashion_calib.npz"
RESULTS = ROOT / "benchmarks/results/portable.json"
MARKS = "<!-- table: benchmarks/portable.py -->\n", "<!-- end of table -->\n"
PASSES = (
    "fuse", "prune(ratio=0.3)", "prune.magnitude(sparsity=0.5)", "lowrank.auto(macs=0.7)", "quant", "quant(form=qoperator)",
    "quant.dynamic", "quant.blockwise", "quant.fixed", "quant.blockfloat", "quant.float16", "quant.bfloat16", "quant.half",
    "quant.cluster", "quant.product", "quant.pow2", "quant.hash", "quant.binary", "quant.binary(inputs=none)",
)  # fmt: skip
NEAR = 0.01


def onnxruntime(file: str, x: np.ndarray) -> np.ndarray:
    from onnxc.runtime.reference import Session

    return next(iter(Session(file, optimise=True).run({"image": x}).values()))


def openvino(file: str, x: np.ndarray) -> np.ndarray:
    import openvino as ov

    model = ov.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    return next(iter(model([x]).values()))


def ncnn(file: str, x: np.ndarray) -> np.ndarray:
    import ncnn as runtime
    import pnnx

    with tempfile.TemporaryDirectory() as folder:
        name = str(Path(folder) / "net.onnx")
        Path(name).write_bytes(Path(file).read_bytes())
        shape = ",".join(map(str, x.shape))
        made = subprocess.run(
            [pnnx.EXEC_PATH, name, f"inputshape=[{shape}]", "fp16=0"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if not (Path(folder) / "net.ncnn.param").exists():
            raise RuntimeError(f"pnnx: {(made.stderr or made.stdout).strip().splitlines()[-1:] or made.returncode}")
        net = runtime.Net()
        net.opt.num_threads = 1
        if net.load_param(f"{folder}/net.ncnn.param") or net.load_model(f"{folder}/net.ncnn.bin"):
            raise RuntimeError("ncnn does not load what pnnx wrote")
        found = net.create_extractor()
        found.input("in0", runtime.Mat(np.ascontiguousarray(x[0])))
        status, y = found.extract("out0")
        if status:
            raise RuntimeError(f"ncnn gives no output: {status}")
        return np.array(y)[None]


def tvm(file: str, x: np.ndarray) -> np.ndarray:
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    module = from_onnx(onnx.load(file), shape_dict={"image": list(x.shape)}, keep_params_in_input=False)
    machine = relax.VirtualMachine(
        tvm.compile(relax.transform.LegalizeOps()(module), tvm.target.Target("llvm")), tvm.cpu()
    )
    made = machine["main"](tvm.runtime.tensor(x))
    return (made[0] if not hasattr(made, "numpy") else made).numpy()


RUNTIMES = {"ONNX Runtime": onnxruntime, "OpenVINO": openvino, "ncnn": ncnn, "TVM": tvm}


def make(folder: Path) -> dict[str, dict[str, Path]]:
    """The files of each pass, as written and after `portable`, at one image."""
    import onnxc

    model = onnxc.load(MODEL)
    for t in model.inputs:
        t.shape = [1, *t.shape[1:]]
    found: dict[str, dict[str, Path]] = {}
    for i, passes in enumerate(PASSES):
        made = onnxc.run_passes(model, f"fuse,{passes}", data=str(CALIB), check="shapes").model
        for kind, result in (("written", made), ("portable", onnxc.run_passes(made, "portable", check="shapes").model)):
            file = folder / f"{i}_{kind}.onnx"
            result.save(file)
            found.setdefault(passes, {})[kind] = file
        print("made", passes, flush=True)
    return found


def ask(runtime: str, file: Path) -> str:
    """yes, or why not; in a process of its own, as some runtimes end it."""
    made = subprocess.run(
        [sys.executable, __file__, "--one", runtime, str(file)], capture_output=True, text=True, timeout=900
    )
    lines = made.stdout.strip().splitlines()
    return lines[-1] if made.returncode == 0 and lines else f"ended with status {made.returncode}"


def one(runtime: str, file: str) -> str:
    x = np.load(CALIB)["image"][:1]
    want = onnxruntime(file, x)
    try:
        got = RUNTIMES[runtime](file, x)
    except Exception as e:
        return f"{type(e).__name__}: {' '.join(str(e).split())[:160]}"
    worst = float(np.abs(np.asarray(got, np.float32).reshape(want.shape) - want).max() / np.abs(want).max())
    return "yes" if worst <= NEAR else f"differs by {worst:.2g} of the largest output"


def table(rows: list[dict]) -> str:
    names = [n for n in RUNTIMES if any(n in r["written"] for r in rows)]
    text = f"| | {' | '.join(names)} | bytes |\n|---|{'---|' * len(names)}---|\n"
    for r in rows:
        cells = []
        for n in names:
            before, after = (str(r[k].get(n, "")) == "yes" for k in ("written", "portable"))
            cells.append("yes" if before and after else "portable" if after else "as written" if before else "no")
        size = f"{r['bytes']['written']:,}" + (
            f", portable {r['bytes']['portable']:,}" if r["bytes"]["portable"] != r["bytes"]["written"] else ""
        )
        text += f"| `{r['passes']}` | {' | '.join(cells)} | {size} |\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runtime", nargs="+", choices=list(RUNTIMES), default=list(RUNTIMES))
    parser.add_argument("--write", type=Path, help="the document whose table is made from the results")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(one(*given.one))
        return
    if not given.write:
        with tempfile.TemporaryDirectory() as folder:
            rows = []
            for passes, files in make(Path(folder)).items():
                row: dict = {
                    "passes": passes,
                    "bytes": {k: f.stat().st_size for k, f in files.items()},
                    "written": {},
                    "portable": {},
                }
                for name in given.runtime:
                    row["written"][name] = ask(name, files["written"])
                    same = files["written"].read_bytes() == files["portable"].read_bytes()
                    row["portable"][name] = row["written"][name] if same else ask(name, files["portable"])
                rows.append(row)
                print(json.dumps(row), flush=True)
                RESULTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
        return
    rows = json.loads(RESULTS.read_text())["rows"]
    head, rest = given.write.read_text(encoding="utf-8").split(MARKS[0])
    given.write.write_text(head + MARKS[0] + table(rows) + MARKS[1] + rest.split(MARKS[1], 1)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
