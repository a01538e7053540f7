"""A layer as two thinner ones behind each other: x W + b ~ (x A) B + b', with W [k, n], A [k, r], B [r, n].

Two ways keep the r directions of the *output* that matter: W' = W P, where P projects on them. Of weights alone they are W's
right singular vectors (the best W' in the Frobenius norm); of samples they are the principal components of the outputs (atomic
feature mimicking, Yu and Wu, "Compressing Transformers: Features Are Low-Rank, but Weights Are Not!", AAAI 2023), which is the
best W' for the samples. The third splits the window of a convolution instead: a column of taps, then a row (Jaderberg et al.,
"Speeding up Convolutional Neural Networks with Low Rank Expansions", 2014, scheme 2).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import onnx_ir as ir

from ..base import attr, constant, initializer, op, replace_all, shape
from .layers import Layer

WIDTH = 16          # ranks are multiples of it: one vector of AVX-512
GAIN = 0.8          # of the dense layer's multiply-adds, that the factors must stay below to be worth it
FOLDS = 4
SHARES = (0.01, 0.1, 0.3, 0.6, 1.0)
ALONE = 0.5         # the share where there is one sample
ENERGY = 0.99       # of the outputs' variance (or of the weights' squares), that the rank "auto" keeps at least


@dataclass(frozen=True)
class Sums:
    """Of rows y: how many, their sum [n], the sum of y y^T [n, n]; float64."""

    count: int
    total: np.ndarray
    squares: np.ndarray

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> np.ndarray:
        return self.total / max(1, self.count)

    def around(self, center: np.ndarray) -> np.ndarray:
        """[n, n]: the mean of (y - center) (y - center)^T."""
        cross = np.outer(self.mean, center)
        return self.squares / max(1, self.count) - cross - cross.T + np.outer(center, center)


class Moments:
    """Mean and covariance of the rows of a layer's output: of every fourth sample in turn, so that what is found in some can be
    tried on the others."""

    def __init__(self, layer: Layer) -> None:
        n = layer.matrix.shape[-1]
        self.layer, self.folds = layer, [Sums(0, np.zeros(n), np.zeros((n, n))) for _ in range(FOLDS)]

    def update(self, array: np.ndarray) -> None:
        """array: the output as it stands in the model, of a layer of one group."""
        rows = self.layer.outputs(array)[0].astype(np.float64)
        first, *rest = self.folds
        self.folds = [*rest, first + Sums(len(rows), rows.sum(axis=0), rows.T @ rows)]

    @property
    def sums(self) -> Sums:
        return total(self.folds)


def total(sums: Sequence[Sums]) -> Sums:
    return reduce(operator.add, sums)


@dataclass(frozen=True)
class Directions:
    """basis [n, min(k, n)]: orthonormal directions of the output as columns, those that matter most first; energy: what each
    holds; center [n]: the point around which outputs are projected."""

    basis: np.ndarray
    energy: np.ndarray
    center: np.ndarray

    @classmethod
    def of(cls, scatter: np.ndarray, span: np.ndarray, center: np.ndarray) -> Directions:
        """The principal axes of `scatter` [n, n] within `span`, orthonormal columns."""
        energy, basis = np.linalg.eigh(span.T @ scatter @ span)
        return cls(span @ basis[:, ::-1], np.maximum(energy[::-1], 0), center)

    def rank(self, keep: float = ENERGY) -> int:
        """The smallest rank that keeps this share of the energy."""
        total = np.cumsum(self.energy)
        return int(np.searchsorted(total, keep * total[-1])) + 1 if total[-1] > 0 else 1

    def lost(self, rank: int, sums: Sums) -> float:
        """|y - y'| / |y| over samples, for outputs projected on the first `rank` directions."""
        rest, norm = self.basis[:, rank:], float(np.trace(sums.squares))
        missed = float(np.einsum("ij,ij->", rest, sums.around(self.center) @ rest)) * sums.count
        return math.sqrt(max(0.0, missed) / norm) if norm > 0 else 0.0


def own_bias(layer: Layer) -> np.ndarray:
    """[n]: the bias that is part of the layer's output: a convolution's; that of a MatMul is added behind it."""
    value = layer.bias if layer.is_conv else None
    found = constant(value[0].inputs[value[1]]) if value else None
    return np.zeros(layer.matrix.shape[-1]) if found is None else found.astype(np.float64)


def by_weights(layer: Layer) -> Directions:
    """The right singular vectors of W."""
    w = layer.matrix[0].astype(np.float64)
    return Directions.of(w.T @ w, _span(w), own_bias(layer))


