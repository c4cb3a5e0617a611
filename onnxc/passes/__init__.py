"""What may be done to a model: each pass one file, found by name through `onnxc.passes.base`."""


def builtin() -> None:
    """Import every pass of this package, so that it registers itself."""
    from . import clean, fuse  # noqa: F401
    from .lowrank import svd  # noqa: F401
    from .prune import block, channels, kernel_shape, magnitude, nm  # noqa: F401
    from .quant import int8  # noqa: F401
