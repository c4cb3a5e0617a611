"""Pass lists and TOML recipes: what is read, what is refused, and that a pass writes itself as it is read."""

import typing
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxc.ir.errors import BadOption
from onnxc.passes import base, registry
from onnxc.passes.base import Pass, register
from onnxc.passes.options import Range, ranges
from onnxc.passes.registry import available, describe_options, find, make
from onnxc.recipe import parse, read_toml, resolve


@pytest.fixture(autouse=True, scope="module")
def _registry():
    registry.available()
    passes, names = dict(base.PASSES), dict(base.ALIASES)
    register("recipe.all", alias="all")(All)
    register("recipe.must")(Must)
    yield
    base.PASSES.clear()
    base.PASSES.update(passes)
    base.ALIASES.clear()
    base.ALIASES.update(names)


class All(Pass):
    """Options of every kind. number: a real one. text: a word. It may stand in quotes."""

    number: float = 0.5
    count: int = 1
    text: str = "word"
    flag: bool = False
    kind: Literal["layer", "global"] = "layer"
    maybe: int | None = None
    many: tuple[int, ...] = ()
    words: list[str] | str | None = None
    table: dict[str, float] | None = None


class Must(Pass):
    """One option has no default."""

    size: int


def options(text: str) -> dict:
    (found,) = parse(text)
    return found.options()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("all", {}),
        ("all()", {}),
        ("all(0.25)", {"number": 0.25}),
        ("all(0.25, 3)", {"number": 0.25, "count": 3}),
        ("all(0.25, count=3)", {"number": 0.25, "count": 3}),
        ("all(number=2)", {"number": 2.0}),
        ("all(number=1e-3)", {"number": 0.001}),
        ("all(number=-inf)", {"number": float("-inf")}),
        ("all( flag = TRUE )", {"flag": True}),
        ("all(maybe=7)", {"maybe": 7}),
        ("all(maybe=none)", {}),
        ("all(kind=global)", {"kind": "global"}),
        ("all(text=/l/l.0/c1/Conv)", {"text": "/l/l.0/c1/Conv"}),
        ("all(text='a, b)')", {"text": "a, b)"}),
        ('all(text="8")', {"text": "8"}),
        (r'all(text="say \"no\" to C:\\ and \n")', {"text": r'say "no" to C:\ and \n'}),
        ("all(many=[1, 2,3])", {"many": (1, 2, 3)}),
        ("all(many=[])", {}),
        ("all(words=[a, 'b c'])", {"words": ["a", "b c"]}),
        ("all(words=a)", {"words": "a"}),
        ("all(table={a: 1, 'b c': 0.5})", {"table": {"a": 1.0, "b c": 0.5}}),
    ],
)
def test_options_are_read(text, expected):
    found = options(text)
    assert found == expected
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in expected.items()}


def test_a_list_keeps_its_order_and_resolves_aliases():
    names = [p.name for p in parse(" clean,prune( ratio=0.3 ) ,\n all, prune.channels")]
    assert names == ["clean", "prune.channels", "recipe.all", "prune.channels"]


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "the pass list is empty"),
        ("  ", "the pass list is empty"),
        (",", "a name is missing, found <here>,"),
        ("clean,", "a name is missing, found clean,<here>"),
        ("clean clean", "a , is missing, found clean <here>clean"),
        ("clean)", "a , is missing, found clean<here>)"),
        ("all(", "a name is missing"),
        ("all(number=", "a name is missing"),
        ("all(number=1", "a ) is missing, found all(number=1<here>"),
        ("all(many=[1", "a ] is missing"),
        ("all(number=1 2)", "a , is missing"),
        ("all(number=1, number=2)", "option number is given twice"),
        ("all(1, number=2)", "option number is given twice"),
        ("all(number=1, 2)", "without a name stands behind one with a name"),
        ("all(1,2,3,4,5,6,7,8,9,10)", "too many options, expected 9, found 10"),
        ("all('unfinished)", "this is no pass list"),
        ("all(many=[1, 2)", "a , is missing"),
        ("all(table={a=1})", "a : is missing"),
        ("nonsense", "there is no pass nonsense"),
        ("alll", "did you mean all"),
        ("all(numbr=1)", "there is no option numbr; it takes number"),
        ("all(number=true)", "option number does not fit, expected float, found true"),
        ("all(count=1.5)", "option count does not fit, expected int, found 1.5"),
        ("all(count=true)", "option count does not fit, expected int, found true"),
        ("all(flag=1)", "option flag does not fit, expected true or false, found 1"),
        ("all(kind=both)", "expected layer or global, found both"),
        ("all(maybe=x)", "expected int or none, found x"),
        ("all(many=[1, x])", "expected list of int, found [1, x]"),
        ("all(text=8)", "expected text, found 8"),
        ("all(table={a: b})", "option table does not fit"),
        ("recipe.must", "pass recipe.must: option size must be given"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_place(text, said):
    with pytest.raises(BadOption) as error:
        parse(text)
    assert said in str(error.value) and "\n" not in str(error.value) and error.value.exit_status == 2


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12)
VALUES = {
    "number": st.floats(allow_nan=False),
    "count": st.integers(-(10**12), 10**12),
    "text": TEXTS | st.sampled_from(["true", "None", "inf", "1e5", "0x1", "1_0", "a b", "", "'", '"', "\\", "nan"]),
    "flag": st.booleans(),
    "kind": st.sampled_from(["layer", "global"]),
    "maybe": st.none() | st.integers(),
    "many": st.lists(st.integers(), max_size=4).map(tuple),
    "words": st.none() | TEXTS | st.lists(TEXTS, max_size=3),
    "table": st.none() | st.dictionaries(TEXTS, st.floats(allow_nan=False), max_size=3),
}


