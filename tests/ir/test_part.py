"""Parts of models, and what a refusal says of them."""

import numpy as np
import pytest
from onnx import parser

from onnxc.cli import app
from onnxc.ir.errors import BadOption
from onnxc.ir.files import load
from onnxc.ir.part import advice, part
from onnxc.runtime.reference import Session

BOXES = """<ir_version: 8, opset_import: ["": 17]>
  g (float[N,4] x, float[4] s, int64 unused) => (float[K,4] y, float[N,4] z) {
    a = Mul(x, s) b = Sigmoid(a) c = ReduceMax<axes = [1]>(b) d = Add(b, c)
    y = Unique<axis = 0>(d) z = Exp(a) }"""


def model():
    made = load(parser.parse_model(BOXES))
    for node in made.nodes:
        node.name = f"{node.op}_1"
    return made


def test_parts_compute_what_the_whole_does():
    whole = model()
    feeds = {"x": np.ones((3, 4), "f"), "s": np.arange(4, dtype="f"), "unused": np.array(1)}
    first = part(whole, until=["b", "Exp_1"])
    assert [t.name for t in first.inputs] == ["x", "s"] and [t.name for t in first.outputs] == ["b", "z"]
    found = Session(first.to_proto()).run({k: feeds[k] for k in ("x", "s")})
    second = part(whole, ["b"], ["y"])
    assert [(t.name, t.shape) for t in second.inputs] == [("b", ["N", 4])]
    y = Session(second.to_proto()).run({"b": found["b"]})["y"]
    assert np.array_equal(y, Session(whole.to_proto()).run(feeds)["y"])
    assert part(whole) is whole and len(whole.inputs) == 3


@pytest.mark.parametrize(
    "begin, until, why",
    [
        ([], ["bb"], "did you mean b"),
        (["c"], ["z"], "no output needs the tensor"),
        ([], ["Mul_2"], "did you mean Mul_1"),
    ],
)
def test_names_that_do_not_fit(begin, until, why):
    with pytest.raises(BadOption, match=why):
        part(model(), begin, until)


def test_a_refusal_names_the_part_that_compiles(tmp_path, capsys):
    assert advice(model(), ["Unique_1"]) == "compile the part before: --until d --until z"
    assert advice(model(), ["Unique_1/inner"]) is not None and advice(model(), ["Unique"]) is None
    first = load(parser.parse_model(BOXES.replace("a = Mul(x, s)", "n = NonZero(x) a = Mul(x, s)").replace("y = Uni", "w = Uni")
                                    .replace("float[K,4] y", "int64[2,M] y").replace("z = Exp", "y = Identity(n) z = Exp")))  # fmt: skip
    first.nodes[0].name = "find"
    assert advice(part(first, until=["y"]), ["find"]) == "compile the part after: --from n"
    model().save(tmp_path / "net.onnx")
    arguments = ["compile", str(tmp_path / "net.onnx"), "-o", str(tmp_path / "out"), "--check", "shapes"]
    assert app.main(arguments) == 1
    said = capsys.readouterr().err
    assert "Unique's output shape depends on data; compile the part before: --until d" in said
    assert app.main([*arguments, "--until", "d"]) == 0
