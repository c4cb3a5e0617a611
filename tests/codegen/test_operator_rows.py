"""Rows of the table against ONNX Runtime: attributes, ranks, types and values are drawn, many models go into one object file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxc.ir.errors import Unsupported

from .conftest import run_ort
from .programs import Programs

FLOATS = ("float32", "float64")
INTEGERS = ("int8", "uint8", "int32", "int64")


class Case:
    """A model of one node: constants for operands that set shapes, inputs for the others."""

    def __init__(self, op: str, inputs: list, outputs: int = 1, opset: int = 17, domain: str = "", **attributes):
        """`inputs`: arrays, None for one left out, or ("const", array)."""
        names, constants, self.feeds = [], [], {}
        for i, given in enumerate(inputs):
            if given is None:
                names.append("")
                continue
            fixed, array = given if isinstance(given, tuple) else (None, given)
            array = np.asarray(array)
            names.append(f"x{i}")
            if fixed:
                constants.append(numpy_helper.from_array(array, f"x{i}"))
            else:
                self.feeds[f"x{i}"] = array
        made = [f"y{i}" for i in range(outputs)]
        node = helper.make_node(op, names, made, name="it", domain=domain, **attributes)
        values = [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in self.feeds.items()
        ]
        graph = helper.make_graph([node], "g", values, [onnx.ValueInfoProto(name=name) for name in made], constants)
        opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
        self.model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        _type_outputs(self.model)
        self.text = f"{op} {attributes} {[None if g is None else np.shape(g[1] if isinstance(g, tuple) else g) for g in inputs]}"


def _type_outputs(model: onnx.ModelProto) -> None:
    """Outputs get the types that inference finds; a runtime finds the shapes."""
    found = {v.name: v for v in onnx.shape_inference.infer_shapes(model).graph.output}
    for value in model.graph.output:
        if value.name in found:
            value.CopyFrom(found[value.name])


def check(cases: list[Case], tmp_path, tolerance: float = 2e-5, least: float = 0.95, target=None) -> None:
    """Every case that ONNX Runtime runs gives its numbers; at least a share of them is not refused."""
    wanted = {}
    for i, case in enumerate(cases):
        try:
            wanted[str(i)] = run_ort(case.model, case.feeds)
        except Exception as error:  # noqa: BLE001  it has no kernel, or takes it for an error
            assert any(
                text in str(error) for text in ("NOT_IMPLEMENTED", "FAIL", "INVALID", "Invalid", "not supported")
            ), case.text
    assert len(wanted) > len(cases) * 0.35
    programs = Programs(tmp_path, target)
    refused = {name: error for name in wanted if (error := programs.add(name, cases[int(name)].model)) is not None}
    programs.build()
    wrong = []
    for name in wanted:
        if name in refused:
            continue
        case = cases[int(name)]
        found = programs.run(name, case.feeds)
        wrong += [
            f"{case.text}: {why}"
            for key, value in wanted[name].items()
            if (why := differs(found[key], value, tolerance))
        ]
        wrong += [f"{case.text}: an index flag"] if programs.index[name] else []
    assert not wrong, "\n".join(wrong[:12])
    assert len(refused) <= (1 - least) * len(wanted), "\n".join(
        f"{cases[int(n)].text}: {e}" for n, e in refused.items()
    )


def differs(found: np.ndarray, wanted: np.ndarray, tolerance: float) -> str:
    """How the two differ: type, shape, NaN and infinities, floats by more than `tolerance` of the largest value, integers at all."""
    if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
        return f"{found.dtype} {found.shape} for {wanted.dtype} {wanted.shape}"
    both = f"{found.ravel()[:12]} for {wanted.ravel()[:12]}"
    if wanted.dtype.kind != "f":
        return "" if np.array_equal(found, wanted) else both
    finite = np.isfinite(wanted)
    if not np.array_equal(found[~finite], wanted[~finite], equal_nan=True):
        return both
    largest = max(np.abs(wanted[finite]).max(initial=0), 1e-3)
    return "" if np.abs(found[finite] - wanted[finite]).max(initial=0) <= tolerance * largest else both


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded draws."""
    return np.random.default_rng(5)


