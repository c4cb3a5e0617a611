"""Reductions, ArgMax and TopK."""

import numpy as np

from tests.ops.harness import Case, Data, ints

SUMS = ("ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2")
OTHERS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp")
CASES = [
    *(Case(f"y = {op}(x, k)", [2, 3, 4], opset=18, x=Data(2, 3, 4, low=0.5, high=2), k=ints(1)) for op in SUMS),
    *(Case(f"y = {op}(x, k)", [2, 4], opset=18, x=Data(2, 3, 4, low=0.5, high=2), k=ints(1)) for op in OTHERS),
    *(
        Case(f"y = {op}<keepdims=0>(x, k)", [2, 3, 4], opset=18, x=Data(2, 3, 4, low=0.5, high=2), k=ints(-1, 0))
        for op in SUMS
    ),
    *(
        Case(f"y = {op}<keepdims=0>(x, k)", [3], opset=18, x=Data(2, 3, 4, low=0.5, high=2), k=ints(-1, 0))
        for op in OTHERS
    ),
    *(Case(f"y = {op}(x)", [2, 3], opset=18, x=Data(2, 3, low=0.5, high=2)) for op in SUMS),
    *(Case(f"y = {op}(x)", [], opset=18, x=Data(2, 3, low=0.5, high=2)) for op in OTHERS),
    *(
        Case(f"y = {op}<axes=[-2], keepdims=0>(x)", [2, 3, 4], opset=12, x=Data(2, 3, 4, low=0.5, high=2))
        for op in SUMS
    ),
    *(Case(f"y = {op}<axes=[-2], keepdims=0>(x)", [2, 4], opset=12, x=Data(2, 3, 4, low=0.5, high=2)) for op in OTHERS),
    Case('y = ReduceSum<noop_with_empty_axes=1>(x, "")', [2, 3], opset=13, x=(2, 3)),
    Case("y = ReduceMean<noop_with_empty_axes=1>(x, k)", [2, 3], opset=18, x=(2, 3), k=np.zeros(0, np.int64)),
    Case("y = ReduceSum(x, k)", [2, 3], opset=13, x=(2, 3), k=np.zeros(0, np.int64)),
    Case("y = ArgMax(x)", [3, 4], x=(2, 3, 4)),
    Case("y = ArgMax<axis=-1, keepdims=0>(x)", [2, 3], x=(2, 3, 4)),
    Case("y = ArgMin<axis=1, select_last_index=1>(x)", [2, 4], opset=12, x=(2, 3, 4)),
    Case("v, i = TopK(x, k)", [2, 3], x=(2, 3, 4), k=ints(2)),
    Case("v, i = TopK<axis=1, largest=0>(x, k)", [2, 4], opset=11, x=(2, 3, 4), k=ints(2)),
    Case("v, i = TopK<axis=-2, k=3>(x)", [2, 4], opset=9, x=(2, 3, 4)),
    Case("y = Size(x)", [], x=(2, 3, 4)),
    Case("y = Size(x)", [], x=()),
]
