"""What LayerNormalization and RMSNormalization have in common: x / sqrt(mean(x^2) + eps), and a scale and bias behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..base import attr, constant, initializer, maker, only_use, scalar, shape
from .algebra import inner


@dataclass(frozen=True)
class Normalized:
    """A value d / sqrt(mean(d^2 over the axes) + epsilon), made by `node`. `squared` is the d inside the mean."""

    node: ir.Node
    d: ir.Value
    squared: ir.Value
    square: ir.Node
    axes: tuple[int, ...]
    epsilon: float


def normalized(node: ir.Node) -> Normalized | None:
    """Reads a Div or Mul; d may stand at either side."""
    for d, variance in _quotients(node):
        plus = inner(variance, "Add")
        if plus is None:
            continue
        for i in (0, 1):
            epsilon, mean = scalar(plus.inputs[1 - i]), inner(plus.inputs[i], "ReduceMean")
            axes = mean_axes(mean)
            square = inner(mean.inputs[0], "Mul", "Pow") if mean is not None else None
            if epsilon is None or axes is None or square is None:
                continue
            squared, other = square.inputs
            if squared is not None and (squared is other if square.op_type == "Mul" else scalar(other) == 2):
                return Normalized(node, d, squared, square, axes, epsilon)
    return None


def _quotients(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """(d, v) where the node computes d / sqrt(v)."""
    a, b = node.inputs
    pairs = [(a, b)] if node.op_type == "Div" else [(a, b), (b, a)]
    for d, other in pairs:
        if d is None:
            continue
        root = inner(other, "Sqrt", "Pow") if node.op_type == "Div" else _inverted(other)
        if root is not None and root.inputs[0] is not None and (root.op_type == "Sqrt" or scalar(root.inputs[1]) == 0.5):
            yield d, root.inputs[0]
        power = inner(other, "Pow") if node.op_type == "Mul" else None
        if power is not None and power.inputs[0] is not None and scalar(power.inputs[1]) == -0.5:
            yield d, power.inputs[0]


def _inverted(value: ir.Value | None) -> ir.Node | None:
    """The Sqrt or Pow under 1 / …"""
    reciprocal = inner(value, "Reciprocal", "Div")
    if reciprocal is None or (reciprocal.op_type == "Div" and scalar(reciprocal.inputs[0]) != 1):
        return None
    return inner(reciprocal.inputs[-1], "Sqrt", "Pow")


def mean_axes(mean: ir.Node | None) -> tuple[int, ...] | None:
    """The axes, counted from the front, of a ReduceMean that keeps its dimensions; None where they are unknown."""
    dims = shape(mean.inputs[0]) if mean is not None else None
    if mean is None or dims is None or attr(mean, "keepdims", 1) != 1:
        return None
    given = mean.inputs[1] if len(mean.inputs) > 1 else None
    axes = constant(given)
    if axes is None:
        return tuple(range(len(dims))) if given is None and not attr(mean, "noop_with_empty_axes", 0) else None
    return tuple(sorted(int(a) % len(dims) for a in axes))


def trailing(axes: tuple[int, ...], rank: int) -> bool:
    return bool(axes) and axes == tuple(range(rank - len(axes), rank))


def affine(model: ir.Model, node: ir.Node, dims: tuple[int, ...], offset: bool) -> tuple[ir.Node, ir.Value, ir.Value | None]:
    """(last node, scale, bias): the Mul and, if `offset`, the Add by constants that broadcast to the normalised `dims`."""
    name = node.outputs[0].name or "normalized"
    last, scale = _parameter(node, "Mul", dims)
    bias = None
    if offset:
        last, bias = _parameter(last, "Add", dims)
    dtype = np.dtype(node.outputs[0].dtype.numpy()) if node.outputs[0].dtype is not None else np.dtype("f4")
    gamma = initializer(model, scale if scale is not None else np.ones(dims, dtype), f"{name}_scale")
    return last, gamma, initializer(model, bias, f"{name}_bias") if bias is not None else None


def _parameter(node: ir.Node, op_type: str, dims: tuple[int, ...]) -> tuple[ir.Node, np.ndarray | None]:
    user = only_use(node.outputs[0])
    if user is None or user.op_type != op_type or user.domain != "":
        return node, None
    for v, w in (user.inputs, reversed(user.inputs)):
        array = constant(w)
        if v is not node.outputs[0] or array is None or shape(user.outputs[0]) != shape(v):
            continue
        while array.ndim > len(dims) and array.shape[0] == 1:
            array = array[0]
        if array.ndim <= len(dims):
            return user, np.ascontiguousarray(np.broadcast_to(array, dims))
    return node, None


def centred(value: ir.Value) -> tuple[ir.Value, ir.Node, ir.Node] | None:
    """(x, sub, mean) of a value x - mean(x)."""
    sub = maker(value, "Sub")
    mean = maker(sub.inputs[1], "ReduceMean") if sub is not None else None
    if sub is None or mean is None or sub.inputs[0] is None or mean.inputs[0] is not sub.inputs[0]:
        return None
    return sub.inputs[0], sub, mean
