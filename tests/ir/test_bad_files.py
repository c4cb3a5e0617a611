"""Damaged and malicious files: one line of BadModel, or a model that verifies or is refused in one line. Nothing else."""

import os
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxc.ir.errors import BadModel, OnnxcError
from onnxc.ir.files import load
from onnxc.ir.verify import verify
from tests.strategies import build

SECONDS = 5.0


def outcome(source) -> str:
    """How loading and verifying ends; fails on any other exception, on long messages and on a hang."""
    start = time.process_time()
    try:
        verify(load(source))
        said = "sound"
    except OnnxcError as e:
        said = str(e)
        assert said and "\n" not in said and len(said) < 2000
        assert (
            type(e).__name__ == "BadModel"
            or "node" in said
            or "output" in said
            or "refuses" in said
            or "inference" in said
        ), said
    assert time.process_time() - start < SECONDS
    return said


def refused(source, *words: str) -> None:
    with pytest.raises(BadModel) as e:
        load(source)
    said = str(e.value)
    assert "\n" not in said
    for word in words:
        assert word in said, said
    assert e.value.exit_status == 2


BASES = [build(seed, 3, opset).SerializeToString() for seed, opset in ((1, 13), (2, 17), (3, 21), (4, 11))]


def mutations(seed: int) -> list[bytes]:
    """Bit flips, overwritten ranges, truncations, splices, repeats and swaps of a sound file."""
    rng = np.random.default_rng(seed)
    data = BASES[seed % len(BASES)]
    n = len(data)
    at = lambda: int(rng.integers(n))  # noqa: E731
    flipped = bytearray(data)
    for _ in range(int(rng.integers(1, 8))):
        flipped[at()] ^= 1 << int(rng.integers(8))
    head = bytearray(data)  # the graph's structure stands ahead of the weights
    for _ in range(int(rng.integers(1, 5))):
        head[int(rng.integers(min(n, 1500)))] = int(rng.integers(256))
    a, b = sorted((at(), at()))
    other = BASES[(seed + 1) % len(BASES)]
    return [
        bytes(flipped),
        bytes(head),
        data[: at()],
        data[:a] + data[b:],
        data[:a] + rng.bytes(b - a if b - a < 4096 else 4096) + data[b:],
        data[:a] + other[a:],
        data[:b] + data[a:b] + data[b:],
        data + other,
    ]


@pytest.mark.parametrize("seed", range(40))
def test_mutated_files(seed, tmp_path):
    for i, data in enumerate(mutations(seed)):
        path = tmp_path / f"{i}.onnx"
        path.write_bytes(data)
        outcome(path)
        assert sorted(p.name for p in tmp_path.iterdir()) == [f"{k}.onnx" for k in range(i + 1)]


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", ["empty"]),
        (b"\x00", ["not an ONNX model"]),
        (b'{"ir_version": 8, "graph": {}}', ["not an ONNX model"]),
        (b"hello world\n" * 100, ["not an ONNX model"]),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), ["not an ONNX model"]),
        (b"PK\x03\x04" + bytes(200), ["not an ONNX model"]),
        (onnx.ModelProto(ir_version=8).SerializeToString(), ["not an ONNX model"]),
    ],
)
def test_what_is_no_model(data, words, tmp_path):
    (tmp_path / "m.onnx").write_bytes(data)
    refused(tmp_path / "m.onnx", *words)
    refused(data, *words)


def test_paths_that_cannot_be_read(tmp_path):
    refused(tmp_path, "folder")
    refused(tmp_path / "nothing.onnx", "no such file")
    refused(tmp_path / "x.onnx" / "y", "cannot read")
    refused(tmp_path / ("n" * 300), "cannot read")
    refused(f"{tmp_path}/a\0b", "null character")
    refused(42, "int is not a model")


# structure


