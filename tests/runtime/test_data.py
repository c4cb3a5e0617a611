"""Data sets: every form gives the same batches, and what does not fit is refused with the reason."""

import io
import os
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxc.ir.errors import BadData
from onnxc.runtime.data import file_name, open_data
from onnxc.runtime.specs import TensorSpec

F32 = np.dtype("float32")
X = {"x": TensorSpec(("N", 3), F32)}
FIXED = {"x": TensorSpec((4, 3), F32)}


def rows(count: int) -> np.ndarray:
    return np.arange(count * 3, dtype=F32).reshape(count, 3)


def joined(data, name="x", size=32) -> np.ndarray:
    return np.concatenate([batch[name] for batch in data.batches(size)])


@given(count=st.integers(1, 40), size=st.integers(1, 12), limit=st.none() | st.integers(1, 50))
def test_batches_keep_every_sample_in_order(count, size, limit):
    data = open_data({"x": rows(count), "labels": np.arange(count)}, X)
    batches = list(data.batches(size, limit))
    kept = min(count, limit or count)
    np.testing.assert_array_equal(np.concatenate([b["x"] for b in batches]), rows(count)[:kept])
    np.testing.assert_array_equal(np.concatenate([b["labels"] for b in batches]), np.arange(kept))
    assert all(len(b["x"]) == min(size, limit or size) for b in batches[:-1])
    assert data.samples == count and data.labelled and not data.synthetic


@given(pieces=st.lists(st.integers(1, 7), min_size=1, max_size=8), size=st.integers(1, 9))
def test_a_function_may_yield_pieces_of_any_size(pieces, size):
    total = sum(pieces)
    ends = np.cumsum(pieces)

    def function():
        for stop, count in zip(ends, pieces):
            yield {"x": rows(total)[stop - count : stop], "labels": np.arange(stop - count, stop)}

    whole = open_data({"x": rows(total), "labels": np.arange(total)}, X)
    for mine, expected in zip(open_data(function, X).batches(size), whole.batches(size), strict=True):
        np.testing.assert_array_equal(mine["x"], expected["x"])
        np.testing.assert_array_equal(mine["labels"], expected["labels"])


def test_a_fixed_batch_is_filled_and_a_short_rest_left_out():
    def one_by_one():
        yield from ({"x": rows(10)[i : i + 1]} for i in range(10))

    for source in ({"x": rows(10)}, one_by_one):
        batches = list(open_data(source, FIXED).batches(2))
        assert [b["x"].shape for b in batches] == [(4, 3)] * 2
        np.testing.assert_array_equal(np.concatenate([b["x"] for b in batches]), rows(8))


def test_too_few_samples_for_a_fixed_batch():
    with pytest.raises(BadData, match="too few samples"):
        open_data({"x": rows(3)}, FIXED)
    with pytest.raises(BadData, match="too few samples"):
        list(open_data(lambda: iter([{"x": rows(3)}]), FIXED).batches())


def test_one_axis_more_than_a_fixed_input_counts_runs():
    inputs = {"x": TensorSpec((2, 3), F32), "scale": TensorSpec((), F32), "bias": TensorSpec((5,), F32)}
    arrays = {"x": rows(8).reshape(4, 2, 3), "scale": np.arange(4, dtype=F32), "bias": np.ones((4, 5), F32)}
    batches = list(open_data({**arrays, "labels": np.arange(4)}, inputs).batches())
    assert len(batches) == 4
    assert batches[2]["x"].shape == (2, 3) and batches[2]["scale"].shape == () and batches[2]["labels"].tolist() == [2]
    np.testing.assert_array_equal(batches[2]["x"], arrays["x"][2])


def test_inputs_without_a_sample_axis_are_fed_whole():
    inputs = {**X, "table": TensorSpec((2,), F32)}
    table = np.float32([7, 8])
    for batch in open_data({"x": rows(5), "table": table}, inputs).batches(2):
        np.testing.assert_array_equal(batch["table"], table)

    def changing():
        yield {"x": rows(1), "table": table}
        yield {"x": rows(1), "table": table + 1}

    with pytest.raises(BadData, match="table: this input has no sample axis"):
        list(open_data(changing, inputs).batches(2))


