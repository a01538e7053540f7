"""Rounded values and weights in a model: QuantizeLinear and DequantizeLinear around what is stored as integers.

    x -> QuantizeLinear(uint8) [-> Clip(0, 127)] -> DequantizeLinear -> what reads x
    DequantizeLinear(int8 constant, a scale for each output channel or for each block of the reduction) -> Conv, MatMul
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..base import attr, constant, initializer, op
from .layers import Layer
from .rounding import Rounded
from .stored import Use


@dataclass(frozen=True)
class Scale:
    """Of a value: (q - zero) * scale for q in 0..top."""

    scale: ir.Value
    zero: ir.Value
    top: int

    @classmethod
    def of(cls, model: ir.Model, near: str, scale: float, zero: int, top: int) -> Scale:
        return cls(initializer(model, np.array(scale, np.float32), f"{near}_scale"),
                   initializer(model, np.array(zero, np.uint8), f"{near}_zero"), top)


def round_value(model: ir.Model, value: ir.Value, uses: Iterable[Use], scale: Scale) -> ir.Value:
    """The uses read what uint8 leaves of the value. Returns that."""
    rounding = rounding_of(model, value, scale, str(value.name))
    graph, maker = model.graph, value.producer()
    if maker is not None:
        graph.insert_after(maker, rounding)
    else:
        graph.insert_before(graph[0], rounding)
    result = rounding[-1].outputs[0]
    for node, i in uses:
        node.replace_input_with(i, result)
    return result


def rounding_of(model: ir.Model, value: ir.Value, scale: Scale, near: str) -> list[ir.Node]:
    """New nodes, not yet in the graph; the output of the last has the shape and dtype of the value. near: how names begin."""
    def byte(op_type: str, *inputs: ir.Value) -> ir.Node:
        node = op(op_type, inputs, value, name=f"{near}_{op_type.lower()}")
        node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
        return node
    nodes = [byte("QuantizeLinear", value, scale.scale, scale.zero)]
    if scale.top < 255:
        bounds = [initializer(model, np.array(n, np.uint8), f"uint8_{n}") for n in (0, scale.top)]
        nodes.append(byte("Clip", nodes[0].outputs[0], *bounds))
    return [*nodes, op("DequantizeLinear", [nodes[-1].outputs[0], scale.scale, scale.zero], value, name=f"{near}_dequantized")]


def round_weight(model: ir.Model, layer: Layer, rounded: Rounded) -> ir.Node:
    """The layer's weight is made of integers; the node that makes it. Blocks of a convolution with several taps divide its input
    channels evenly."""
    codes = layer.as_weight(rounded.codes)
    near, weight = f"{layer.name}_weight", layer.node.inputs[1]
    assert weight is not None
    _, blocks, n = rounded.scale.shape
    if blocks == 1:
        axis, block, scale = (0 if layer.is_conv else 1), None, rounded.scale.reshape(-1)
    else:
        axis, block = (1 if layer.is_conv else 0), rounded.block
        scale = rounded.scale[0]
        if layer.is_conv:       # [taps * blocks, oc] -> [oc, blocks, taps…]
            taps = layer.weight.shape[2:]
            scale = np.moveaxis(scale.reshape(*taps, -1, n), (-1, -2), (0, 1))
    inputs = [initializer(model, codes, f"{near}_codes"), initializer(model, scale, f"{near}_scale")]
    node = op("DequantizeLinear", inputs, weight, name=f"{near}_dequantized", axis=axis, block_size=block, shape=codes.shape)
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.insert_before(layer.node, node)
    layer.node.replace_input_with(1, node.outputs[0])
    return node


def weight_bytes(node: ir.Node) -> int | None:
    """Of a layer, as it will be stored: its codes and their scales, 4 bits each where they fit; None for a weight that is made
    otherwise."""
    value = node.inputs[1]
    plain = constant(value)
    if plain is not None:
        return int(plain.nbytes)
    maker = value.producer() if value is not None else None
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    codes, scale = constant(maker.inputs[0]), constant(maker.inputs[1])
    if codes is None or scale is None:
        return None
    small = attr(maker, "block_size", 0) and codes.min(initial=0) >= -8 and codes.max(initial=0) <= 7
    return (codes.size + 1) // 2 + scale.nbytes if small else codes.nbytes + scale.nbytes


def forget_dilations(model: ir.Model) -> None:
    """Of average pools, where they are 1 and so say nothing: onnxruntime's pool on integers refuses a model that has them."""
    for node in model.graph:
        if node.domain == "" and node.op_type == "AveragePool" and set(attr(node, "dilations", [0])) == {1}:
            node.attributes.pop("dilations")
