"""Archives give back every file byte for byte, one tensor at a time too, and refuse what is damaged or unsafe."""

import base64
import lzma
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxc.cli.app import main
from onnxc.coding import Archive, encode, layout, pack, unpack
from onnxc.coding.adaptive import can_encode
from onnxc.coding.wire import regions
from onnxc.ir.errors import BadModel, BadOption

RNG = np.random.default_rng(5)


def tensor(name, kind=TensorProto.FLOAT, count=400):
    values = RNG.normal(size=count) * 10
    return helper.make_tensor(name, kind, [count], values.astype(helper.tensor_dtype_to_np_dtype(kind)).tolist())


def everywhere():
    """A model with tensors wherever the format allows them."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["inside"], ["b"])],
        "body",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [400])],
        [numpy_helper.from_array(RNG.normal(size=400).astype(np.float32), "inside")],
    )
    sparse = helper.make_sparse_tensor(tensor("values"), tensor("indices", TensorProto.INT64), [100_000])
    shared = numpy_helper.from_array(np.arange(1000, dtype=np.float32), "shared")
    nodes = [
        helper.make_node("Constant", [], ["constant"], value=numpy_helper.from_array(np.arange(300), "")),
        helper.make_node("Constant", [], ["twin"], value=shared),
        helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body),
        helper.make_node("Custom", ["y"], ["z"], domain="d", list=[tensor("listed"), tensor("listed2")], sparse=sparse),
        helper.make_node("Constant", [], ["floats"], value_floats=[1.0] * 500),
    ]
    typed = [TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.DOUBLE, TensorProto.UINT64]
    typed += [TensorProto.FLOAT16, TensorProto.INT8, TensorProto.BFLOAT16]
    initializers = [shared, *(tensor(f"typed{kind}", kind) for kind in typed)]
    initializers.append(helper.make_tensor("strings", TensorProto.STRING, [2], [b"a" * 200, b"b"]))
    initializers.append(numpy_helper.from_array(np.zeros((0, 3), np.float32), "empty"))
    initializers.append(helper.make_tensor("nibbles", TensorProto.INT4, [999], RNG.integers(-8, 8, 999)))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        initializers,
        sparse_initializer=[sparse],
    )
    function = helper.make_function(
        "d", "F", [], ["o"], [helper.make_node("Constant", [], ["o"], value=tensor("f"))], [helper.make_opsetid("", 20)]
    )
    model = helper.make_model(graph, functions=[function])
    training = model.training_info.add()
    training.algorithm.initializer.append(numpy_helper.from_array(RNG.normal(size=300), "trained"))
    return model


@pytest.fixture
def packed(tmp_path):
    """The archive of `everywhere`, and its bytes before."""
    model = everywhere()
    pack(model, tmp_path / "a.onnxz")
    return tmp_path / "a.onnxz", model


def same_after(path, folder):
    done = pack(path, folder / "a.onnxz")
    assert done.after == (folder / "a.onnxz").stat().st_size
    assert unpack(folder / "a.onnxz", folder / "out.onnx") == [folder / "out.onnx"]
    return (folder / "out.onnx").read_bytes() == Path(path).read_bytes()


def test_trained_models_come_back(trained_path, tmp_path):
    assert same_after(trained_path, tmp_path)
    assert (tmp_path / "a.onnxz").stat().st_size < 0.85 * trained_path.stat().st_size


def test_light_models_come_back(light_path, tmp_path):
    assert same_after(light_path, tmp_path)


def test_tensors_are_found_wherever_they_stand(packed, decoder):
    path, model = packed
    with Archive(path, decoder=decoder) as archive:
        names = {t.name for t in archive.tensors}
        assert {"constant", "shared", "inside", "values", "indices", "listed", "listed2", "f", "trained"} <= names
        assert {t.name for t in model.graph.initializer} - {"strings", "empty"} <= names
        assert archive.read() == model.SerializeToString()
        for initializer in model.graph.initializer:
            if initializer.name in names:
                found = archive.array(initializer.name)
                expected = numpy_helper.to_array(initializer)
                assert found.dtype == expected.dtype and found.shape == expected.shape
                assert found.tobytes() == expected.tobytes()


def test_equal_tensors_are_stored_once(packed):
    path, _ = packed
    with Archive(path) as archive:
        chunks = {t.name: (t.chunk, t.start) for t in archive.tensors}
        same = [(t.chunk, t.start) for t in archive.tensors if t.name in ("shared", "inside")]
        assert len(same) == 4 and len(set(same)) == 2
        assert chunks["listed"] != chunks["listed2"]


def test_one_tensor_is_read_without_the_others(packed):
    path, model = packed
    data = bytearray(path.read_bytes())
    directory = layout.read_directory(memoryview(bytes(data)))
    with Archive(path) as sound:
        bad = next(t for t in sound.tensors if t.name == "trained")
    assert not any(t.chunk == bad.chunk for t in sound.tensors if t.name == "shared")
    data[directory.chunks[bad.chunk].offset + 30] ^= 1
    archive = Archive(bytes(data))
    assert (archive.array("shared") == numpy_helper.to_array(model.graph.initializer[0])).all()
    with pytest.raises(BadModel, match="a chunk has a wrong checksum"):
        archive.array("trained")
    with pytest.raises(BadModel, match="a chunk has a wrong checksum"):
        archive.read()
    with pytest.raises(BadModel, match="no such tensor"):
        archive.array("nonsense")


def external(folder, count=3000):
    """A model whose two tensors stand in a file beside it, and the file's bytes."""
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Add", ["a", "b"], ["y"])],
            "g",
            [],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [count])],
            [numpy_helper.from_array(RNG.normal(size=count).astype(np.float32), name) for name in "ab"],
        )
    )
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    return folder / "m.onnx", folder / "m.data"


