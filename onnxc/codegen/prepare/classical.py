"""Linear models, scalers and encoders of ai.onnx.ml in standard operators.

LinearRegressor(x)   ->   x coefficients' + intercepts
Scaler(x)            ->   (x - offset) scale
"""

from __future__ import annotations

import numpy as np

from onnxc.codegen.prepare.build import Build, rewrites

ML = "ai.onnx.ml"
FLOAT = "float32"


@rewrites("Scaler", domain=ML)
def _scaler(b: Build) -> str:
    x = b.cast(b.needs(0), FLOAT)
    offset, scale = (b.constant(b.attribute(name), np.float32) for name in ("offset", "scale"))
    return b("Mul", b("Sub", x, offset), scale)


@rewrites("Binarizer", domain=ML)
def _binarizer(b: Build) -> str:
    x = b.needs(0)
    return b.cast(b("Greater", x, b.like(b.attribute("threshold", 0.0), x)), b.walk.element(x))


@rewrites("Normalizer", domain=ML)
def _normalizer(b: Build) -> str:
    x, rank = b.cast(b.needs(0), FLOAT), len(b.shape(b.needs(0)))
    how = b.attribute("norm", "MAX")
    sizes = b("Abs", x) if how != "L2" else b("Mul", x, x)
    op, axes = {"MAX": "ReduceMax", "L1": "ReduceSum", "L2": "ReduceSum"}[how], [rank - 1]
    if how == "MAX":
        sizes = x
    if b.walk.opset < (18 if op == "ReduceMax" else 13):
        total = b(op, sizes, axes=axes, keepdims=1)
    else:
        total = b(op, sizes, b.constant(axes, np.int64), keepdims=1)
    total = b("Sqrt", total) if how == "L2" else total
    none = b.equal(total, 0)
    return b("Div", x, b("Where", none, b.like(1, total), total))


@rewrites("ZipMap", domain=ML)
def _zip_map(b: Build) -> str:
    """A list of maps is an array with a column for each key, in the order of the keys."""
    keys = b.attribute("classlabels_strings") or b.attribute("classlabels_int64s") or []
    x, order = b.needs(0), sorted(range(len(keys)), key=keys.__getitem__)
    if order == list(range(len(keys))):
        return b("Identity", x)
    return b("Gather", x, b.constant(order, np.int64), axis=len(b.shape(x)) - 1)


@rewrites("Imputer", domain=ML)
def _imputer(b: Build) -> str:
    x = b.needs(0)
    for floats, what in ((True, "floats"), (False, "int64s")):
        values, missing = (
            b.attribute(f"{name}_{kind}") for name, kind in (("imputed_value", what), ("replaced_value", what[:-1]))
        )
        if values is None:
            continue
        missing = 0 if missing is None else missing
        wrong = b("IsNaN", x) if floats and np.isnan(missing) else b.equal(x, missing)
        return b("Where", wrong, b.like(values, x), x)
    raise b.refusal("it has no imputed values")


@rewrites("ArrayFeatureExtractor", domain=ML)
def _features(b: Build) -> str:
    x = b.needs(0)
    shape = b.shape(x)
    picked = b(
        "Gather",
        x if len(shape) > 1 else b.reshape(x, (1, *shape)),
        b.reshape(b.needs(1), (-1,)),
        axis=max(len(shape) - 1, 1),
    )
    return picked


@rewrites("FeatureVectorizer", domain=ML)
def _vector(b: Build) -> str:
    b.attribute("inputdimensions")
    parts = [b.cast(name, FLOAT) for name in b.node.input]
    return b("Concat", *parts, axis=1)


def _transformed(b: Build, scores: str) -> str:
    match b.attribute("post_transform", "NONE"):
        case "NONE":
            return scores
        case "SOFTMAX":
            return b("Softmax", scores, axis=len(b.shape(scores)) - 1)
        case "LOGISTIC":
            return b("Sigmoid", scores)
    raise b.refusal("its post_transform is not known")


def _scores(b: Build, targets: int) -> str:
    x = b.cast(b.needs(0), FLOAT)
    weights = np.asarray(b.attribute("coefficients"), np.float32).reshape(targets, -1)
    scores = b("MatMul", x, b.constant(np.ascontiguousarray(weights.T)))
    offsets = b.attribute("intercepts")
    return scores if offsets is None else b("Add", scores, b.constant(offsets, np.float32))


@rewrites("LinearRegressor", domain=ML)
def _regressor(b: Build) -> str:
    return _transformed(b, _scores(b, b.attribute("targets", 1)))


@rewrites("LinearClassifier", domain=ML)
def _classifier(b: Build):
    labels = b.attribute("classlabels_ints")
    if labels is None:
        raise b.refusal("labels that are text are not known", remedy="train with labels that are numbers")
    b.attribute("multi_class")
    offsets = b.attribute("intercepts") or []
    scores = _scores(b, max(len(offsets), 1))
    if b.shape(scores)[1] == 1:
        raise b.refusal("one score for two classes is not known", remedy="export a score for each class")
    best = b("ArgMax", scores, axis=1, keepdims=0)
    return b("Gather", b.constant(labels, np.int64), best), _transformed(b, scores)