def info(name, shape=(2, 3), kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def proto(nodes, inputs=None, outputs=None, weights=(), opset=17, **more) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs or [info("x")], outputs or [info("y")], list(weights), **more)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)] if opset else [], ir_version=8)


def node(op, ins, outs, **attrs):
    return helper.make_node(op, ins, outs, **attrs)


def tensor(name="w", dims=(3,), kind=TensorProto.FLOAT, raw=None, **fields) -> onnx.TensorProto:
    t = TensorProto(name=name, dims=dims, data_type=kind, **fields)
    if raw is not None:
        t.raw_data = raw
    return t


ADD = [node("Add", ["x", "w"], ["y"])]
STRUCTURE = {
    "a cycle": (
        proto([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])]),
        "cycle",
    ),
    "a node that reads itself": (proto([node("Add", ["x", "y"], ["y"])]), "cycle"),
    "a dangling name": (proto([node("Add", ["x", "nowhere"], ["y"])]), "nowhere"),
    "an output that nobody makes": (proto([node("Relu", ["x"], ["z"])]), "no node makes"),
    "no outputs": (
        onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(name="g"), opset_import=[helper.make_opsetid("", 17)]),
        "no outputs",
    ),
    "two makers": (proto([node("Relu", ["x"], ["y"]), node("Abs", ["x"], ["y"])]), "two nodes make"),
    "a node that makes its own input": (proto([node("Relu", ["x"], ["x"])], outputs=[info("x")]), "two nodes make"),
    "a weight without a name": (proto(ADD, weights=[numpy_helper.from_array(np.ones(3, np.float32), "")]), "no name"),
    "two inputs of one name": (proto([node("Relu", ["x"], ["y"])], inputs=[info("x"), info("x")]), "stands twice"),
    "no operator": (proto([node("", ["x"], ["y"])]), "no operator"),
    "no opset": (proto([node("Relu", ["x"], ["y"])], opset=0), "opset"),
    "opset 6": (proto([node("Relu", ["x"], ["y"])], opset=6), "opset"),
    "a future opset": (proto([node("Relu", ["x"], ["y"])], opset=99), "opset"),
    "a negative extent": (proto(ADD, weights=[tensor(dims=(-3,), raw=bytes(12))]), "negative"),
    "an unknown type": (proto(ADD, weights=[tensor(kind=77, raw=bytes(12))]), "unknown type"),
    "too few bytes": (proto(ADD, weights=[tensor(raw=bytes(11))]), "wrong size"),
    "too many bytes": (proto(ADD, weights=[tensor(raw=bytes(16))]), "wrong size"),
    "no bytes": (proto(ADD, weights=[tensor()]), ""),
    "too few floats": (proto(ADD, weights=[tensor(float_data=[1, 2])]), ""),
    "a huge extent": (proto(ADD, weights=[tensor(dims=(2**40, 2**40))]), ""),
    "a huge extent with bytes": (proto(ADD, weights=[tensor(dims=(2**62, 4), raw=bytes(12))]), "wrong size"),
    "too few nibbles": (proto(ADD, weights=[tensor(kind=TensorProto.INT4, dims=(5,), raw=bytes(2))]), "wrong size"),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_bad_structure(name):
    model, word = STRUCTURE[name]
    refused(model, word)
    refused(model.SerializeToString(), word)


def sparse(values, indices, dims, name="w"):
    v = numpy_helper.from_array(np.asarray(values, np.float32), name)
    return onnx.SparseTensorProto(
        values=v, indices=numpy_helper.from_array(np.asarray(indices, np.int64), "i"), dims=dims
    )


@pytest.mark.parametrize(
    "bad",
    [
        sparse([1, 2], [0, 9], (3,)),
        sparse([1, 2], [0, -1], (3,)),
        sparse([1, 2], [[0, 0], [0, 5]], (3, 3)),
        sparse([1, 2], [0, 1, 2], (3,)),
        sparse([1, 2], [0, 1], (-3,)),
        sparse([1, 2], [0, 1], (2**50,)),
        sparse([1, 2], [0, 1], (3,), name=""),
    ],
)
def test_bad_sparse_weights(bad):
    model = proto(ADD)
    model.graph.sparse_initializer.append(bad)
    refused(model)