def test_npz_folder_function_and_mapping_agree(tmp_path, monkeypatch):
    arrays = {"x": rows(5), "labels": np.arange(5), "unused": np.ones(2)}
    np.savez(tmp_path / "d.npz", **arrays)
    (tmp_path / "folder").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "folder" / f"{name}.npy", array)
    (tmp_path / "feeding_module.py").write_text(
        "import numpy as np\ndef feed():\n"
        "    yield {'x': np.arange(15, dtype='f4').reshape(5, 3), 'labels': np.arange(5)}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for source in (tmp_path / "d.npz", "d.npz", "folder", "feeding_module:feed", arrays):
        data = open_data(source, X)
        for _ in range(2):  # reading starts afresh
            assert [sorted(b) for b in data.batches(3)] == [["labels", "x"]] * 2
            np.testing.assert_array_equal(joined(data), rows(5))


def test_a_folder_is_read_batch_by_batch(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((200_000, 3), F32))
    data = open_data(tmp_path, X)
    tracemalloc.start()
    for _ in data.batches(100):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300_000  # the file holds 2.4 MB


@pytest.mark.parametrize(
    "arrays, said",
    [
        ({"image": rows(2)}, "x: no array for this input, expected float32 [N, 3], found image"),
        ({}, "found nothing"),
        ({"x": rows(2).astype("f8")}, "x: wrong type, expected float32, found float64"),
        ({"x": rows(2).astype("i4")}, "wrong type"),
        ({"x": rows(2).astype(">f4")}, "wrong type"),
        ({"x": rows(2)[0]}, "wrong number of axes, expected float32 [N, 3], found [3]; the first axis counts samples"),
        ({"x": rows(2)[None]}, "wrong number of axes"),
        ({"x": rows(2)[:, :2]}, "x[1]: wrong extent, expected 3, found 2"),
        ({"x": rows(0)}, "there are no samples"),
        ({"x": rows(2), "labels": np.arange(3)}, "labels: one label per sample"),
        ({"x": rows(2), "labels": np.zeros((10, 2), int)}, "labels: one label per sample"),
        ({"x": rows(2), "labels": np.zeros(2, complex)}, "labels: one label per sample"),
        ({"x": rows(2), "labels": np.array([{}] * 3)}, "labels: one label per sample"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, said):
    with pytest.raises(BadData) as refusal:
        open_data(arrays, X)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)
    with pytest.raises(BadData):
        list(open_data(lambda: iter([arrays]), X).batches())
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(BadData):
        open_data(tmp_path / "d.npz", X)


def test_inputs_must_agree_with_each_other():
    inputs = {"a": TensorSpec(("N", "S"), F32), "b": TensorSpec(("N", "S"), F32)}
    ones = np.ones((2, 4), F32)
    assert len(list(open_data({"a": ones, "b": ones}, inputs).batches())) == 1
    with pytest.raises(BadData, match=r"b\[1\]: extent S differs from another input's, expected 4, found 3"):
        open_data({"a": ones, "b": ones[:, :3]}, inputs)
    with pytest.raises(BadData, match=r"b\[0\]: as many samples as in a are needed, expected 2, found 1"):
        open_data({"a": ones, "b": ones[:1]}, inputs)


def test_nan_is_refused_and_infinity_is_not():
    x = rows(4)
    x[2, 1] = -np.inf
    assert len(joined(open_data({"x": x}, X))) == 4
    x[3, 1] = np.nan
    with pytest.raises(BadData, match="x: the data hold NaN"):
        joined(open_data({"x": x}, X))


def test_files_that_are_no_data(tmp_path):
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "text.npz").write_text("image,label\n1,2\n")
    np.save(tmp_path / "one.npy", rows(2))
    np.savez(tmp_path / "pickled.npz", x=np.array([{"a": 1}], object))
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "y.npy", rows(2))
    for name, said in [
        ("empty.npz", "is not a readable .npz"),
        ("text.npz", "is not a readable .npz"),
        ("one.npy", "is one array, not an .npz"),
        ("pickled.npz", "is not a readable .npz: Object arrays cannot be loaded"),
        ("folder", "no file x.npy in"),
        ("absent.npz", "no such data: "),
    ]:
        with pytest.raises(BadData) as refusal:
            open_data(tmp_path / name, X)
        assert said in str(refusal.value)


