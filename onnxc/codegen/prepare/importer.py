"""TVM's ONNX importer with the converters that we do otherwise. Errors name the node.

Clip(x, lo, hi) with constant bounds   ->   relax.clip, which kernels take in (TVM: four opaque calls)
Pad(x, constant widths and value)      ->   relax.nn.pad, which keeps channels-last (TVM: an opaque call)
Sum(a, b, c)                           ->   (a + b) + c (TVM: stack and reduce)
"""

from __future__ import annotations

import warnings

import numpy as np
import onnx

from onnxc.codegen.tvm_api import onnx_frontend, tvm_modules
from onnxc.ir.errors import Unsupported

TVM_ERRORS = (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError)
VARIADIC = ("Sum", "Max", "Min", "Mean")


def import_onnx(proto: onnx.ModelProto):
    """A static ONNX model as a Relax module: inference operators, straight-line bindings in `main`.

    Raises Unsupported, naming node and operator, for what cannot be imported.
    """
    m = tvm_modules()
    importer = _importer_class()({}, "float32", keep_params_in_input=False, sanitize=True)
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 1)
    nodes = list(proto.graph.node)
    importer.reached = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importer.from_onnx(proto.graph, opset)
    except TVM_ERRORS as error:
        node = nodes[max(importer.reached - 1, 0)]
        importer.bb._end_block()  # or TVM warns on stderr
        text = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise _refusal(node, f"TVM's importer refuses it: {text[:200]}") from error
    t = m.relax.transform
    pipeline = [t.DecomposeOpsForInference(), t.CanonicalizeBindings(), t.DeadCodeElimination()]
    return m.tvm.transform.Sequential(pipeline)(module)


def _refusal(node: onnx.NodeProto, why: str) -> Unsupported:
    return Unsupported(
        f"operator {node.op_type} cannot be compiled ({why})",
        node=node.name,
        remedy="run onnxc passes -p clean,fuse first, or compile the part of the model without this node",
    )


def _importer_class():
    frontend = onnx_frontend()

    class Importer(frontend.ONNXGraphImporter):
        """`reached` counts the nodes that conversion has begun."""

        reached = 0

        def _check_for_unsupported_ops(self, graph) -> None:
            known = frontend._get_convert_map()
            for node in graph.node:
                if node.domain not in ("", "ai.onnx"):
                    raise _refusal(node, f"domain {node.domain} has no kernel")
                if node.op_type not in known and node.op_type not in ("If", "Constant"):
                    raise _refusal(node, "no kernel, and TVM's importer does not know it")

        def _convert_operator(self, op_name, inputs, attrs, opset):
            self.reached += 1
            made = _convert(frontend, self.bb, op_name, inputs, attrs)
            return super()._convert_operator(op_name, inputs, attrs, opset) if made is None else made

    return Importer


def _convert(frontend, builder, op_name: str, inputs: list, attrs: dict):
    """Our own conversions; None leaves the operator to TVM."""
    relax = tvm_modules().relax
    if op_name in VARIADIC:
        return frontend._get_convert_map()[op_name]._impl_dynamic(builder, list(inputs))
    if op_name == "Clip" and str(inputs[0].ty.dtype).startswith("float"):
        low = _bound(inputs, 1, attrs.get("min"), -np.inf)
        high = _bound(inputs, 2, attrs.get("max"), np.inf)
        if low is not None and high is not None:
            return builder.normalize(relax.op.clip(inputs[0], low, high))
    if op_name == "Pad" and attrs.get("mode", b"constant") == b"constant":
        return _pad(builder, inputs)
    return None


def _pad(builder, inputs: list):
    """Pad of four axes by constants as relax.nn.pad; None for others."""
    m = tvm_modules()
    known = [isinstance(operand, m.ir.GenericConst) for operand in inputs[1:3] if operand is not None]
    if len(inputs) < 2 or not all(known) or (len(inputs) > 3 and inputs[3] is not None):
        return None
    pads = inputs[1].value.numpy()
    value = inputs[2].value.numpy().item() if len(inputs) > 2 and inputs[2] is not None else 0.0
    if pads.size != 8 or (pads < 0).any() or str(inputs[0].ty.dtype) != "float32":
        return None
    widths = [int(width) for axis in range(4) for width in (pads[axis], pads[axis + 4])]
    return builder.normalize(m.relax.op.nn.pad(inputs[0], widths, "constant", float(value)))


def _bound(inputs: list, index: int, attribute: float | None, default: float) -> float | None:
    """A bound of Clip as a number; None when it is computed at run time. NaN means no bound, as in ONNX Runtime."""
    operand = inputs[index] if len(inputs) > index else None
    if operand is None:
        value = default if attribute is None else float(attribute)
    elif isinstance(operand, tvm_modules().ir.GenericConst):
        value = float(operand.value.numpy().reshape(-1)[0])
    else:
        return None
    value = default if np.isnan(value) else value
    return float(np.clip(value, -3.4e38, 3.4e38))
