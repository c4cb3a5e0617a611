"""A pass computes on one thread of BLAS, however many there are: its model has the same bytes anywhere."""

import os
import subprocess
import sys

from onnxc.passes import blas

CODE = """
import hashlib, sys
import numpy as np
from onnx import numpy_helper, parser
import onnxc
from onnxc.passes import blas
threads = lambda: [get() for get, _ in blas._controls()]
before = threads()
text = '<ir_version: 8, opset_import: ["": 17]> g (float[1,400] x) => (float[1,400] y) { y = MatMul(x, w) }'
proto, rng = parser.parse_model(text), np.random.default_rng(0)
w = rng.standard_normal((400, 40)) @ rng.standard_normal((40, 400)) + 1e-3 * rng.standard_normal((400, 400))
proto.graph.initializer.append(numpy_helper.from_array(w.astype(np.float32), "w"))
seen, digests = [], []
decomposed = lambda: hashlib.sha256(np.linalg.svd(w)[0].tobytes()).hexdigest()
@onnxc.register("test.look")
class Look(onnxc.Pass):
    def run(self, model, ctx):
        seen.append(threads())
        digests.append(decomposed())
        return onnxc.passes.base.Report()
onnxc.run_passes(proto, [Look()], check="shapes")
assert all(n == 1 for n in seen[0]) and threads() == before
print(digests[0])
outside = decomposed()  # on as many threads as there are: other bytes on two
print(outside == digests[0], file=sys.stderr)
for p in ("lowrank.svd", "prune.obs(sparsity=0.5)"):
    model = onnxc.run_passes(proto, p).model.to_proto()
    print(hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest())
"""


def test_the_number_of_threads_changes_no_byte():
    assert blas._controls()
    found, alike = [], []
    for n in ("1", "2"):
        env = {**os.environ, "OPENBLAS_NUM_THREADS": n, "OMP_NUM_THREADS": n}
        done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
        alike.append(done.stderr.strip())
    assert found[0] == found[1] and found[0]
    if (os.cpu_count() or 1) > 1:  # what the passes would have computed on two threads
        assert alike == ["True", "False"]
