"""Constant scales and shifts move into the weights beside them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import Builder, NodePass, Stage, attr, constant, initializer, maker, only_use, op, replace, shape

LINEAR = ("Conv", "ConvTranspose", "MatMul")


class FoldAffine(NodePass):
    """With y = s x + t made of Mul, Div, Add, Sub or Neg and constants per channel:

    s conv(x, W, b) + t            -> conv(x, s W, s b + t)       s, t per output channel
    conv(s x + t, W, b)            -> conv(x, W s, b + sum W t)   s, t per input channel; t only where nothing is padded
    s matmul(x, W)                 -> matmul(x, W s)              per column; a shift stays an Add, the bias of the product
    matmul(s x, W)                 -> matmul(x, s W)              per row
    s (c x), (x + c) + t           -> (s c) x, x + (c + t)
    s (z + c)                      -> s z + s c                   where z is a product or c' x, so that they meet
    """

    stage = Stage.CANONICAL
    ops = frozenset({"Mul", "Div", "Add", "Sub", "Neg"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        found = affine(node)
        if found is None:
            return False
        x, s, t = found
        before = maker(x, *LINEAR, *self.ops)
        if before is not None and only_use(x) is node:
            join = {"MatMul": self._after_matmul, "Conv": self._after_conv, "ConvTranspose": self._after_conv}
            if join.get(before.op_type, self._merge)(before, node, s, t, model):
                return True
        after = only_use(node.outputs[0])
        if after is not None and after.inputs[0] is node.outputs[0] and after.domain == "":
            if after.op_type == "Conv":
                return self._before_conv(x, after, node, s, t, model)
            if after.op_type == "MatMul":
                return self._before_matmul(x, after, node, s, t, model)
        return False

    def _after_conv(self, conv: ir.Node, node: ir.Node, s: np.ndarray, t: np.ndarray, model: ir.Model) -> bool:
        dims, w = shape(conv.outputs[0]), constant(conv.inputs[1])
        b = constant(conv.inputs[2]) if len(conv.inputs) > 2 and conv.inputs[2] is not None else np.zeros(1)
        if dims is None or w is None or b is None:
            self.miss(node, "the weights before it are computed at run time")
            return False
        scale, shift = per_axis(s, len(dims), 1, dims[1]), per_axis(t, len(dims), 1, dims[1])
        if scale is None or shift is None:
            self.miss(node, "its constant is not one number per channel")
            return False
        if conv.op_type == "Conv":
            weight = w * scale.reshape(-1, *[1] * (w.ndim - 1))
        else:
            groups = attr(conv, "group", 1)
            grouped = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
            weight = (grouped * scale.reshape(groups, 1, -1, *[1] * (w.ndim - 2))).reshape(w.shape)
        return self._conv(conv, conv.inputs[0], weight, b * scale + shift, node, model)

    def _before_conv(self, x: ir.Value, conv: ir.Node, node: ir.Node, s: np.ndarray, t: np.ndarray, model: ir.Model) -> bool:
        dims, w = shape(x), constant(conv.inputs[1])
        b = constant(conv.inputs[2]) if len(conv.inputs) > 2 and conv.inputs[2] is not None else np.zeros(1)
        if dims is None or w is None or b is None:
            return False
        scale, shift = per_axis(s, len(dims), 1, dims[1]), per_axis(t, len(dims), 1, dims[1])
        if scale is None or shift is None:
            return False
        if shift.any() and (any(attr(conv, "pads", [])) or attr(conv, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")):
            self.miss(node, "the convolution after it pads with zeros, which the shift would change")
            return False
        groups = attr(conv, "group", 1)
        per_output = np.repeat(np.stack([scale, shift]).reshape(2, groups, -1), w.shape[0] // groups, axis=1)
        column = (*per_output.shape[1:], *[1] * (w.ndim - 2))
        bias = b + (w * per_output[1].reshape(column)).sum(axis=tuple(range(1, w.ndim)))
        return self._conv(conv, x, w * per_output[0].reshape(column), bias, conv, model)

    @staticmethod
    def _conv(conv: ir.Node, x: ir.Value | None, weight: np.ndarray, bias: np.ndarray, old: ir.Node, model: ir.Model) -> bool:
        y = conv.outputs[0]
        assert y.dtype is not None
        has_bias = bias.any() or (len(conv.inputs) > 2 and conv.inputs[2] is not None)
        channels = weight.shape[0] if conv.op_type == "Conv" else weight.shape[1] * attr(conv, "group", 1)
        values = [weight] + ([np.broadcast_to(bias, (channels,))] if has_bias else [])
        constants = [initializer(model, a.astype(y.dtype.numpy()), f"{y.name}_{name}")
                     for a, name in zip(values, ("weight", "bias"), strict=False)]
        new = op(conv.op_type, [x, *constants], y, name=y.name or "conv")
        new.attributes.update(conv.attributes)
        replace(old, [new], new.outputs[0])
        return True

    def _after_matmul(self, matmul: ir.Node, node: ir.Node, s: np.ndarray, t: np.ndarray, model: ir.Model) -> bool:
        dims, w = shape(matmul.outputs[0]), constant(matmul.inputs[1])
        if t.any() or w is None or dims is None or w.ndim < 2:
            return False
        scale = per_axis(s, len(dims), len(dims) - 1, dims[-1])
        if scale is None:
            return False
        return self._matmul(matmul.inputs[0], w * scale, matmul, node, model)

    def _before_matmul(self, x: ir.Value, matmul: ir.Node, node: ir.Node, s: np.ndarray, t: np.ndarray, model: ir.Model) -> bool:
        dims, w = shape(x), constant(matmul.inputs[1])
        if t.any() or w is None or dims is None or w.ndim < 2:
            return False
        scale = per_axis(s, len(dims), len(dims) - 1, dims[-1])
        if scale is None:
            return False
        return self._matmul(x, w * scale[:, None], matmul, matmul, model)

    @staticmethod
    def _matmul(x: ir.Value | None, weight: np.ndarray, matmul: ir.Node, old: ir.Node, model: ir.Model) -> bool:
        y = matmul.outputs[0]
        assert y.dtype is not None
        w = initializer(model, weight.astype(y.dtype.numpy()), f"{y.name}_weight")
        new = op("MatMul", [x, w], y, name=y.name or "matmul")
        replace(old, [new], new.outputs[0])
        return True

    @staticmethod
    def _merge(before: ir.Node, node: ir.Node, s: np.ndarray, t: np.ndarray, model: ir.Model) -> bool:
        inner, y = affine(before), node.outputs[0]
        if inner is None or shape(inner[0]) != shape(y) or y.dtype is None:
            return False
        x, scale, shift = inner
        if not shift.any() and t.any():
            return False        # c x + t is as short as it gets
        if shift.any() and not t.any() and maker(x, *LINEAR, "Mul", "Div", "Neg") is None:
            return False
        dtype, build = y.dtype.numpy(), Builder(node, model)
        if (scale * s != 1).any():
            x = build.make("Mul", x, initializer(model, (scale * s).astype(dtype), f"{y.name}_scale"))
        if (shift * s + t).any():
            x = build.make("Add", x, initializer(model, (shift * s + t).astype(dtype), f"{y.name}_shift"))
        build.put(x)
        return True


def affine(node: ir.Node) -> tuple[ir.Value, np.ndarray, np.ndarray] | None:
    """(x, s, t) of a node that computes s x + t in floats with constants s, t in float64 that do not widen x; else None."""
    y = node.outputs[0]
    if y.dtype is None or not y.dtype.is_floating_point():
        return None
    zero, one = np.zeros(()), np.ones(())
    if node.op_type == "Neg":
        return (node.inputs[0], -one, zero) if node.inputs[0] is not None else None
    a, b = node.inputs
    x, c, flipped = (a, constant(b), False) if constant(b) is not None else (b, constant(a), True)
    if x is None or c is None or constant(x) is not None or shape(x) != shape(y) or not np.isfinite(c).all():
        return None
    c = c.astype(np.float64)
    match node.op_type, flipped:
        case "Mul", _: return x, c, zero
        case "Add", _: return x, one, c
        case "Sub", False: return x, one, -c
        case "Sub", True: return x, -one, c
        case "Div", False if c.all(): return x, 1 / c, zero
    return None


def per_axis(array: np.ndarray, rank: int, axis: int, size: int) -> np.ndarray | None:
    """The array as `size` numbers along `axis` of a tensor of `rank` axes; None if it varies along another axis."""
    if array.ndim > rank:
        return None
    dims = (1,) * (rank - array.ndim) + array.shape
    if any(d != 1 for i, d in enumerate(dims) if i != axis) or dims[axis] not in (1, size):
        return None
    return np.broadcast_to(array.reshape(-1), (size,))
