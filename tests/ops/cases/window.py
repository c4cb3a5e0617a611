"""Pooling and resampling."""

import numpy as np

from tests.ops.harness import Case, Data, ints


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


POOL = [
    *(
        Case(f"y = {op}<kernel_shape=[3, 2], strides=[2, 2]>(x)", [2, 3], x=(2, 3, 7, 8))
        for op in ("MaxPool", "AveragePool", "LpPool")
    ),
    *(
        Case(f"y = {op}<kernel_shape=[3], pads=[1, 1]>(x)", [2, 3], x=(2, 3, 7))
        for op in ("MaxPool", "AveragePool", "LpPool")
    ),
    *(
        Case(f"y = {op}<kernel_shape=[2, 2, 2], strides=[2, 1, 2]>(x)", [2], x=(1, 2, 4, 3, 5))
        for op in ("MaxPool", "AveragePool", "LpPool")
    ),
    *(
        Case(f'y = {op}<kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER">(x)', [2], x=(1, 2, 6, 7))
        for op in ("MaxPool", "AveragePool", "LpPool")
    ),
    *(
        Case(f"y = {op}<kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1>(x)", [2], x=(1, 2, 6, 8))
        for op in ("MaxPool", "AveragePool")
    ),
    *(
        Case(
            f"y = {op}<kernel_shape=[2, 2], strides=[3, 3], pads=[0, 0, 1, 1], ceil_mode=1>(x)",
            [2],
            opset=22,
            x=(1, 2, 6, 7),
        )
        for op in ("MaxPool", "AveragePool")
    ),
    Case(
        "y = MaxPool<kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1>(x)",
        [2],
        opset=22,
        x=(1, 2, 3, 4),
    ),
    Case("y = MaxPool<kernel_shape=[2, 3], dilations=[2, 1]>(x)", [2], x=(1, 2, 6, 7)),
    Case("y, i = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(x)", [], x=(1, 2, 4, 4)),
    Case("y = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1>(x)", [2], x=(1, 2, 4, 5)),
    Case("y = AveragePool<kernel_shape=[2, 2], dilations=[2, 2]>(x)", [2], opset=19, x=(1, 2, 5, 6)),
    Case('y = MaxPool<kernel_shape=[2, 2], strides=[2, 2], auto_pad="VALID">(x)', [2], opset=8, x=(1, 2, 5, 6)),
    Case('y = MaxPool<kernel_shape=[3, 2], strides=[3, 2], auto_pad="SAME_LOWER">(x)', [2], x=(1, 2, 5, 6)),
    Case("y = GlobalAveragePool(x)", [2, 3], x=(2, 3, 4, 5)),
    Case("y = GlobalAveragePool(x)", [2, 3], x=(2, 3, 4)),
    Case("y = GlobalMaxPool(x)", [2, 3], x=(2, 3, 4, 5)),
    Case("y = GlobalLpPool<p=2>(x)", [2, 3], x=(2, 3, 4, 5)),
    Case(
        "y = RoiAlign<output_height=2, output_width=3>(x, r, n)",
        [3],
        x=(2, 3, 6, 6),
        r=Data(4, 4, low=0, high=5),
        n=ints(0, 1, 1, 0),
    ),
    Case(
        "y = MaxRoiPool<pooled_shape=[2, 2]>(x, r)",
        [3],
        x=(1, 3, 6, 6),
        r=np.array([[0, 0, 0, 3, 3], [0, 1, 1, 5, 5]], np.float32),
    ),
    Case(
        "y = MaxUnpool<kernel_shape=[2, 2], strides=[2, 2]>(x, i)",
        [],
        symbolic=False,
        dynamic=True,
        x=(1, 2, 2, 2),
        i=np.array([0, 3, 9, 10, 16, 18, 24, 26]).reshape(1, 2, 2, 2),
    ),
    Case("y = GridSample(x, g)", [2, 3], opset=16, x=(2, 3, 4, 4), g=(2, 5, 6, 2)),
    Case("y = GridSample(x, g)", [2, 3], opset=20, x=(2, 3, 4, 4, 2), g=(2, 5, 6, 2, 3)),
    Case("y = AffineGrid(t, s)", [], opset=20, x=(), t=(2, 2, 3), s=ints(2, 3, 4, 5)),
    Case(
        "y = Col2Im<pads=[0, 0, 0, 0]>(x, s, b)",
        [3],
        opset=18,
        symbolic=False,
        x=(1, 12, 9),
        s=ints(4, 4),
        b=ints(2, 2),
    ),
]
RESIZE = [
    Case('y = Resize(x, "", s)', [2], x=(1, 2, 3, 4), s=f32(1, 1, 2, 2)),
    Case('y = Resize<mode="linear">(x, "", s)', [2], x=(1, 2, 3, 4), s=f32(1, 1, 1.7, 0.6)),
    Case('y = Resize<mode="cubic">(x, "", "", n)', [2], x=(1, 2, 3, 4), n=ints(1, 2, 5, 7)),
    Case(
        'y = Resize<mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric">(x, r, s)',
        [2],
        opset=11,
        x=(1, 2, 3, 4),
        r=f32(),
        s=f32(1, 1, 2, 3),
    ),
    Case('y = Resize(x, "", s)', [3, 4], x=(1, 2, 3, 4), s=f32(1, 2, 1, 1)),
    Case('y = Resize<axes=[2, 3]>(x, "", s)', [2], opset=18, x=(1, 2, 3, 4), s=f32(2, 2)),
    Case('y = Resize<axes=[-1]>(x, "", "", n)', [2, 3], opset=18, x=(1, 2, 3, 4), n=ints(9)),
    Case(
        'y = Resize<axes=[2, 3], keep_aspect_ratio_policy="not_larger">(x, "", "", n)',
        [],
        opset=18,
        symbolic=False,
        x=(1, 2, 3, 4),
        n=ints(9, 9),
    ),
    Case(
        'y = Resize<coordinate_transformation_mode="tf_crop_and_resize">(x, r, "", n)',
        [],
        x=(1, 2, 3, 4),
        r=f32(0, 0, 0.1, 0.1, 1, 1, 0.8, 0.8),
        n=ints(1, 2, 4, 4),
    ),
    Case("y = Resize(x, s)", [2], opset=10, x=(1, 2, 3, 4), s=f32(1, 1, 2, 2)),
    Case("y = Upsample(x, s)", [2], opset=9, x=(1, 2, 3, 4), s=f32(1, 1, 2, 3)),
    Case('y = Upsample<mode="linear", scales=[1.0, 1.0, 2.0, 2.0]>(x)', [2], opset=7, x=(1, 2, 3, 4)),
    Case("y = DepthToSpace<blocksize=2>(x)", [3], x=(1, 12, 2, 3)),
    Case('y = DepthToSpace<blocksize=2, mode="CRD">(x)', [3], x=(1, 12, 2, 3)),
    Case("y = DepthToSpace<blocksize=3>(x)", [2, 2], opset=7, x=(2, 18, 1, 2)),
    Case("y = SpaceToDepth<blocksize=2>(x)", [3], x=(1, 3, 4, 6)),
    Case("y = SpaceToDepth<blocksize=3>(x)", [2, 2], x=(2, 2, 3, 6)),
]
CASES = POOL + RESIZE
