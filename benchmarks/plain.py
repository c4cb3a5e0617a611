"""Methods of quantisation beside plain implementations of their papers, written here in NumPy: weights of the bundled ResNet-20.

    python benchmarks/plain.py [--test FILE.npz] [--model FILE.onnx] [--write docs/quantisation.md]

Both start from the same float model and the same 256 calibration images (no labels), store the same numbers, and run in ONNX Runtime.
Parameters were chosen on the first half of the test images; accuracy and SNR are of the second half. Writes
benchmarks/results/plain.json; --write puts the table into a document.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import onnxc
from onnxc.runtime.reference import Runner, Session

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/plain.json"
MARKS = "<!-- table: benchmarks/plain.py -->\n", "<!-- end of table -->\n"
CALIB = 256


# what the plain implementations share


def products(model) -> list:
    """Convolutions and fully connected layers, weights [outputs, inputs, *kernel]."""
    return [n for n in model.nodes if n.op in ("Conv", "Gemm") and n.inputs[1].values.ndim in (2, 4)]


def rows(node, x: np.ndarray, limit: int = 20000) -> np.ndarray:
    """im2col: what the outputs of a layer are products with, a sample of positions."""
    w = node.inputs[1].values
    if w.ndim == 2:
        return x.reshape(len(x), -1)
    pads, strides = node.attrs.get("pads", [0] * 4), node.attrs.get("strides", [1, 1])
    x = np.pad(x, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])])
    view = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))[:, :, :: strides[0], :: strides[1]]
    flat = view.transpose(0, 2, 3, 1, 4, 5).reshape(-1, w[0].size)
    return flat[np.random.default_rng(0).permutation(len(flat))[:limit]]


def inputs(model, images: np.ndarray) -> dict[str, np.ndarray]:
    """Of each layer E[x x'], by its name."""
    nodes = products(model)
    got = Runner(optimise=False)(model.to_proto(), {"image": images}, [n.inputs[0].name for n in nodes])
    found = {}
    for n in nodes:
        x = rows(n, got[n.inputs[0].name]).astype(np.float64)
        found[n.name] = x.T @ x / len(x)
    return found


def with_weights(model, change):
    """A copy whose weights are change(node, weights as [outputs, columns])."""
    model = model.copy()
    for n in products(model):
        w = n.inputs[1].values
        made = change(n, w.reshape(len(w), -1).astype(np.float64))
        if made is not None:
            model.set_weight(n, 1, made.reshape(w.shape).astype(np.float32))
    return model


# the papers


def lloyd(x: np.ndarray, centres: np.ndarray, times: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """k-means of vectors x [n, d] from given centres."""
    for _ in range(times):
        at = ((x[:, None] - centres) ** 2).sum(2).argmin(1)
        centres = np.stack([x[at == k].mean(0) if (at == k).any() else c for k, c in enumerate(centres)])
    return ((x[:, None] - centres) ** 2).sum(2).argmin(1), centres


def han(bits: int):
    """Deep compression's sharing: k-means, linear start."""

    def change(node, w):
        x = w.reshape(-1, 1)
        at, c = lloyd(x, np.linspace(x.min(), x.max(), 1 << bits)[:, None])
        return c[at].reshape(w.shape)

    return change


def zhou(bits: int):
    """INQ's grid without retraining: n1 = floor(log2(4 max / 3)), the nearest power of two."""

    def change(node, w):
        n1 = int(np.floor(np.log2(4 * np.abs(w).max() / 3)))
        grid = 2.0 ** np.arange(n1 - (1 << (bits - 1)) + 2, n1 + 1)
        grid = np.concatenate([-grid[::-1], [0], grid])
        return grid[np.abs(w[..., None] - grid).argmin(-1)]

    return change


def gong(part: int, k: int, shared: bool):
    """Product quantisation: k-means of sub-vectors (of inputs, at each position of a kernel)."""

    def change(node, w):
        found = cut(node, w, part)
        return None if found is None else join(node, code(found, k, shared)[1])

    return change


def cut(node, w: np.ndarray, part: int):
    """[outputs, positions, parts, length]"""
    shape = node.inputs[1].values.shape
    length = next(n for n in range(min(part, shape[1]), 0, -1) if shape[1] % n == 0)
    if length == 1:
        return None
    taps = int(np.prod(shape[2:], dtype=int))
    return w.reshape(shape[0], shape[1], taps).transpose(0, 2, 1).reshape(shape[0], taps, -1, length)


def join(node, v: np.ndarray) -> np.ndarray:
    o, taps, parts, length = v.shape
    return v.reshape(o, taps, parts * length).transpose(0, 2, 1).reshape(o, -1)


def code(v: np.ndarray, k: int, shared: bool):
    """(codes, values) by k-means from random rows."""
    rng, out, codes = np.random.default_rng(0), np.empty_like(v), np.empty(v.shape[:3], int)
    for m in [slice(None)] if shared else [slice(i, i + 1) for i in range(v.shape[2])]:
        x = v[:, :, m].reshape(-1, v.shape[3])
        at, c = lloyd(x, x[rng.permutation(len(x))[:k]], 25)
        out[:, :, m], codes[:, :, m] = c[at].reshape(v[:, :, m].shape), at.reshape(v[:, :, m].shape[:3])
    return codes, out


def wu(part: int, k: int, seen: dict, rounds: int = 3):
    """Error correction (eq. 9 and 10): codewords one by one, then codes one by one, on what the float model's layers read."""

    def change(node, w):
        v = cut(node, w, part)
        if v is None:
            return None
        codes, values = code(v, k, False)
        o, taps, parts, length = v.shape
        h = seen[node.name].reshape(parts, length, taps, parts, length, taps)
        h = h.transpose(2, 0, 1, 5, 3, 4).reshape(taps * parts * length, -1)
        h = h + np.eye(len(h)) * 0.01 * np.trace(h) / len(h)
        goal, now = v.reshape(o, -1), values.reshape(o, -1).copy()
        books = [np.zeros((k, length)) for _ in range(parts)]
        for m in range(parts):
            for j in range(k):
                chosen = codes[:, :, m] == j
                if chosen.any():
                    books[m][j] = values[:, :, m][chosen][0]
        for _ in range(rounds):
            for m in range(parts):
                for j in range(k):  # a codeword: its normal equations, all else fixed
                    chosen = codes[:, :, m] == j
                    if not chosen.any():
                        continue
                    a, b, slope = np.zeros((length, length)), np.zeros(length), (goal - now) @ h
                    for row, tap in np.argwhere(chosen):
                        mine = slice((tap * parts + m) * length, (tap * parts + m) * length + length)
                        b += slope[row, mine]
                        for other in np.flatnonzero(chosen[row]):
                            a += h[mine, (other * parts + m) * length : (other * parts + m) * length + length]
                    step = np.linalg.solve(a, b)
                    books[m][j] += step
                    for row, tap in np.argwhere(chosen):
                        now[row, (tap * parts + m) * length : (tap * parts + m) * length + length] += step
                for tap in range(taps):  # codes: the best codeword given all others
                    mine = slice((tap * parts + m) * length, (tap * parts + m) * length + length)
                    own, slope = h[mine, mine], ((goal - now) @ h)[:, mine]
                    ideal = now[:, mine] + np.linalg.solve(own, slope.T).T
                    d = books[m][None] - ideal[:, None]
                    codes[:, tap, m] = np.einsum("okl,lj,okj->ok", d, own, d).argmin(1)
                    now[:, mine] = books[m][codes[:, tap, m]]
        return join(node, now.reshape(v.shape))

    return change


def frantar(w: np.ndarray, h: np.ndarray, bits: int):
    """GPTQ: (integers, scale), columns in order, scale by the largest weight, 1 % damping."""
    h = h + np.eye(len(h)) * 0.01 * np.trace(h) / len(h)
    r, w, top = np.linalg.cholesky(np.linalg.inv(h)).T, w.copy(), (1 << (bits - 1)) - 1
    scale = np.abs(w).max(1) / top
    q = np.empty_like(w)
    for i in range(w.shape[1]):
        q[:, i] = np.clip(np.rint(w[:, i] / scale), -top, top)
        w[:, i + 1 :] -= ((w[:, i] - q[:, i] * scale) / r[i, i])[:, None] * r[i, i + 1 :]
    return q, scale


def nagel(w: np.ndarray, h: np.ndarray, bits: int, steps: int = 1000, rate: float = 0.01):
    """AdaRound: (integers, scale) by Adam on the relaxed up-or-down, scale by the largest weight."""
    top = (1 << (bits - 1)) - 1
    scale = np.abs(w).max(1) / top
    floor, s = np.floor(w / scale[:, None]), scale[:, None]
    a = np.log((np.clip(w / s - floor, 0.01, 0.99) + 0.1) / (1.1 - np.clip(w / s - floor, 0.01, 0.99)))
    first, second = np.zeros_like(a), np.zeros_like(a)
    unit = 0.01 * max(np.einsum("oi,ij,oj->", w, h, w) * 1e-2, 1e-12)
    for t in range(1, steps + 1):
        g = 1 / (1 + np.exp(-a))
        raw = g * 1.2 - 0.1
        r, beta = np.clip(raw, 0, 1), 2 + 9 * (1 + np.cos(np.pi * max(0, (t / steps - 0.2) / 0.8)))
        slope = 2 * s * (((floor + r) * s - w) @ h)
        if t > 0.2 * steps:
            slope -= unit * 2 * beta * np.sign(2 * r - 1) * np.abs(2 * r - 1) ** (beta - 1)
        slope *= 1.2 * g * (1 - g) * ((raw > 0) & (raw < 1))
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        a -= rate * first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-12)
    return np.clip(floor + (a > 0), -top, top), scale


def integers(qdq, model, seen: dict, method, bits: int):
    """`qdq`, a model of ours with its activations quantised, with weights by `method`."""
    made, floats = qdq.copy(), {n.name: n for n in products(model)}
    for n in made.nodes:
        if n.name in floats:
            w = floats[n.name].inputs[1].values
            q, scale = method(w.reshape(len(w), -1).astype(np.float64), seen[n.name], bits)
            stored = n.inputs[1].inputs[0]
            made.set_weight(stored, 0, q.reshape(w.shape).astype(np.int8))
            made.set_weight(stored, 1, scale.astype(np.float32))
            if len(n.inputs) > 2 and n.inputs[2].inputs:
                bias, x = n.inputs[2].inputs[0], n.inputs[0].inputs[0].inputs[1].values
                made.set_weight(bias, 0, np.rint(floats[n.name].inputs[2].values / (x * scale)).astype(np.int32))
                made.set_weight(bias, 1, (x * scale).astype(np.float32))
    return made


# measuring


class Judge:
    def __init__(self, model, file: Path):
        with np.load(file) as data:
            half = len(data["labels"]) // 2
            self.images, self.labels = data["image"][half:], data["labels"][half:]
        self.want = self.run(model)

    def run(self, model) -> np.ndarray:
        session = Session(model.to_proto(), optimise=True)
        return np.concatenate(
            [
                next(iter(session.run({"image": self.images[i : i + 250]}).values()))
                for i in range(0, len(self.images), 250)
            ]
        )

    def __call__(self, model) -> dict:
        y = self.run(model)
        noise = float(np.square(y - self.want).sum() / np.square(self.want).sum())
        return {
            "accuracy": 100 * float((y.argmax(1) == self.labels).mean()),
            "snr_db": -10 * float(np.log10(max(noise, 1e-30))),
        }


def put(document: Path, marks: tuple[str, str], text: str) -> None:
    """Replace what stands in a document between two marks."""
    head, rest = document.read_text(encoding="utf-8").split(marks[0])
    document.write_text(head + marks[0] + text + marks[1] + rest.split(marks[1], 1)[1], encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--test", type=Path, default=ROOT / "onnxc/data/fashion_test.npz")
    parser.add_argument("--model", type=Path, default=ROOT / "onnxc/data/resnet20_fashion.onnx")
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    if given.write:
        text = "| | | SNR | accuracy |\n|---|---|---|---|\n"
        for r in json.loads(RESULTS.read_text())["rows"]:
            text += f"| {r['method']} | {r['who']} | {r['snr_db']:.1f} dB | {r['accuracy']:.1f} % |\n"
        put(given.write, MARKS, text)
        return
    calib = {"image": np.load(ROOT / "onnxc/data/fashion_calib.npz")["image"][:CALIB]}
    model = onnxc.run_passes(given.model, "fuse").model
    judge, seen = Judge(model, given.test), inputs(model, calib["image"])
    ours = lambda passes, data=calib: onnxc.run_passes(model, passes, data=data, check="shapes").model  # noqa: E731
    blind = lambda passes: ours(passes, None)  # noqa: E731
    qdq = ours("quant(bits=4)")
    work = [
        ("shared weights, 3 bits, no data", "NumPy (Han 2016)", lambda: with_weights(model, han(3))),
        ("shared weights, 3 bits, no data", "`quant.cluster(bits=3,start=linear)`", lambda: blind("quant.cluster(bits=3,start=linear)")),
        ("shared weights, 3 bits, no data", "`quant.cluster(bits=3)`", lambda: blind("quant.cluster(bits=3)")),
        ("shared weights, 3 bits", "`quant.cluster(bits=3)`", lambda: ours("quant.cluster(bits=3)")),
        ("shared weights, 3 bits", "`quant.cluster(bits=3,refit=true)`", lambda: ours("quant.cluster(bits=3,refit=true)")),
        ("powers of two, 4 bits, no data", "NumPy (Zhou 2017)", lambda: with_weights(model, zhou(4))),
        ("powers of two, 4 bits, no data", "`quant.pow2`", lambda: blind("quant.pow2")),
        ("powers of two, 4 bits", "`quant.pow2`", lambda: ours("quant.pow2")),
        ("product, 4 inputs, 64 centroids, no data", "NumPy (Gong 2014)", lambda: with_weights(model, gong(4, 64, False))),
        ("product, 4 inputs, 64 centroids, no data", "`quant.product(correct=false)`", lambda: blind("quant.product(correct=false)")),
        ("product, 4 inputs, 64 centroids, no data", "`quant.product`", lambda: blind("quant.product")),
        ("product, 4 inputs, 64 centroids", "NumPy (Wu 2016)", lambda: with_weights(model, wu(4, 64, seen))),
        ("product, 4 inputs, 64 centroids", "`quant.product`", lambda: ours("quant.product")),
        ("vectors, 4 inputs, 64 centroids a layer, no data", "NumPy (Gong 2014)", lambda: with_weights(model, gong(4, 64, True))),
        ("vectors, 4 inputs, 64 centroids a layer, no data", "`quant.product(codebook=layer)`", lambda: blind("quant.product(codebook=layer)")),
        ("vectors, 4 inputs, 64 centroids a layer", "`quant.product(codebook=layer)`", lambda: ours("quant.product(codebook=layer)")),
        ("4-bit weights, 8-bit activations", "nearest", lambda: qdq),
        ("4-bit weights, 8-bit activations", "NumPy (GPTQ, Frantar 2023)", lambda: integers(qdq, model, seen, frantar, 4)),
        ("4-bit weights, 8-bit activations", "NumPy (AdaRound, Nagel 2020)", lambda: integers(qdq, model, seen, nagel, 4)),
        *(("4-bit weights, 8-bit activations", f"`quant(bits=4,rounding={how})`", lambda how=how: ours(f"quant(bits=4,rounding={how})"))
          for how in ("seqmse", "gptq", "adaround", "adaptive")),
    ]  # fmt: skip
    found = []
    for method, who, make in work:
        start = time.process_time()
        row = {"method": method, "who": who, **judge(make()), "seconds": time.process_time() - start}
        print(json.dumps(row), flush=True)
        found.append(row)
        RESULTS.write_text(json.dumps({"images": len(judge.labels), "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
