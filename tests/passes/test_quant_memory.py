"""quant.int8 takes no more memory for more images: peak resident memory, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, resource
import numpy as np
from onnxc.passes.base import apply
from onnxc.passes.registry import make
from onnxc.runtime.data import Data
from onnxc.runtime.reference import Runner
from onnxc.runtime.specs import input_specs
from tests.passes.quant_helpers import model_of

rng = np.random.default_rng(0)
text = '''<ir_version: 8, opset_import: ["" : 13]> g (float[N,3,32,32] x) => (float[N,16,32,32] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, w2) d = Relu(c) y = Conv<pads=[1,1,1,1]>(d, w2) }'''
model = model_of(text, w1=rng.normal(size=(16, 3, 3, 3)).astype(np.float32), w2=rng.normal(size=(16, 16, 3, 3)).astype(np.float32))
images = rng.normal(size=(16, 3, 32, 32)).astype(np.float32)


def peak(count):
    data = Data("made", lambda: ({"x": images} for _ in range(count // 16)), input_specs(model.to_proto()), samples=count)
    options = {"calibration": "entropy", "rounding": "gptq"}
    _, report = apply(make("quant.int8", options), model, runner=Runner(optimise=False), data=data, synthetic=False)
    assert len(report.edits) == 3, report
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


print(json.dumps([peak(48), peak(384)]))
"""


def test_eight_times_the_images_take_no_more_memory():
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    few, many = json.loads(done.stdout)
    each = 4 * 16 * 32 * 32 * 4 / 2**20  # MiB of one image's calibrated tensors
    assert many - few < 0.25 * (384 - 48) * each, (few, many)