@given(st.lists(st.fixed_dictionaries({}, optional=VALUES), min_size=1, max_size=3))
def test_a_pass_is_read_back_from_what_it_writes(given_options):
    passes = [registry.make("recipe.all", chosen) for chosen in given_options]
    again = parse(", ".join(map(str, passes)))
    assert [p.options() for p in again] == [p.options() for p in passes]
    assert list(map(str, again)) == list(map(str, passes))


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text):
    try:
        assert parse(text)
    except BadOption as e:
        assert "\n" not in str(e)


# TOML


def write(tmp_path, text: str):
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_gives_passes_and_settings(tmp_path):
    (tmp_path / "calib.npz").touch()
    path = write(
        tmp_path,
        'seed = 4\ncheck = "shapes"\ndata = "calib.npz"\n[[pass]]\nname = "clean"\n'
        '[[pass]]\nname = "all"\nnumber = 1\nmany = [1, 2]\nwords = ["a, b"]\ntable = {x = 0.5}\n',
    )
    passes, settings = read_toml(path)
    assert settings == {"seed": 4, "check": "shapes", "data": str(tmp_path / "calib.npz")}
    assert [p.name for p in passes] == ["clean", "recipe.all"]
    assert passes[1].options() == {"number": 1.0, "many": (1, 2), "words": ["a, b"], "table": {"x": 0.5}}


def test_data_that_is_no_file_beside_the_recipe_stays_as_it_is(tmp_path):
    text = 'data = "elsewhere.npz"\n[[pass]]\nname = "clean"\n'
    assert read_toml(write(tmp_path, text))[1] == {"data": "elsewhere.npz"}


@pytest.mark.parametrize(
    "text",
    [
        'data = "module:function"\n[[pass]]\nname = "clean"\n',
        'data = "päckage.module:funktion"\n[[pass]]\nname = "clean"\n',
        'task = "module:function"\n[[pass]]\nname = "clean"\n',
        '[[pass]]\nname = "all"\ntext = "module:function"\n',
        '[[pass]]\nname = "all"\nwords = ["a", "module:function"]\n',
    ],
)
def test_a_recipe_names_code_only_where_that_is_allowed(tmp_path, text):
    with pytest.raises(BadOption, match=r"names code to run, found .*; if you trust it, give --allow-code"):
        read_toml(write(tmp_path, text))
    assert read_toml(write(tmp_path, text), allow_code=True)


