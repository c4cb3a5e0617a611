"""Whatever indices an input holds: those within the tensor give what ONNX Runtime gives, others the status INDEX."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from onnxc.codegen import compile_model
from onnxc.ir.errors import BadData
from onnxc.runtime.emulate import open_library

from .conftest import run_ort
from .test_targets import ready

MODEL = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
  g (float[5,7] x, int64[3] i, int64[2,7] j, int64[3,2] k, int64[2,1] m, int32[2,7] n, float[2,7] u)
    => (float[3,7] a, float[2,7] b, float[3] c, float[5,7] d, float[5,7] e) {
    a = Gather(x, i) b = GatherElements(x, j) c = GatherND(x, k) d = ScatterND(x, m, u) e = ScatterElements(x, n, u) }""")
BOUNDS = {"i": 5, "j": 5, "k": 5, "m": 5, "n": 5}
WILD = [5, -6, 2**31 - 1, -(2**31), 2**40, -(2**33), 2**63 - 1, -(2**63)]


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Inputs whose indices are all within their tensor, negative ones among them; scattered rows are distinct."""
    return {
        "x": rng.standard_normal((5, 7)).astype("f"), "i": rng.integers(-5, 5, 3), "j": rng.integers(-5, 5, (2, 7)),
        "k": np.stack([rng.integers(-5, 5, 3), rng.integers(-7, 7, 3)], 1), "m": np.array([[-1], [2]]),
        "n": np.stack([rng.integers(0, 2, 7), rng.integers(-2, 0, 7)]).astype("i4"),
        "u": rng.standard_normal((2, 7)).astype("f"),
    }  # fmt: skip


@pytest.mark.parametrize("target, threads", [("native", 1), ("native", 3), ("aarch64", 1), ("cortex-m7", 1)])
def test_an_index_out_of_range_is_a_status(tmp_path, target, threads):
    if target != "native":
        ready(target)
    compile_model(MODEL, tmp_path, name="net", check="shapes", target=target, threads=threads)
    library, rng = open_library(tmp_path), np.random.default_rng(0)

    def right() -> None:
        given = feeds(rng)
        made, wanted = library.run(given), run_ort(MODEL, given)
        assert all(np.array_equal(made[name], wanted[name]) for name in wanted)

    right()
    for turn, name in enumerate(BOUNDS):
        given = feeds(rng)
        fits = [value for value in WILD if np.iinfo(given[name].dtype).min <= value <= np.iinfo(given[name].dtype).max]
        wild = rng.permutation(fits)[: 1 if target != "native" else None]
        for value in wild:
            flat = given[name].copy()
            flat.reshape(-1)[(turn if name != "k" else 0) % flat.size] = value
            with pytest.raises(BadData, match="index is out of range"):
                library.run(given | {name: flat})
    right()  # the handle goes on
