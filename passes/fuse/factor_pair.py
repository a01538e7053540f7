"""Two thin matrix products behind each other."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ..base import DOMAIN, GraphPass, Stage, attr, constant, initializer, maker, only_use, op, replace, shape
from ..functions import PREFIX, add_function


class FuseFactorPair(GraphPass):
    """(x A + c) B becomes burnish::FactorPair(x, A, B, c), where A [k, r] and B [r, n] are constants and r is smaller than k and
    n, so that one kernel can keep the rank-r rows in cache. A 1x1 convolution of channels that lie last is such a product, too:
    this pass comes behind the layout's."""

    stage = Stage.FUSE

    def run(self, model: ir.Model) -> bool:
        changed = False
        for node in list(model.graph):
            if node.graph is not None and (node.domain, node.op_type) in (("", "MatMul"), (DOMAIN, f"{PREFIX}Conv")):
                changed |= self.rewrite(node, model)
        return changed

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        second, between = _matrix(node), node.inputs[0]
        if second is None or between is None or only_use(between) is not node:
            return False
        first, offset = _biased(between, len(second)) if node.op_type == "MatMul" else (between.producer(), None)
        if first is None or (first.domain, first.op_type) != (node.domain, node.op_type):
            return False
        matrix = _matrix(first)
        if matrix is None:
            return False
        (k, r), n = matrix.shape, second.shape[1]
        if r >= min(k, n):
            self.miss(node, f"the {r} columns between are no fewer than {k} before or {n} behind them")
            return False
        if len(first.inputs) > 2 and first.inputs[2] is not None and (offset := constant(first.inputs[2])) is None:
            return False
        offset = np.zeros(r, np.float32) if offset is None else offset.reshape(r)
        y = node.outputs[0]
        name = node.name or y.name or "pair"
        constants = [initializer(model, np.ascontiguousarray(a, np.float32), f"{name}_{which}")
                     for which, a in (("first", matrix), ("second", second), ("between", offset))]
        pair = op("FactorPair", [first.inputs[0], *constants], y, name=name, domain=DOMAIN)
        add_function(model, "FactorPair")
        new = [pair]
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            new.append(op("Add", [pair.outputs[0], node.inputs[2]], y, name=f"{name}_biased"))
        replace(node, new, new[-1].outputs[0])
        return True


def _biased(value: ir.Value, r: int) -> tuple[ir.Node | None, np.ndarray | None]:
    """What makes the value, and the constant [r] that is added to it."""
    if (added := maker(value, "Add")) is not None:
        for found, product in zip(map(constant, added.inputs), reversed(added.inputs), strict=True):
            if found is not None and product is not None and found.shape[-1:] == (found.size,) == (r,) and only_use(product):
                return product.producer(), found
    return value.producer(), None


def _matrix(node: ir.Node) -> np.ndarray | None:
    """[k, n]: what the node multiplies the last axis of its input with; None where it is no such product in float32."""
    value = constant(node.inputs[1])
    if value is None or value.dtype != np.float32 or shape(node.outputs[0]) is None:
        return None
    if node.op_type == "MatMul":
        return value if value.ndim == 2 and len(shape(node.inputs[0]) or ()) > 1 else None
    plain = math.prod(value.shape[2:]) == 1 and attr(node, "group", 1) == 1 and all(
        v == 1 for v in attr(node, "strides", [1])) and not any(attr(node, "pads", [0]))
    return value.reshape(value.shape[:2]).T if plain else None
