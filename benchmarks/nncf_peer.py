"""NNCF's quantiser and its accuracy control, in an environment of its own (its onnx is another one): needs nncf, onnx, onnxruntime,
numpy, scipy.

    PYTHONPATH=. PYTHON benchmarks/nncf_peer.py MODEL.onnx CALIBRATION.npz OUT.onnx
    PYTHONPATH=. PYTHON benchmarks/nncf_peer.py MODEL.onnx CALIBRATION.npz VALIDATION.npz MAX_DROP OUT.onnx [TASK]

The .npz hold the model's input; VALIDATION.npz `labels` too. What may not drop is the first metric of the task (classification, say).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable

import numpy as np
import onnx
import onnxruntime as ort

from onnxc.runtime.evaluate import Score, find_task


def plain(source: str, calibration: str, out: str) -> None:
    """With its defaults, on all samples of one input or more."""
    import nncf

    logging.disable(logging.WARNING)
    seen = dict(np.load(calibration))
    count = len(next(iter(seen.values())))
    feeds = [{name: array[i : i + 1] for name, array in seen.items()} for i in range(count)]
    onnx.save(nncf.quantize(onnx.load(source), nncf.Dataset(feeds), subset_size=count), out)


def controlled(source: str, calibration: str, validation: str, most: str, out: str, of: str = "classification") -> None:
    import nncf

    logging.disable(logging.WARNING)
    model, task = onnx.load(source), find_task(of)
    assert task is not None
    name = model.graph.input[0].name
    seen, judged = dict(np.load(calibration)), dict(np.load(validation))

    def rows(arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        return [{name: arrays[name][i : i + 1]} for i in range(len(arrays[name]))]

    def metric(candidate: onnx.ModelProto, feeds: Iterable[dict[str, np.ndarray]]) -> float:
        session, score = (
            ort.InferenceSession(candidate.SerializeToString(), providers=["CPUExecutionProvider"]),
            Score(task),
        )
        names = [o.name for o in session.get_outputs()]
        for k, feed in enumerate(feeds):
            outputs = dict(zip(names, session.run(None, feed), strict=True))
            score.add({n: y if y.ndim else y[None] for n, y in outputs.items()}, judged["labels"][k : k + 1])
        return score.values()[task.metric]

    made = nncf.quantize_with_accuracy_control(
        model,
        calibration_dataset=nncf.Dataset(rows(seen)),
        validation_dataset=nncf.Dataset(rows(judged)),
        validation_fn=metric,
        max_drop=float(most),
        subset_size=len(seen[name]),
    )
    onnx.save(made, out)


if __name__ == "__main__":
    (plain if len(sys.argv) == 4 else controlled)(*sys.argv[1:])
