"""The constant bias of a layer, read and replaced: it takes back what a change of weights does to the mean of an output."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import constant, initializer
from .layers import Layer


def channels(layer: Layer) -> int:
    return layer.matrix.shape[0] * layer.matrix.shape[2]


def read(layer: Layer) -> np.ndarray:
    """float64 [channels]; zeros where there is none."""
    out = np.zeros(channels(layer))
    if layer.bias is not None:
        node, i = layer.bias
        value = constant(node.inputs[i])
        assert value is not None
        out += value.reshape(-1)
    return out


def movable(layer: Layer) -> bool:
    """Is there a bias that may change, or room for one?"""
    if layer.bias is not None:
        return True
    return layer.is_conv and (len(layer.node.inputs) < 3 or layer.node.inputs[2] is None)


def write(model: ir.Model, layer: Layer, bias: np.ndarray) -> None:
    """Replaces the bias of a layer that is `movable`, or gives one to a convolution that has none."""
    value = initializer(model, bias.astype(np.float32), f"{layer.name}_bias")
    if layer.bias is None:
        layer.node.resize_inputs(3)
        layer.node.replace_input_with(2, value)
    else:
        node, i = layer.bias
        node.replace_input_with(i, value)
