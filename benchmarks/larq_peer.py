"""A binary layer in Larq Compute Engine, timed on request; benchmarks/kernels.py starts it in a Python that has the package.

    python larq_peer.py H W C OC K        then numbers of calls on stdin, CPU seconds a call on stdout

The layer is a QuantConv2D with one-padding (the only one that the engine's fast path takes) and a BatchNormalization.
"""

from __future__ import annotations

import sys
import time

import larq
import larq_compute_engine
import numpy as np
import tensorflow as tf
from larq_compute_engine.tflite.python.interpreter import Interpreter


def seconds(run: Interpreter, x: np.ndarray, calls: int) -> float:
    """CPU seconds a call."""
    batch = np.repeat(x, calls, axis=0)
    start = time.process_time()
    run.predict(batch)
    return (time.process_time() - start) / calls


def main() -> None:
    h, w, c, oc, k = map(int, sys.argv[1:])
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Input((h, w, c)),
            larq.layers.QuantConv2D(
                oc,
                k,
                padding="same",
                pad_values=1,
                use_bias=False,
                input_quantizer="ste_sign",
                kernel_quantizer="ste_sign",
            ),
            tf.keras.layers.BatchNormalization(),
        ]
    )
    flat = larq_compute_engine.convert_keras_model(model)
    x = np.random.default_rng(0).standard_normal((1, h, w, c)).astype("f")
    paths = [Interpreter(flat, num_threads=1, use_indirect_bgemm=indirect) for indirect in (False, True)]
    run = min(paths, key=lambda path: min(seconds(path, x, 3) for _ in range(3)))  # its best path
    print(larq_compute_engine.__version__, flush=True)
    for line in sys.stdin:
        print(seconds(run, x, int(line)), flush=True)


if __name__ == "__main__":
    main()
