"""Operators that join, cut and pick."""

import numpy as np

from tests.ops.harness import Case, Data, flags, i64, ints

JOIN = [
    Case("y = Concat<axis=1>(a, b)", [2, 3, 4, 5], a=(2, 3, 4), b=(2, 5, 4)),
    Case("y = Concat<axis=-1>(a, b, c)", [2, 3, 4], a=(2, 3), b=(2, 1), c=(2, 4)),
    Case("y = Concat<axis=0>(a, b)", [2, 2, 3], a=(2, 3), b=(2, 3)),
    Case("y = Concat<axis=1>(a, a)", [2, 3], a=(2, 3)),
    Case("y = Concat<axis=1>(a)", [2, 3], a=(2, 3)),
    Case("a, b = Split<axis=1>(x)", [2, 3], x=(2, 6)),
    Case("a, b = Split<axis=1>(x, s)", [2, 2, 4], x=(2, 6), s=ints(2, 4)),
    Case("a, b, c = Split<axis=-1>(x, s)", [2, 2, 3], x=(2, 6), s=ints(1, 2, 3)),
    Case("a, b = Split<axis=1, split=[2, 4]>(x)", [2, 2, 4], opset=11, x=(2, 6)),
    Case("a, b, c = Split<axis=1, num_outputs=3>(x)", [2], opset=18, x=(2, 8)),
    Case("a, b = Split<axis=1, num_outputs=2>(x)", [2, 4], opset=18, x=(2, 8)),
    Case("a, b = Split(x)", [2, 2], opset=11, x=(4, 2)),
    Case("a, b = Split<axis=1>(x, s)", [2, 6], x=(2, 6), s=ints(0, 6)),
    Case("a = Split<axis=1>(x, s)", [2, 6], x=(2, 6), s=ints(6)),
]
SLICE = [
    Case("y = Slice(x, a, b)", [2, 6], x=(4, 6), a=ints(1), b=ints(3)),
    Case("y = Slice(x, a, b, k)", [2, 4, 4], x=(4, 6), a=ints(2), b=ints(2**62), k=ints(1)),
    Case("y = Slice(x, a, b, k)", [2, 3, 4], x=(4, 6), a=ints(-4), b=ints(-1), k=ints(-1)),
    Case("y = Slice(x, a, b, k)", [4, 4], x=(4, 6), a=ints(0, 1), b=ints(9, 5), k=ints(0, 1)),
    Case("y = Slice(x, a, b, k, s)", [4], x=(4, 6), a=ints(0), b=ints(6), k=ints(1), s=ints(2)),
    Case("y = Slice(x, a, b, k, s)", [4], x=(4, 6), a=ints(-1), b=ints(-(2**63)), k=ints(1), s=ints(-1)),
    Case("y = Slice(x, a, b, k, s)", [], x=(4, 6), a=ints(5, 3), b=ints(1, 0), k=ints(1, 0), s=ints(-2, -1)),
    Case('y = Slice(x, a, b, "", s)', [4, 5], x=(4, 6), a=ints(0, 1), b=ints(4, 6), s=ints(1, 1)),
    Case("y = Slice(x, a, b, k)", [3, 3, 4], x=(4, 6), a=ints(-9), b=ints(3), k=ints(1)),
    Case("y = Slice(x, a, b, k)", [4], x=(4, 6), a=ints(3), b=ints(3), k=ints(1)),
    Case("y = Slice<starts=[1, 0], ends=[3, -2]>(x)", [2, 2, 4], opset=9, x=(4, 6)),
    Case("y = Slice<starts=[2], ends=[100], axes=[1]>(x)", [2, 4, 4], opset=9, x=(4, 6)),
    Case("y = Slice<starts=[0], ends=[100], axes=[-1]>(x)", [4, 6], opset=9, x=(4, 6)),
    Case(
        "y = Slice(x, a, b, k)",
        [4],
        dynamic=True,
        x=(4, 6),
        a=i64(1, low=1, high=2),
        b=i64(1, low=3, high=4),
        k=ints(1),
    ),
    Case("y = Slice(x, a, b, k)", [2, 3, 4], dynamic=True, x=(4, 6), a=ints(1), b=ints(3), k=i64(1, low=1, high=2)),
]
PICK = [
    Case("y = Gather(x, i)", [3], x=(4, 3), i=np.int64(2)),
    Case("y = Gather(x, i)", [3], x=(4, 3), i=ints(0, 3, 1)),
    Case("y = Gather<axis=1>(x, i)", [2, 3], x=(2, 4, 3), i=np.array([[0, -1], [2, 1], [1, 1]])),
    Case("y = Gather<axis=-1>(x, i)", [2, 4], x=(2, 4, 3), i=i64(5, high=3)),
    Case("y = GatherElements<axis=1>(x, i)", [], x=(2, 4), i=i64(2, 3, high=4)),
    Case("y = GatherND(x, i)", [], x=(2, 4, 3), i=np.array([[0, 1], [1, 2]])),
    Case("y = GatherND<batch_dims=1>(x, i)", [], x=(2, 4, 3), i=np.array([[1], [2]])),
    Case("y = ScatterElements<axis=1>(x, i, u)", [], opset=18, x=(2, 4), i=np.array([[1, 2], [3, 0]]), u=(2, 2)),
    Case("y = ScatterND(x, i, u)", [], opset=18, x=(4, 3), i=np.array([[1], [2]]), u=(2, 3)),
    Case("y = Scatter<axis=1>(x, i, u)", [], opset=10, x=(2, 4), i=np.array([[1, 2], [3, 0]]), u=(2, 2)),
    Case("y = OneHot(x, d, v)", [], x=i64(2, 3, high=4), d=ints(5), v=np.array([0, 1], np.float32)),
    Case(
        "y = OneHot<axis=0>(x, d, v)",
        [],
        x=i64(2, 3, high=4),
        d=np.array(4.0, np.float32),
        v=np.array([-1, 1], np.float32),
    ),
    Case("y = NonZero(x)", [], dynamic=True, x=i64(2, 3, low=1)),
    Case("y = Compress<axis=1>(x, c)", [2], x=(2, 3), c=np.array([True, False, True])),
    Case("y = Compress(x, c)", [], x=(2, 3), c=np.array([True, False, True])),
    Case("y = ReverseSequence(x, n)", [2, 3], x=(4, 3, 2), n=ints(1, 2, 3)),
    Case("y = ReverseSequence<batch_axis=0, time_axis=1>(x, n)", [2, 3], x=(2, 4, 3), n=i64(2, low=1, high=4)),
    Case("y = EyeLike(x)", [], x=(3, 4)),
]
PAD = [
    Case("y = Pad(x, p)", [2, 3], x=(2, 3), p=ints(0, 1, 0, 2)),
    Case("y = Pad(x, p, v)", [2, 3], x=(2, 3), p=ints(1, 0, 0, 2), v=np.float32(3)),
    Case('y = Pad(x, p, "", k)', [2, 3, 4], opset=18, x=(2, 3, 4), p=ints(1, 2), k=ints(-2)),
    Case("y = Pad(x, p, v, k)", [2, 3, 4], opset=18, x=(2, 3, 4), p=ints(1, 0, 2, 0), k=ints(0, 2), v=np.float32(1)),
    Case("y = Pad(x, p)", [2], x=(2, 5), p=ints(0, -1, 0, -2)),
    Case('y = Pad<mode="reflect">(x, p)', [2, 3], x=(2, 3, 5), p=ints(0, 0, 1, 0, 0, 2)),
    Case('y = Pad<mode="edge">(x, p)', [2, 5], x=(2, 3, 5), p=ints(0, 1, 0, 0, 0, 0)),
    Case('y = Pad<mode="wrap">(x, p)', [2], opset=19, x=(2, 5), p=ints(0, 1, 0, 1)),
    Case("y = Pad<pads=[0, 1, 0, 2], value=2.0>(x)", [2, 3], opset=10, x=(2, 3)),
    Case("y = Pad(x, p, v)", [2, 3], x=(2, 3), p=ints(0, 1, 0, 2), v=Data()),
    Case("y = CenterCropPad<axes=[1]>(x, t)", [2, 3], opset=18, x=(2, 5, 3), t=ints(3)),
    Case("y = CenterCropPad(x, t)", [5], opset=18, x=(2, 5), t=ints(4, 5)),
]
CASES = JOIN + SLICE + PICK + PAD + [Case("y = Compress<axis=0>(x, c)", [3], dynamic=True, x=(2, 3), c=flags(2))]
