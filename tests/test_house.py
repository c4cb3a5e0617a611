"""Rules of the house that a machine can check: import directions, who may import what, no prints, no leftovers."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import onnxc

ROOT = Path(onnxc.__file__).resolve().parent
FILES = sorted(ROOT.rglob("*.py"))

# Which rooms a room may import from, besides itself. Files that stand directly in onnxc/ may import all.
ROOMS = {
    "ir": set(),
    "passes": {"ir"},
    "runtime": {"ir.errors", "ir.escape", "ir.temporary", "ir.difference", "ir.inference", "ir.lean", "ir.nodes"},
    "codegen": {"ir", "runtime", "coding", "__version__"},
    "coding": {"ir.errors", "ir.escape", "ir.external", "ir.output"},
    "torch": {"ir", "runtime.data", "runtime.code", "passes.train.objective"},
    "search": {"ir", "passes", "runtime", "codegen", "measure", "pipeline", "recipe", "report", "require", "trial"},
    "measure": {"ir", "passes", "runtime", "coding", "codegen", "pipeline", "recipe", "report"},
}
TVM = {"codegen/tvm_api.py"}
# Slow to import: only inside functions. TVMScript has to stand at the top of its file.
HEAVY = {"tvm", "onnxruntime", "scipy", "rich", "typer"}


def imports(tree: ast.AST, package: str) -> Iterator[tuple[ast.stmt, str]]:
    """Every import as (statement, absolute dotted name); `from a import b` counts as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, base] if base else parent)
            yield from ((node, f"{base}.{alias.name}") for alias in node.names)


def type_checking(tree: ast.AST) -> set[ast.AST]:
    """Statements that only type checkers see."""
    guarded = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            guarded.update(inner for statement in node.body for inner in ast.walk(statement))
    return guarded


def imported_files(sources: dict[str, str]) -> dict[str, set[str]]:
    """Which files each file imports, inside functions too: dotted module names of `sources` (path in onnxc/ -> text)."""
    modules = {
        ".".join(["onnxc", *path.removesuffix(".py").removesuffix("/__init__").split("/")]): path for path in sources
    }
    graph = {}
    for module, path in modules.items():
        tree = ast.parse(sources[path])
        guarded = type_checking(tree)
        reached = set()
        for node, name in imports(tree, module if path.endswith("__init__.py") else module.rpartition(".")[0]):
            while name and name not in modules:
                name = name.rpartition(".")[0]
            if name and name != module and node not in guarded:
                reached.add(name)
        graph[module] = reached
    return graph


def circles(graph: dict[str, set[str]]) -> set[str]:
    """The modules that import each other in a circle: what is left when all that import none, or are imported by none, are gone."""
    left = {m: set(reached) & set(graph) for m, reached in graph.items()}
    while True:
        read = {m for reached in left.values() for m in reached}
        ends = {m for m, reached in left.items() if not reached or m not in read}
        if not ends:
            return set(left)
        left = {m: reached - ends for m, reached in left.items() if m not in ends}


def breaches(path: str, source: str) -> list[str]:
    """What a file at `path` (relative to onnxc/) does against the rules."""
    tree = ast.parse(source)
    room = path.split("/")[0] if "/" in path else ""
    package = ".".join(["onnxc", *path.split("/")[:-1]])
    guarded = type_checking(tree)
    kernels = path.startswith("codegen/kernels/")
    found = []
    for node, name in imports(tree, package):
        top, _, inside = name.partition(".")
        if top == "onnxc" and room in ROOMS:
            allowed = {room, *ROOMS[room]}
            if inside and not any(inside == a or inside.startswith(f"{a}.") for a in allowed):
                found.append(f"{node.lineno}: {room} imports {name}")
        if node in guarded:
            continue
        if top == "tvm" and path not in TVM and not kernels:
            found.append(f"{node.lineno}: imports tvm")
        if top == "onnxruntime" and room != "runtime":
            found.append(f"{node.lineno}: imports onnxruntime")
        if top == "torch" and room != "torch":
            found.append(f"{node.lineno}: imports torch")
        if name.startswith("onnxc.torch") and room != "torch" and node in tree.body:
            found.append(f"{node.lineno}: imports onnxc.torch at the top of the file")
        if top in HEAVY and node in tree.body and not (top == "tvm" and kernels) and not path.startswith("cli/"):
            found.append(f"{node.lineno}: imports {top} at the top of the file")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print" and not path.startswith("cli/"):
            found.append(f"{node.lineno}: prints")
        if isinstance(node, ast.ExceptHandler) and not isinstance(node.body[-1], ast.Raise):
            kinds = ast.unparse(node.type) if node.type else "everything"
            # the command line's last resort, where any exception becomes one line
            last_resort = path == "cli/app.py" and kinds == "Exception"
            if re.search(r"\b(everything|Exception|BaseException)\b", kinds) and not last_resort:
                found.append(f"{node.lineno}: swallows {kinds}")
    found += [
        f"{number}: {line.strip()}"
        for number, line in enumerate(source.splitlines(), 1)
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line)
    ]
    if source.strip() and not ast.get_docstring(tree):
        found.append("1: no module docstring")
    return found


