"""What a model says of itself is shown as text by every command: on a terminal, in JSON, in HTML, in files' names."""

import json
import os
import pty
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pyte
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxc.ir.escape import terminal
from tests.cli.test_errors import ROOT

CONTROLS = "".join(map(chr, [*range(1, 32), *range(127, 160), 0x2028, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]))
PRINTED = "".join(map(chr, range(32, 127)))
NAMES = {
    "clipboard": "a\x1b]52;c;cm0gLXJmIH4=\x07b",
    "title": "\x1b]0;owned\x07",
    "screen": "\x1b[2J\x1b[Hwritten: nothing\x1b[8m",
    "line": "x\nonnxc: error: all is well\r",
    "bidi": "w\u202egnp\u202c\u2066\u2069",
    "markup": "[bold red]</td><script>alert(1)</script>&amp;",
    "trigraph": "??/ ??> $x_{1}$ %s {0} %41",
    "controls": CONTROLS,
    "printed": PRINTED,
}
NAMES["long"] = "".join(NAMES.values()) * 500


def network(name: str) -> onnx.ModelProto:
    """Two convolutions; every name in it is `name` with a word behind."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.standard_normal((4, 4, 1, 1)).astype("f"), f"{name}w{i}") for i in (0, 1)]
    nodes = [
        helper.make_node("Conv", [f"{name}x", f"{name}w0"], [f"{name}a"], name=f"{name}first"),
        helper.make_node("Relu", [f"{name}a"], [f"{name}r"], name=f"{name}relu"),
        helper.make_node("Conv", [f"{name}r", f"{name}w1"], [f"{name}y"], name=f"{name}second"),
    ]
    ends = [helper.make_tensor_value_info(f"{name}{end}", TensorProto.FLOAT, [1, 4, 3, 3]) for end in "xy"]
    graph = helper.make_graph(nodes, f"{name}graph", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name=name)


@pytest.fixture(params=NAMES)
def named(request, tmp_path):
    """A name, and a model that is full of it."""
    name = NAMES[request.param]
    onnx.save(network(name), tmp_path / "net.onnx")
    return name, tmp_path / "net.onnx"


COMMANDS = [
    ["inspect", "NET", "--verbose"],
    ["passes", "NET", "-p", "clean, prune(ratio=0.5)", "--verbose"],
    ["compare", "NET", "NET"],
    ["run", "NET"],
    ["pack", "NET", "-o", "DIR/a.onnxz", "--verbose"],
    ["passes", "NET", "-p", "lowrank.svd(energy=0.1, skip=[nothing])", "--check", "shapes"],
]


def plain(text: str) -> bool:
    """Whether a terminal shows each character of `text` and does nothing else."""
    return all(c.isprintable() or c == "\n" for c in text)


def test_every_command_shows_names_as_text(command, named):
    name, path = named
    for argv in COMMANDS:
        ended = command(*[a.replace("NET", str(path)).replace("DIR", str(path.parent)) for a in argv])
        assert ended.status == 0, ended.err
        assert plain(ended.out + ended.err), argv
        assert len(ended.out) < 50_000, argv
        if len(name) < 100 and " " not in name:
            # a table folds a long name: all of its characters are there, in their order
            assert "".join(terminal(name).split()) in re.sub(r"[\s│]", "", ended.out) or argv[0] != "inspect"


def test_errors_show_names_as_text(command, named):
    name, path = named
    model = onnx.load(path)
    model.graph.node[2].input[0] = f"{name}nowhere"
    onnx.save(model, path)
    ended = command("inspect", path)
    assert ended.status == 2 and plain(ended.err) and ended.err.count("\n") == 1
    if len(name) < 1000:
        assert terminal(name) in ended.err


def test_json_and_html_read_back_the_very_names(command, named, tmp_path):
    name, path = named
    found = json.loads(command("inspect", path, "--json").out)
    assert [layer["name"] for layer in found["layers"]] == [f"{name}{n}" for n in ("first", "relu", "second")]
    assert list(json.loads(command("compare", path, path, "--json").out)["outputs"]) == [f"{name}y"]
    for form in ("json", "html"):
        ended = command("passes", path, "-p", "clean, prune(ratio=0.5)", "--report", tmp_path / f"r.{form}")
        assert ended.status == 0
    content = (tmp_path / "r.json").read_text("ascii")
    edits = [edit["node"] for row in json.loads(content)["passes"] for edit in row["edits"]]
    assert any(node.startswith(name) for node in edits)
    page = Page()
    page.feed((tmp_path / "r.html").read_text("ascii"))
    page.close()
    assert any(code.startswith(terminal(name)) for code in page.codes)
    assert page.tags <= {"html", "head", "meta", "title", "style", "body", "h1", "table", "thead", "tbody", "tr", "th",
                         "td", "span", "p", "details", "summary", "ul", "li", "code", "h2", "b", "div", "pre",
                         "svg", "g", "rect", "text", "polyline", "line", "circle"}  # fmt: skip


class Page(HTMLParser):
    """The tags of a page, and what stands in <code>."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.codes, self.inside = set(), [], False

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.inside = tag == "code"
        if self.inside:
            self.codes.append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.codes[-1] += data