def test_external_data_come_back_beside_the_model(tmp_path):
    model, data = external(tmp_path / "in")
    done = pack(model, tmp_path / "a.onnxz")
    assert done.before == model.stat().st_size + data.stat().st_size
    out = tmp_path / "out"
    out.mkdir()
    written = unpack(tmp_path / "a.onnxz", out / "n.onnx")
    assert written == [out / "n.onnx", out / "m.data"]
    assert (out / "n.onnx").read_bytes() == model.read_bytes()
    assert (out / "m.data").read_bytes() == data.read_bytes()
    assert len(numpy_helper.to_array(onnx.load(out / "n.onnx").graph.initializer[1])) == 3000
    assert Archive(tmp_path / "a.onnxz").array("b").shape == (3000,)
    assert Archive(tmp_path / "a.onnxz").size == done.before


def test_external_data_are_never_overwritten_by_others(tmp_path):
    model, data = external(tmp_path)
    pack(model, tmp_path / "a.onnxz")
    assert unpack(tmp_path / "a.onnxz", tmp_path / "n.onnx") == [tmp_path / "n.onnx"]  # the same file stands there
    data.write_bytes(b"mine")
    (tmp_path / "n.onnx").unlink()
    with pytest.raises(BadOption, match="is there and is another file"):
        unpack(tmp_path / "a.onnxz", tmp_path / "n.onnx")
    assert data.read_bytes() == b"mine" and not (tmp_path / "n.onnx").exists()
    with pytest.raises(BadOption, match="the name of the model's external data"):
        unpack(tmp_path / "a.onnxz", tmp_path / "m.data")


@pytest.mark.parametrize(
    "location",
    [
        "../m.data",
        "/etc/hostname",
        "a/../../m.data",
        "",
        "c:m.data",
        ".m.data",
        "a/.git/m",
        "~m",
        "-m",
        "a\x1bm",
        "a//m",
        "a\\m.data",
    ],
)
def test_locations_outside_the_folder_are_refused(tmp_path, location):
    path, _ = external(tmp_path / "in")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BadModel, match="not plain"):
        pack(path, tmp_path / "a.onnxz")
    assert not (tmp_path / "a.onnxz").exists()


def renamed(data: bytes, name: str) -> bytes:
    """The archive with another name for its second file."""
    directory = layout.read_directory(memoryview(data))
    at = layout.HEADER.unpack(data[: layout.HEADER.size])[4]
    directory.files[1].name = name
    raw = directory.to_bytes()
    deflated = zlib.compress(raw)
    return layout.header(deflated, 0, len(raw), at) + data[layout.HEADER_SIZE : at] + deflated


