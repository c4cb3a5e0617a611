"""inspect, compare, compile, run, bench: what they print and write; JSON goes to stdout alone."""

import json
import re
import shutil

import numpy as np
import onnx
import pytest
from onnx import parser

import onnxc
from onnxc.ir.errors import BadOption


def parsed(ended) -> dict:
    """The JSON of a command that printed nothing else."""
    assert (ended.status, ended.err) == (0, "")
    return json.loads(ended.out, parse_constant=pytest.fail)


# inspect


def test_inspect_counts_what_there_is(command, model_path):
    found = parsed(command("inspect", model_path, "--json"))
    layers = {layer["name"]: layer for layer in found["layers"]}
    first = layers["node_a"]
    assert first == {
        "name": "node_a", "op": "Conv", "shape": ["N", 16, 8, 8], "params": 16 * 27 + 16, "macs": 64 * 16 * 27,
        "bytes": 4 * (16 * 27 + 16), "bits": 32, "entropy": None, "coded": None, "planes": None, "speedup": None,
    }  # fmt: skip
    assert layers["node_r"]["params"] == layers["node_r"]["macs"] == 0 and layers["node_r"]["bits"] is None
    assert found["cost"]["params"] == sum(layer["params"] for layer in found["layers"])
    assert found["cost"]["macs"] == sum(layer["macs"] for layer in found["layers"])
    assert found["inputs"] == {"x": "float N×3×8×8"} and found["opsets"] == {"": 17}


def test_inspect_shows_what_is_coupled_and_what_froze_the_rest(command, model_path):
    found = parsed(command("inspect", model_path, "--json"))
    groups = {g["name"]: g for g in found["groups"]}
    assert {name: g["channels"] for name, g in groups.items()} == {"node_a": 16, "node_c": 8}
    assert groups["node_c"]["makes"] == ["node_c"] and groups["node_c"]["contracts"] == ["node_y"]
    assert found["frozen"] == [{"node": "node_y", "reason": "its channels stay: a graph output has them"}]
    text = command("inspect", model_path).out
    for part in (
        "node_a",
        "coupled channels",
        "Channels that cannot be pruned",
        "opset ai.onnx 17",
        "Not listed: ",
    ):
        assert part in text
    assert "node_r" not in text and "node_r" in command("inspect", model_path, "-v").out


def test_inspect_names_operators_that_it_does_not_know(command, tmp_path):
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "far.away" : 1]> g (float[2,3] x) => (float[2,3] y)'
        "{ a = far.away.Fold(x) y = Relu(a) }"
    )
    onnx.save(proto, tmp_path / "far.onnx")
    found = parsed(command("inspect", tmp_path / "far.onnx", "--json"))
    assert {"op": "far.away.Fold", "nodes": 1, "reason": "no row in the operator table"} in found["unknown"]
    assert {"op": "Relu", "nodes": 1, "reason": "ranks that are not known"} in found["unknown"]
    assert "1 far.away.Fold node: no row" in command("inspect", tmp_path / "far.onnx").out


