"""A small trained-like network, data for it, passes of our own, and the command line in this process."""

from typing import NamedTuple

import numpy as np
import onnx
import pytest
from onnx import parser

from onnxc.cli.app import main
from onnxc.passes import base, registry
from onnxc.passes.base import Claim, Pass, Report, register

TEXT = """
net (float[N,3,8,8] x) => (float[N,4] y)
{
  a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
  r = Relu(a)
  c = Conv <pads = [1, 1, 1, 1]> (r, w1, b1)
  s = Relu(c)
  p = GlobalAveragePool(s)
  f = Flatten(p)
  y = Gemm <transB = 1> (f, w2, b2)
}
"""
SHAPES = {"w0": (16, 3, 3, 3), "b0": (16,), "w1": (8, 16, 3, 3), "b1": (8,), "w2": (4, 8), "b2": (4,)}


def network(seed: int = 0) -> onnx.ModelProto:
    """Two convolutions and a classifier with seeded random weights."""
    rng = np.random.default_rng(seed)
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{TEXT}')
    for name, shape in SHAPES.items():
        values = rng.standard_normal(shape).astype(np.float32) * np.float32(0.3)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    for node in proto.graph.node:
        node.name = f"node_{node.output[0]}"
    return proto


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    def error(self) -> str:
        """The one line on stderr; fails the test if there is more, or anything on stdout."""
        assert self.out == ""
        assert self.err.startswith("onnxc: error: ") and self.err.count("\n") == 1 and self.err.endswith("\n")
        assert "Traceback" not in self.err
        return self.err.removeprefix("onnxc: error: ").strip()


@pytest.fixture
def command(capsys):
    """`command("inspect", path)` runs it in this process."""

    def run(*argv) -> Ended:
        status = main([str(a) for a in argv])
        return Ended(status, *capsys.readouterr())

    return run


@pytest.fixture
def model_path(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(network(), path)
    return path


@pytest.fixture
def data_path(tmp_path):
    """24 labelled samples for the network."""
    rng = np.random.default_rng(1)
    path = tmp_path / "data.npz"
    np.savez(path, x=rng.standard_normal((24, 3, 8, 8)).astype(np.float32), labels=rng.integers(0, 4, 24))
    return path


@pytest.fixture
def own_passes(monkeypatch):
    """Passes that go wrong, each in one way; the registry is as before afterwards."""
    registry.available()
    monkeypatch.setattr(base, "PASSES", dict(base.PASSES))
    monkeypatch.setattr(base, "ALIASES", dict(base.ALIASES))

    @register("own.wrong")
    class Wrong(Pass):
        """Scale the classifier and claim that nothing changed. factor: what it is scaled by."""

        claim = Claim.EXACT
        factor: float = 2.0

        def run(self, model, ctx) -> Report:
            report = Report()
            node = model.nodes[-1]
            model.set_weight(node, 1, node.inputs[1].values * np.float32(self.factor))
            report.edit(node.name, f"scaled by {self.factor}")
            return report

    @register("own.rough")
    class Rough(Wrong):
        """Scale the classifier, and say that it is lossy."""

        claim = Claim.LOSSY

    @register("own.crash")
    class Crash(Pass):
        """Divide by zero."""

        def run(self, model, ctx) -> Report:
            raise ZeroDivisionError("a line\nand another")

    @register("own.misfit")
    class Misfit(Pass):
        """Cut a weight and forget those coupled with it."""

        def run(self, model, ctx) -> Report:
            report = Report()
            node = next(n for n in model.nodes if n.op == "Conv")
            model.set_weight(node, 0 + 1, node.inputs[1].values[:7])
            report.edit(node.name, "cut")
            return report

    @register("own.random")
    class Random(Pass):
        """Noise on every matrix, seeded."""

        claim = Claim.LOSSY

        def run(self, model, ctx) -> Report:
            report, rng = Report(), ctx.rng()
            for node in model.nodes:
                if node.op in ("Conv", "Gemm"):
                    weight = node.inputs[1].values
                    noise = rng.standard_normal(weight.shape).astype(np.float32) * np.float32(1e-3)
                    model.set_weight(node, 1, weight + noise)
                    report.edit(node.name, "shaken")
                else:
                    report.refuse(node.name, "it has no weights")
            return report
