"""NNCF's accuracy control, in an environment of its own (its onnx is another one): needs nncf, onnx, onnxruntime, numpy.

    PYTHON benchmarks/nncf_peer.py MODEL.onnx CALIBRATION.npz VALIDATION.npz MAX_DROP OUT.onnx

The .npz hold the model's inputs; VALIDATION.npz `labels` too. Accuracy is that of the first output's argmax.
"""

from __future__ import annotations

import logging
import sys

import numpy as np
import onnx
import onnxruntime as ort


def main(source: str, calibration: str, validation: str, most: str, out: str) -> None:
    import nncf

    logging.disable(logging.WARNING)
    model = onnx.load(source)
    name = model.graph.input[0].name
    seen, judged = dict(np.load(calibration)), dict(np.load(validation))
    labels = judged["labels"]

    def rows(arrays: dict) -> list[dict]:
        return [{name: arrays[name][i : i + 1]} for i in range(len(arrays[name]))]

    def accuracy(candidate: onnx.ModelProto, feeds) -> float:
        session = ort.InferenceSession(candidate.SerializeToString(), providers=["CPUExecutionProvider"])
        guesses = [session.run(None, feed)[0].reshape(-1).argmax() for feed in feeds]
        return float(np.mean(np.array(guesses) == labels[: len(guesses)]))

    made = nncf.quantize_with_accuracy_control(
        model,
        calibration_dataset=nncf.Dataset(rows(seen)),
        validation_dataset=nncf.Dataset(rows(judged)),
        validation_fn=accuracy,
        max_drop=float(most),
        subset_size=len(seen[name]),
    )
    onnx.save(made, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
