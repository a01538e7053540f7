"""Lowerings of ONNX ops, one file per family; importing this package registers them all."""

from . import (  # noqa: F401
    attention,
    convolution,
    einsum,
    fourier,
    gather,
    generate,
    gridsample,
    layout,
    matmul,
    normalize,
    pointwise,
    pool,
    quantized,
    recurrent,
    reduce,
    resize,
    scan,
    scatter,
    sort,
    view,
)
