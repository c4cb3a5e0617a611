"""Pages in headless Chromium: what is drawn at a width, whether it fits, and what the console says."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium")
WIDTHS = (400, 1400)
# an iframe has the width that is asked for; windows have a least one
_LOOK = """
<script>
const frame = document.querySelector('iframe');
frame.onload = () => {
  const page = frame.contentDocument, seen = {};
  for (const name of ['rect', 'circle', 'polyline', 'table', 'svg'])
    seen[name] = [...page.querySelectorAll(name)].filter(e => {
      const box = e.getBoundingClientRect();
      return box.width > 0 && box.height + box.width > 1;
    }).length;
  const root = page.documentElement;
  const inner = frame.contentWindow.innerWidth;
  document.title = JSON.stringify({seen, wide: root.scrollWidth, room: root.clientWidth, inner, words: page.body.innerText.length});
};
</script>
"""


@dataclass(frozen=True)
class Look:
    """seen: elements that take room, by name; fits: nothing stands outside of the width; errors: lines of the console."""

    seen: dict[str, int]
    fits: bool
    words: int
    errors: list[str]


def look(page: Path, width: int) -> Look:
    """What a browser makes of `page`, `width` pixels wide."""
    frame = page.with_name(f"{page.stem}-{width}.html")
    frame.write_text(
        f'<!DOCTYPE html><title></title><iframe src="{page.name}" style="width:{width}px;height:900px;border:0"></iframe>{_LOOK}'
    )
    text, errors = dump(frame)
    found = json.loads(text)
    return Look(found["seen"], found["wide"] <= found["room"] and found["inner"] == width, found["words"], errors)


def dump(page: Path, virtual: bool = True) -> tuple[str, list[str]]:
    """(the title that the scripts of `page` leave, lines of the console): after four seconds of virtual time, else when it is loaded."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--enable-logging=stderr"]
    flags += ["--window-size=1600,1000", *(["--virtual-time-budget=4000"] if virtual else [])]
    argv = [str(BROWSER), *flags, "--dump-dom", page.as_uri()]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=180, check=True)
    title = unescape(done.stdout.split("<title>")[1].split("</title>")[0])
    return title, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
