"""The predicted time of a product on a machine, without compiling it: the cycles of the kernel that it would get.

predict("native")(Product(1, (14, 14), 64, 64, (3, 3))) -> 33600.0, of Winograd's kernel
"""

from __future__ import annotations

from functools import lru_cache

from onnxc.codegen.kernels import depthwise, float32, winograd
from onnxc.codegen.kernels.spec import KernelSpec, Schedule
from onnxc.codegen.target import Target, resolve
from onnxc.ir.product import Predict, Product

FAMILIES = (depthwise.FAMILY, float32.FAMILY, winograd.FAMILY)
CALL = 200  # cycles around a kernel


def predict(name: str) -> Predict:
    """What predicts cycles of float32 products on the target called `name`. Raises BadOption where there is none such."""
    target = resolve(name)
    return lambda product: _cycles(product, target)


@lru_cache(1 << 16)  # layers repeat, and ranks and widths are tried many times over
def _cycles(product: Product, target: Target) -> float:
    spec = spec_of(product)
    if not spec.macs:
        return 0.0
    found = [(family, family.schedule(spec, target)) for family in FAMILIES]
    cycles = min(family.cost(spec, plan, target) for family, plan in found if isinstance(plan, Schedule))
    return CALL + cycles


def spec_of(product: Product) -> KernelSpec:
    """The kernel of a product, with bias and activation; what its input lacks at the edges is padding."""
    pads, sides = [], []
    for out, k, stride, dilation in zip(product.out, product.kernel, product.stride, product.dilation, strict=True):
        span = (out - 1) * stride + (k - 1) * dilation + 1
        both = min((k - 1) * dilation, span - 1)
        pads.append((both // 2, both - both // 2))
        sides.append(span - both)
    (top, bottom), (left, right) = pads
    n, (h, w) = product.images, sides
    return KernelSpec(
        n=n, h=h, w=w, c=product.c, oc=product.oc, kh=product.kernel[0], kw=product.kernel[1], stride=product.stride,
        pads=(top, left, bottom, right), dilation=product.dilation, groups=product.groups, x_shape=(n, h, w, product.c),
        y_shape=(n, *product.out, product.oc), epilogue=(("bias",), ("relu",)),
    )  # fmt: skip
