"""Scaled dot-product attention in pieces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..base import NodePass, Stage, attr, constant, initializer, maker, op, replace, scalar, shape
from .algebra import inner


@dataclass(frozen=True)
class Scores:
    """scale * (q @ k^T) + sum(masks), as `product` (the MatMul's inputs, without their constant factors) says it."""

    q: ir.Value
    k_transposed: ir.Value
    scale: float
    masks: tuple[ir.Value, ...]


class FuseAttention(NodePass):
    """softmax(scale q k^T + mask) v becomes Attention on [B, H, N, D] values.

    The scale may stand on the scores, on q or on k (a square root on each), as a factor or a divisor; masks are added. A key that
    a Transpose made is taken from in front of it. Values of rank 2 and 3 get leading axes of size 1; a mask is expanded to
    [.., Nq, Nk], since onnxruntime broadcasts only in front of these. A Where(mask, scores, -large) becomes an added mask. Rows
    of which every key is masked by minus infinity are not defined.
    (Vaswani et al., "Attention is all you need", 2017, equation 1.)
    """

    stage = Stage.FUSE
    ops = frozenset({"MatMul"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        y, v = node.outputs[0], node.inputs[1]
        if y.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            return False        # attention's kernel computes in float32
        probabilities = _probabilities(node.inputs[0])
        if probabilities is None or v is None:
            return False
        softmax, top = probabilities
        if (attr(softmax, "axis", -1) + 1) % len(top) != 0:
            self.miss(node, "softmax is not along the keys")
            return False
        build = _Maker(model, node)
        scores = _scores(softmax.inputs[0], build)
        if scores is None:
            self.miss(node, "the scores are not a scaled product of q and k, read only here, plus masks")
            return False
        dims = [shape(x) for x in (scores.q, scores.k_transposed, v)]
        if any(d is None or len(d) != len(top) for d in dims) or len(top) > 4:
            self.miss(node, "q, k and v are not of one rank of at most 4")
            return False
        if len({(d or ())[:-2] for d in dims}) != 1:
            self.miss(node, "batch or heads are broadcast")
            return False
        q, k, value = (build.rank4(x) for x in (scores.q, build.key(scores.k_transposed), v))
        mask = build.mask(scores.masks, top)
        result = shape(y) or ()
        full = (1,) * (4 - len(result)) + result
        build.nodes.append(op("Attention", [q, k, value] + ([mask] if mask is not None else []), y, name=y.name or "attention",
                              shape=full, scale=scores.scale))
        out = build.nodes[-1].outputs[0]
        replace(node, build.nodes, out if full == result else build.reshape(out, result))
        return True


def _probabilities(value: ir.Value | None) -> tuple[ir.Node, tuple[int, ...]] | None:
    """The Softmax under the probabilities, seen through torch's Where(IsNaN(p), 0, p), and its shape."""
    where = inner(value, "Where")
    if where is not None:
        p = where.inputs[2]
        test = inner(where.inputs[0], "IsNaN")
        if p is None or scalar(where.inputs[1]) != 0 or test is None or test.inputs[0] is not p or len(p.uses()) != 2:
            return None
        softmax = p.producer()
    else:
        softmax = inner(value, "Softmax")
    if softmax is None or softmax.op_type != "Softmax" or softmax.domain != "":
        return None
    dims = shape(softmax.outputs[0])
    return None if dims is None or len(dims) < 2 else (softmax, dims)


def _scores(value: ir.Value | None, build: _Maker) -> Scores | None:
    masks: list[ir.Value] = []
    factor = 1.0
    while value is not None:
        node = inner(value, *_STEPS)
        if node is None:
            return None
        match node.op_type:
            case "Reshape":
                if _core(node.inputs[0]) != _core(value):
                    return None
                value = node.inputs[0]
            case "MatMul":
                (q, a), (k, b) = _unscaled(node.inputs[0]), _unscaled(node.inputs[1])
                return None if q is None or k is None else Scores(q, k, factor * a * b, tuple(masks))
            case "Add":
                if factor != 1:
                    return None         # the mask would be scaled too
                side = next((i for i in (0, 1) if _leads_to_product(node.inputs[i])), None)
                other = node.inputs[1 - side] if side is not None else None
                if side is None or other is None or shape(node.inputs[side]) != shape(value) or len(_core(other) or ()) > 4:
                    return None
                masks.append(other)
                value = node.inputs[side]
            case "Where":
                keep, low = node.inputs[0], scalar(node.inputs[2])
                if factor != 1 or low is None or low > -1e9 or keep is None:
                    return None
                if shape(node.inputs[1]) != shape(value) or len(_core(keep) or ()) > 4:
                    return None
                masks.append(build.additive(keep, low, value))
                value = node.inputs[1]
            case _:
                value, by = _unscaled_once(node)
                factor *= by
    return None


_STEPS = ("Add", "Mul", "Div", "MatMul", "Where", "Identity", "Reshape")


def _core(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape without leading axes of size 1: windowed attention adds its mask between Reshapes that give and take one."""
    dims = shape(value)
    while dims and dims[0] == 1:
        dims = dims[1:]
    return dims


def _leads_to_product(value: ir.Value | None) -> bool:
    while (node := inner(value, *_STEPS)) is not None:
        if node.op_type == "MatMul":
            return True
        if node.op_type == "Reshape":
            value = node.inputs[0] if _core(node.inputs[0]) == _core(value) else None
            continue
        if node.op_type == "Add":
            return any(_leads_to_product(v) for v in node.inputs)
        value = node.inputs[1] if node.op_type == "Where" else _unscaled_once(node)[0]
    return False


def _unscaled_once(node: ir.Node) -> tuple[ir.Value | None, float]:
    """(x, c) of a node that computes c x; x is None where it does not."""
    if node.op_type == "Identity":
        return node.inputs[0], 1.0
    a, b = node.inputs[:2]
    if (c := scalar(b)) is not None and shape(a) == shape(node.outputs[0]):
        return (a, 1 / c) if node.op_type == "Div" and c else (a, c) if node.op_type == "Mul" else (None, 1.0)
    if node.op_type == "Mul" and (c := scalar(a)) is not None and shape(b) == shape(node.outputs[0]):
        return b, c
    return None, 1.0


def _unscaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """q or k without its constant factors."""
    factor = 1.0
    while (node := inner(value, "Mul", "Div", "Identity")) is not None:
        inside, by = _unscaled_once(node)
        if inside is None:
            break
        value, factor = inside, factor * by
    return value, factor


class _Maker:
    """Collects the nodes that go in front of the Attention."""

    def __init__(self, model: ir.Model, at: ir.Node) -> None:
        self.model, self.at, self.nodes = model, at, list[ir.Node]()
        self.name = at.outputs[0].name or "attention"

    def add(self, node: ir.Node) -> ir.Value:
        self.nodes.append(node)
        return node.outputs[0]

    def reshape(self, x: ir.Value, dims: tuple[int, ...]) -> ir.Value:
        target = initializer(self.model, np.array(dims, np.int64), f"{self.name}_shape")
        return self.add(op("Reshape", [x, target], x, name=f"{self.name}_reshaped", shape=dims))

    def rank4(self, x: ir.Value) -> ir.Value:
        dims = shape(x) or ()
        return x if len(dims) == 4 else self.reshape(x, (1,) * (4 - len(dims)) + dims)

    def key(self, x: ir.Value) -> ir.Value:
        """k from k^T: what the Transpose that made it read, less the swap of the last two axes. torch's dynamo exporter
        transposes between two Reshapes that merge and split the leading axes."""
        dims = shape(x) or ()
        wanted = (*dims[:-2], dims[-1], dims[-2])
        made = maker(x, "Reshape")
        if made is not None and (shape(made.inputs[0]) or ())[-2:] == dims[-2:]:
            flat = maker(made.inputs[0], "Transpose")
            if flat is not None:
                return self.reshape(self.swapped(flat.outputs[0]), wanted)
        return self.swapped(x)

    def swapped(self, x: ir.Value) -> ir.Value:
        """x with its last two axes swapped, in at most one Transpose."""
        dims = shape(x) or ()
        rank = len(dims)
        source, perm = x, [*range(rank - 2), rank - 1, rank - 2]
        made = maker(x, "Transpose")
        if made is not None and made.inputs[0] is not None:
            outer = attr(made, "perm") or list(range(rank))[::-1]
            source, perm = made.inputs[0], [outer[i] for i in perm]
        if perm == list(range(rank)):
            return source
        return self.add(op("Transpose", [source], x, name=f"{self.name}_key", shape=(*dims[:-2], dims[-1], dims[-2]), perm=perm))

    def additive(self, keep: ir.Value, low: float, like: ir.Value) -> ir.Value:
        """0 where `keep`, else `low`."""
        dtype = like.dtype.numpy() if like.dtype is not None else np.dtype("f4")
        zero, lowest = (initializer(self.model, np.array(a, dtype), f"{self.name}_{n}") for a, n in ((0, "zero"), (low, "low")))
        return self.add(op("Where", [keep, zero, lowest], like, name=f"{self.name}_mask", shape=shape(keep) or ()))

    def mask(self, masks: tuple[ir.Value, ...], scores: tuple[int, ...]) -> ir.Value | None:
        """The sum of the masks, as [.., .., Nq, Nk]."""
        if not masks:
            return None
        total = masks[0]
        for m in masks[1:]:
            dims = np.broadcast_shapes(shape(total) or (), shape(m) or ())
            total = self.add(op("Add", [total, m], total, name=f"{self.name}_masks", shape=dims))
        dims = shape(total) or ()
        full = (1,) * (4 - len(dims)) + dims[max(0, len(dims) - 4):]
        wanted = (*full[:2], *scores[-2:])
        array = constant(total)
        if array is not None and wanted != dims:
            return initializer(self.model, np.broadcast_to(array.reshape(full), wanted), f"{self.name}_mask")
        if full != dims:
            total = self.reshape(total, full)
        if wanted == full:
            return total
        target = initializer(self.model, np.array(wanted, np.int64), f"{self.name}_mask_shape")
        return self.add(op("Expand", [total, target], total, name=f"{self.name}_mask", shape=wanted))
