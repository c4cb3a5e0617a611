"""The example package: its pass, and docs/write-your-own-pass.md, which shows it."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

import onnxc
from onnxc.ir.errors import ClaimError
from onnxc.passes import base, registry
from tests.test_pipeline import install, run_with_plugin

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "examples/own_pass"
PAGE = (ROOT / "docs/write-your-own-pass.md").read_text(encoding="utf-8")


@pytest.fixture
def own(monkeypatch):
    """The example's module, registered for one test."""
    registry.available()
    monkeypatch.setattr(base, "PASSES", dict(base.PASSES))
    spec = importlib.util.spec_from_file_location("own_pass", PACKAGE / "own_pass.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "own_pass", module)
    spec.loader.exec_module(module)
    return module


def network() -> onnx.ModelProto:
    """Two products with weights, and one of computed operands."""
    rng = np.random.default_rng(0)
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y, float[N,N] z)'
        "{ h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) t = Transpose(x) z = MatMul(x, t) }"
    )
    for name, shape in (("w", (4, 6)), ("v", (6, 4))):
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        )
    return proto


def test_weights_are_rounded_and_the_outputs_keep_their_ratio(own):
    result = onnxc.run_passes(network(), [own.Round(snr=40.0)])
    row = result.report.rows[-1]
    assert len(row.edits) == 2 and row.error["snr_db"] >= 40
    bits = [int(edit.what.rpartition("-")[2]) for edit in row.edits]
    for b, w in zip(bits, result.model.constants().values(), strict=True):
        assert np.array_equal(np.rint(np.ldexp(w.values, b)), np.ldexp(w.values, b))
    rough = onnxc.run_passes(network(), [own.Round(snr=20.0)]).report.rows[-1]
    assert sum(int(e.what.rpartition("-")[2]) for e in rough.edits) < sum(bits)


def test_do_not_round_what_is_computed_or_what_cannot_bear_it(own):
    row = onnxc.run_passes(network(), [own.Round(bits=2, snr=60.0)]).report.rows[-1]
    assert row.edits == [] and len(row.refusals) == 3
    assert [r.reason for r in row.refusals].count("its weight is computed, or no float32") == 1
    assert "2 bits behind the point are not enough for 60 dB" in {r.reason for r in row.refusals}
    with pytest.raises(onnxc.OnnxcError, match="option bits does not fit, expected 0 to 20, found 30"):
        own.Round(bits=30)


def test_the_same_model_and_seed_give_the_same_bytes(own):
    made = [onnxc.run_passes(network(), [own.Round()]).model.to_proto().SerializeToString() for _ in range(2)]
    assert made[0] == made[1]


def test_a_claim_that_fails_says_whose_pass_it_is(own):
    own.Round.claim = onnxc.Claim.TOLERANCE(0, 1e-6)
    with pytest.raises(ClaimError, match="the pass comes from own_pass: correct it there"):
        onnxc.run_passes(network(), [own.Round(snr=20.0)])


def test_the_installed_package_is_found(tmp_path):
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))
    modules = {
        f"{name}.py": (PACKAGE / f"{name}.py").read_text() for name in project["tool"]["setuptools"]["py-modules"]
    }
    points = project["project"]["entry-points"]["onnxc.passes"]
    install(tmp_path, project["project"]["name"], points, modules)
    onnx.save(network(), tmp_path / "net.onnx")
    listed = run_with_plugin(tmp_path, "passes", "--list", "own.round")
    assert "behind the point, at most" in listed.stdout and "claim: lossy; runs after: clean" in listed.stdout
    ended = run_with_plugin(
        tmp_path, "passes", tmp_path / "net.onnx", "-p", "own.round(snr=20)", "-o", tmp_path / "o.onnx"
    )
    assert (ended.returncode, ended.stderr) == (0, "") and (tmp_path / "o.onnx").exists()


def test_the_page_shows_the_package_as_it_is():
    code = re.search(r"```python\n(.*?)```", PAGE, re.S).group(1)
    assert code == (PACKAGE / "own_pass.py").read_text(encoding="utf-8")
    entry = re.search(r"```toml\n(.*?)```", PAGE, re.S).group(1)
    assert entry.strip() in (PACKAGE / "pyproject.toml").read_text(encoding="utf-8")