def test_outputs_become_plain_files(command, named, tmp_path):
    name, path = named
    assert command("run", path, "-o", tmp_path / "out").status == 0
    (file,) = os.listdir(tmp_path / "out")
    assert re.fullmatch(r"\w[\w.-]{0,250}\.npy", file, re.ASCII)
    np.save(tmp_path / "in.npy", np.ones((1, 4, 3, 3), np.float32))
    assert command("run", path, "--input", f"{name}x={tmp_path / 'in.npy'}").status == 0


@pytest.mark.parametrize("kind", ["clipboard", "screen", "line", "bidi"])
def test_a_terminal_reads_back_the_very_name(tmp_path, kind):
    name = NAMES[kind]
    onnx.save(network(name), tmp_path / "net.onnx")
    raw = on_a_terminal("inspect", tmp_path / "net.onnx")
    assert b"\x1b]" not in raw and b"\x1b[2J" not in raw and b"\x1b[8m" not in raw
    screen = pyte.Screen(120, 60)
    pyte.ByteStream(screen).feed(raw)
    assert not screen.title
    text = re.sub(r"\s", "", "".join(screen.display))
    shown = re.sub(r"\s", "", terminal(name))
    assert shown in text
    read = re.sub(r"\\x([0-9a-f]{2})|\\u([0-9a-f]{4})", lambda m: chr(int(m[1] or m[2], 16)), terminal(name))
    assert read == name


def on_a_terminal(*argv) -> bytes:
    """What a command writes to a terminal of 120 columns."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "onnxc", *map(str, argv)], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs,
        env=os.environ | {"COLUMNS": "120", "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(theirs)
    raw = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        raw += part
    assert child.wait() == 0, raw
    os.close(ours)
    return raw


def test_file_names_that_are_no_utf8(command, tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff\x1b[31m\n")
    folder.mkdir()
    path = folder / os.fsdecode(b"net\xfe.onnx")
    path.write_bytes(network("n").SerializeToString())
    for argv in (["inspect", path], ["passes", path, "-p", "clean", "-o", folder / "o", "--report", folder / "r.html"],
                 ["pack", path, "-o", folder / "a"], ["unpack", folder / "a", "-o", folder / "b"],
                 ["passes", path, "-p", "clean", "--report", folder / "r.json"], ["run", path, "-o", folder / "out"],
                 ["compare", path, path], ["compare", path, path, "--json"]):  # fmt: skip
        ended = command(*argv)
        assert ended.status == 0, ended.err
        assert plain(ended.out)
    assert json.loads((folder / "r.json").read_text("ascii"))["model"] == str(path)
    assert (folder / "b").read_bytes() == path.read_bytes()
    ended = command("inspect", folder / "none")
    assert ended.status == 2 and plain(ended.err)
    assert Path(folder / "out" / "ny.npy").exists()
