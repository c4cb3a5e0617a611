"""The JSON of `passes` is as its schema in docs says; node data for Model Explorer; scripts that shells complete by."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import onnxc

SCHEMA = json.loads((Path(onnxc.__file__).parent.parent / "docs/passes.schema.json").read_text())
KINDS = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None)}


def misfits(value, schema, at="$"):
    """What of a value a schema does not allow: the part of JSON Schema that ours uses."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    known = [
        "$schema",
        "$defs",
        "title",
        "description",
        "type",
        "enum",
        "required",
        "properties",
        "items",
        "additionalProperties",
    ]
    unknown = set(schema) - set(known)
    found = [f"{at}: the schema says {unknown}"] if unknown else []
    if "enum" in schema:
        return found + ([] if value in schema["enum"] else [f"{at}: {value!r}"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(isinstance(value, KINDS[kind]) and not isinstance(value, bool) for kind in kinds):
        return [*found, f"{at}: {value!r} is no {kinds}"]
    if isinstance(value, list):
        return found + [line for k, item in enumerate(value) for line in misfits(item, schema["items"], f"{at}[{k}]")]
    if isinstance(value, dict):
        found += [f"{at}: {name} is missing" for name in schema.get("required", ()) if name not in value]
        for name, item in value.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties", True))
            if inner is False:
                found.append(f"{at}: {name} is not known")
            elif inner is not True:
                found += misfits(item, inner, f"{at}.{name}")
    return found


def test_json_is_as_the_schema_says(command, model_path, data_path, tmp_path):
    argv = ["passes", model_path, "-p", "prune(ratio=0.5), quant, own.random", "--data", data_path, "--json"]
    ended = command(
        *argv[:3], "prune(ratio=0.5), quant", *argv[4:], "--node-data", tmp_path / "n.json", "-o", tmp_path / "o.onnx"
    )
    assert ended.status == 0 and ended.err == ""
    found = json.loads(ended.out)
    assert misfits(found, SCHEMA) == [] and found["out"] == str(tmp_path / "o.onnx")
    assert misfits(found | {"more": 1, "seed": "0"}, SCHEMA) == [
        "$.seed: '0' is no ['integer']",
        "$: more is not known",
    ]
    nodes = json.loads((tmp_path / "n.json").read_text())
    assert set(nodes["results"]) == {"node_y"} and nodes["results"]["node_y"]["value"] > 0
    plain = json.loads(command("passes", model_path, "-p", "clean", "--check", "shapes", "--json").out)
    assert misfits(plain, SCHEMA) == []


def test_the_report_is_of_the_model_as_given_also_where_out_takes_its_place(command, model_path, data_path):
    ended = command("passes", model_path, "-p", "prune(ratio=0.5)", "--data", data_path, "-o", model_path, "--json")
    assert json.loads(ended.out)["layers"][0]["before"]["channels"] == 16


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_read_the_script(command, shell, tmp_path):
    script = command("completion", shell).out
    assert "auto" in script and ("--flash" in script or "-l flash" in script)
    if shutil.which(shell):
        (tmp_path / "s").write_text(script)
        assert subprocess.run([shell, "-n", tmp_path / "s"]).returncode == 0
    if shell == "bash":
        ask = "COMP_WORDS=(onnxc auto --fl); COMP_CWORD=2; _onnxc; echo ${COMPREPLY[@]}; "
        ask += "COMP_WORDS=(onnxc co); COMP_CWORD=1; _onnxc; echo ${COMPREPLY[@]}"
        done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
        flash, names = done.stdout.splitlines()
        assert flash == "--flash" and sorted(names.split()) == ["compare", "compile", "completion"]
    assert "there is no such shell, expected bash, zsh, fish, found cmd" in command("completion", "cmd").error()
