"""Files of text that are none: endless devices, nesting without end, bytes that are no UTF-8."""

import pytest

from onnxc.ir.bounded import read_json, read_text

COMMANDS = {
    "baseline": ["check", "NET", "--baseline", "FILE"],
    "recipe": ["passes", "NET", "--recipe", "FILE"],
    "sensitivities": ["passes", "NET", "-p", "prune(ratio=auto, macs=0.5, sensitivity='FILE')", "--check", "shapes"],
}


@pytest.mark.parametrize("what", COMMANDS)
@pytest.mark.parametrize("kind", ["endless", "deep", "bytes"])
def test_a_file_that_holds_no_such_thing_is_one_clear_line(command, model_path, tmp_path, what, kind):
    file = tmp_path / "file"
    if kind == "endless":
        file.symlink_to("/dev/zero")
    else:
        file.write_bytes(b"[" * 200_000 if kind == "deep" else b'{"a\xff')
    ended = command(*(a.replace("NET", str(model_path)).replace("FILE", str(file)) for a in COMMANDS[what]))
    assert ended.status == 2 and ended.err.count("\n") == 1 and str(file) in ended.err
    assert "internal" not in ended.err


def test_links_in_a_circle_and_lists_without_end(command, model_path, tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    for argv in (["passes", "-p", "clean"], ["pack"], ["compile", "--check", "shapes"]):
        ended = command(argv[0], model_path, *argv[1:], "-o", tmp_path / "circle")
        assert ended.status == 2 and "internal" not in ended.err, ended.err
    ended = command("passes", model_path, "-p", "prune(ratio=" + "[" * 5000, "--check", "shapes")
    assert ended.status == 2 and "nested too deeply" in ended.err


def test_bounds(tmp_path):
    (tmp_path / "file").write_text('{"a": [1]}')
    assert read_json(tmp_path / "file") == {"a": [1]}
    assert read_text(tmp_path / "file", 10) == '{"a": [1]}'
    with pytest.raises(ValueError, match="larger than 9 bytes"):
        read_text(tmp_path / "file", 9)
