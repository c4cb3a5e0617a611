"""The cost of grouped convolutions does not depend on how their weights came to be."""

import numpy as np
import onnx
from onnx import parser

from onnxc.ir.cost import cost
from onnxc.ir.files import load
from onnxc.ir.verify import verify


def test_a_grouped_convolution_counts_only_its_own_channels():
    proto = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[1,12,5,5] x) => (float[1,8,5,5] y) { y = Conv<group=4, pads=[1,1,1,1]>(x, w) }"""
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), "w"))
    model = load(proto)
    assert cost(model, verify(model)).macs == 8 * 5 * 5 * 3 * 3 * 3
