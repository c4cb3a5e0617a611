"""Large models are read in parts: what comes of it is what protobuf reads in one."""

import io

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError

from onnxc.ir import files
from onnxc.ir.errors import BadModel
from onnxc.ir.skimming import skim
from onnxc.ir.streaming import GRAPH, tag, varint
from tests import strategies


def joined(data: bytes) -> onnx.ModelProto | None:
    """What `skim` gives, put together; None where it refuses."""
    try:
        frame, weights = skim(io.BytesIO(data), len(data))
        frame.graph.initializer.extend(weights) if frame.HasField("graph") else None
    except DecodeError:
        return None
    return frame


def parsed(data: bytes) -> onnx.ModelProto | None:
    try:
        return onnx.ModelProto.FromString(data)
    except DecodeError:
        return None


def test_parts_make_the_whole_damaged_or_not():
    rng = np.random.default_rng(0)
    refused = 0
    for seed in range(6):
        data = strategies.build(seed, 2, 17).SerializeToString()
        assert joined(data) == parsed(data)
        for _ in range(60):
            made = bytearray(data[: int(rng.integers(len(data) * 2))])
            made[int(rng.integers(len(made)))] ^= 1 << int(rng.integers(8))
            whole = parsed(bytes(made))
            refused += whole is None
            # what protobuf takes, groups apart, is taken, and nothing else
            assert joined(bytes(made)) == whole or joined(bytes(made)) is None
    assert 100 < refused < 350


def test_graphs_and_initialisers_in_several_pieces():
    model = strategies.build(3, 2, 17)
    first, second = onnx.ModelProto(), onnx.ModelProto()
    first.CopyFrom(model)
    second.graph.CopyFrom(model.graph)
    del first.graph.node[1:], second.graph.node[:1], second.graph.input[:], second.graph.output[:]
    del first.graph.initializer[1:], second.graph.initializer[:1]
    data = first.SerializeToString() + second.SerializeToString()
    assert joined(data) == parsed(data) == model
    nothing = tag(GRAPH) + varint(0)
    assert joined(nothing) == parsed(nothing) and joined(nothing).HasField("graph")
    assert joined(tag(GRAPH) + varint(2**63) + b"x") is None and joined(b"\x80" * 30) is None


@pytest.mark.parametrize("large", [1, 1 << 24])
def test_a_file_of_any_size_is_read_alike(tmp_path, monkeypatch, large):
    monkeypatch.setattr(files, "LARGE", large)
    model = strategies.build(5, 2, 17)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    read = files.load(tmp_path / "m.onnx").to_proto()
    assert read == files.load(model.SerializeToString()).to_proto() == files.load(model).to_proto()
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString()[:-5])
    with pytest.raises(BadModel, match=r"m\.onnx is not an ONNX model, or is truncated"):
        files.load(tmp_path / "m.onnx")
    model.graph.initializer[0].raw_data = b"\0" * 3
    with pytest.raises(BadModel, match="wrong size"):
        files.load(model.SerializeToString())
