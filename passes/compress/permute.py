"""Output channels in an order in which those that need the same inputs stand together: groups that share their zeros keep more.

Exact: the channels of every value in a tie are reordered alike, in the layers that make them, in those that read them, and in the
constants that meet them on the way. A residual sum ties all that it adds up; where channels meet what has an order of its own
(attention heads, an output of the model), they stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from scipy.optimize import linear_sum_assignment

from ..base import attr, constant, initializer, shape
from . import bias
from .layers import Layer, layers
from .prune_units import choose, sums
from .stored import POINTWISE
from .treatment import Sparsity

POOLS = frozenset(("MaxPool", "AveragePool", "GlobalAveragePool", "Resize"))
REDUCTIONS = frozenset(("ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin"))
ROUNDS = 10         # of regrouping, at most
RESTARTS = 2        # from a random order, besides that from the order as it is
ENOUGH = 1e-3       # a relative gain below which regrouping stops


@dataclass
class Tie:
    """Values with one order of channels. readers: with how many elements of the reduction each channel has there (more than one
    behind a flattening); constants: (node, input, axis, elements a channel)."""

    channels: int
    makers: list[Layer] = field(default_factory=list)
    depthwise: list[Layer] = field(default_factory=list)
    readers: list[tuple[Layer, int]] = field(default_factory=list)
    constants: list[tuple[ir.Node, int, int, int]] = field(default_factory=list)

    def apply(self, model: ir.Model, order: np.ndarray) -> None:
        """The channel that stands at i comes from order[i]."""
        for layer in [Layer(x.node) for x in self.makers]:
            old = bias.read(layer) if layer.is_conv and layer.bias is not None else None
            new = layer.replaced(model, layer.matrix[:, :, order])
            if old is not None:
                bias.write(model, new, old[order])
        for layer in [Layer(x.node) for x in self.depthwise]:
            old = bias.read(layer) if layer.bias is not None else None
            new = layer.replaced(model, layer.matrix[order])
            if old is not None:
                bias.write(model, new, old[order])
        for layer, inner in [(Layer(x.node), inner) for x, inner in self.readers]:
            layer.replaced(model, self.rows(layer.matrix, inner, order, 1))
        for node, i, axis, inner in self.constants:
            value = constant(node.inputs[i])
            assert value is not None
            node.replace_input_with(i, initializer(model, self.rows(value, inner, order, axis), f"{node.name}_permuted"))

    def rows(self, array: np.ndarray, inner: int, order: np.ndarray, axis: int) -> np.ndarray:
        """An array with the channels on an axis reordered; each has `inner` elements there, perhaps for each of several taps."""
        around = array.shape[:axis], array.shape[axis + 1:]
        split = array.reshape(*around[0], -1, self.channels, inner, *around[1])
        return np.take(split, order, axis + 1).reshape(array.shape)


def permute(model: ir.Model, sparsities: Mapping[str, Sparsity], importance: Mapping[str, np.ndarray] | None = None,
            seed: int = 0) -> dict[str, tuple[float, float]]:
    """Reorders channels in place. importance: for a layer by name, [k], what the square of a weight counts for in each row, such
    as the mean square of the input. Returns, for each layer that makes channels of a tie, the share of the sum of its squared
    weights, so weighed, that its sparsity keeps before and after; of all layers of a tie together it never falls."""
    found, weights = {}, dict(importance or {})
    for tie in ties(model):
        pruned = [Layer(x.node) for x in tie.makers if x.name in sparsities and tie.channels > sparsities[x.name].group]
        if not pruned:
            continue
        patterns = [Pattern.of(x, sparsities[x.name], weights.get(x.name)) for x in pruned]
        order = best_order(patterns, np.random.default_rng(seed))
        for x, p in zip(pruned, patterns, strict=True):
            found[x.name] = p.retained(np.arange(tie.channels)), p.retained(order)
        tie.apply(model, order)
        weights |= {x.name: tie.rows(weights[x.name], inner, order, 0) for x, inner in tie.readers if x.name in weights}
    return found


@dataclass(frozen=True)
class Pattern:
    """scores: [units, n], what each channel would keep of each unit, as a share of all of the layer."""

    scores: np.ndarray
    sparsity: Sparsity
    kept: int

    @classmethod
    def of(cls, layer: Layer, sparsity: Sparsity, importance: np.ndarray | None) -> Pattern:
        w = np.square(layer.matrix[0], dtype=np.float64) * (1.0 if importance is None else importance[:, None])
        scores = np.stack([sums(column, sparsity.step) for column in w.T], axis=1)
        return cls(scores / max(scores.sum(), 1e-300), sparsity, sparsity.units(len(w)))

    def masks(self, order: np.ndarray) -> np.ndarray:
        """float64 [units, groups]: which units the groups of this order keep."""
        grouped = np.add.reduceat(self.scores[:, order], np.arange(0, len(order), self.sparsity.group), axis=1)
        return np.stack([choose(g, self.sparsity, self.kept) for g in grouped.T], axis=1).astype(np.float64)

    def retained(self, order: np.ndarray) -> float:
        masks = np.repeat(self.masks(order), self.sparsity.group, axis=1)[:, :len(order)]
        return float((self.scores[:, order] * masks).sum())

    def gains(self, order: np.ndarray) -> np.ndarray:
        """[n, n]: what each channel would keep at each place, if the masks stayed."""
        return np.repeat(self.scores.T @ self.masks(order), self.sparsity.group, axis=1)[:, :len(order)]


def best_order(patterns: list[Pattern], rng: np.random.Generator) -> np.ndarray:
    """Of channels, so that the patterns together retain the most that was found: by turns the best masks for the groups, and the
    best assignment of channels to groups for the masks, as k-means does, from several starts."""
    n = patterns[0].scores.shape[1]

    def retained(order: np.ndarray) -> float:
        return sum(p.retained(order) for p in patterns)
    best = np.arange(n)
    for start in (best, *(rng.permutation(n) for _ in range(RESTARTS))):
        order = start
        for _ in range(ROUNDS):
            channels, places = linear_sum_assignment(sum(p.gains(order) for p in patterns), maximize=True)
            new = np.empty(n, np.int64)
            new[places] = channels
            gained = retained(new) - retained(order)
            if gained > 0:
                order = new
            if gained < ENOUGH * retained(order):
                break
        if retained(order) > retained(best):
            best = order
    return best


def ties(model: ir.Model) -> list[Tie]:
    """All sets of values whose channels may be reordered together."""
    search = _Search({layer.node: layer for layer in layers(model)})
    for node in model.graph:
        search.visit(node)
    for value in model.graph.outputs:
        search.block(value)
    return search.ties()


@dataclass(frozen=True)
class _Place:
    """Where a value has channels: an axis, on which each has `inner` elements in a row."""

    tie: int
    axis: int
    inner: int = 1


class _Search:
    def __init__(self, known: Mapping[ir.Node | None, Layer]) -> None:
        self.layers = known
        self.at: dict[ir.Value | None, _Place] = {}
        self.found: list[Tie] = []
        self.heads: list[int] = []          # of each tie, one that it was joined with, or itself
        self.blocked: set[int] = set()

    def head(self, tie: int) -> int:
        while self.heads[tie] != tie:
            tie = self.heads[tie]
        return tie

    def join(self, a: int, b: int) -> None:
        a, b = self.head(a), self.head(b)
        if a != b:
            self.heads[b] = a
            for name in ("makers", "depthwise", "readers", "constants"):
                getattr(self.found[a], name).extend(getattr(self.found[b], name))

    def block(self, *values: ir.Value | None) -> None:
        self.blocked |= {self.at[v].tie for v in values if v in self.at}

    def tie(self, place: _Place) -> Tie:
        return self.found[self.head(place.tie)]

    def ties(self) -> list[Tie]:
        blocked = {self.head(t) for t in self.blocked}
        return [t for i, t in enumerate(self.found) if self.head(i) == i and i not in blocked and t.makers and t.channels > 1]

    def visit(self, node: ir.Node) -> None:
        layer = self.layers.get(node)
        first = node.inputs[0] if node.inputs else None
        place, kind = self.at.get(first), (node.domain, node.op_type)
        if layer is not None:
            self.block(*node.inputs[1:])
            self._layer(layer, place)
        elif not any(v in self.at for v in node.inputs):
            return
        elif kind in POINTWISE or kind in (("", "Identity"), ("", "Cast")):
            self._pointwise(node)
        elif node.domain != "" or place is None or any(v in self.at for v in node.inputs[1:]):
            self.block(*node.inputs)
        else:
            moved = self._moved(node, place)
            if moved is None:
                self.block(first)
            else:
                self.at[node.outputs[0]] = moved

    def _layer(self, layer: Layer, place: _Place | None) -> None:
        axis = 1 if layer.is_conv else len(shape(layer.output) or ()) - 1
        fits = place is not None and place.axis == (1 if layer.is_conv else len(shape(layer.input) or ()) - 1)
        if layer.depthwise:
            if place is not None and fits and place.inner == 1 and bias.movable(layer):
                self.tie(place).depthwise.append(layer)
                self.at[layer.output] = _Place(place.tie, 1)
            else:
                self.block(layer.input)
            return
        if place is not None and fits and layer.groups == 1 and (place.inner == 1 or not layer.is_conv):
            self.tie(place).readers.append((layer, place.inner))
        else:
            self.block(layer.input)
        if layer.groups == 1 and (bias.movable(layer) or not layer.is_conv):
            self.at[layer.output] = _Place(len(self.found), axis)
            self.heads.append(len(self.found))
            self.found.append(Tie(layer.matrix.shape[2], makers=[layer]))

    def _pointwise(self, node: ir.Node) -> None:
        """Ties all values that have channels at the same place, counted from the last axis; constants go along."""
        rank = len(shape(node.outputs[0]) or ())
        first = next(v for v in node.inputs if v in self.at)
        place = self.at[first]
        back, size = place.axis - len(shape(first) or ()), (shape(first) or ())[place.axis]
        for v in node.inputs:
            dims = shape(v) if v is not None else None
            if v is None or (dims is not None and (len(dims) < -back or dims[back] == 1)):
                continue        # the same for all channels
            other = self.at.get(v)
            if v.const_value is None and (other is None or dims is None or other.axis - len(dims) != back
                                          or other.inner != place.inner or dims[back] != size):
                return self.block(*node.inputs)
        for i, v in enumerate(node.inputs):
            dims = shape(v) if v is not None else None
            if v is None or dims is None or len(dims) < -back or dims[back] == 1:
                self.block(v)
            elif v.const_value is not None:
                self.tie(place).constants.append((node, i, len(dims) + back, place.inner))
            else:
                self.join(place.tie, self.at[v].tie)
        self.at[node.outputs[0]] = _Place(place.tie, rank + back, place.inner)
        return None

    def _moved(self, node: ir.Node, place: _Place) -> _Place | None:
        """Where the channels are behind an op that leaves them whole."""
        before, after, axis = shape(node.inputs[0]), shape(node.outputs[0]), place.axis
        if before is None or after is None:
            return None
        match node.op_type:
            case "Transpose":
                return _Place(place.tie, attr(node, "perm", list(reversed(range(len(before))))).index(axis), place.inner)
            case "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze":
                return _reshaped(before, after, place)
            case "LayerNormalization" if place.inner == 1 and axis == len(before) - 1 == attr(node, "axis", -1) % len(before):
                if any(constant(v) is None for v in node.inputs[1:]):
                    return None
                self.tie(place).constants += [(node, i, 0, 1) for i in range(1, len(node.inputs))]
                return place
            case name if name in POOLS and axis == 1 and place.inner == 1 and before[1] == after[1] and len(node.outputs) == 1:
                return place
            case name if name in REDUCTIONS:
                axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
                if axes is None or axis in [int(a) % len(before) for a in axes]:
                    return None
                gone = 0 if attr(node, "keepdims", 1) else sum(int(a) % len(before) < axis for a in axes)
                return _Place(place.tie, axis - gone, place.inner)
        return None


def _reshaped(before: Iterable[int], after: Iterable[int], place: _Place) -> _Place | None:
    """A reshape may add to the elements of a channel those of the axes behind it, or take such away; nothing else."""
    old, new = list(before), list(after)
    count = old[place.axis] // place.inner
    for axis, size in enumerate(new):
        if math.prod(new[:axis]) == math.prod(old[:place.axis]) and size >= count > 1 and size % count == 0:
            return _Place(place.tie, axis, size // count)
    return None