def values(rng, shape, dtype: str = "float32", special: bool = False) -> np.ndarray:
    """Numbers of a type; with `special` NaN, infinities and zeros among floats, the extremes among integers."""
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if kind.kind == "f":
        made = np.asarray(rng.standard_normal(shape) * 2, kind)
        if special and made.size:
            spots = rng.random(shape) < 0.3
            made[spots] = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0], spots.sum())
        return made
    limits = np.iinfo(kind)
    made = np.asarray(rng.integers(max(limits.min, -20), 21, shape), kind)
    if special and made.size:
        spots = rng.random(shape) < 0.2
        made[spots] = rng.choice([limits.min, limits.max, 0], spots.sum())
    return made


def shape(rng, ranks=(0, 5), most: int = 6) -> tuple[int, ...]:
    """A small shape of one of the ranks [low, high)."""
    return tuple(int(e) for e in rng.integers(1, most, rng.integers(*ranks)))


def mates(rng, whole: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to `whole`."""
    made = [1 if rng.random() < 0.3 else e for e in whole]
    return tuple(made[rng.integers(0, len(made) + 1) :])


UNARY = """Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor Log Neg Reciprocal Relu Round Sigmoid Sign Sin Sinh Sqrt
Tan Tanh Softplus Softsign HardSwish Mish Elu Selu Celu LeakyRelu ThresholdedRelu HardSigmoid Shrink IsNaN IsInf Identity Not"""
DRAWN = {
    "Elu": ("alpha",), "Selu": ("alpha", "gamma"), "Celu": ("alpha",), "LeakyRelu": ("alpha",), "ThresholdedRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"), "Shrink": ("bias", "lambd"),
}  # fmt: skip


def test_functions_of_one_tensor(rng, tmp_path):
    cases = []
    for op in UNARY.split():
        for dtype in (*FLOATS, "int32", "int64", "int8"):
            if op == "Not":
                dtype = "bool"
            drawn = {name: float(rng.uniform(0.1, 2)) for name in DRAWN.get(op, ()) if rng.random() < 0.7}
            if op == "IsInf":
                drawn = {f"detect_{side}": int(rng.integers(0, 2)) for side in ("positive", "negative")}
            special = (
                op not in ("Acosh", "Cosh", "Sinh", "Exp", "Erf", "Tanh", "Mish", "Softplus", "Sigmoid", "HardSwish")
                or dtype == "float64"
            )
            cases.append(
                Case(op, [values(rng, shape(rng), dtype, special=special and op != "Mish")], opset=20, **drawn)
            )
    check(cases, tmp_path)


BINARY = """Add Sub Mul Div Max Min Mean Sum Pow Mod Equal Less LessOrEqual Greater GreaterOrEqual And Or Xor BitwiseAnd BitwiseOr
BitwiseXor BitShift PRelu Where Clip"""


def test_functions_of_several_tensors(rng, tmp_path):
    cases = []
    for op in BINARY.split() * 2:
        for dtype in (*FLOATS, *INTEGERS, "bool"):
            whole = shape(rng)
            a, b = (
                values(rng, mates(rng, whole) if op != "PRelu" else whole, dtype, special=op != "Pow") for _ in range(2)
            )
            drawn, inputs = {}, [a, b]
            if op == "PRelu":
                inputs[1] = values(rng, mates(rng, whole), dtype)
            if op in ("Max", "Min", "Mean", "Sum"):
                inputs = [values(rng, mates(rng, whole), dtype, special=True) for _ in range(rng.integers(1, 4))]
            if op == "Pow":
                inputs = [
                    np.abs(a) if np.dtype(dtype).kind == "f" else a,
                    ("const", np.asarray(rng.choice([0.5, 1, 2, 3, 2.5]), dtype)),
                ]
            if op in ("Div", "Mod") and np.dtype(dtype).kind in "iu":  # a trap in ONNX Runtime
                inputs = [
                    values(rng, np.shape(a), dtype),
                    np.where(values(rng, np.shape(b), dtype) == 0, 3, values(rng, np.shape(b), dtype) | 1).astype(
                        dtype
                    ),
                ]
            if op == "Mod":
                drawn["fmod"] = 1 if np.dtype(dtype).kind == "f" else int(rng.integers(0, 2))
                inputs = [values(rng, np.shape(a), dtype), inputs[1]] if np.dtype(dtype).kind == "f" else inputs
            if op == "BitShift":
                dtype = "uint8" if rng.random() < 0.5 else "uint32"
                drawn["direction"] = str(rng.choice(["LEFT", "RIGHT"]))
                inputs = [
                    values(rng, np.shape(a), "int64").astype(dtype),
                    rng.integers(0, 8, np.shape(b)).astype(dtype),
                ]
            if op == "Where":
                inputs = [values(rng, mates(rng, whole), "bool"), a, b]
            if op == "Clip":
                bounds = [None if rng.random() < 0.3 else values(rng, (), dtype) for _ in range(2)]
                inputs = [a, *(None if v is None else ("const", v) if rng.random() < 0.6 else v for v in bounds)]
            cases.append(Case(op, inputs, opset=18, **drawn))
    check(cases, tmp_path)


REDUCE = "Sum Mean Max Min Prod L1 L2 SumSquare LogSum LogSumExp"


def test_reductions(rng, tmp_path):
    cases = []
    for name in REDUCE.split() * 4:
        for dtype in FLOATS if "Log" in name else ("float32", "float64", "int32", "int64"):
            op, x = (
                f"Reduce{name}",
                values(rng, shape(rng, (1, 5)), dtype),
            )
            x = np.abs(x) + 1 if name == "LogSum" else x % 3 if name == "Prod" else x
            axes = sorted(rng.permutation(x.ndim)[: rng.integers(0, x.ndim + 1)].tolist())
            axes = [a - x.ndim if rng.random() < 0.3 else a for a in axes]
            drawn = {"keepdims": int(rng.integers(0, 2))} if rng.random() < 0.8 else {}
            old = rng.random() < 0.4
            if old:
                opset = 12
                cases.append(Case(op, [x], opset=opset, **drawn, **({"axes": axes} if axes else {})))
                continue
            if not axes and rng.random() < 0.5:
                drawn["noop_with_empty_axes"] = 1
            operand = [("const", np.asarray(axes, np.int64))] if axes or rng.random() < 0.5 else []
            cases.append(Case(op, [x, *operand], opset=18, **drawn))
    for op in ("ArgMax", "ArgMin") * 8:
        x = values(rng, shape(rng, (1, 5)), str(rng.choice(["float32", "int32"]))).round()
        drawn = {
            "axis": int(rng.integers(-x.ndim, x.ndim)),
            "keepdims": int(rng.integers(0, 2)),
            "select_last_index": int(rng.integers(0, 2)),
        }
        cases.append(Case(op, [x], **drawn))
    for op in ("Softmax", "LogSoftmax", "Hardmax") * 6:
        x = values(rng, shape(rng, (1, 5)))
        cases.append(Case(op, [x], opset=int(rng.choice([11, 13])), axis=int(rng.integers(-x.ndim, x.ndim))))
    check(cases, tmp_path)


def test_recurrent_layers(rng, tmp_path):
    cases = []
    for op, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)) * 6:
        way = str(rng.choice(["forward", "reverse", "bidirectional"]))
        d = 2 if way == "bidirectional" else 1
        steps, batch, width, hidden = (int(v) for v in rng.integers(1, 6, 4))
        drawn = {"direction": way, "hidden_size": hidden}
        if op == "GRU":
            drawn["linear_before_reset"] = int(rng.integers(0, 2))
        if rng.random() < 0.3:
            drawn["clip"] = 0.5
        if rng.random() < 0.3:
            pick = [
                str(v)
                for v in rng.choice(
                    ["Relu", "Tanh", "Sigmoid", "Softsign", "HardSigmoid"], {"RNN": 1, "GRU": 2, "LSTM": 3}[op]
                )
            ]
            drawn["activations"] = pick * d
        weights = [("const", values(rng, s) / 2) for s in ((d, gates * hidden, width), (d, gates * hidden, hidden))]
        inputs = [values(rng, (steps, batch, width)), *weights]
        inputs.append(("const", values(rng, (d, 2 * gates * hidden))) if rng.random() < 0.6 else None)
        inputs.append(rng.integers(1, steps + 1, batch).astype("int32") if rng.random() < 0.5 else None)
        inputs += [values(rng, (d, batch, hidden)) if rng.random() < 0.5 else None for _ in range(1 + (op == "LSTM"))]
        if op == "LSTM" and rng.random() < 0.4:
            inputs.append(("const", values(rng, (d, 3 * hidden))))
        cases.append(Case(op, inputs, 3 if op == "LSTM" else 2, opset=14, **drawn))
    check(cases, tmp_path, tolerance=1e-4)


def test_order_along_an_axis(rng, tmp_path):
    cases = []
    for _ in range(10):
        x = values(rng, shape(rng, (1, 4)), str(rng.choice(["float32", "int64"]))).round()
        axis = int(rng.integers(-x.ndim, x.ndim))
        drawn = {"exclusive": int(rng.integers(0, 2)), "reverse": int(rng.integers(0, 2))}
        cases.append(Case("CumSum", [x, ("const", np.int64(axis))], opset=14, **drawn))
        k = np.array([rng.integers(1, x.shape[axis] + 1)])
        cases.append(Case("TopK", [x, ("const", k)], 2, axis=axis, largest=int(rng.integers(0, 2))))
    for time in (0, 1):
        x = values(rng, (4, 3, 2) if time == 0 else (3, 4, 2))
        cases.append(Case("ReverseSequence", [x, np.array([4, 2, 3])], time_axis=time, batch_axis=1 - time))
    check(cases, tmp_path)


def test_indices(rng, tmp_path):
    cases = []
    for _ in range(8):
        x = values(rng, shape(rng, (1, 4)), str(rng.choice(["float32", "int64", "bool"])))
        axis = int(rng.integers(-x.ndim, x.ndim))
        size = x.shape[axis]
        for fixed in (None, "const"):
            i = rng.integers(-size, size, shape(rng, (0, 3)))
            cases.append(Case("Gather", [x, (fixed, i)], axis=axis))
            low = tuple(int(rng.integers(1, e + 1)) for e in x.shape)
            i = rng.integers(-size, size, low)
            cases.append(Case("GatherElements", [x, (fixed, i)], axis=axis))
            once = np.sort(
                rng.permuted(
                    np.broadcast_to(
                        np.arange(size).reshape([-1 if d == axis % x.ndim else 1 for d in range(x.ndim)]), x.shape
                    ),
                    axis=axis,
                ),
                axis=axis,
            )
            cases.append(
                Case(
                    "ScatterElements",
                    [x, (fixed, once[tuple(slice(e) for e in low)]), values(rng, low, x.dtype.name)],
                    axis=axis,
                    opset=18,
                )
            )
            depth = int(rng.integers(1, x.ndim + 1))
            lead = shape(rng, (1, 3), 3)
            i = np.stack([rng.integers(-x.shape[d], x.shape[d], lead) for d in range(depth)], -1)
            cases.append(Case("GatherND", [x, (fixed, i)]))
    check(cases, tmp_path)


@pytest.mark.parametrize("beyond", [50, -51, 2**31, 2**40, -(2**33)])
def test_an_index_out_of_range_raises_a_flag_and_touches_nothing(tmp_path, beyond):
    table, rows = np.arange(100.0, dtype="f").reshape(50, 2), np.ones((3, 2), "f")
    i = np.array([0, beyond, -1])
    cases = [
        Case("Gather", [table, i]),
        Case("GatherElements", [table, np.stack([i, i], 1)]),
        Case("GatherND", [table, i[:, None]]),
        Case("ScatterND", [table, i[:, None], rows], opset=18),
        Case("ScatterElements", [table, np.stack([i, i], 1), rows], opset=18),
    ]
    programs = Programs(tmp_path)
    assert [programs.add(str(k), case.model) for k, case in enumerate(cases)] == [None] * len(cases)
    programs.build()
    for k, case in enumerate(cases):
        programs.run(str(k), case.feeds)
        assert programs.index[str(k)], case.text


def test_windows(rng, tmp_path):
    cases = []
    for op in ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool") * 8:
        rank = int(rng.integers(1, 3 if "Conv" in op else 4))
        group = int(rng.choice([1, 1, 2])) if "Conv" in op else 1
        sizes, kernel = (tuple(int(v) for v in rng.integers(low, high, rank)) for low, high in ((4, 9), (1, 4)))
        drawn = {"strides": rng.integers(1, 4, rank).tolist()}
        if op == "MaxPool" or ("Conv" in op and rng.random() < 0.4):
            drawn["dilations"] = rng.integers(1, 3, rank).tolist()
        way = rng.choice(["pads", "SAME_UPPER", "SAME_LOWER", "VALID"], p=[0.6, 0.15, 0.15, 0.1])
        if way == "pads":
            drawn["pads"] = [int(rng.integers(0, kernel[d % rank])) for d in range(2 * rank)]
        elif op != "LpPool":
            drawn["auto_pad"] = str(way)
        x = values(rng, (2, 2 * group, *sizes))
        if "Conv" in op:
            drawn["group"] = group
            w = values(rng, (6, 2, *kernel) if op == "Conv" else (2 * group, 3, *kernel))
            bias = values(rng, (6 if op == "Conv" else 3 * group,))
            if op == "ConvTranspose" and rng.random() < 0.3:
                drawn["output_padding"] = [int(rng.integers(0, s)) for s in drawn["strides"]]
            if op == "ConvTranspose":
                drawn["dilations"] = drawn.get("dilations", [1] * rank)
            fixed = "const" if rng.random() < 0.7 else None
            cases.append(Case(op, [x, (fixed, w), *([("const", bias)] if rng.random() < 0.5 else [])], **drawn))
            continue
        drawn["kernel_shape"] = list(kernel)
        if op != "LpPool" and way == "pads":
            drawn["ceil_mode"] = int(rng.integers(0, 2))
        if op == "AveragePool":
            drawn["count_include_pad"] = int(rng.integers(0, 2))
        if op == "LpPool":
            drawn["p"] = int(rng.integers(1, 4))
        outputs = 1 + int(op == "MaxPool" and rng.random() < 0.5 and "auto_pad" not in drawn)
        cases.append(Case(op, [x], outputs, opset=int(rng.choice([13, 22])) if op != "LpPool" else 11, **drawn))
    check(cases, tmp_path, tolerance=1e-4)


def test_resizes(rng, tmp_path):
    cases = []
    for _ in range(48):
        mode = str(rng.choice(["nearest", "linear", "cubic"]))
        how = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]
        drawn = {"mode": mode, "coordinate_transformation_mode": str(rng.choice(how))}
        if mode == "nearest":
            drawn["nearest_mode"] = str(rng.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]))
        if mode == "cubic":
            drawn |= {"exclude_outside": int(rng.integers(0, 2)), "cubic_coeff_a": float(rng.choice([-0.5, -0.75]))}
        if mode != "nearest" and rng.random() < 0.3 and not drawn.get("exclude_outside"):
            drawn["antialias"] = 1
        x = values(rng, (1, 2, *(int(v) for v in rng.integers(2, 9, 2))))
        if rng.random() < 0.5:
            sizes = np.array([1, 2, *rng.integers(1, 13, 2)])
            inputs = [x, None, None, ("const", sizes)]
        else:
            scales = np.array([1, 1, *rng.choice([0.5, 0.75, 1.5, 2, 3, 1.2], 2)], np.float32)
            inputs = [x, None, ("const", scales)]
        cases.append(Case("Resize", inputs, opset=19, **drawn))
    for mode, factor in (("nearest", 0.6), ("nearest", 1.5), ("linear", 0.6)):
        scales = ("const", np.array([1, 1, factor, factor], np.float32))
        cases.append(Case("Resize", [values(rng, (1, 2, 7, 9)), scales], opset=10, mode=mode))
    check(cases, tmp_path, tolerance=1e-4)


def test_normalisations(rng, tmp_path):
    cases = []
    for _ in range(6):
        x = values(rng, (2, 4, *shape(rng, (1, 3))))
        c = [values(rng, (4,)), values(rng, (4,)), values(rng, (4,)), np.abs(values(rng, (4,))) + 0.1]
        eps = {"epsilon": float(rng.choice([1e-5, 1e-2]))}
        cases.append(Case("BatchNormalization", [x, *(("const" if rng.random() < 0.5 else None, v) for v in c)], **eps))
        cases.append(Case("BatchNormalization", [x, *c], 3, training_mode=1, momentum=0.8, **eps))
        cases.append(Case("InstanceNormalization", [x, c[0], c[1]], **eps))
        cases.append(Case("GroupNormalization", [x, c[0][:2], c[1][:2]], opset=18, num_groups=2, **eps))
        cases.append(Case("GroupNormalization", [x, c[0], c[1]], opset=21, num_groups=2, **eps))
        axis = int(rng.integers(0, x.ndim))
        s = values(rng, x.shape[axis:])
        cases.append(
            Case(
                "LayerNormalization",
                [x, s, *([s] if rng.random() < 0.5 else [])],
                int(rng.choice([1, 3])),
                axis=axis,
                **eps,
            )
        )
        cases.append(Case("LpNormalization", [x], axis=axis, p=int(rng.integers(1, 3))))
        cases.append(
            Case("LRN", [x], size=int(rng.integers(1, 5)), alpha=0.1, beta=float(rng.choice([0.75, 0.5])), bias=2.0)
        )
        cases.append(Case("MeanVarianceNormalization", [values(rng, (2, 3, 4, 4))]))
    check(cases, tmp_path, tolerance=1e-4)


def test_an_attribute_that_no_row_reads_is_refused(tmp_path):
    case = Case("Relu", [np.ones((2, 3), "f")])
    case.model.graph.node[0].attribute.append(helper.make_attribute("slope", 0.5))
    error = Programs(tmp_path).add("a", case.model)
    assert isinstance(error, Unsupported) and "node it" in str(error) and "attribute slope = 0.5" in str(error)


def test_all_refusals_come_at_once(tmp_path):
    value = helper.make_tensor_value_info("x", 1, (2, 2))
    nodes = [
        helper.make_node("Shrink", ["x"], ["a"], name="first", slope=1.0),
        helper.make_node("Relu", ["x"], ["b"], name="fine"),
        helper.make_node("Gelu", ["b"], ["y"], name="second", approximate="rough"),
    ]
    out = [helper.make_tensor_value_info(n, 1, (2, 2)) for n in ("a", "y")]
    opsets = [helper.make_opsetid("", 20)]
    graph = helper.make_graph(nodes, "g", [value], out)
    error = Programs(tmp_path).add("a", helper.make_model(graph, opset_imports=opsets))
    assert isinstance(error, Unsupported)
    for part in ("2 nodes", "Shrink (node first)", "slope = 1.0", "Gelu (node second)", "approximate = rough"):
        assert part in str(error), part
