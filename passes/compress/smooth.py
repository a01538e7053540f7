"""Outlying channels in front of matrix products: the input is divided by a factor for each channel, the weights multiplied
(SmoothQuant, Xiao et al. 2023, section 4). Where the layers that make a value cannot take the factors (see `equalize`), as a
LayerNorm whose output is also a residual, or GELU, a product with a constant stands in front of the rounding."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from ..base import initializer, op
from .equalize import Tied, scale
from .layers import Layer


def products(layers: Iterable[Layer], tied: Iterable[Tied]) -> list[Tied]:
    """The values that matrix products read and that are not tied to layers that make them."""
    settled = {v for group in tied for v in group.values}
    found: dict[ir.Value, Tied] = {}
    for layer in layers:
        if not layer.is_conv and layer.input not in settled:
            found.setdefault(layer.input, Tied(values=[layer.input])).readers.append(layer)
    return list(found.values())


def smooth(model: ir.Model, group: Tied, s: np.ndarray) -> None:
    """The readers read s times the value: exact but for float rounding."""
    value, = group.values
    factor = initializer(model, s.astype(np.float32), f"{value.name}_smoothing")
    node = op("Mul", [value, factor], value, name=f"{value.name}_smooth")
    maker = value.producer()
    if maker is not None:
        model.graph.insert_after(maker, node)
    else:
        model.graph.insert_before(model.graph[0], node)
    for layer in group.readers:
        layer.node.replace_input_with(0, node.outputs[0])
    scale(model, group, s)