def by_outputs(layer: Layer, moments: Moments) -> Directions:
    """The principal components of the outputs, around their mean.

    Few samples say little of the directions that they do not show, and the pixels of one picture are not worth as many samples.
    So covariance and mean are mixed with those of the outputs of white inputs, W^T W and the bias; the share (SHARES) is the one
    that loses least on samples that were left out. At a share of 1 it is `by_weights`.
    """
    w, bias = layer.matrix[0].astype(np.float64), own_bias(layer)
    span, white = _span(w), w.T @ w

    def mixed(sums: Sums, share: float) -> Directions:
        found = sums.around(sums.mean)
        scale = np.trace(found) / max(float(np.trace(white)), 1e-300)
        return Directions.of((1 - share) * found + share * scale * white, span, (1 - share) * sums.mean + share * bias)

    folds = [f for f in moments.folds if f.count]
    if len(folds) < 2:
        return mixed(moments.sums, ALONE)
    ranks = [max(1, round(part * span.shape[1])) for part in (0.25, 0.5, 0.75)]

    def missed(share: float) -> float:
        tried = [(mixed(total([f for f in folds if f is not held]), share), held) for held in folds]
        return sum(found.lost(rank, held) for found, held in tried for rank in ranks)

    return mixed(moments.sums, min(SHARES, key=missed))


def _span(w: np.ndarray) -> np.ndarray:
    """Orthonormal columns that hold every row of w [k, n]: there are fewer than n where k is smaller."""
    return np.linalg.qr(w.T)[0] if w.shape[0] < w.shape[1] else np.eye(w.shape[1])


# ---- Ranks ---------------------------------------------------------------------------------------------------------------


def factorable(layer: Layer, spatial: bool = False) -> str | None:
    """Why a layer cannot be split; None where it can."""
    if layer.groups != 1:
        return "it has groups"
    if spatial and (not layer.is_conv or len(layer.weight.shape) != 4 or min(layer.weight.shape[2:]) == 1):
        return "it is no convolution with a window in two dimensions"
    return None


def sides(layer: Layer, spatial: bool = False) -> tuple[int, int]:
    """Rows and columns of the matrix that is factored; the smaller is the full rank."""
    if not spatial:
        return layer.matrix.shape[1], layer.matrix.shape[2]
    oc, ic, kh, kw = layer.weight.shape
    return ic * kh, kw * oc


def share_of_cost(layer: Layer, rank: int, spatial: bool = False) -> float:
    """Multiply-adds of the factors over those of the layer."""
    rows, columns = sides(layer, spatial)
    if not spatial:
        return rank * (rows + columns) / (rows * columns)
    wide, narrow = (shape(layer.input) or (1,))[-1], (shape(layer.output) or (1,))[-1]     # the first part keeps all columns
    return rank * (rows * wide / narrow + columns) / (layer.matrix.shape[1] * layer.matrix.shape[2])


def window_rank(layer: Layer, keep: float = ENERGY) -> int:
    """The smallest rank of the window's two factors that keeps this share of the weights' squares."""
    energy = np.linalg.svd(_as_columns(layer), compute_uv=False)**2
    return int(np.searchsorted(np.cumsum(energy), keep * energy.sum())) + 1


def _as_columns(layer: Layer) -> np.ndarray:
    """A convolution's weights as [ic * kh, kw * oc], float64."""
    oc, ic, kh, kw = layer.weight.shape
    return layer.weight.transpose(1, 2, 3, 0).reshape(ic * kh, kw * oc).astype(np.float64)


def rounded(rank: float) -> int:
    """To whole vectors."""
    return max(1, round(rank / WIDTH)) * WIDTH


