"""Weights in files beside a model: at any depth they are taken from its folder, under the same checks."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxc import run_passes
from onnxc.ir.errors import BadModel
from onnxc.ir.external import tensors
from onnxc.ir.files import load
from tests.ops.harness import run


def weight(value: float, name: str = "w") -> TensorProto:
    return numpy_helper.from_array(np.full((4,), value, np.float32), name)


def info(name: str, shape=(4,), kind=TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def body(name: str, value: float) -> onnx.GraphProto:
    nodes = [
        helper.make_node("Constant", [], [f"{name}_c"], value=weight(value)),
        helper.make_node("Add", [f"{name}_c", f"{name}_i"], [f"{name}_y"]),
    ]
    return helper.make_graph(nodes, name, [], [info(f"{name}_y")], [weight(value + 1, f"{name}_i")])


def model() -> onnx.ModelProto:
    """Weights everywhere: an initialiser, constants, a sparse one, bodies in bodies, a function."""
    inner = [helper.make_node("If", ["c"], ["in_y"], then_branch=body("t", 1), else_branch=body("e", 2))]
    outer = helper.make_graph(inner, "inner", [], [info("in_y")])
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([3, 4], np.float32), "s"), numpy_helper.from_array(np.array([0, 2]), "at"), [4]
    )
    nodes = [
        helper.make_node("If", ["c"], ["a"], then_branch=outer, else_branch=body("o", 5)),
        helper.make_node("Constant", [], ["k"], value=weight(7)),
        helper.make_node("Constant", [], ["out_k"], value=weight(8)),
        helper.make_node("Constant", [], ["q"], sparse_value=sparse),
        helper.make_node("held", ["a"], ["f"], domain="local"),
        helper.make_node("Sum", ["f", "k", "q", "w", "x"], ["y"]),
    ]
    inside = [helper.make_node("Constant", [], ["c"], value=weight(9)), helper.make_node("Mul", ["p", "c"], ["r"])]
    function = helper.make_function("local", "held", ["p"], ["r"], inside, [helper.make_opsetid("", 17)])
    inputs = [info("c", (), TensorProto.BOOL), info("x")]
    graph = helper.make_graph(nodes, "g", inputs, [info("y"), info("out_k")], [weight(6)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)


FEEDS = [{"c": np.array(c), "x": np.arange(4, dtype=np.float32)} for c in (True, False)]
COUNT = 12


def moved_out(path, change=lambda number, entries: None) -> onnx.ModelProto:
    """The model with the data of every tensor in `w.bin` beside `path`; `change(number, entries)` may spoil what it says."""
    proto, content, number = model(), b"", -1
    for number, t in enumerate(tensors(proto)):
        raw = t.raw_data
        entries = {"location": "w.bin", "offset": len(content), "length": len(raw)}
        change(number, entries)
        t.ClearField("raw_data")
        t.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            t.external_data.add(key=key, value=str(value))
        content += raw
    assert number + 1 == COUNT
    path.parent.mkdir(exist_ok=True)
    (path.parent / "w.bin").write_bytes(content)
    path.write_bytes(proto.SerializeToString())
    return proto


def test_all_weights_come_from_the_folder_of_the_model(tmp_path, monkeypatch):
    moved_out(tmp_path / "model" / "m.onnx")
    (tmp_path / "w.bin").write_bytes(bytes(10_000))  # another model's, where the command is called
    monkeypatch.chdir(tmp_path)
    for path in ("model/m.onnx", tmp_path / "model" / "m.onnx"):
        written = load(path).to_proto()
        assert all(t.data_location != TensorProto.EXTERNAL and not t.external_data for t in tensors(written))
        for feeds in FEEDS:
            for a, b in zip(run(model(), feeds), run(written, feeds), strict=True):
                np.testing.assert_array_equal(a, b)
    # what is saved elsewhere needs the folder no longer
    run_passes(tmp_path / "model" / "m.onnx", "clean, fuse").model.save(tmp_path / "out.onnx")
    for path in (tmp_path / "model").iterdir():
        path.unlink()
    for feeds in FEEDS:
        for a, b in zip(run(model(), feeds), run(onnx.load(tmp_path / "out.onnx"), feeds), strict=True):
            np.testing.assert_allclose(a, b)


@pytest.mark.parametrize("number", range(COUNT))
@pytest.mark.parametrize(
    "key, value, said",
    [
        ("location", "../secret", "outside"),
        ("location", "/etc/hostname", "outside"),
        ("location", "none", "missing"),
        ("location", "pipe", "missing"),
        ("location", "link", "outside"),
        ("location", "", "outside"),
        ("offset", 10**6, "wrong size"),
        ("offset", -1, "wrong size"),
        ("offset", "x", "no number"),
        ("length", 1, "wrong size"),
    ],
)
def test_the_same_checks_hold_at_every_depth(tmp_path, number, key, value, said):
    def spoil(at, entries):
        if at == number:
            entries[key] = value

    (tmp_path / "secret").write_bytes(bytes(1000))
    moved_out(tmp_path / "model" / "m.onnx", spoil)
    os.mkfifo(tmp_path / "model" / "pipe")
    (tmp_path / "model" / "link").symlink_to("../secret")
    with pytest.raises(BadModel, match=said):
        load(tmp_path / "model" / "m.onnx")


def test_a_model_that_is_no_file_has_no_files_beside_it(tmp_path):
    proto = moved_out(tmp_path / "m.onnx")
    before = proto.SerializeToString(deterministic=True)
    for source in (proto, proto.SerializeToString()):
        with pytest.raises(BadModel, match="another file"):
            load(source)
    assert proto.SerializeToString(deterministic=True) == before
