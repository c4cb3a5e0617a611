"""`timed=True`: which nodes each call stands for, and a clock between calls in a library beside the one that is shipped."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pytest
from onnx import numpy_helper, parser

from onnxc.codegen import compile_model
from onnxc.codegen.prepare.static import make_static
from onnxc.codegen.program import lower_program
from onnxc.codegen.target import resolve
from onnxc.ir.errors import BadOption, Unsupported
from onnxc.runtime import library
from onnxc.runtime.laps import TimedLibrary

TEXT = """
net (float[1,8,40,40] x) => (float[1,8] v, float[1,8,40,40] q, float[1,8,40,40] q2)
{
  a = Conv <pads = [1, 1, 1, 1]> (x, w)
  b = Relu(a)
  c = Conv <pads = [1, 1, 1, 1]> (b, w)
  d = Add(c, b)
  t = Tanh(d)
  e = Exp(t)
  u = Softmax <axis = 1> (e)
  m = ReduceMean <axes = [2, 3], keepdims = 0> (u)
  v = Neg(m)
  p = Tanh(x)
  q = Exp(p)
  y = Relu(x)
  p2 = Tanh(y)
  q2 = Exp(p2)
}
"""


def parse(text: str, **weights):
    """A model whose nodes are called by their outputs."""
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]>{text}')
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    for node in made.graph.node:
        node.name = f"node_{node.output[0]}"
    return made


@pytest.fixture(scope="module")
def model():
    weights = np.random.default_rng(0).normal(size=(8, 8, 3, 3)).astype(np.float32) / 8
    return parse(TEXT, w=weights)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("timed") / "out"
    compile_model(model, out, name="net", check="shapes", timed=True)
    return out


def test_each_call_says_its_nodes(model):
    """Products with their epilogues, layouts for the node that asks for them, and groups of TVM's fusion, of which alike ones are one
    function: each call has its own nodes, and every node is somewhere."""
    rows = lower_program(make_static(model, None), resolve("native"), 1, "net", timed=True).rows
    products = [row for row in rows if row.family.startswith("float32")]
    assert [row.nodes for row in products] == [("node_a", "node_b"), ("node_c", "node_d")]
    assert all(row.macs == 8 * 8 * 9 * 40 * 40 and row.channels == (8, 8, 1) for row in products)
    assert products[0].function == products[1].function or products[0].spec != products[1].spec
    general = {
        row.nodes for row in rows if row.family == "general schedule" and not row.function.startswith("transpose")
    }
    assert {("node_t", "node_e"), ("node_p", "node_q"), ("node_y", "node_p2", "node_q2"), ("node_u",)} <= general
    seen = {name for row in rows for name in row.nodes}
    assert seen == {node.name for node in model.graph.node}
    assert all(row.nodes for row in rows)
    softmax = next(row for row in rows if row.nodes == ("node_u",))
    assert (softmax.bytes, softmax.weight_bytes) == (2 * 8 * 40 * 40 * 4, 0)


def test_alike_groups_have_nodes_of_their_own():
    """Two groups that are one function, and two nodes that compute the very same."""
    made = parse("""
net (float[4,64] x, float[4,64] y) => (float[4,64] a2, float[4,64] b2, float[4,64] c2)
{
  a = Tanh(x)
  a2 = Exp(a)
  b = Tanh(y)
  b2 = Exp(b)
  c = Tanh(x)
  c2 = Exp(c)
}
""")
    rows = lower_program(make_static(made, None), resolve("native"), 1, "net", timed=True).rows
    assert [row.nodes for row in rows] == [("node_a", "node_a2"), ("node_b", "node_b2"), ("node_c", "node_c2")]
    assert len({row.function for row in rows}) == 1


def test_the_shipped_library_has_no_clock(model, folder, tmp_path):
    """It is the bytes of a compilation without, and one of those takes the timed library away."""
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    with pytest.raises(Unsupported, match="a profile of a library for aarch64, which does not run here"):
        compile_model(model, out, name="net", target="aarch64", timed=True)
    assert (out / "profile" / "libnet.so").exists()
    compile_model(model, out, name="net", check="shapes")
    assert (out / "libnet.so").read_bytes() == (folder / "libnet.so").read_bytes()
    assert not (out / "profile" / "libnet.so").exists()
    with pytest.raises(BadOption, match="has no timed library; compile the model with --profile"):
        TimedLibrary(out)
    assert b"clock_gettime" in (folder / "profile" / "libnet.so").read_bytes()
    assert b"clock_gettime" not in (folder / "libnet.so").read_bytes()


def test_laps_add_up_to_a_run(folder):
    """The timed library computes the same bytes; of the time of a run from outside, its laps are nearly all."""
    timed, plain = TimedLibrary(folder), library.Library(folder)
    feeds = {"x": np.random.default_rng(1).normal(size=(1, 8, 40, 40)).astype(np.float32)}
    for name, array in plain.run(feeds).items():
        assert array.tobytes() == timed.run(feeds)[name].tobytes()
    rows, shares = timed.rows(feeds), []
    for _ in range(50):
        start = time.perf_counter()
        timed.run(feeds)
        whole, laps = time.perf_counter() - start, timed.laps(len(rows))
        assert laps.shape == (len(rows),) and (laps >= 0).all()
        shares.append(laps.sum() / whole)
    assert 0.6 < max(shares) <= 1


def test_phases_of_threads_and_several_programs_have_laps(model, tmp_path):
    """Parallel calls are timed as a whole; of several shapes the laps are those of the shape that ran."""
    wide = parse(TEXT.replace("float[1,", "float[N,"), w=np.zeros((8, 8, 3, 3), np.float32))
    compile_model(
        wide, tmp_path / "out", name="net", check="shapes", timed=True, threads=2, shapes=[{"x": (n, 8, 40, 40)} for n in (1, 2)]
    )  # fmt: skip
    timed = TimedLibrary(tmp_path / "out", threads=2)
    macs = []
    for n in (1, 2):
        feeds = {"x": np.zeros((n, 8, 40, 40), np.float32)}
        timed.run(feeds)
        rows = timed.rows(feeds)
        laps = timed.laps(len(rows))
        assert (laps >= 0).all() and laps.sum() > 0
        macs.append(sum(row["macs"] for row in rows))
    assert macs[1] == 2 * macs[0]
