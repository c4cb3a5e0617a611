"""The page of examples/browser in headless Chromium: the network in it says of drawings and pictures what ONNX Runtime says."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from onnxc.codegen.target import resolve
from tests.browser import WIDTHS, dump, needs_browser

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [needs_browser, pytest.mark.slow]

# a stroke on the canvas, then a picture of dark trousers on white, as a visitor gives them
_VISIT = """<!DOCTYPE html><title></title><iframe src="page.html" style="width:700px;height:900px;border:0"></iframe>
<iframe></iframe>
<script>
const [frame, hold] = document.querySelectorAll('iframe'), seen = {};
hold.contentDocument.open();  // the browser waits for what is not closed
const until = test => new Promise(done => { const look = () => test() ? done() : setTimeout(look, 20); look(); });
const tell = what => { document.title = JSON.stringify(what); hold.contentDocument.close(); };
frame.onload = () => visit().then(tell, error => tell({error: String(error)}));
async function visit() {
  const page = frame.contentDocument, view = frame.contentWindow, body = page.body;
  const failed = () => page.getElementById('error').textContent;
  await until(() => body.dataset.ready || failed());
  seen.error = failed();
  seen.found = JSON.parse(body.dataset.found);
  page.getElementById('clear').click();
  const canvas = page.getElementById('canvas'), box = canvas.getBoundingClientRect();
  [['pointerdown', 60, 200], ['pointermove', 140, 190], ['pointermove', 230, 215], ['pointerup', 230, 215]].forEach(([kind, x, y]) =>
    canvas.dispatchEvent(new view.PointerEvent(kind, {clientX: box.left + x, clientY: box.top + y, bubbles: true})));
  seen.drawn = JSON.parse(body.dataset.seen);
  const picture = page.createElement('canvas'), pen = picture.getContext('2d');
  picture.width = 200; picture.height = 300;
  pen.fillStyle = '#fff'; pen.fillRect(0, 0, 200, 300);
  pen.fillStyle = '#446'; pen.fillRect(60, 20, 80, 60); pen.fillRect(60, 80, 32, 200); pen.fillRect(108, 80, 32, 200);
  const blob = await new Promise(done => picture.toBlob(done)), list = new view.DataTransfer();
  list.items.add(new view.File([blob], 'trousers.png', {type: 'image/png'}));
  const before = body.dataset.seen, input = page.getElementById('file');
  input.files = list.files;
  input.dispatchEvent(new view.Event('change'));
  await until(() => body.dataset.seen !== before || failed());
  seen.opened = JSON.parse(body.dataset.seen);
  seen.facts = page.getElementById('facts').innerText;
  seen.fits = WIDTHS.map(width => {
    frame.style.width = `${width}px`;
    return view.innerWidth === width && page.documentElement.scrollWidth <= page.documentElement.clientWidth;
  });
  return seen;
}
</script>""".replace("WIDTHS", str(list(WIDTHS)))


def builder():
    spec = importlib.util.spec_from_file_location("browser_build", ROOT / "examples/browser/build.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """(the builder, a folder with its page)."""
    if not resolve("wasm32").toolchain.linker().found():
        pytest.skip("no zig")
    build, folder = builder(), tmp_path_factory.mktemp("page")
    build.RECIPE = "fuse, quant"  # half the time of the page's own
    (folder / "page.html").write_text(build.page(), encoding="utf-8")
    return build, folder


def test_what_is_drawn_and_opened_is_classified(place):
    build, folder = place
    (folder / "visit.html").write_text(_VISIT)
    text, errors = dump(folder / "visit.html", virtual=False)
    seen = json.loads(text)
    assert not errors and seen["error"] == ""
    _, model = build.network()
    pictures, _ = build.test_pictures(build.PICTURES)
    assert seen["found"] == build.scores(model, pictures).argmax(1).tolist()
    for visit in ("drawn", "opened"):
        pixels = np.array(seen[visit]["pixels"], np.uint8).reshape(1, 28, 28)
        assert 20 < (pixels > 50).sum() < 500 and pixels[0, 0].max() < 16
        wanted = build.scores(model, pixels)[0]
        assert np.abs(np.array(seen[visit]["scores"]) - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert build.CLASSES[int(np.argmax(seen["opened"]["scores"]))] == "trousers"
    assert "kB" in seen["facts"] and " ms" in seen["facts"] and seen["fits"] == [True, True]


def test_the_page_asks_nobody_for_anything(place):
    text = (place[1] / "page.html").read_text(encoding="utf-8")
    assert all(mark not in text for mark in ("http:", "https:", "fetch(", "import(", "XMLHttp", " src=", "<link"))


def test_the_page_says_what_does_not_run(place, tmp_path):
    """A module that is cut off: a sentence on the page."""
    text = (place[1] / "page.html").read_text(encoding="utf-8")
    start = text.index('"wasm": "') + len('"wasm": "')
    end = text.index('"', start)
    (tmp_path / "page.html").write_text(text[:start] + text[start : start + 400] + text[end:], encoding="utf-8")
    (tmp_path / "visit.html").write_text(_VISIT.replace("  seen.found =", "  return seen;\n  seen.found ="))
    text, _ = dump(tmp_path / "visit.html", virtual=False)
    assert json.loads(text)["error"].startswith("This does not run here: ")
