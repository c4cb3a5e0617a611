"""What the pages say of options is what the code does: defaults in tables and sentences, and what commands print."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import onnxc
from onnxc.passes.registry import aliases, available, describe_options
from tests.passes.quant_helpers import model_of

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if "`" in page.read_text(encoding="utf-8")]
OPTIONS = {name: {o.name: o.default for o in describe_options(cls)} for name, cls in available().items()}


def defaults(text: str) -> Iterator[tuple[str, str, str]]:
    """(what is talked of, option, default) wherever a page states one."""
    about, headed = "", False
    for part in re.split(r"\n(?=\n|\||#|- )", text):
        named = [w for w in re.findall(r"`([a-z_.]+)`", part) if w in OPTIONS or w in aliases()]
        if not part.strip().startswith("|"):
            about, headed = named[-1] if named else about, False
        cells = [cell.strip().strip("`") for cell in part.strip().strip("|").split("|")]
        if cells[:2] == ["option", "default"]:
            headed = True
        elif headed and part.strip().startswith("|") and not cells[0].startswith("---"):
            yield about, cells[0], cells[1]
        for option, value in re.findall(r"`(\w+)=([\w.]+)`[^`]{0,45}(?<!no )\bdefault\b", part):
            yield about, option, value
        for option, value in re.findall(r"`(\w+)=[^`]*`[^.]*?`(\w+)`, the default", part.replace("\n", " ")):
            yield about, option, value


def said_wrongly(text: str) -> list[str]:
    """Defaults that no pass of this name has, nor, where the page names none, any pass."""
    wrong = []
    for about, option, value in defaults(text):
        full = aliases().get(about, about)
        having = [full] if option in OPTIONS.get(full, {}) else [n for n, o in OPTIONS.items() if option in o]
        found = {str(OPTIONS[name][option]).strip('"') for name in having}
        if value not in found and not (value == "" and found <= {"[]", "none"}):
            wrong.append(f"{about}({option}={value}): the code has {', '.join(sorted(found)) or 'no such option'}")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_defaults_are_those_of_the_code(page):
    assert said_wrongly(page.read_text(encoding="utf-8")) == []


def test_another_default_is_seen():
    table = "Options of `quant.cluster`\n\n| option | default | |\n|---|---|---|\n| `bits` | {} | of an index |\n"
    assert said_wrongly(table.format(4)) == [] and said_wrongly(table.format(5)) == [
        "quant.cluster(bits=5): the code has 4"
    ]
    assert said_wrongly("`recover=` of `prune`: `lstsq`, the default") == ["prune(recover=lstsq): the code has auto"]
    assert said_wrongly("`energy=0.9` (the default) of `lowrank`") == ["lowrank(energy=0.9): the code has 0.97"]


CLI = (DOCS / "cli.md").read_text(encoding="utf-8")
PRINTED = re.findall(r"```console\n\$ onnxc ((?:passes --list|inspect)[^\n]*)\n(.*?)\n```", CLI, re.S)


@pytest.mark.parametrize("line, page", PRINTED, ids=[line for line, _ in PRINTED])
def test_the_page_shows_what_commands_print(line, page, command, monkeypatch, tmp_path):
    """`...` stands for lines that are left out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "96")
    shutil.copy(Path(onnxc.__file__).parent / "data" / "resnet20_fashion.onnx", "resnet20.onnx")
    printed, at = command(*line.split()).out.splitlines(), 0
    for shown in page.split("\n...\n"):
        lines = shown.split("\n")
        places = [k for k in range(at, len(printed)) if printed[k : k + len(lines)] == lines]
        assert places, shown
        at = places[0] + len(lines)


def test_repairs_by_default():
    """docs/pruning.md: `recover=auto`, the default, is `lstsq` where data are given, else `none`."""
    rng = np.random.default_rng(0)
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4,5,5] x) => (float[N,4,1,1] y) {
        a = Conv(x, u) b = Relu(a) y = Conv(b, w) }"""
    model = model_of(text, **{name: rng.normal(size=(4, 4, 3, 3)).astype(np.float32) for name in "uw"})
    data = {"x": rng.normal(size=(40, 4, 5, 5)).astype(np.float32)}

    def pruned(recover: str, data) -> bytes:
        return onnxc.run_passes(model, f"prune{recover}", data=data).model.to_proto().SerializeToString()

    assert pruned("", data) == pruned("(recover=lstsq)", data) != pruned("(recover=none)", data)
    assert pruned("", None) == pruned("(recover=none)", None)
