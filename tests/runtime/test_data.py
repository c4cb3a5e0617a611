"""Data sets: every form gives the same batches, and what does not fit is refused with the reason."""

import io
import os
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxc.ir.errors import BadData
from onnxc.runtime.code import allowing, import_function
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


@pytest.mark.parametrize("given", [None, {"x": np.array(["a", "a"], object)}], ids=["drawn", "arrays"])
def test_a_text_without_axes_is_an_array_too(given):
    data = open_data(given, {"x": TensorSpec((), np.dtype(object))}, samples=2)
    assert data.shapes() == {"x": ()}
    assert [(type(b["x"]), b["x"].shape, b["x"].item()) for b in data.batches()] == [(np.ndarray, (), "a")] * 2


def test_texts_beside_ragged_samples_are_arrays_too():
    inputs = {"x": TensorSpec(("n", 3), F32, None), "t": TensorSpec((), np.dtype(object))}
    arrays = {"x[0]": rows(2), "x[1]": rows(3), "t": np.array(["a", "b"], object)}
    assert [b["t"].item() for b in open_data(arrays, inputs).batches()] == ["a", "b"]


def test_inputs_without_a_sample_axis_are_fed_whole():
    inputs = {**X, "table": TensorSpec((2,), F32)}
    table = np.float32([7, 8])
    for batch in open_data({"x": rows(5), "table": table}, inputs).batches(2):
        np.testing.assert_array_equal(batch["table"], table)

    def changing():
        yield {"x": rows(2), "table": table}
        yield {"x": rows(1), "table": table + 1}
        yield {"x": rows(1), "table": table + 1}

    batches = list(open_data(changing, inputs).batches(4))
    assert [(len(b["x"]), b["table"][0]) for b in batches] == [(2, 7), (2, 8)]


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
    for folder in ("", ".", str(tmp_path)):  # the working folder is no place to import from
        monkeypatch.setattr(sys, "path", [folder, *sys.path])
        with pytest.raises(BadData, match="no such module; install it, set PYTHONPATH, or give --allow-code"):
            open_data("feeding_module:feed", X)
    (tmp_path / "json").mkdir()
    (tmp_path / "scipy.py").write_text("raise SystemError('not this one')")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", ".", str(tmp_path))])
    with allowing(True):
        open_data("feeding_module:feed", X)
        assert import_function("scipy.special:erf")(0.0) == 0  # what is installed goes first
    assert "" not in sys.path and str(tmp_path) not in sys.path
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


@pytest.mark.parametrize("value, said", [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "Inf")])
def test_what_is_no_number_is_refused(value, said):
    x = rows(4)
    x[2, 1] = value
    with pytest.raises(BadData, match=f"x: the data hold {said}"):
        joined(open_data({"x": x}, X))
    labels = np.array([0, 1, value, 3], np.float32)
    with pytest.raises(BadData, match=f"labels: the data hold {said}"):
        joined(open_data({"x": rows(4), "labels": labels}, X))


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
        ("pickled.npz", "is not a readable .npz: it holds python objects"),
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


def fails_at_once():
    raise KeyError("inner")


def fails_later():
    yield {"x": rows(1)}
    raise OSError(5, "the disk", "mine")


def fails_on_purpose():
    raise BadData("my own words")
    yield


@pytest.mark.parametrize(
    "function, said",
    [(fails_at_once, "fails_at_once fails: KeyError: 'inner'"), (fails_later, "fails_later fails: OSError"),
     (fails_on_purpose, "^my own words$")],
)  # fmt: skip
def test_errors_in_the_users_code_are_said_to_be(function, said):
    with pytest.raises(BadData, match=said):
        joined(open_data(function, X))


def test_errors_while_a_module_is_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for number, (text, said) in enumerate(
        [
            ("1 / 0", "ZeroDivisionError"),
            ("import nothing_of_that_name", "ModuleNotFoundError: No module named"),
            ("def", "SyntaxError"),
        ]
    ):
        (tmp_path / f"broken{number}.py").write_text(text)
        with pytest.raises(BadData, match=f"broken{number}:feed fails: {said}"):
            open_data(f"broken{number}:feed", X)


def npy(shape="(3,)", descr="'<f4'", data=bytes(12), order="False") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    "content, said",
    [
        (npy("(1099511627776,)"), "truncated"),
        (npy("(2, 2)"), "truncated"),
        (npy("(-1,)"), "shape is none"),
        (npy("(True,)"), "shape is none"),
        (npy(f"({'1,' * 40})"), "shape is none"),
        (npy("[3]"), "shape is none"),
        (npy(descr="'|O'"), "python objects"),
        (npy(descr="[('a', '<f4')]"), "records"),
        (npy(descr="'<q9'"), "data type"),
        (npy(f"{'(' * 2000}"), "header is damaged"),
        (npy("__import__('os').system('true')"), "malformed node"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "header"),
        (b"\x93NUMPY\x09\x00" + bytes(100), "another version"),
        (b"PK", "does not begin as one"),
    ],
)
def test_arrays_that_are_none(tmp_path, content, said):
    (tmp_path / "x.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", content)
    for path in (tmp_path, tmp_path / "d.npz"):
        with pytest.raises(BadData, match=said) as refusal:
            open_data(path, X)
        assert "pickle" not in str(refusal.value) and "unsafe" not in str(refusal.value)


