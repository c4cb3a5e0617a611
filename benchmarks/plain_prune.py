"""Criteria of pruning beside plain implementations of their papers, written here in NumPy: the channels within ResNet-20's blocks
and those of the VGG's chain.

    python benchmarks/plain_prune.py [--test FILE.npz] [--write docs/pruning.md]

Both start from the same float model, look at the same 256 calibration images (no labels) and take the same number of channels from
each layer. Nothing was chosen; accuracy and SNR are of the second half of the test images. Writes benchmarks/results/plain_prune.json;
--write puts the table into a document.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from plain import CALIB, MARKS, ROOT, Judge, products, put, rows

import onnxc
from onnxc.runtime.reference import Runner

RESULTS = ROOT / "benchmarks/results/plain_prune.json"
NETWORKS = {"ResNet-20": "onnxc/data/resnet20_fashion.onnx", "VGG": "tests/data/vggslim_fashion.onnx"}
RATIOS = (0.25, 0.5)
TABLE = MARKS[0].replace("plain.py", "plain_prune.py"), MARKS[1]
THROUGH = ("Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten")


@dataclass
class Pair:
    """A layer whose channels one other layer alone reads; seen: what it gives behind its activation [samples, channels, ...]."""

    maker: object
    reader: object
    seen: np.ndarray
    read: np.ndarray
    """A sample of rows of what the reader multiplies [rows, channels x positions]."""

    @property
    def weights(self) -> np.ndarray:
        """[channels, numbers of the filter]"""
        return self.maker.inputs[1].values.reshape(len(self.maker.inputs[1].values), -1).astype(np.float64)

    @property
    def columns(self) -> np.ndarray:
        """[outputs, channels, positions]"""
        w = self.reader.inputs[1].values.astype(np.float64)
        return w.reshape(len(w), len(self.weights), -1)


def pairs(model, images: np.ndarray) -> list[Pair]:
    found = []
    for maker in products(model):
        out, behind = maker.outputs[0], None
        while len(out.outputs) == 1 and out.outputs[0].op in THROUGH:
            behind = behind or out.outputs[0]
            out = out.outputs[0].outputs[0]
        if (
            len(out.outputs) == 1
            and out.outputs[0].op in ("Conv", "Gemm")
            and behind is not None
            and behind.op == "Relu"
        ):
            reader = out.outputs[0]
            got = Runner(optimise=False)(model.to_proto(), {"image": images}, [behind.outputs[0].name, out.name])
            found.append(
                Pair(maker, reader, got[behind.outputs[0].name], rows(reader, got[out.name]).astype(np.float64))
            )
    return found


# the papers: for each channel how much it is worth


def li(p: Pair) -> np.ndarray:
    return np.abs(p.weights).sum(1)


def he_soft(p: Pair) -> np.ndarray:
    return np.sqrt(np.square(p.weights).sum(1))


def he_median(p: Pair) -> np.ndarray:
    return np.sqrt(np.square(p.weights[:, None] - p.weights[None]).sum(2)).sum(1)


def hu(p: Pair) -> np.ndarray:
    return (p.seen > 0).reshape(len(p.seen), len(p.weights), -1).mean((0, 2))


def lecun(p: Pair) -> np.ndarray:
    """Half the diagonal of the layer's second derivatives by the squares of the weights that go."""
    power = np.square(p.read).mean(0).reshape(len(p.weights), -1)
    return (np.square(p.columns) * power).sum((0, 2)) / 2


def removed(p: Pair, score: np.ndarray, count: int) -> list[int]:
    return [int(c) for c in np.argsort(score, kind="stable")[:count]]


def luo(p: Pair, count: int) -> list[int]:
    """ThiNet: at each step the channel whose part of the sums, with what has gone, is least."""
    h = p.read.T @ p.read / len(p.read)
    w, n = p.columns, len(p.weights)
    k = w.shape[2]
    gram = np.zeros((n, n))  # of the channels' parts of the outputs
    for i in range(n):
        for j in range(n):
            gram[i, j] = np.einsum("oa,ab,ob->", w[:, i], h[i * k : (i + 1) * k, j * k : (j + 1) * k], w[:, j])
    gone: list[int] = []
    while len(gone) < count:
        left = [c for c in range(n) if c not in gone]
        cost = [gram[c, c] + 2 * gram[c, gone].sum() for c in left]
        gone.append(left[int(np.argmin(cost))])
    return gone


# what is done with them


def twins(made, p: Pair) -> tuple:
    """The two layers in a copy of their model."""
    nodes = {n.name: n for n in made.nodes}
    return nodes[p.maker.name], nodes[p.reader.name]


