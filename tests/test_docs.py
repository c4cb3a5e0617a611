"""The docs as a site: every page stands in it, every link leads somewhere; with mkdocs it is built; the notebook runs."""

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors(text: str) -> set[str]:
    """What headings are called: lower case, words joined by hyphens, without marks."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in heads}


def broken(file: Path) -> list[str]:
    """The links of a page that lead nowhere; addresses on the web are not asked."""
    text, found = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.S), []
    for link in LINK.findall(text):
        place, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = (file.parent / place).resolve() if place else file
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            found.append(link)
    return found


@pytest.mark.parametrize("file", [ROOT / "README.md", *PAGES], ids=lambda f: f.stem)
def test_links_lead_somewhere(file):
    assert broken(file) == []


def test_a_link_that_leads_nowhere_is_seen(tmp_path):
    page = tmp_path / "p.md"
    page.write_text(
        "# A head\n[a](q.md) [b](#a-head) [c](#other) ![d](no.png)\n```\n[e](x.md)\n```\n[f](https://x.y)\n"
    )
    assert broken(page) == ["q.md", "#other", "no.png"]


def test_every_page_stands_in_the_site():
    named = re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(named) == [p.name for p in PAGES]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("material") is None, reason="mkdocs-material is not installed: pip install 'onnxc[docs]'")
def test_the_site_is_built(tmp_path):
    argv = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-q",
        "-f",
        ROOT / "mkdocs.yml",
        "-d",
        tmp_path / "site",
    ]
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/auto/index.html").exists() and (
        tmp_path / "site/browser/garments.html"
    ).stat().st_size > 200_000


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    """Its cells one after another in one process, as Jupyter does, without Jupyter."""
    book = json.loads((ROOT / "examples/notebook.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in book["cells"] if c["cell_type"] == "code"]
    assert all(not c.get("outputs") for c in book["cells"])  # what it shows is made anew
    assert cells[-1].count("minutes=1)") == 1
    cells[-1] = cells[-1].replace("minutes=1)", "minutes=0.5)") + "\nassert found.points"
    shown = "\n".join(
        f"{cell}\nif hasattr({_last(cell)}, '_repr_html_'): shown.append({_last(cell)}._repr_html_())" for cell in cells
    )
    script = tmp_path / "book.py"
    script.write_text(f"shown = []\n{shown}\nprint(len(shown), min(map(len, shown)))\n")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=600,
                          env={"PYTHONPATH": str(ROOT), "PATH": str(Path(shutil.which("sh") or "/bin/sh").parent)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    count, least = map(int, done.stdout.split()[-2:])
    assert count == 2 and least > 100  # the model, and what passes made of it


def _last(cell: str) -> str:
    """The expression that a cell shows."""
    line = cell.rstrip().splitlines()[-1]
    return line if re.fullmatch(r"[\w.\[\]()]+", line) and not line.startswith("import") else "None"
