"""What may be done to a model: each pass one file, found by name through `onnxc.passes.base`."""


def builtin() -> None:
    """Import every pass of this package, so that it registers itself."""
    from . import clean, fuse  # noqa: F401
    from .lowrank import convolutions, svd  # noqa: F401
    from .prune import block, blocks, channels, kernel_shape, magnitude, nm, obs, resolution, width  # noqa: F401
    from .quant import binary, cluster, cluster_hash, equalise, int8, qonnx_out, recognise  # noqa: F401