@pytest.mark.parametrize("columns", ["80", "120"])
def test_inspect_fits_the_screen(command, resnet20_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert max(map(len, command("inspect", resnet20_path).out.splitlines())) <= int(columns)


def test_bits_are_seen_through_quantisation(command, model_path, data_path, tmp_path):
    out = tmp_path / "q.onnx"
    assert command("passes", model_path, "-p", "quant", "--data", data_path, "-o", out).status == 0
    found = parsed(command("inspect", out, "--json"))
    assert [layer["bits"] for layer in found["layers"] if layer["op"] == "Conv"] == [8, 8]
    assert all(layer["params"] >= 16 * 27 for layer in found["layers"] if layer["op"] == "Conv")


# compare


def test_compare_agrees_with_the_function(command, model_path, data_path, tmp_path):
    small = tmp_path / "small.onnx"
    assert command("passes", model_path, "-p", "prune(ratio=0.25)", "-o", small).status == 0
    found = parsed(command("compare", model_path, small, "--data", data_path, "--json"))
    expected = onnxc.compare(model_path, small, data_path)
    assert found["outputs"] == {"y": expected.outputs["y"].to_dict()}
    assert found["accuracy"] == list(expected.accuracy) and found["samples"] == 24
    text = command("compare", model_path, small, "--data", data_path).out
    assert f"{expected.outputs['y'].max_abs:.3g}" in text and "accuracy: " in text and "on 24 samples of" in text


def test_compare_of_equal_models_knows_no_error(command, model_path):
    ended = command("compare", model_path, model_path)
    assert ended.status == 0 and "∞" in ended.out and "seeded random inputs" in ended.out
    assert parsed(command("compare", model_path, model_path, "--json"))["outputs"]["y"]["exact"]


def test_models_with_other_interfaces_are_not_compared(command, model_path, resnet20_path):
    ended = command("compare", model_path, resnet20_path)
    assert ended.status != 0 and "inputs differ, expected x, found image" in ended.error()


# run


def test_run_writes_what_onnx_runtime_gives(command, model_path, data_path, tmp_path):
    x = np.load(data_path)["x"]
    np.save(tmp_path / "x.npy", x)
    ended = command("run", model_path, "--input", f"x={tmp_path / 'x.npy'}", "-o", tmp_path / "new" / "folder")
    assert (ended.status, ended.err) == (0, "")
    from onnxc.runtime.reference import Session

    written = np.load(tmp_path / "new" / "folder" / "y.npy")
    np.testing.assert_array_equal(written, Session(str(model_path)).run({"x": x})["y"])
    assert "24×4" in ended.out and "float32" in ended.out


def test_run_without_inputs_says_that_they_are_random(command, model_path):
    ended = command("run", model_path)
    assert ended.status == 0 and "seeded random inputs" in ended.out and ended.out == command("run", model_path).out


# compile, and libraries in run and bench


@pytest.fixture
def library_path(command, model_path, tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    ended = command("compile", model_path, "-o", tmp_path / "lib")
    assert (ended.status, ended.err) == (0, "") and "kernels for native" in ended.out
    return tmp_path / "lib"


def test_a_compiled_library_runs_like_the_model(command, model_path, library_path, tmp_path):
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    outputs = []
    for subject in (model_path, library_path, library_path / "libnet.so"):
        argv = ("run", subject, "--input", f"x={tmp_path / 'x.npy'}", "-o", tmp_path / "out")
        assert command(*argv).status == 0
        outputs.append(np.load(tmp_path / "out" / "y.npy"))
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(outputs[1], outputs[2])


def test_models_and_libraries_are_timed_together(command, model_path, library_path):
    rows = parsed(command("bench", model_path, library_path, model_path, "--json"))["rows"]
    assert [row["name"] for row in rows] == [str(model_path), str(library_path), f"{model_path} (2)"]
    assert rows[0]["ratio"] == 1 and all(row["median"] > 0 and row["threads"] == 1 for row in rows)
    ended = command("bench", model_path, "--shape", "x=4x3x8x8", "--threads", 2)
    assert ended.status == 0 and "2 threads" in ended.out and "1.000x" in ended.out


def test_a_library_has_the_threads_it_was_compiled_for(command, model_path, library_path, tmp_path):
    ended = command("bench", library_path, "--threads", 2)
    assert ended.status == 2 and "compile the model with --threads 2" in ended.error()
    command("compile", model_path, "-o", tmp_path / "two", "--threads", 2)
    ended = command("bench", tmp_path / "two", "--threads", 2)
    assert ended.status == 0 and "2 threads" in ended.out


def test_a_library_takes_inputs_as_numbers_as_a_model_does(command, model_path, library_path):
    ran = [command("run", path, "--input", "x=0.5") for path in (model_path, library_path)]
    assert [r.status for r in ran] == [0, 0], [r.err for r in ran]
    assert "x as given" in ran[1].out and ran[0].out.splitlines()[:4] == ran[1].out.splitlines()[:4]
    ended = command("run", library_path, "--input", "x=0.5,2")
    assert ended.status == 2 and "x: --input gives another number of elements" in ended.error()


def test_a_library_for_several_shapes_with_a_wheel(command, model_path, tmp_path):
    options = ("--shape", "x=1x3x8x8", "--shape", "x=4x3x8x8", "--threads", 2, "--wheel")
    ended = command("compile", model_path, "-o", tmp_path / "lib", *options)
    assert ended.status == 0 and "-py3-none-linux_" in ended.out
    np.save(tmp_path / "x.npy", np.zeros((4, 3, 8, 8), np.float32))
    ended = command("run", tmp_path / "lib", "--input", f"x={tmp_path / 'x.npy'}")
    assert ended.status == 0 and "4×4" in ended.out
    ended = command("bench", model_path, tmp_path / "lib", "--shape", "x=4x3x8x8")
    assert ended.status == 0
    ended = command("bench", tmp_path / "lib", "--shape", "x=2x3x8x8")
    assert ended.status == 2 and "does not take this shape" in ended.error()


def test_a_board_that_is_no_board(command, library_path):
    for name in ("run", "bench"):
        ended = command(name, library_path, "--remote", "pi@board")
        assert ended.status == 2 and "expected ssh://[USER@]HOST[:PORT][/FOLDER]" in ended.error()


def test_a_missing_compiler_is_named_with_its_package(command, model_path, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("onnxc.runtime.toolchain.find_spec", lambda name: None)
    ended = command("compile", model_path, "-o", tmp_path / "lib")
    assert ended.status == 2 and "apt-get install gcc" in ended.error()
    assert not (tmp_path / "lib").exists()


def test_a_name_that_c_does_not_take_is_made_one():
    from onnxc.cli.compile import library_name

    assert [library_name(p) for p in ("a/my-net.v2.onnx", "3d.onnx", "-.onnx")] == ["my_net_v2", "m_3d", "model"]


# demo


@pytest.mark.slow
def test_the_demo_shows_every_step(command, monkeypatch):
    """On some of its rows: .ci/run runs all."""
    from onnxc.cli.demo import COMPILED, RECIPES

    names = ("original", "fused", "quantised")
    monkeypatch.setattr("onnxc.cli.demo.RECIPES", {name: RECIPES[name] for name in names})
    monkeypatch.setattr("onnxc.cli.demo.COMPILED", {name: COMPILED[name] for name in names[1:]})
    ended = command("demo")
    assert (ended.status, ended.err) == (0, "")
    for name in (*names, "fused, compiled", "quantised, compiled"):
        assert name in ended.out
    figures = {line.split()[0]: line for line in ended.out.splitlines() if "%" in line}
    assert "93.4%" in figures["original"] and figures["original"].rstrip().endswith("1.00x")


@pytest.mark.slow
def test_the_demo_without_a_compiler_says_what_to_install(command, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("onnxc.runtime.toolchain.find_spec", lambda name: None)
    monkeypatch.setattr("onnxc.cli.demo.RECIPES", {"original": ("", ""), "fused": ("original", "fuse")})
    monkeypatch.setattr("onnxc.cli.demo.COMPILED", {"fused": "fused, compiled"})
    ended = command("demo")
    assert ended.status == 0 and " ".join(ended.out.split()).count("apt-get install gcc") == 1


def test_what_the_list_of_passes_says_is_whole():
    from onnxc.cli.listing import list_method
    from onnxc.passes.registry import available, describe_options

    for name, cls in available().items():
        assert not re.search(r"(\beq\.?|[:,(])$", cls.summary()), name
        for o in describe_options(cls):
            assert o.doc and o.doc.count("(") == o.doc.count(")") and not o.doc.endswith(("(", ",")), (name, o.name)
    assert list_method("fpgm").startswith("prune.channels(criterion=fpgm): how channels are rated")
    assert "quant.binary(inputs=horq)" in list_method("horq")
    for method, names in {
        "tucker": ["lowrank.tucker"], "SmoothQuant": ["quant.smooth"], "lsq": ["train.qat"], "HashedNets": ["quant.hash", "train.hash"],
        "meProp": ["train.admm(topk_over) and 18 more"],
    }.items():  # fmt: skip
        assert [line.split(":")[0] for line in list_method(method, 1000).splitlines()] == names
    for wrong, right in {"hqwq": "hwgq", "fpgn": "fpgm"}.items():
        with pytest.raises(BadOption, match=f"there is no pass and no method {wrong}; did you mean {right}?"):
            list_method(wrong)
