"""Outlying channels in front of layers: the input is divided by a factor for each channel, the weights multiplied
(SmoothQuant, Xiao et al. 2023, section 4). Where the layers that make a value cannot take the factors (see `equalize`), as a
LayerNorm whose output is also a residual, or GELU, a product with a constant stands in front of the rounding."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from ..base import initializer, op
from .equalize import Tied, scale
from .layers import Layer

WORTH = 1.5     # times less error is worth a multiplication for each element


def loose(layers: Iterable[Layer], tied: Iterable[Tied]) -> list[Tied]:
    """The values that layers read and that are not tied to layers that make them: all in front of matrix products, and those in
    front of convolutions that nothing else reads, which would be stored twice."""
    settled = {v for group in tied for v in group.values}
    found: dict[ir.Value, Tied] = {}
    for layer in layers:
        if layer.input not in settled:
            found.setdefault(layer.input, Tied(values=[layer.input])).readers.append(layer)
    return [g for v, g in found.items() if len({layer.is_conv for layer in g.readers}) == 1 and (
        not g.readers[0].is_conv or (len(g.readers) == len(v.uses()) and v.producer() is not None and not v.is_graph_output()))]


def smooth(model: ir.Model, group: Tied, s: np.ndarray) -> None:
    """The readers read s times the value: exact but for float rounding."""
    value, = group.values
    wide = s.reshape(-1, *(1 for _ in group.readers[0].weight.shape[2:])) if group.readers[0].is_conv else s
    factor = initializer(model, wide.astype(np.float32), f"{value.name}_smoothing")
    node = op("Mul", [value, factor], value, name=f"{value.name}_smooth")
    maker = value.producer()
    if maker is not None:
        model.graph.insert_after(maker, node)
    else:
        model.graph.insert_before(model.graph[0], node)
    for layer in group.readers:
        layer.node.replace_input_with(0, node.outputs[0])
    scale(model, group, s)