def test_a_recipe_that_is_nested_too_deeply(tmp_path):
    for text in (
        "a = " + "[" * 100_000,
        "a = " + "{a = " * 50_000,
        "a." * 50_000 + "b = 1\n",
        "[" + "a." * 5000 + "b]\n",
    ):
        with pytest.raises(BadOption, match=r"cannot be read|is not TOML|lists no passes"):
            read_toml(write(tmp_path, text))


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "lists no passes"),
        ('pass = "clean"', "lists no passes"),
        ("pass = []", "lists no passes"),
        ("[[pass]]\nratio = 0.5", "lists no passes"),
        ("[[pass]]\nname = 3", "lists no passes"),
        ("[[pass", "is not TOML"),
        (
            'sed = 1\n[[pass]]\nname = "clean"',
            "a setting that is not known, expected seed, data, check, task, metric, decode, require, time, found sed",
        ),
        ('seed = "1"\n[[pass]]\nname = "clean"', "setting seed of the recipe"),
        ('seed = true\n[[pass]]\nname = "clean"', "setting seed of the recipe"),
        ('data = 3\n[[pass]]\nname = "clean"', "setting data of the recipe"),
        ('[[pass]]\nname = "nonsense"', "there is no pass nonsense"),
        ('[[pass]]\nname = "all"\nnumber = "much"', "option number does not fit"),
        ('[[pass]]\nname = "all"\ncount = 2020-01-01', "option count does not fit"),
    ],
)
def test_a_bad_recipe_is_refused(tmp_path, text, said):
    with pytest.raises(BadOption, match=r"\A[^\n]*\Z") as error:
        read_toml(write(tmp_path, text))
    assert said in str(error.value)


def test_a_recipe_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(BadOption, match="cannot read the recipe"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadOption, match="is not TOML"):
        read_toml(tmp_path / "latin.toml")


# Python


def test_passes_are_given_in_many_ways():
    one = registry.make("all", {"count": 2})
    assert resolve(one) == [one]
    found = resolve([one, All, "clean, all(count=3)", ("all", {"count": 4})])
    assert found[0] is one and [p.name for p in found] == ["recipe.all"] * 2 + ["clean"] + ["recipe.all"] * 2
    assert [p.options() for p in found] == [{"count": 2}, {}, {}, {"count": 3}, {"count": 4}]


@pytest.mark.parametrize("passes", [[], [3], [("all",)], [object], "", [None]])
def test_what_is_no_pass_is_refused(passes):
    with pytest.raises(BadOption):
        resolve(passes)


def test_options_are_described_from_the_docstring():
    found = {o.name: o for o in describe_options(All)}
    assert (found["number"].kind, found["number"].default, found["number"].doc) == ("float", "0.5", "a real one.")
    assert found["text"].doc == "a word. It may stand in quotes."
    assert found["many"].kind == "list of int" and found["maybe"].kind == "int or none"
    assert found["table"].kind == "table or none" and found["words"].kind == "list of text or text or none"
    assert [o.default for o in describe_options(Must)] == [None]


def bare(kind: object) -> bool:
    """Whether a type is, or has in it, a container that does not say of what."""
    inner = typing.get_args(kind)
    return kind in (list, dict, tuple) if not inner else any(map(bare, inner))


ODD = [
    1,
    -1,
    10**400,
    0.5,
    float("nan"),
    float("inf"),
    True,
    None,
    "",
    "a",
    [1, 2],
    [None],
    [["a"]],
    {"a": 1},
    {"a": [1]},
    {},
]


@pytest.mark.parametrize("name", [name for name in registry.available() if not name.startswith("recipe.")])
def test_options_of_odd_types_are_refused_before_a_pass_runs(name):
    cls = registry.find(name)
    kinds = typing.get_type_hints(cls)
    for option in describe_options(cls):
        assert not bare(kinds[option.name]), f"{name}.{option.name}: a list of what?"
        for odd in ODD:
            try:
                registry.make(name, {option.name: odd})
            except BadOption as e:
                assert str(e).isprintable()


def test_ranges_are_declared_beside_types_and_nothing_outside_of_them_is_taken():
    assert str(Range(2, 8)) == "2 to 8" and str(Range(above=0, below=1)) == "above 0 and below 1"
    assert Range(1).holds(1) and not Range(1).holds(0) and not Range(1).holds(float("nan")) and Range(1).holds("auto")
    checked = 0
    for name in available():
        cls = find(name)
        for option, allowed in ranges(cls).items():
            assert str(allowed) in next(o.kind for o in describe_options(cls) if o.name == option)
            low, high = (allowed.low, -1), (allowed.high, 1)
            outside = [int(end) + step for end, step in (low, high) if end is not None]
            outside += [int(end) for end in (allowed.above, allowed.below) if end is not None]
            for value in outside:
                checked += 1
                with pytest.raises(BadOption, match=f"option {option} does not fit, expected {allowed}"):
                    make(name, {option: value})
    assert checked > 60
