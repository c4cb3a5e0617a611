"""Clustering 25 million weights to 256 values: CPU time, and the error beside scikit-learn's KMeans.

    python benchmarks/cluster.py [--weights 25000000] [--values 256] [--sample 1000000] [--json FILE]

The weights are a mixture of four normal distributions, as the layers of a network are. scikit-learn (extra `bench`)
clusters a sample, with its defaults and ten restarts; both codebooks are then judged on the sample and on all weights.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=25_000_000)
    parser.add_argument("--values", type=int, default=256)
    parser.add_argument("--sample", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    w = weights(given.weights)
    found = {}
    for start in ("optimal", "kmeans++", "linear", "density", "random"):
        codes, seconds = ours(w, given.values, start)
        found[start] = {"seconds": seconds, "mse": error(w, codes)}
        print(f"{start:28} {seconds:7.2f} s  mean squared error {found[start]['mse']:.4e}", flush=True)
    sample = w[:: max(1, len(w) // given.sample)]
    codes, seconds = ours(sample, given.values)
    found["sample"] = {"seconds": seconds, "mse": error(sample, codes)}
    print(f"{f'optimal, of {len(sample)}':28} {seconds:7.2f} s  mean squared error {found['sample']['mse']:.4e}")
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        print("scikit-learn is not installed: no comparison")
    else:
        for restarts in (1, 10):
            begin = time.process_time()
            model = KMeans(given.values, n_init=restarts, random_state=0).fit(sample.reshape(-1, 1))
            seconds = time.process_time() - begin
            codes = np.unique(model.cluster_centers_.ravel().astype(np.float32))
            row = found[f"sklearn {restarts}"] = {
                "seconds": seconds,
                "mse": error(sample, codes),
                "all": error(w, codes),
            }
            name = f"KMeans, {restarts} starts, sample"
            print(
                f"{name:28} {seconds:7.2f} s  mean squared error {row['mse']:.4e}, of all {row['all']:.4e}", flush=True
            )
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