def zeroed(model, found: list[tuple[Pair, list[int]]], solve: bool = False):
    """A copy without the channels; solve: the readers' weights by least squares, as ThiNet and He 2017 end."""
    made = model.copy()
    for p, gone in found:
        at = np.ones(len(p.weights), bool)
        at[gone] = False
        maker, reader = twins(made, p)
        for i in (1, 2):
            values = maker.inputs[i].values.copy()
            values[gone] = 0
            made.set_weight(maker, i, values)
        if solve:
            columns = np.repeat(at, p.columns.shape[2])
            x, w = p.read[:, columns], p.columns.reshape(len(p.columns), -1)
            h = x.T @ x
            fitted = np.zeros_like(w)
            fitted[:, columns] = np.linalg.solve(h + 1e-6 * np.trace(h) / len(h) * np.eye(len(h)), x.T @ p.read @ w.T).T
            made.set_weight(reader, 1, fitted.reshape(p.reader.inputs[1].values.shape).astype(np.float32))
    return made


def merged(model, found: list[Pair], ratio: float):
    """Srinivas and Babu 2015: layer after layer, the pair of units that is nearest, weighed by what reads the one that goes, is
    made one, and its readers' weights are added up."""
    made = model.copy()
    for p in found:
        maker, reader = twins(made, p)
        w, b, a = (v.values.copy() for v in (maker.inputs[1], maker.inputs[2], reader.inputs[1]))
        flat = np.concatenate([w.reshape(len(w), -1), b[:, None]], 1).astype(np.float64)
        columns = a.reshape(len(a), len(w), -1).astype(np.float64)
        left = list(range(len(w)))
        for _ in range(count(len(w), ratio)):
            gaps = np.square(flat[left][:, None] - flat[left][None]).sum(2)
            cost = gaps * np.square(columns[:, left]).sum((0, 2))[None]  # [stays, goes]
            np.fill_diagonal(cost, np.inf)
            i, j = np.unravel_index(int(cost.argmin()), cost.shape)
            columns[:, left[i]] += columns[:, left[j]]
            columns[:, left[j]] = 0
            del left[int(j)]
        made.set_weight(reader, 1, columns.reshape(a.shape).astype(np.float32))
    return made


def count(size: int, ratio: float) -> int:
    return size - max(round(size * (1 - ratio)), 1)


PLAIN: dict[str, tuple[str, Callable[[Pair], np.ndarray]]] = {
    "l1": ("Li 2017", li), "l2": ("He 2018", he_soft), "fpgm": ("He 2019", he_median), "apoz": ("Hu 2016", hu),
    "hessian": ("LeCun 1990, by channel", lecun),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--test", type=Path, default=ROOT / "onnxc/data/fashion_test.npz")
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    if given.write:
        text = "| network | ratio | criterion | plain | accuracy, SNR | `prune` |\n|---|---:|---|---|---:|---:|\n"
        for r in json.loads(RESULTS.read_text())["rows"]:
            told = [f"{r[who]['accuracy']:.2f} %, {r[who]['snr_db']:.1f} dB" for who in ("plain", "ours")]
            text += f"| {r['network']} | {r['ratio']} | {r['criterion']} | {r['paper']} | {told[0]} | {told[1]} |\n"
        put(given.write, TABLE, text)
        return
    calib, found = {"image": np.load(ROOT / "onnxc/data/fashion_calib.npz")["image"][:CALIB]}, []
    for network, path in NETWORKS.items():
        model = onnxc.run_passes(ROOT / path, "fuse").model
        judge, chain = Judge(model, given.test), pairs(model, calib["image"])
        print(network, [p.maker.name for p in chain])

        def ours(options: str, model=model):
            text = f"prune({options},scope=layer,round_to=1,couple=inner)"
            return onnxc.run_passes(model, text, data=calib, check="shapes").model

        for ratio in RATIOS:
            size = lambda p, ratio=ratio: count(len(p.weights), ratio)  # noqa: E731
            work = [
                (
                    name,
                    paper,
                    zeroed(model, [(p, removed(p, rate(p), size(p))) for p in chain]),
                    f"criterion={name},recover=none" + ",readers=false" * (name == "l1"),
                )
                for name, (paper, rate) in PLAIN.items()
            ]
            work.append(
                ("redundancy", "Srinivas, Babu 2015", merged(model, chain, ratio), "criterion=redundancy,recover=none")
            )
            greedy = [(p, luo(p, size(p))) for p in chain]
            work.append(
                (
                    "reconstruction, solved",
                    "Luo 2017",
                    zeroed(model, greedy, True),
                    "criterion=reconstruction,recover=lstsq",
                )
            )
            for name, paper, plain, options in work:
                mine = ours(f"ratio={ratio},{options}")
                row = {
                    "network": network,
                    "ratio": ratio,
                    "criterion": name,
                    "paper": paper,
                    "plain": judge(plain),
                    "ours": judge(mine),
                }
                print(json.dumps(row), flush=True)
                found.append(row)
                RESULTS.write_text(json.dumps({"images": len(judge.labels), "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
