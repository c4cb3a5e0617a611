"""Normalisations and softmax."""

from tests.ops.harness import Case, Data

V = Data(4, low=0.5, high=2)
CASES = [
    Case("y = BatchNormalization(x, s, b, m, v)", [2, 3, 3, 4], x=(2, 4, 3, 3), s=(4,), b=(4,), m=(4,), v=V),
    Case("y = BatchNormalization<epsilon=0.01>(x, s, b, m, v)", [2, 4], opset=9, x=(2, 4), s=(4,), b=(4,), m=(4,), v=V),
    Case("y = BatchNormalization(x, s, b, m, v)", [2, 4, 5], opset=7, x=(2, 4, 5), s=(4,), b=(4,), m=(4,), v=V),
    Case(
        "y, rm, rv = BatchNormalization<training_mode=1>(x, s, b, m, v)",
        [],
        runtime="onnx",
        x=(2, 4, 3, 3),
        s=(4,),
        b=(4,),
        m=(4,),
        v=V,
    ),
    Case("y = InstanceNormalization(x, s, b)", [2, 4], x=(2, 4, 3, 3), s=(4,), b=(4,)),
    Case("y = InstanceNormalization(x, s, b)", [2, 4], x=(2, 4, 5), s=(4,), b=(4,)),
    Case("y = GroupNormalization<num_groups=2>(x, s, b)", [2, 2], opset=21, x=(2, 4, 3, 3), s=(4,), b=(4,)),
    Case("y = GroupNormalization<num_groups=4>(x, s, b)", [2, 4], opset=21, x=(2, 4, 3, 3), s=(4,), b=(4,)),
    Case("y = GroupNormalization<num_groups=1>(x, s, b)", [2], opset=21, x=(2, 4, 3), s=(4,), b=(4,)),
    Case("y = LayerNormalization(x, s, b)", [2, 3], x=(2, 3, 4), s=(4,), b=(4,)),
    Case("y = LayerNormalization<axis=1>(x, s)", [2], x=(2, 3, 4), s=(3, 4)),
    Case("y = LayerNormalization<axis=-2>(x, s)", [2], x=(2, 3, 4), s=(1, 4)),
    Case("y, m, d = LayerNormalization<axis=2>(x, s, b)", [2, 3], x=(2, 3, 4), s=(4,), b=(4,)),
    Case("y = RMSNormalization<axis=-1>(x, s)", [2, 3], opset=23, x=(2, 3, 4), s=(4,)),
    Case("y = LRN<size=3>(x)", [2, 3, 3], x=(2, 4, 3, 3)),
    Case("y = LpNormalization(x)", [2, 3, 4], x=(2, 3, 4)),
    Case("y = LpNormalization<axis=1, p=1>(x)", [2, 3, 4], x=(2, 3, 4)),
    Case("y = MeanVarianceNormalization<axes=[0, 2, 3]>(x)", [3], x=(2, 3, 4, 4)),
    Case("y = MeanVarianceNormalization<axes=[1, -1]>(x)", [2, 4], x=(2, 3, 4, 4)),
    Case("y = Softmax(x)", [2, 3], x=(2, 3, 4)),
    Case("y = Softmax<axis=-2>(x)", [2, 4], x=(2, 3, 4)),
    Case("y = Softmax(x)", [2], opset=11, x=(2, 3, 4)),
    Case("y = Softmax<axis=-1>(x)", [2, 3], opset=11, x=(2, 3, 4)),
    Case("y = Softmax<axis=0>(x)", [], opset=11, x=(2, 3)),
    Case("y = LogSoftmax<axis=1>(x)", [2, 4], x=(2, 3, 4)),
    Case("y = LogSoftmax<axis=2>(x)", [2, 3], opset=11, x=(2, 3, 4)),
    Case("y = Hardmax(x)", [2, 3], x=(2, 3, 4)),
    Case("y = Hardmax<axis=1>(x)", [2], opset=11, x=(2, 3, 4)),
]
ATTENTION = [
    Case("y = Attention(q, k, v)", [2, 3, 4, 7], opset=23, q=(2, 3, 4, 5), k=(2, 3, 6, 5), v=(2, 3, 6, 7)),
    Case(
        "y = Attention<scale=0.5>(q, k, v)", [2, 3, 4, 5, 7], opset=23, q=(2, 3, 4, 5), k=(2, 3, 6, 5), v=(2, 3, 6, 7)
    ),
    Case(
        "y = Attention<scale=0.5, is_causal=1>(q, k, v)",
        [2, 2, 2, 4, 4],
        opset=23,
        q=(2, 4, 5, 4),
        k=(2, 2, 5, 4),
        v=(2, 2, 5, 4),
    ),
    Case(
        "y = Attention<scale=0.5, q_num_heads=2, kv_num_heads=2>(q, k, v)",
        [2, 2, 3, 4, 4],
        opset=23,
        symbolic=False,
        q=(2, 4, 6),
        k=(2, 5, 6),
        v=(2, 5, 8),
    ),
    Case(
        "y = Attention<q_num_heads=4, kv_num_heads=2>(q, k, v, m)",
        [2, 2, 2, 4],
        opset=23,
        symbolic=False,
        q=(2, 4, 12),
        k=(2, 5, 6),
        v=(2, 5, 8),
        m=(4, 5),
    ),
]
CASES += ATTENTION
