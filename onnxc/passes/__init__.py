"""What may be done to a model: each pass one file, found by name through `onnxc.passes.registry`."""


def builtin() -> None:
    """Import every pass of this package, so that it registers itself."""
    from . import clean, fuse, portable  # noqa: F401
    from .compact import fire, inverted_residual, separable, shuffle  # noqa: F401
    from .lowrank import convolutions, svd  # noqa: F401
    from .prune import block, blocks, channels, dead, kernel_shape, magnitude, nm, obs, resolution, width  # noqa: F401
    from .quant import (  # noqa: F401
        binary,
        blockfloat,
        blockwise,
        cluster,
        cluster_hash,
        dynamic,
        embedding,
        equalise,
        fixed,
        floats,
        half,
        int8,
        pow2,
        product,
        qonnx_out,
        recognise,
        smooth,
        undo,
        vectors,
    )
    from .train import (  # noqa: F401
        admm,
        decay,
        distill,
        early_prune,
        finetune,
        group_sparse,
        hwgq,
        lowrank,
        proximal,
        prune_retrain,
        qat,
        slim,
        soft_sharing,
        ternary,
        two_step,
    )
    from .train import binary as _binary  # noqa: F401
    from .train import cluster as _cluster  # noqa: F401
    from .train import hash as _hash  # noqa: F401
    from .train import product as _product  # noqa: F401