@pytest.mark.parametrize("path", [file.relative_to(ROOT).as_posix() for file in FILES])
def test_the_house_rules_hold(path):
    assert breaches(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_no_files_import_each_other_in_a_circle():
    sources = {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in FILES}
    assert circles(imported_files(sources)) == set()


LONGEST = 450
MOST_UNTYPED = 116


@pytest.mark.parametrize(
    "path", [f.relative_to(ROOT).as_posix() for f in sorted(ROOT.rglob("*.[pch]*")) if f.suffix in (".py", ".c", ".h")]
)
def test_no_file_is_longer_than_one_idea_needs(path):
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_the_page_of_changes_names_files_that_are_there_and_no_more_than_four():
    text = (ROOT.parent / "docs/architecture.md").read_text(encoding="utf-8")
    table = text.split("## Where a change goes")[1].split("\n## ")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) >= 10
    for change, files in rows:
        named = re.findall(r"`([\w./<> -]+)`", files)
        assert 1 <= len(named) <= 4, change
        for name in named:
            whole = ROOT.parent / name.split("<")[0]
            assert whole.exists() if "<" not in name else whole.parent.is_dir() or whole.is_dir(), (change, name)


def bare_functions(path: str, source: str) -> list[str]:
    """Public functions of a module without a docstring, or whose types are not all said. Rows of tables are read by their form."""
    found = []
    for f in ast.parse(source).body:
        if not isinstance(f, ast.FunctionDef) or f.name.startswith("_"):
            continue
        if any(ast.unparse(d).startswith("row(") for d in f.decorator_list):
            continue
        if not ast.get_docstring(f):
            found.append(f"{path}: {f.name} has no docstring")
        arguments = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]
        if f.returns is None or any(a.annotation is None for a in arguments):
            found.append(f"{path}: {f.name} does not say its types")
    return found


def test_public_functions_of_passes_and_codegen_say_what_they_take():
    found = [
        line
        for room in ("passes", "codegen")
        for file in sorted((ROOT / room).rglob("*.py"))
        for line in bare_functions(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))
    ]
    assert [line for line in found if line.endswith("docstring") or line.startswith("passes/")] == []
    # what takes expressions of TVM, which has no types, says so in its docstring; these only become fewer
    assert len(found) <= MOST_UNTYPED, found
    assert bare_functions("a.py", "def f(x):\n    pass") == [
        "a.py: f has no docstring",
        "a.py: f does not say its types",
    ]
    assert bare_functions("a.py", 'def f(x: int) -> int:\n    """Doc."""\ndef _g(): pass') == []


def test_a_circle_is_noticed():
    sources = {
        "ir/a.py": "from . import b",
        "ir/b.py": "def f():\n    from onnxc.ir.c import x",
        "ir/c.py": "from .a import y",
        "ir/d.py": "from .a import y",
    }
    assert circles(imported_files(sources)) == {"onnxc.ir.a", "onnxc.ir.b", "onnxc.ir.c"}
    sources["ir/c.py"] = "if TYPE_CHECKING:\n    from .a import y"
    assert not circles(imported_files(sources))