@pytest.mark.parametrize(
    "name", ["../../evil", "/tmp/evil", ".bashrc", ".git/hooks/post-checkout", "a/.evil", "~", "-rf", "a\nb", "", "x/"]
)
def test_an_archive_that_would_write_elsewhere_is_refused(tmp_path, name):
    path, _ = external(tmp_path / "in")
    pack(path, tmp_path / "a.onnxz")
    (tmp_path / "out").mkdir()
    with pytest.raises(BadModel, match=r"outside the folder|a file twice"):
        unpack(renamed((tmp_path / "a.onnxz").read_bytes(), name), tmp_path / "out" / "n.onnx")
    assert not any((tmp_path / "out").iterdir())


def test_nothing_that_is_there_is_written_over(tmp_path):
    path, _ = external(tmp_path / "in")
    pack(path, tmp_path / "a.onnxz")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "notes").write_bytes(b"mine")
    for name in ("notes", "link", "in"):
        with pytest.raises(BadOption, match="is there and is another file"):
            unpack(renamed((tmp_path / "a.onnxz").read_bytes(), name), tmp_path / "n.onnx")
    assert (tmp_path / "notes").read_bytes() == b"mine" and not (tmp_path / "nowhere").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnxz", "in", "link", "notes"]


def test_what_an_archive_opens_into_is_bounded(tmp_path, capsys):
    zeros = numpy_helper.from_array(np.zeros(3_000_000, np.float32), "z")
    model = helper.make_model(helper.make_graph([], "g", [], [], [zeros]))
    pack(model, tmp_path / "a.onnxz")
    size = len(model.SerializeToString())
    with Archive(tmp_path / "a.onnxz", max_bytes=1000) as archive:
        for read in (archive.read, lambda: archive.array("z"), lambda: archive.unpack(tmp_path / "n.onnx")):
            with pytest.raises(BadOption, match=r"at most 1000.*--max-bytes"):
                read()
    assert main(["unpack", str(tmp_path / "a.onnxz"), "-o", str(tmp_path / "n.onnx"), "--max-bytes", "1000"]) == 2
    assert f"says that it holds {size} bytes" in capsys.readouterr().err and not (tmp_path / "n.onnx").exists()
    assert main(["unpack", str(tmp_path / "a.onnxz"), "-o", str(tmp_path / "n.onnx"), "--max-bytes", str(size)]) == 0
    assert capsys.readouterr().out.startswith("12.0 MB in 1 file\nwritten: ")
    # by default: 4 times the archive and 1 GiB
    with pytest.raises(BadOption, match="1073"):
        claim(tmp_path / "a.onnxz", 2**40).unpack(tmp_path / "m.onnx")


def claim(path, size: int) -> Archive:
    """An archive that claims to hold a model of `size` bytes."""
    archive = Archive(path)
    archive._directory.files[0].size = size
    return archive


def test_the_directory_is_bounded_by_the_file(tmp_path):
    directory = layout.Directory([layout.Chunk(layout.HEADER_SIZE, 8, 0, 0, 0)])
    directory.files = [layout.File("", 0, 0, 0, [(layout.FRAME, 0, 0)] * 3_000_000)]
    raw = directory.to_bytes()
    deflated = zlib.compress(raw, 9)
    data = layout.header(deflated, 0, len(raw), layout.HEADER_SIZE + 8) + zlib.compress(b"") + deflated
    assert len(raw) > 500 * len(data)
    with pytest.raises(BadModel, match="claims too many bytes"):
        Archive(data)
    directory.files[0].pieces = []
    directory.chunks *= 100
    raw = directory.to_bytes()
    deflated = zlib.compress(raw, 9)
    with pytest.raises(BadModel, match="chunks are more than it holds"):
        Archive(layout.header(deflated, 0, len(raw), layout.HEADER_SIZE + 8) + zlib.compress(b"") + deflated)


def test_external_data_that_end_too_early_are_refused(tmp_path):
    path, data = external(tmp_path)
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(BadModel, match="end before the tensor does"):
        pack(path, tmp_path / "a.onnxz")
    with pytest.raises(BadModel, match="pack the model by its path"):
        pack(path.read_bytes(), tmp_path / "a.onnxz")


