"""Names read back by the language's own reader, and only allowed characters on the way."""

import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxc.ir import escape

CONTROLS = "".join(map(chr, [*range(160), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF]))
NAMES = [
    "", "conv1/weight:0", "x *\\\n/ int f(void); /\\\n* ", "??/\n*/", "%41 %", "\\u0041 \\", '"; x = "', "</script><b a='",
    "\x1b]52;c;AAAA\x07", "größe 重み 😀", "\ud800 and \udcff", CONTROLS, "*\\\n" * 100_000,
]  # fmt: skip
TEXTS = st.text(st.characters(codec=None, exclude_categories=("Cs",)), max_size=20)
PLAIN = "A-Za-z0-9_ .:/\\-"


def backwards_c(literal: str) -> str:
    data = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), literal.encode("ascii"))
    return escape.from_c_string(data[1:-1])


def backwards_html(text: str) -> str:
    class Reader(HTMLParser):
        found = ""

        def handle_data(self, data: str) -> None:
            self.found += data

    reader = Reader()
    reader.feed(f"<p>{text}</p>")
    reader.close()
    return backwards_terminal(reader.found)


def backwards_terminal(text: str) -> str:
    def char(match):
        return chr(int(match[1] or match[2] or match[3], 16))

    return re.sub(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))", char, text)


LANGUAGES = {
    "comment": (escape.comment, lambda text: unquote(text, errors="surrogatepass"), rf"[{PLAIN}%]*"),
    "c_string": (escape.c_string, backwards_c, rf'"([{PLAIN}]|\\[0-7]{{3}})*"'),
    "json_text": (escape.json_text, json.loads, rf'"([{PLAIN}]|\\u[0-9a-f]{{4}})*"'),
    "html": (escape.html, backwards_html, rf"([{PLAIN}]|&#x[0-9a-f]+;)*"),
    "terminal": (escape.terminal, backwards_terminal, r"[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]*"),
}  # fmt: skip


def check(language: str, name: str) -> None:
    forth, back, allowed = LANGUAGES[language]
    text = forth(name)
    assert re.fullmatch(allowed, text)
    assert back(text) == name


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_read_back(language):
    for name in NAMES:
        check(language, name)


@pytest.mark.parametrize("language", LANGUAGES)
@given(name=TEXTS)
def test_any_text_reads_back(language, name):
    check(language, name)


def test_json_structures_are_left_alone():
    value = {"a": [1, 2.5e30, None, True, -3], "</script>": {"x": '"\\\n'}, "e": []}
    text = escape.json_text(value)
    assert json.loads(text) == value
    assert "<" not in text and "\\n" not in text
    with pytest.raises(ValueError, match="not JSON compliant"):
        escape.json_text([float("nan")])


def test_people_read_their_own_script():
    assert escape.terminal("größe 重み") == "größe 重み"
    assert escape.terminal("a\x1b[2Jb") == "a\\x1b[2Jb"