def attribute(**fields) -> onnx.AttributeProto:
    return onnx.AttributeProto(**fields)


@pytest.mark.parametrize(
    "op, a",
    [
        ("Relu", attribute(name="alpha", type=0)),
        ("Relu", attribute(name="", type=1, f=1)),
        ("Relu", attribute(name="unheard_of", type=1, f=1)),
        ("Softmax", attribute(name="axis", type=1, f=1)),
        ("Softmax", attribute(name="axis", type=3, s=b"one")),
        ("Softmax", attribute(name="axis", type=3, s=b"\xff\xfe")),
        ("Softmax", attribute(name="axis", type=2, i=9)),
        ("Softmax", attribute(name="axis", type=7, ints=[1, 2])),
        ("Softmax", attribute(name="axis", type=4)),
        ("Softmax", attribute(name="axis", type=11)),
        ("Softmax", attribute(name="axis", type=13)),
        ("Softmax", attribute(name="axis", ref_attr_name="outer", type=2)),
        ("Transpose", attribute(name="perm", type=7, ints=[0, 0])),
        ("Transpose", attribute(name="perm", type=7, ints=[5, 1])),
        ("Transpose", attribute(name="perm", type=2, i=1)),
        ("MaxPool", attribute(name="kernel_shape", type=7, ints=[0])),
        ("MaxPool", attribute(name="kernel_shape", type=2, i=3)),
        ("GlobalAveragePool", attribute(name="nothing", type=5)),
        ("Flatten", attribute(name="axis", type=2, i=-77)),
        ("ReduceSum", attribute(name="keepdims", type=3, s=b"yes")),
        ("ReduceMean", attribute(name="axes", type=7, ints=[7])),
        ("ReduceMean", attribute(name="axes", type=7, ints=[2**62])),
        ("Split", attribute(name="axis", type=2, i=4)),
        ("Squeeze", attribute(name="axes", type=7, ints=[0])),
        ("DepthToSpace", attribute(name="blocksize", type=2, i=0)),
        ("DepthToSpace", attribute(name="blocksize", type=2, i=-2)),
        ("SpaceToDepth", attribute(name="blocksize", type=2, i=0)),
        ("Conv", attribute(name="group", type=2, i=0)),
        ("Conv", attribute(name="group", type=2, i=-1)),
        ("Conv", attribute(name="strides", type=7, ints=[0, 0])),
        ("Conv", attribute(name="dilations", type=7, ints=[1])),
        ("Conv", attribute(name="pads", type=7, ints=[1, 2, 3])),
        ("Conv", attribute(name="auto_pad", type=2, i=3)),
        ("Einsum", attribute(name="equation", type=3, s=b"ij->")),
        ("Einsum", attribute(name="equation", type=3, s=b"->->,,")),
        ("Cast", attribute(name="to", type=2, i=99)),
        ("Cast", attribute(name="to", type=3, s=b"float")),
        ("Concat", attribute(name="axis", type=2, i=12)),
        ("Gather", attribute(name="axis", type=2, i=-12)),
        ("LayerNormalization", attribute(name="axis", type=2, i=12)),
        ("GroupNormalization", attribute(name="num_groups", type=2, i=0)),
        ("LpNormalization", attribute(name="axis", type=2, i=12)),
        ("Shape", attribute(name="start", type=1, f=0.5)),
        ("TopK", attribute(name="axis", type=2, i=12)),
        ("Trilu", attribute(name="upper", type=1, f=0.5)),
        ("OneHot", attribute(name="axis", type=2, i=12)),
        ("MeanVarianceNormalization", attribute(name="axes", type=7, ints=[12])),
        ("ConvTranspose", attribute(name="output_shape", type=7, ints=[1])),
        ("ConvTranspose", attribute(name="group", type=2, i=0)),
        ("Resize", attribute(name="axes", type=7, ints=[12])),
        ("QuantizeLinear", attribute(name="axis", type=2, i=12)),
        ("DequantizeLinear", attribute(name="block_size", type=2, i=-3)),
    ],
    ids=lambda v: v if isinstance(v, str) else f"{v.name}-{v.type}",
)
@pytest.mark.parametrize("more", [0, 1, 2])
def test_odd_attributes(op, a, more):
    """With one to three inputs, so that every row meets what it does not expect."""
    n = node(op, ["x", "w", "v"][: more + 1], ["y"])
    n.attribute.append(a)
    weights = [numpy_helper.from_array(np.ones(s, np.float32), k) for k, s in (("w", (4, 4, 2, 2)), ("v", (4,)))]
    for opset in (9, 17, 21):
        outcome(proto([n], [info("x", (1, 4, 6, 6))], [onnx.ValueInfoProto(name="y")], weights, opset))