def test_damaged_files_are_refused_or_read_never_a_crash(tmp_path):
    """An archive, and a folder's .npy, with bytes changed or cut off."""
    rng = np.random.default_rng(0)
    packed, plain = io.BytesIO(), io.BytesIO()
    np.savez_compressed(packed, x=rows(50), labels=np.arange(50))
    np.save(plain, rows(50))
    refused = 0
    for turn in range(200):
        for name, original in (("d.npz", packed.getvalue()), ("x.npy", plain.getvalue())):
            content = bytearray(original)
            for at in rng.integers(0, min(len(content), 300), 3):
                content[at] = rng.integers(0, 256)
            (tmp_path / name).write_bytes(content[: rng.integers(1, len(content))] if turn % 2 else content)
            source = tmp_path if name == "x.npy" else tmp_path / name
            try:
                joined(open_data(source, X))
            except BadData as refusal:
                refused += 1
                assert "\n" not in str(refusal)
    assert refused > 200


@pytest.mark.parametrize(
    "source, said",
    [
        ("no_such_module_here:feed", "cannot import no_such_module_here"),
        ("json:feed", "module json has no function feed"),
        ("json:dumps:x", "no such data"),
        (42, "not a data set, found int"),
    ],
)
def test_sources_that_are_none(source, said):
    with pytest.raises(BadData, match=said):
        open_data(source, X)


def test_a_function_must_yield_dicts():
    with pytest.raises(BadData, match="must yield dicts"):
        list(open_data(lambda: [rows(1)], X).batches())
    with pytest.raises(BadData, match="too few samples"):
        list(open_data(lambda: [], X).batches())
    with pytest.raises(BadData, match="labels stand beside some samples only"):
        list(open_data(lambda: [{"x": rows(1)}, {"x": rows(1), "labels": np.array([1])}], X).batches())


@pytest.mark.parametrize(
    "inputs", [X, FIXED, {**X, "s": TensorSpec((), F32)}, {"ids": TensorSpec(("N", "S"), np.dtype("int64"))}]
)
def test_random_data_are_seeded_and_independent_of_the_batch(inputs):
    name = next(iter(inputs))
    data = open_data(None, inputs, seed=3, samples=6)
    assert data.synthetic and "random" in data.name and not data.labelled
    np.testing.assert_array_equal(joined(data, name, 1), joined(data, name, 4))
    assert np.any(joined(data, name) != joined(open_data(None, inputs, seed=4, samples=6), name))
    assert len(np.unique(joined(data, name), axis=0)) > 2


def test_a_data_set_passes_through():
    data = open_data({"x": rows(2)}, X)
    assert open_data(data, X) is data


def test_file_names_are_safe():
    assert file_name("a/b:0") == "a_b_0.npy"
    assert os.sep not in file_name("../../etc/passwd")


def test_labels_may_be_arrays_or_of_different_extents():
    boxes = [np.full((n, 4), n) for n in (1, 3, 0, 3, 3)]
    for labels in (np.arange(10.0).reshape(5, 2), boxes, ["a", "bc", "", "d", "e"]):
        for source in ({"x": rows(5), "labels": labels}, lambda found=labels: _in_parts(found)):
            batches = list(open_data(source, X).batches(2))
            assert [len(b["labels"]) for b in batches] == [b.samples for b in batches] == [2, 2, 1]
            for got, put in zip((one for b in batches for one in b["labels"]), labels, strict=True):
                np.testing.assert_array_equal(got, put)


def _in_parts(labels):
    for start, stop in ((0, 3), (3, 5)):
        yield {"x": rows(5)[start:stop], "labels": labels[start:stop]}


def test_a_model_without_a_sample_axis_is_fed_samples_that_count_once():
    inputs = {"x": TensorSpec((3,), np.dtype("f4"))}
    assert [b.samples for b in open_data({"x": rows(4)}, inputs).batches(2)] == [1] * 4