@pytest.mark.parametrize(
    "path, source, said",
    [
        ("ir/axes.py", "from onnxc.passes import base", "ir imports onnxc.passes.base"),
        ("ir/axes.py", "from ..passes import base", "ir imports onnxc.passes.base"),
        ("ir/ops/conv.py", "from ...runtime.data import Data", "ir imports onnxc.runtime.data.Data"),
        ("ir/axes.py", "import onnxc.pipeline", "ir imports onnxc.pipeline"),
        ("passes/clean.py", "def f():\n    import onnxc.runtime.reference", "passes imports onnxc.runtime.reference"),
        ("passes/clean.py", "from onnxc import run_passes", "passes imports onnxc.run_passes"),
        ("runtime/data.py", "from onnxc.ir.model import Model", "runtime imports onnxc.ir.model.Model"),
        ("codegen/lower.py", "from onnxc.passes.fuse import x", "codegen imports onnxc.passes.fuse.x"),
        ("passes/clean.py", "def f():\n    import onnxruntime", "imports onnxruntime"),
        ("codegen/lower.py", "def f():\n    from tvm import relax", "imports tvm"),
        ("runtime/reference.py", "import onnxruntime as ort", "at the top"),
        ("codegen/tvm_api.py", "import tvm", "at the top"),
        ("passes/train/finetune.py", "def f():\n    import torch", "imports torch"),
        ("passes/train/finetune.py", "def f():\n    from ...torch import x", "passes imports onnxc.torch.x"),
        ("pipeline.py", "from .torch.trainer import Trainer", "imports onnxc.torch at the top"),
        ("torch/network.py", "from ..passes.base import Pass", "torch imports onnxc.passes.base.Pass"),
        ("pipeline.py", "print(1)", "prints"),
        ("pipeline.py", "try:\n    f()\nexcept (OSError, Exception):\n    pass", "swallows"),
        ("pipeline.py", "try:\n    f()\nexcept:\n    pass", "swallows"),
        ("pipeline.py", "x = 1  # " + "TODO", "TODO"),
        ("pipeline.py", "x = 1", "no module docstring"),
    ],
)
def test_a_breach_is_noticed(path, source, said):
    assert any(said in line for line in breaches(path, source))


@pytest.mark.parametrize(
    "path, source",
    [
        ("ir/ops/conv.py", "from ..axes import Atom\nfrom onnxc.ir.errors import BadModel"),
        ("passes/prune/channels.py", "from ...ir.model import Model\nfrom ..base import Pass"),
        ("runtime/data.py", "from onnxc.ir.errors import BadData"),
        ("runtime/reference.py", "def f():\n    import onnxruntime"),
        ("runtime/reference.py", "if TYPE_CHECKING:\n    import onnxruntime"),
        ("codegen/kernels/bitserial.py", "from tvm.script import tirx as T"),
        ("codegen/tvm_api.py", "def f():\n    import tvm"),
        ("torch/network.py", "import torch\nfrom onnxc.ir.model import Model"),
        ("pipeline.py", "def f():\n    from .torch.trainer import Trainer"),
        ("cli/app.py", "import typer\nprint(1)"),
        ("ir/files.py", "try:\n    f()\nexcept BaseException:\n    clean_up()\n    raise"),
        ("pipeline.py", "from onnxc.runtime.reference import Runner\nfrom onnxc.passes.base import Pass"),
    ],
)
def test_what_is_allowed_passes(path, source):
    assert breaches(path, f'"""A docstring."""\n{source}') == []


def test_import_loads_nothing_heavy():
    code = (
        "import sys, onnxc; print(sorted({'numpy', 'onnx', 'tvm', 'onnxruntime', 'rich', 'torch'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(set(onnxc.__all__) - {"__version__"}))
def test_public_names_resolve_and_no_submodule_hides_one(name):
    home = onnxc._HOMES[name]
    if find_spec(home) is None:
        pytest.skip(f"{home} is not there")
    value = getattr(onnxc, name)
    assert value is getattr(sys.modules[home], name)
    assert find_spec(f"onnxc.{name}") is None
    assert name in dir(onnxc)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = onnxc.nonsense


def test_the_readme_holds_the_two_commands_that_ci_runs():
    text = (ROOT.parent / "README.md").read_text(encoding="utf-8")
    commands = [line for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()]
    assert len(commands) == 2
    assert "pip install . &&" in commands[0] and commands[0].endswith("onnxc demo")
    assert "pip install -e '.[test]' &&" in commands[1] and commands[1].endswith("pytest")


def test_the_bundle_stays_within_two_megabytes():
    assert sum(file.stat().st_size for file in (ROOT / "data").iterdir()) <= 2_000_000


def test_python_versions_are_named_alike_everywhere():
    root = ROOT.parent
    texts = {
        path: path.read_text(encoding="utf-8")
        for path in (root / "setup.py", root / "README.md", ROOT / "codegen" / "c" / "wheel.py")
    }
    named = {path.name: set(re.findall(r"(?:>=|Python )(3\.\d\d)", text)) for path, text in texts.items()}
    assert set(map(frozenset, named.values())) == {frozenset({"3.10"})}, named


def test_the_type_checker_passes_over_no_module():
    settings = (ROOT.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert 'packages = ["onnxc"]' in settings and "tool.mypy.overrides" not in settings
    whole = [path for path in ROOT.rglob("*.py") if re.search("^# mypy:", path.read_text(encoding="utf-8"), re.M)]
    assert whole == []
