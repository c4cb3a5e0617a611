"""An int8 detector beside ONNX Runtime's static quantisation: COCO mAP of a FastestDet file, untouched by hand.

    python benchmarks/detection.py FastestDet.onnx data.npz [--write]

data.npz: `input.1` [samples, 3, 352, 352], BGR / 255, and `labels` [samples, boxes, 5]: class, x0, y0, x1, y1 in pixels, -1 where
a row is empty. Both are calibrated on these images; the metric is of all of them.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path

import numpy as np

import onnxc

RESULTS = Path(__file__).resolve().parent / "results/detection.json"


def by_ort(model: str, data: str, out: str) -> None:
    """ONNX Runtime's own: QDQ, one scale per weight, as the file's opset takes no more."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    images = np.load(data)["input.1"]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self):
            image = next(self.left, None)
            return None if image is None else {"input.1": image[None]}

    logging.disable(logging.WARNING)
    quantize_static(model, out, Reader(), quant_format=QuantFormat.QDQ)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model")
    options.add_argument("data")
    options.add_argument("--write", action="store_true")
    given = options.parse_args()
    report = onnxc.run_passes(given.model, "quant", data=given.data, task="detection").report
    before, after = report.rows[0].before, report.rows[-1].after
    rows = {
        "float": report.metrics | {"bytes": before.bytes},
        "quant": {k: report.rows[-1].error[k] for k in report.metrics} | {"bytes": after.bytes},
    }
    with tempfile.TemporaryDirectory() as folder:
        by_ort(given.model, given.data, f"{folder}/ort.onnx")
        rows["onnxruntime"] = onnxc.compare(given.model, f"{folder}/ort.onnx", given.data, task="detection").metrics[1]
    rows["samples"] = report.samples
    print(json.dumps(rows, indent=1))
    if given.write:
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
