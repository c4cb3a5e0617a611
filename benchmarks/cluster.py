"""Clustering 25 million weights to 256 values: CPU time, and the error beside scikit-learn's KMeans.

    python benchmarks/cluster.py [--weights 25000000] [--values 256] [--sample 1000000] [--no-whole] [--json FILE]

The weights are a mixture of four normal distributions, as the layers of a network are. scikit-learn (extra `bench`)
clusters a sample with ten starts, and all weights with one start, which takes some ten minutes (--no-whole leaves it
out); every codebook is judged on all weights, and those of the sample on the sample too.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from onnxc.passes.quant.cluster_codes import Settings, find_codes
from onnxc.passes.quant.cluster_kmeans import nearest


def weights(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    scales = rng.choice(np.array([0.01, 0.02, 0.05, 0.1], np.float32), count)
    return rng.standard_normal(count, np.float32) * scales


def error(w: np.ndarray, codes: np.ndarray) -> float:
    """The mean squared error of `w` coded by the nearest of `codes`."""
    return float(np.square(w - codes[nearest(w, codes)], dtype=np.float64).mean())


def ours(w: np.ndarray, values: int, start: str = "optimal") -> tuple[np.ndarray, float]:
    """(codes, CPU seconds), the indices of all weights included."""
    begin = time.process_time()
    codes = find_codes([w], [None], Settings(values, start, 4096, None, True, np.random.default_rng(0)))
    codes.indices(w, None)
    return codes.values, time.process_time() - begin


def peer(w: np.ndarray, values: int, restarts: int) -> tuple[np.ndarray, float]:
    """(codes, CPU seconds) of scikit-learn with its defaults."""
    from sklearn.cluster import KMeans

    begin = time.process_time()
    model = KMeans(values, n_init=restarts, random_state=0).fit(w.reshape(-1, 1))
    return np.unique(model.cluster_centers_.ravel().astype(np.float32)), time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=25_000_000)
    parser.add_argument("--values", type=int, default=256)
    parser.add_argument("--sample", type=int, default=1_000_000)
    parser.add_argument("--no-whole", action="store_true", help="scikit-learn clusters the sample only")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    w = weights(given.weights)
    sample = w[:: max(1, len(w) // given.sample)][: given.sample]
    rows = []

    def add(name: str, of: np.ndarray, found: tuple[np.ndarray, float]) -> None:
        codes, seconds = found
        row = {"name": name, "clustered": len(of), "seconds": seconds, "mse": error(w, codes)}
        text = f"{name:34} of {len(of):9d} {seconds:8.2f} s  mean squared error of all {row['mse']:.5e}"
        if of is sample:
            row["mse_sample"] = error(sample, codes)
            text += f", of the sample {row['mse_sample']:.5e}"
        rows.append(row)
        print(text, flush=True)

    for start in ("optimal", "kmeans++", "linear", "density", "random"):
        add(f"quant.cluster, start={start}", w, ours(w, given.values, start))
    add("quant.cluster, start=optimal", sample, ours(sample, given.values))
    try:
        from sklearn import __version__
    except ImportError:
        print("scikit-learn is not installed: no comparison")
        __version__ = None
    else:
        add("KMeans, n_init=10", sample, peer(sample, given.values, 10))
        if not given.no_whole:
            add("KMeans, n_init=1", w, peer(w, given.values, 1))
    if given.json:
        sizes = {"weights": len(w), "values": given.values, "sample": len(sample), "scikit-learn": __version__}
        given.json.write_text(json.dumps({**sizes, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
