"""Steps of training and what stands idle in inference, in standard operators.

Momentum(r, t, x, g, v)   ->   v' = alpha v + beta g, x' = x - r v'
"""

from __future__ import annotations

import numpy as np
from onnx import helper

from onnxc.codegen.prepare.build import Build, rewrites

TRAINING = "ai.onnx.preview.training"


def _groups(b: Build, count: int) -> list[list[str]]:
    """The tensors of each variable: the first of all, then the second of all, and so on."""
    rest = list(b.node.input[2:])
    each = len(rest) // count
    return [rest[i::each] for i in range(each)]


def _number(b: Build, name: str, default: float, like: str) -> str:
    return b.like(b.attribute(name, default), like)


def _regularised(b: Build, x: str, g: str) -> str:
    return b("Add", b("Mul", _number(b, "norm_coefficient", 0.0, x), x), g)


def _first_step(b: Build) -> str:
    return b.equal(b.needs(1), 0)


@rewrites("Momentum", domain=TRAINING)
def _momentum(b: Build) -> list[str]:
    rate, made = b.needs(0), []
    mode = b.attribute("mode", "standard")
    for x, g, v in _groups(b, 3):
        g = _regularised(b, x, g)
        alpha, beta = _number(b, "alpha", 0.0, x), _number(b, "beta", 1.0, x)
        beta = b("Where", _first_step(b), b.like(1, x), beta)
        new = b("Add", b("Mul", alpha, v), b("Mul", beta, g))
        step = b("Add", g, b("Mul", alpha, new)) if mode == "nesterov" else new
        made.append((b("Sub", x, b("Mul", rate, step)), new))
    return [one for kind in zip(*made) for one in kind]


@rewrites("Adagrad", domain=TRAINING)
def _adagrad(b: Build) -> list[str]:
    made = []
    for x, g, h in _groups(b, 3):
        g = _regularised(b, x, g)
        steps = b("Mul", b.cast(b.needs(1), b.walk.element(x)), _number(b, "decay_factor", 0.0, x))
        rate = b("Div", b.needs(0), b("Add", steps, b.like(1, x)))
        new = b("Add", h, b("Mul", g, g))
        root = b("Add", b("Sqrt", new), _number(b, "epsilon", 1e-6, x))
        made.append((b("Sub", x, b("Div", b("Mul", rate, g), root)), new))
    return [one for kind in zip(*made) for one in kind]


@rewrites("Adam", domain=TRAINING)
def _adam(b: Build) -> list[str]:
    made = []
    for x, g, v, h in _groups(b, 4):
        g, one = _regularised(b, x, g), b.like(1, x)
        alpha, beta = _number(b, "alpha", 0.9, x), _number(b, "beta", 0.999, x)
        new_v = b("Add", b("Mul", alpha, v), b("Mul", b("Sub", one, alpha), g))
        new_h = b("Add", b("Mul", beta, h), b("Mul", b("Sub", one, beta), b("Mul", g, g)))
        steps = b.cast(b.needs(1), b.walk.element(x))
        left = b("Sub", one, b("Pow", beta, steps))
        rate = b("Mul", b.needs(0), b("Div", b("Sqrt", left), b("Sub", one, b("Pow", alpha, steps))))
        rate = b("Where", _first_step(b), b.needs(0), rate)
        root = b("Add", b("Sqrt", new_h), _number(b, "epsilon", 1e-6, x))
        after = b("Sub", x, b("Div", b("Mul", rate, new_v), root))
        after = b("Mul", b("Sub", one, _number(b, "norm_coefficient_post", 0.0, x)), after)
        made.append((after, new_v, new_h))
    return [one for kind in zip(*made) for one in kind]


@rewrites("Dropout")
def _dropout(b: Build) -> list[str | None]:
    """Its input, and a mask that keeps everything: inference drops nothing, nor does training at a ratio of 0."""
    x = b.needs(0)
    ratio, training = (b.input(i) for i in (1, 2))
    for name in ("seed", "is_test"):
        b.attribute(name)
    share = b.attribute("ratio", 0.5)
    if training is not None:
        known, given = b.known(training), 0.5 if ratio is None else b.known(ratio)
        if known is None:
            raise b.refusal(
                "whether it trains (training_mode) is computed at run time", remedy="make it a constant, false"
            )
        share = float(np.reshape(given, -1)[0]) if given is not None else share
        if bool(known.reshape(-1)[0]) and share != 0:
            raise b.refusal("training_mode drops elements at random", remedy="export the model for inference")
    kind = bool if b.walk.opset >= 10 else helper.tensor_dtype_to_np_dtype(b.walk.element(x))
    return [x, b.constant(np.ones(b.shape(x)), kind) if b.wants(1) else None]


@rewrites("OptionalGetElement")
def _element(b: Build) -> str:
    """The tensor that is there."""
    return b.needs(0)


@rewrites("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
def _random(b: Build) -> str:
    raise b.refusal("it draws random numbers", remedy="draw them outside of the model, and give them as an input")