@pytest.mark.parametrize("rank", range(4))
def test_every_row_meets_inputs_it_does_not_expect(rank):
    from onnxc.ir.table import ROWS

    for op in ROWS:
        for inputs in range(5):
            for kind in (TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL):
                x = [info(f"x{i}", (2, 3, 4)[:rank], kind) for i in range(max(inputs, 1))]
                n = node(op, [f"x{i}" for i in range(inputs)], ["y"])
                outcome(proto([n], x, [onnx.ValueInfoProto(name="y")]))


# external data


def external(tmp_path, location="w.bin", size=12, write=12, **entries):
    t = tensor(dims=(3,))
    t.data_location = TensorProto.EXTERNAL
    for k, v in {"location": location, "length": size, **entries}.items():
        t.external_data.add(key=k, value=str(v))
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (tmp_path / "secret").write_bytes(bytes(64))
    if write is not None and "/" not in location and "\0" not in location and len(location) < 200:
        (folder / location).write_bytes(np.arange(write, dtype=np.uint8).tobytes())
    path = folder / "m.onnx"
    path.write_bytes(proto(ADD, weights=[t]).SerializeToString())
    return path


def test_external_data_in_the_folder(tmp_path):
    assert load(external(tmp_path)).constants()["w"].values.shape == (3,)
    assert load(external(tmp_path, write=20, offset=8)).constants()["w"].values.tobytes() == bytes(range(8, 20))


@pytest.mark.parametrize(
    "location, words",
    [
        ("../secret", "outside"),
        ("/etc/passwd", "outside"),
        ("a/../../secret", "outside"),
        ("", "outside"),
        ("none.bin", "missing"),
        (".", ""),
        ("x" * 400, ""),
        ("a\0b", ""),
    ],
)
def test_external_data_elsewhere(location, words, tmp_path):
    refused(external(tmp_path, location, write=None), words)


def test_external_data_of_a_wrong_size(tmp_path):
    refused(external(tmp_path, write=11), "wrong size")
    refused(external(tmp_path, size=8), "wrong size")
    refused(external(tmp_path, offset=-4), "wrong size")
    refused(external(tmp_path, offset=4), "wrong size")
    refused(external(tmp_path, offset="four"), "damaged")
    refused(external(tmp_path).read_bytes(), "another file")


def test_external_data_through_links(tmp_path):
    path = external(tmp_path, write=None)
    (path.parent / "w.bin").symlink_to(tmp_path / "secret")
    refused(path, "outside")
    (path.parent / "w.bin").unlink()
    (path.parent / "w.bin").symlink_to(path.parent / "w.bin")
    refused(path)
    (path.parent / "w.bin").unlink()
    (path.parent / "w.bin").mkdir()
    refused(path, "missing")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(BASES[0])
    path.chmod(0)
    refused(path, "cannot read")
