"""Rows that move elements or read between them, against ONNX Runtime: shapes, axes, places and attributes are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from .test_operator_rows import Case, check, shape, values


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded draws."""
    return np.random.default_rng(23)


def const(array) -> tuple:
    """An operand that is a constant of the model."""
    return ("const", np.asarray(array))


def test_elements_in_other_places(rng, tmp_path):
    cases = []
    for i in range(5):
        dtype = str(rng.choice(["float32", "int32", "uint8", "float64"]))
        x = values(rng, shape(rng, (2, 5)), dtype)
        axis = int(rng.integers(-x.ndim, x.ndim))
        cut = [int(v) for v in rng.integers(-6, 7, 2)]
        slices = [const([v]) for v in (*cut, axis, int(rng.choice([-2, -1, 1, 2])))]
        cases.append(Case("Slice", [x, *slices]))
        cases.append(Case("Slice", [x], opset=9, starts=[0], ends=[max(cut[1], 1)], axes=[axis % x.ndim]))
        cases.append(Case("Tile", [x, const(rng.integers(1, 3, x.ndim))]))
        cases.append(Case("Expand", [x[..., :1], const(x.shape)]))
        cases.append(Case("Unsqueeze", [x, const([axis])]))
        cases.append(Case("Unsqueeze", [x], opset=11, axes=[0, axis % x.ndim + 1]))
        cases.append(Case("Squeeze", [x[None], const([0])]))
        cases.append(Case("Transpose", [x], perm=[int(v) for v in rng.permutation(x.ndim)]))
        cases.append(Case("Flatten", [x], axis=axis))
        cases.append(Case("Concat", [x, x, x], axis=axis))
        sizes = rng.multinomial(x.shape[axis], [0.3, 0.7])
        cases.append(Case("Split", [x, const(sizes)], 2, axis=axis))
        blocks = values(rng, (1, 8, 4, 6))
        cases.append(Case("DepthToSpace", [blocks], blocksize=2, mode=("DCR", "CRD")[i % 2]))
        cases.append(Case("SpaceToDepth", [blocks], blocksize=2))
        mode = str(rng.choice(["constant", "reflect", "edge", "wrap"]))
        x = values(rng, (3, 4, 5))
        cases.append(Case("Pad", [x, const(rng.integers(0, 3, 6)), const(np.float32(1.5))], opset=19, mode=mode))
        ids = rng.integers(-3, 4, (2, 3))
        cases.append(Case("OneHot", [ids, const(3), values(rng, (2,))], axis=int(rng.integers(-3, 3))))
        cases.append(Case("EyeLike", [values(rng, (3, 4))], k=int(rng.integers(-2, 3)), dtype=(1, 7)[i % 2]))
        cases.append(Case("Trilu", [values(rng, (2, 3, 4)), const(int(rng.integers(-2, 3)))], upper=i % 2))
        cases.append(Case("CumSum", [x, const(axis % 3)], exclusive=i % 2, reverse=int(rng.integers(0, 2))))
        scales = const(np.float32([1, 1, *rng.choice([1.0, 2.0, 1.5], 2)]))
        cases.append(Case("Upsample", [values(rng, (1, 2, 3, 4)), scales], opset=9, mode=("nearest", "linear")[i % 2]))
    check(cases, tmp_path)


def regions(rng, count: int) -> np.ndarray:
    """Boxes (x1, y1, x2, y2), some beyond the tensor, some turned round."""
    corners = rng.uniform(-2, 12, (count, 4)).astype(np.float32)
    corners[:-1] = np.concatenate(
        [np.minimum(corners[:-1, :2], corners[:-1, 2:]), np.maximum(corners[:-1, :2], corners[:-1, 2:])], 1
    )
    return corners


def test_elements_between_places(rng, tmp_path):
    cases = []
    for i in range(6):
        x = values(rng, (2, 4, 6, 7))
        drawn = {"mode": str(rng.choice(["avg", "max"])), "sampling_ratio": int(rng.choice([0, 2, 3])),
                 "spatial_scale": float(rng.choice([1.0, 0.5])), "output_height": int(rng.integers(1, 4)),
                 "output_width": int(rng.integers(1, 4))}  # fmt: skip
        drawn["coordinate_transformation_mode"] = ("half_pixel", "output_half_pixel")[i % 2]
        cases.append(Case("RoiAlign", [x, regions(rng, 3), rng.integers(0, 2, 3)], opset=16, **drawn))
        how = {"mode": str(rng.choice(["linear", "nearest", "cubic"])), "align_corners": int(rng.integers(0, 2)),
               "padding_mode": ("zeros", "border", "reflection")[i % 3]}  # fmt: skip
        places = rng.uniform(-1.4, 1.4, (2, 3, 4, 2)).astype(np.float32)
        cases.append(Case("GridSample", [x, places], opset=20, **how))
        groups, moved, dilation, pad = (int(rng.choice([1, 2])) for _ in range(4))
        out = [6 + 2 * pad - 2 * dilation, 7 + 2 * pad - dilation]
        offset = rng.uniform(-2, 2, (2, moved * 12, *out)).astype(np.float32)
        mask = [rng.uniform(0, 1, (2, moved * 6, *out)).astype(np.float32)] if i % 2 else []
        given = [x, values(rng, (6, 4 // groups, 3, 2)), offset, values(rng, (6,)), *mask]
        drawn = {"group": groups, "offset_group": moved, "dilations": [dilation] * 2, "pads": [pad] * 4}
        cases.append(Case("DeformConv", given, opset=19, **drawn))
        pooled = values(rng, (1, 2, 3, 3))
        at = np.stack([rng.permutation(36)[:9] + 36 * c for c in range(2)]).reshape(1, 2, 3, 3)
        cases.append(Case("MaxUnpool", [pooled, at], kernel_shape=[2, 2], strides=[2, 2]))
        cases.append(Case("Det", [values(rng, (2, 3, 3))]))
        cases.append(Case("GlobalMaxPool", [x]))
        cases.append(Case("GlobalLpPool", [x], p=int(rng.integers(1, 4))))
        cases.append(Case("GlobalAveragePool", [x]))
        pool = {
            "pool_int64s": [2, 3, 5, 4, 5, 6, 7, 8, 6, 7],
            "ngram_counts": [0, 4],
            "ngram_indexes": [0, 1, 2, 3, 4, 5, 6],
        }
        pool |= {"mode": ("TF", "IDF", "TFIDF")[i % 3], "weights": values(rng, (7,)).tolist()}
        pool |= {"min_gram_length": 1 + i % 2, "max_gram_length": 2, "max_skip_count": int(rng.integers(0, 4))}
        cases.append(Case("TfIdfVectorizer", [rng.integers(2, 9, (2, 9))], opset=9, **pool))
        kernel = {"pads": [int(v) for v in rng.integers(0, 2, 4)], "strides": [int(v) for v in rng.integers(1, 3, 2)]}
        whole = [rng.integers(0, 255, s).astype(np.uint8) for s in ((1, 3, 6, 5), (2, 3, 3, 2), (), ())]
        cases.append(Case("ConvInteger", whole, **kernel))
    check(cases, tmp_path, tolerance=1e-4)