def rounded_up(rank: int) -> int:
    return -(-rank // WIDTH) * WIDTH


# ---- Rewriting -----------------------------------------------------------------------------------------------------------


def project(model: ir.Model, layer: Layer, directions: Directions, rank: int) -> None:
    """The layer becomes two: x A, then (x A) B + b' under its name; A = W U, B = U^T of the first `rank` directions U, and
    b' = b + (I - U U^T) (c - b), which leaves the center c where it is."""
    u = directions.basis[:, :rank]
    first = layer.matrix[0].astype(np.float64) @ u
    bias = own_bias(layer)
    away = directions.center - bias
    _pair(model, layer, first, u.T, away - u @ (u.T @ away))


def _pair(model: ir.Model, layer: Layer, a: np.ndarray, b: np.ndarray, extra: np.ndarray) -> None:
    """a [k, r], b [r, n]; extra [n] is added to the bias."""
    rank = a.shape[1]
    if layer.is_conv:
        taps = layer.weight.shape[2:]
        ic = layer.weight.shape[1]
        weight = np.moveaxis(a.reshape(*taps, ic, rank), (-1, -2), (0, 1))
        _in_front(model, layer, weight, (rank, *(shape(layer.output) or ())[2:]), _window(layer))
        _window_of_one(layer.node, len(taps))
        _weights(model, layer, 1, b.T.reshape(b.shape[1], rank, *[1] * len(taps)), "weight")
    else:
        _in_front(model, layer, a, (*(shape(layer.output) or ())[1:-1], rank), {})
        _weights(model, layer, 1, b, "weight")
    _add_to_bias(model, layer, extra)


def split_window(model: ir.Model, layer: Layer, rank: int) -> np.ndarray:
    """A convolution kh x kw becomes one of kh x 1 to `rank` channels and one of 1 x kw under its name, by the singular values of
    its weights as a matrix [ic * kh, kw * oc]. Returns the weights that both together have."""
    oc, ic, kh, kw = layer.weight.shape
    u, s, v = np.linalg.svd(_as_columns(layer), full_matrices=False)
    a, b = u[:, :rank] * np.sqrt(s[:rank]), np.sqrt(s[:rank])[:, None] * v[:rank]
    whole = (a @ b).reshape(ic, kh, kw, oc).transpose(3, 0, 1, 2)
    window = _window(layer)
    (top, left, bottom, right), (down, across), (far, wide) = (window[name] for name in ("pads", "strides", "dilations"))
    height, width = (shape(layer.output) or ())[2], (shape(layer.input) or ())[3]
    _in_front(model, layer, a.reshape(ic, kh, 1, rank).transpose(3, 0, 1, 2), (rank, height, width),
              {"kernel_shape": [kh, 1], "pads": [top, 0, bottom, 0], "strides": [down, 1], "dilations": [far, 1]})
    for name, value in {"kernel_shape": [1, kw], "pads": [0, left, 0, right], "strides": [1, across],
                        "dilations": [1, wide]}.items():
        layer.node.attributes[name] = ir.AttrInt64s(name, value)
    _weights(model, layer, 1, b.reshape(rank, 1, kw, oc).transpose(3, 0, 1, 2), "weight")
    return whole.astype(np.float32)


def _window(layer: Layer) -> dict[str, Any]:
    """The attributes of a convolution that its first factor takes over, all of them given."""
    taps = layer.weight.shape[2:]
    rank = len(taps)
    return {"kernel_shape": list(taps), "pads": attr(layer.node, "pads", [0] * (2 * rank)),
            "strides": attr(layer.node, "strides", [1] * rank), "dilations": attr(layer.node, "dilations", [1] * rank)}


def _window_of_one(node: ir.Node, rank: int) -> None:
    for name, value in {"kernel_shape": [1] * rank, "pads": [0] * (2 * rank), "strides": [1] * rank,
                        "dilations": [1] * rank}.items():
        node.attributes[name] = ir.AttrInt64s(name, value)


def _in_front(model: ir.Model, layer: Layer, weight: np.ndarray, rest: tuple[int, ...], attributes: Mapping[str, Any]) -> None:
    """The first factor, which the layer's node then reads. rest: the shape of its output behind the first axis."""
    node, name = layer.node, f"{layer.name}_factor"
    value = initializer(model, np.ascontiguousarray(weight, np.float32), f"{name}_weight")
    first = op(node.op_type, [layer.input, value], layer.output, name=name, version=node.version,
               shape=((shape(layer.output) or ())[0], *rest), **attributes)
    assert node.graph is not None
    node.graph.insert_before(node, first)
    node.replace_input_with(0, first.outputs[0])


def _weights(model: ir.Model, layer: Layer, at: int, array: np.ndarray, what: str) -> None:
    layer.node.replace_input_with(at, initializer(model, np.ascontiguousarray(array, np.float32), f"{layer.name}_{what}"))


def _add_to_bias(model: ir.Model, layer: Layer, extra: np.ndarray) -> None:
    """extra [n]. A layer without a bias gets one, unless there is nothing to add."""
    held, node, name = layer.bias, layer.node, layer.name
    if held is not None:
        reader, at = held
        old = reader.inputs[at]
        assert old is not None and old.const_value is not None
        reader.replace_input_with(at, initializer(model, (old.const_value.numpy() + extra).astype(np.float32), f"{name}_bias"))
    elif np.any(extra):
        bias = initializer(model, extra.astype(np.float32), f"{name}_bias")
        if layer.is_conv:
            node.resize_inputs(3)
            node.replace_input_with(2, bias)
        else:
            product = op("MatMul", node.inputs, layer.output, name=name, version=node.version)
            total = op("Add", [product.outputs[0], bias], layer.output, name=f"{name}_biased")
            replace_all(node, [product, total], total.outputs)