def test_members_are_bounded_and_read_as_they_were(tmp_path, monkeypatch):
    arrays = {"x": np.asfortranarray(rows(4)), "labels": np.arange(4, dtype=">i8"), "text": np.array(["a"])}
    np.savez_compressed(tmp_path / "d.npz", **arrays)
    np.save(tmp_path / "x.npy", arrays["x"])
    for source in (tmp_path, tmp_path / "d.npz"):
        np.testing.assert_array_equal(joined(open_data(source, X)), rows(4))
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((1_000_000, 3), F32))
    monkeypatch.setattr("onnxc.runtime.npy.FREE", 1 << 20)
    with pytest.raises(BadData, match=r"holds too much, expected at most .* found 12000128 bytes"):
        open_data(tmp_path / "bomb.npz", X)


@pytest.mark.parametrize("form", ["npz", "folder", "arrays"])
def test_labels_of_another_name_are_told(form, tmp_path):
    arrays = {"x": np.zeros((3, 2), np.float32), "label": np.zeros(3, int), "y": np.zeros(3, int)}
    source: object = arrays
    if form == "npz":
        source = tmp_path / "d.npz"
        np.savez(source, **arrays)
    elif form == "folder":
        source = tmp_path
        for name, a in arrays.items():
            np.save(tmp_path / f"{name}.npy", a)
    (said,) = open_data(source, {"x": TensorSpec(("N", 2), np.dtype("float32"))}).remarks
    assert said in [
        f"the data hold {names}, which nothing reads: labels are named labels" for names in ("label, y", "y, label")
    ]


@pytest.mark.parametrize("form", ["input_0[{}].npy", "input_0_{}_.npy"])
def test_a_folder_of_ragged_samples(form, tmp_path):
    """The digits of an input's name are no number of a sample."""
    for i in range(2):
        np.save(tmp_path / form.format(i), np.full((i + 1, 3), i, np.float32))
    data = open_data(tmp_path, {"input_0": TensorSpec(("n", 3), np.dtype("float32"), sample=None)})
    assert [b["input_0"].tolist() for b in data.batches(1)] == [[[0] * 3], [[1] * 3] * 2]
    assert data.remarks == []


@pytest.mark.parametrize("kind", [tuple, list])
def test_batches_of_a_loader_and_samples_of_a_set(kind):
    """A DataLoader yields inputs and labels of several samples, a Dataset's items are one."""
    whole, labels = rows(10), np.arange(10)

    def loader():
        yield from (kind((whole[i : i + 4], labels[i : i + 4])) for i in range(0, 10, 4))

    for source in (loader, lambda: [kind((row, int(k))) for k, row in zip(labels, whole)]):
        data = open_data(source, X)
        assert data.labelled
        np.testing.assert_array_equal(joined(data), whole)
        np.testing.assert_array_equal(joined(data, "labels"), labels)
    alone = {"x": TensorSpec((3,), F32, sample=None)}
    np.testing.assert_array_equal(
        [b["x"] for b in open_data(lambda: iter([kind((r,)) for r in whole]), alone).batches()], whole
    )


def test_a_function_that_gives_no_data_is_told_of():
    with pytest.raises(BadData, match="the data function must yield dicts of arrays, found int"):
        open_data(lambda: 5, X)


@pytest.mark.parametrize(
    "dims, sample, shape, remedy",
    [
        (("N", 1, 28, 28), 0, (9, 28, 28), "numpy.expand_dims(array, 1) adds"),
        (("N", 28, 28, 1), 0, (9, 28, 28), "numpy.expand_dims(array, 3) adds"),
        (("T", "N", 1, 8), 1, (5, 9, 8), "numpy.expand_dims(array, 2) adds"),
        ((1, "N", 8), 1, (9, 8), "numpy.expand_dims(array, 0) adds"),
        (("N", 3, 28, 28), 0, (3, 28, 28), "the first axis counts samples: add it"),
        (("N", 1, 28, 28), 0, (9, 27, 28), "the first axis counts samples: add it"),
        (("N", 3, 24, 20), 0, (9, 24, 20, 3), "array.transpose(0, 3, 1, 2) has"),
        (("N", 24, 20, 3), 0, (9, 3, 24, 20), "array.transpose(0, 2, 3, 1) has"),
        (("N", 3, 24, 20), 0, (9, 24, 21, 3), None),
    ],
)
def test_arrays_that_are_shaped_otherwise_are_told_how_to_turn(dims, sample, shape, remedy):
    spec = TensorSpec(dims, F32, sample=sample)
    with pytest.raises(BadData) as error:
        next(iter(open_data({"x": np.zeros(shape, F32)}, {"x": spec}).batches()))
    assert (error.value.remedy is None) if remedy is None else error.value.remedy.startswith(remedy)
    if remedy and remedy.startswith(("numpy", "array")):
        code = error.value.remedy.rpartition(" adds" if "adds" in remedy else " has")[0]
        turned = eval(code, {"numpy": np, "array": np.zeros(shape, F32)})
        assert next(iter(open_data({"x": turned}, {"x": spec}).batches())).samples == 9