@pytest.mark.parametrize(
    "data, said",
    [
        (b"", "not an ONNX model"),
        (b"hello world", "not an ONNX model"),
        (b"\x0a\x05ab", "truncated"),
        (b"\x08\x07", "a graph"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, data, said):
    with pytest.raises(BadModel, match=said):
        pack(data, tmp_path / "a.onnxz")
    assert list(tmp_path.iterdir()) == []


def test_deep_nesting_is_refused():
    inner = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [])
    for _ in range(30):
        inner = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=inner)], "g", [], [])
    model = onnx.ModelProto(graph=inner).SerializeToString()
    with pytest.raises(BadModel, match="nested too deeply"):
        regions(memoryview(model))


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda d: d[:20], "no archive"),
        (lambda d: b"PK" + d[2:], "no archive"),
        (lambda d: d[:-1], "truncated"),
        (lambda d: d + b"\0", "truncated"),
        (lambda d: d[:20] + bytes([d[20] ^ 1]) + d[21:], "header has a wrong checksum"),
        (lambda d: d[:-5] + bytes([d[-5] ^ 1]) + d[-4:], "directory has a wrong checksum"),
    ],
)
def test_a_damaged_archive_is_refused_in_one_line(packed, change, said, tmp_path):
    path, _ = packed
    with pytest.raises(BadModel, match=said) as caught:
        unpack(change(path.read_bytes()), tmp_path / "n.onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "n.onnx").exists()


def test_another_version_is_refused(packed):
    data = bytearray(packed[0].read_bytes())
    data[8] = 3
    data[layout.HEADER.size : layout.HEADER_SIZE] = zlib.crc32(data[: layout.HEADER.size]).to_bytes(4, "little")
    with pytest.raises(BadModel, match="another version, expected 2, found 3"):
        Archive(bytes(data))


def test_the_same_model_gives_the_same_archive(packed, tmp_path):
    path, model = packed
    pack(model, tmp_path / "b.onnxz")
    assert (tmp_path / "b.onnxz").read_bytes() == path.read_bytes()


def test_the_commands_pack_and_unpack(resnet20_path, tmp_path, capsys):
    archive, out = tmp_path / "r.onnxz", tmp_path / "r.onnx"
    assert main(["pack", str(resnet20_path), "-o", str(archive)]) == 0
    assert f"1.11 MB in, {'910' if can_encode() else '918'} kB out" in capsys.readouterr().out
    assert main(["unpack", str(archive), "-o", str(out)]) == 0
    assert out.read_bytes() == resnet20_path.read_bytes()
    assert main(["unpack", str(resnet20_path), "-o", str(tmp_path / "n.onnx")]) == 2
    assert capsys.readouterr().err == "onnxc: error: this is no archive, expected a file that onnxc pack wrote\n"
    assert main(["pack", str(archive), "-o", str(tmp_path / "n.onnxz")]) == 2
    assert main(["pack", str(archive), "-o", str(tmp_path / "none/n.onnxz")]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.onnx", "r.onnxz"]


def test_an_old_archive_stays_when_packing_fails(tmp_path):
    (tmp_path / "a.onnxz").write_bytes(b"old")
    path, data = external(tmp_path / "in")
    data.unlink()
    with pytest.raises(BadModel, match="cannot read"):
        pack(path, tmp_path / "a.onnxz")
    assert (tmp_path / "a.onnxz").read_bytes() == b"old"
    with pytest.raises(BadOption, match="the model itself"):
        pack(path, path)
    data.write_bytes(bytes(24000))
    with pytest.raises(BadOption, match="holds the model's external data"):
        pack(path, data)
    with pytest.raises(BadOption, match="the archive itself"):
        unpack(tmp_path / "a.onnxz", tmp_path / "a.onnxz")


def test_an_archive_of_version_1_is_still_read(tmp_path):
    data = base64.b85decode(
        "iBC>WSXvDV0ssL3%Cgrb#Q*>R00000LI3~&00000hyVZp000002LS*800000|FX%r0R#X5KmY&$000009smFU1OWg5fWH6$fIkBd000000099&0"
        "CBK-qWe((58nU;VL`w~Ti-I`?dhhy+J_8)^4jR@ab|!SeRKu!ZcuCl7LDf_hDfGSq1n>Rnq^?!)aQn8YMoUqp&5OZ)8tu>YO2Aa<_JANa&Z^Hm9J"
        "1K$cAK`%KKUqPo)#J<NSm(00031J7jaR_X9?4^`xI~M-8m`P|u-Ct1D?!ax=l6L^jd~ACB{^>aCdgA&60p3Mml&;D6NPaBdRvM@#?flz;#"
    )
    with Archive(data) as archive:
        assert [(t.name, t.dims) for t in archive.tensors] == [("w", (64,))]
        model = onnx.load_from_string(archive.read())
        assert (archive.array("w") == numpy_helper.to_array(model.graph.initializer[0])).all()
    assert numpy_helper.to_array(model.graph.initializer[1]).tolist() == list(range(8))


def few_bit_model(path, bits: int) -> bytes:
    """A trained network, its weights rounded to as many bits by channel, scales beside."""
    model = onnx.load(path)
    tensors = []
    for t in model.graph.initializer:
        values = numpy_helper.to_array(t)
        if values.ndim > 1:
            flat = values.reshape(len(values), -1)
            scale = (np.abs(flat).max(1) / (2 ** (bits - 1) - 1)).astype(np.float32)
            rounded = np.rint(flat / scale[:, None]).astype(np.int8).reshape(values.shape)
            tensors += [numpy_helper.from_array(rounded, t.name), numpy_helper.from_array(scale, t.name + "_scale")]
        else:
            tensors.append(t)
    return helper.make_model(helper.make_graph([], "g", [], [], tensors)).SerializeToString()


@pytest.mark.skipif(not can_encode(), reason="onnxc was installed without a compiler")
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_few_bit_weights_take_less_than_xz_makes_of_them(resnet20_path, tmp_path, bits):
    model = few_bit_model(resnet20_path, bits)
    packed = pack(model, tmp_path / "a.onnxz")
    assert packed.after < len(lzma.compress(model, preset=9 | lzma.PRESET_EXTREME))
    assert Archive(tmp_path / "a.onnxz").read() == model
    faster = pack(model, tmp_path / "b.onnxz", coder="huffman")
    assert packed.after < faster.after and Archive(tmp_path / "b.onnxz").read() == model
    with pytest.raises(BadOption, match="adaptive or huffman"):
        pack(model, tmp_path / "c.onnxz", coder="zip")


@pytest.mark.skipif(not can_encode(), reason="onnxc was installed without a compiler")
def test_chunks_that_tensors_share_are_no_larger_than_they(tmp_path):
    rng = np.random.default_rng(0)
    tensors = [numpy_helper.from_array(rng.integers(-9, 9, 1000).astype(np.int8), f"t{i}") for i in range(8)]
    pack(helper.make_model(helper.make_graph([], "g", [], [], tensors)), tmp_path / "a.onnxz")
    with Archive(tmp_path / "a.onnxz") as archive:
        assert [(t.chunk, t.start, t.size) for t in archive.tensors] == [(0, 1000 * i, 1000) for i in range(8)]
        assert all((archive.array(f"t{i}") == numpy_helper.to_array(t)).all() for i, t in enumerate(tensors))
    # what it takes to read ten bytes would not follow from their number
    coded, frame = encode(np.zeros(500_000, np.uint8)), zlib.compress(b"ab")
    start = layout.HEADER_SIZE
    chunks = [
        layout.Chunk(start, len(coded), 500_000, zlib.crc32(coded), layout.CODED),
        layout.Chunk(start + len(coded), len(frame), 2, zlib.crc32(frame), layout.DEFLATED),
    ]
    directory = layout.Directory(chunks, [layout.File("", 12, 0, 1, [(layout.FRAME, 0, 2), (0, 0, 10)])])
    raw = directory.to_bytes()
    deflated = zlib.compress(raw)
    head = layout.header(deflated, 0, len(raw), start + len(coded) + len(frame))
    with pytest.raises(BadModel, match="share chunks that are larger"):
        Archive(head + coded + frame + deflated)
