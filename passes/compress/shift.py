"""Weights as sums of powers of two, in codes of 4 bits: sign and exponent (DeepShift, Elhoushi et al., CVPR workshops 2021).

A code is 0 (code 0), 1/64, 1/32, … 1 (codes 1 to 7), or their negatives (codes 8 to 15); a weight of one term is one code times
the scale of its output channel, one of two terms the sum of two. Sixty-four is range enough: of what lies below the smallest
power, next to nothing of a channel's energy is left, and zero itself must be a code.

Powers of two alone round badly (a fifth of the output's norm on normal weights, against a 25th with two terms), so each row of
weights makes up for what rounding has done to those before it (GPTQ: Frantar et al. 2023, algorithm 1; `obs.sweep`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx_ir as ir

from ..base import DOMAIN, attr, constant, initializer, maker, op
from ..functions import add_function
from . import obs
from .layers import Layer

LEVELS = np.array([0.0] + [2.0**e for e in range(-6, 1)], np.float32)
TABLE = np.concatenate([LEVELS, -LEVELS])       # float32 [16]: the value of each code
TRIED = 24          # scales of an octave that are tried for each channel
ROUNDS = 3          # of settling each row anew
SPAN = 64           # rows between two updates of all the others
OPERATOR = "ShiftWeights"


@dataclass(frozen=True)
class Grid:
    """What a weight can be, in units of its channel's scale: `values` in order, `codes` [values, terms]."""

    values: np.ndarray
    codes: np.ndarray

    def nearest(self, x: np.ndarray) -> np.ndarray:
        """The number of the value nearest to each x."""
        return np.searchsorted((self.values[1:] + self.values[:-1]) / 2, x)


@cache
def grid(terms: int) -> Grid:
    """Of one or two terms; of pairs with an equal sum, one."""
    codes = np.array([[a] for a in range(16)] if terms == 1 else [[a, b] for a in range(16) for b in range(a, 16)], np.uint8)
    values, first = np.unique(TABLE[codes].sum(axis=1, dtype=np.float64), return_index=True)
    return Grid(values, codes[first])


def scales(w: np.ndarray, terms: int, importance: np.ndarray) -> np.ndarray:
    """[n]: the scale of each column of w [k, n] at which rounding costs least; importance [k, n]: of an error in each place. A
    scale and its double round alike but at the ends of the range, so an octave is searched, and what is found adjusted (least
    squares)."""
    g = grid(terms)
    top = np.abs(w).max(axis=0)
    top[top == 0] = 1
    best, least = np.ones(w.shape[1]), np.full(w.shape[1], np.inf)
    for start in top / g.values[-1] * 2 ** (np.arange(TRIED) / TRIED)[:, None]:
        q = g.values[g.nearest(w / start)]
        weighted = importance * q
        energy = (weighted * q).sum(axis=0)
        scale = np.where(energy > 0, (weighted * w).sum(axis=0) / np.maximum(energy, 1e-300), start)
        scale = np.where(scale > 0, scale, start)
        cost = (importance * (q * scale - w)**2).sum(axis=0)
        better = cost < least
        best[better], least[better] = scale[better], cost[better]
    return best


@dataclass(frozen=True)
class Coded:
    """The weights of a layer: codes [terms, groups, k, n], scale [groups, n]."""

    codes: np.ndarray
    scale: np.ndarray

    @property
    def matrix(self) -> np.ndarray:
        """[groups, k, n], float64 of the float32 that the codes stand for."""
        return (TABLE[self.codes].sum(axis=0) * self.scale.astype(np.float32)[:, None]).astype(np.float64)


def rounded(w: np.ndarray, terms: int) -> Coded:
    """w [groups, k, n] with each weight at the nearest code: where nothing is known of the layer's input."""
    g, scale = grid(terms), np.stack([scales(x, terms, np.ones_like(x)) for x in w])
    return Coded(np.moveaxis(g.codes[g.nearest(w / scale[:, None])], -1, 0), scale)


def swept(w: np.ndarray, terms: int, h: np.ndarray) -> Coded:
    """w [groups, k, n] in codes such that outputs change least; h [groups, k, k]: the damped x'x of the layer's input. Rows are
    settled in the order of their weight in h, those that come late being the ones that can best take what others have lost; then
    each channel's scale is the best for its codes (least squares of the outputs), each row is settled anew in view of all others,
    and so on (coordinate descent: Behdin et al., "QuantEase", 2023)."""
    chosen, scale = (_one_by_one if len(w) == 1 else _together)(w, terms, h)
    for _ in range(ROUNDS):
        scale = _scale_of(w, grid(terms).values[chosen], h, scale)
        chosen = _settled_anew(w, terms, h, chosen, scale)
    scale = _scale_of(w, grid(terms).values[chosen], h, scale)
    return Coded(np.moveaxis(grid(terms).codes[chosen], -1, 0), scale)


def _scale_of(w: np.ndarray, q: np.ndarray, h: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """[groups, n]: by which q comes nearest to w."""
    right = h @ q
    energy = (q * right).sum(axis=1)
    fitted = (w * right).sum(axis=1) / np.maximum(energy, 1e-300)
    return np.where((energy > 0) & (fitted > 0), fitted, otherwise)


def _settled_anew(w: np.ndarray, terms: int, h: np.ndarray, chosen: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The numbers of the grid's values after each row, in turn, took the best for what the others are."""
    g, chosen = grid(terms), chosen.copy()
    pull = h @ (w - g.values[chosen] * scale[:, None])      # half of the error's slope, kept up to date
    for first in range(0, w.shape[1], SPAN):
        rows = slice(first, min(first + SPAN, w.shape[1]))
        near, before = pull[:, rows], g.values[chosen[:, rows]]
        for i in range(near.shape[1]):
            at = first + i
            old = g.values[chosen[:, at]]
            chosen[:, at] = g.nearest(old + near[:, i] / (h[:, at, at, None] * scale))
            near -= h[:, rows, at, None] * ((g.values[chosen[:, at]] - old) * scale)[:, None]
        moved = (g.values[chosen[:, rows]] - before) * scale[:, None]
        pull[:, rows.stop:] -= h[:, rows.stop:, rows] @ moved
    return chosen


def _one_by_one(w: np.ndarray, terms: int, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For one group: the numbers of the grid's values [1, k, n], and the scale [1, n] that they were chosen for."""
    order = np.argsort(-np.diag(h[0]), kind="stable")
    inverse = obs.inverse(h[0][np.ix_(order, order)])
    g, rows = grid(terms), w[0][order]
    scale = scales(rows, terms, np.broadcast_to(1 / np.diag(inverse)[:, None], rows.shape))
    chosen = np.empty(rows.shape, np.int64)

    def settle(i: int, row: np.ndarray) -> np.ndarray:
        chosen[order[i]] = g.nearest(row / scale)
        return g.values[chosen[order[i]]] * scale

    obs.sweep(rows, obs.factor_of(inverse), settle)
    return chosen[None], scale[None]


def _together(w: np.ndarray, terms: int, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for many groups of few rows (depthwise convolutions): all at once, row after row."""
    g, inverse = grid(terms), np.linalg.inv(h)
    factor = np.swapaxes(np.linalg.cholesky(inverse), 1, 2)
    groups, k, n = w.shape
    flat = np.moveaxis(w, 1, 0).reshape(k, -1)
    importance = np.repeat(1 / np.einsum("gkk->kg", inverse), n, axis=1)
    scale = scales(flat, terms, importance).reshape(groups, n)
    chosen, rows = np.empty(w.shape, np.int64), np.array(w, np.float64)
    for i in range(k):
        chosen[:, i] = g.nearest(rows[:, i] / scale)
        lost = (rows[:, i] - g.values[chosen[:, i]] * scale) / factor[:, i, i, None]
        rows[:, i:] -= factor[:, i, i:, None] * lost[:, None]
    return chosen, scale


# ---- In the graph --------------------------------------------------------------------------------------------------------


def pack(codes: np.ndarray) -> np.ndarray:
    """Codes of 4 bits [terms, …] as uint8 [terms, bytes]: in row-major order, two to a byte, the first in the low half."""
    flat = codes.reshape(len(codes), -1)
    flat = np.pad(flat, [(0, 0), (0, flat.shape[1] % 2)])
    return (flat[:, 0::2] | flat[:, 1::2] << 4).astype(np.uint8)


def unpack(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The codes [terms, *shape]."""
    both = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)
    return both[:, :int(np.prod(shape))].reshape(len(packed), *shape)


def write(model: ir.Model, layer: Layer, coded: Coded) -> int:
    """The layer's weights become codes; how many bytes they and their scales take."""
    codes = np.stack([layer.as_weight(term) for term in coded.codes])
    scale = coded.scale.astype(np.float32).reshape(-1)
    broad = scale.reshape(-1, *[1] * (codes.ndim - 2)) if layer.is_conv else scale
    weight, name = layer.node.inputs[1], layer.name
    assert weight is not None and layer.node.graph is not None
    packed = pack(codes)
    inputs = [initializer(model, packed, f"{name}_codes"), initializer(model, broad, f"{name}_scale")]
    made = op(OPERATOR, inputs, weight, name=f"{name}_weights", domain=DOMAIN, shape=codes.shape[1:])
    made.attributes["shape"] = ir.AttrInt64s("shape", list(codes.shape[1:]))
    add_function(model, OPERATOR)
    layer.node.graph.insert_before(layer.node, made)
    layer.node.replace_input_with(1, made.outputs[0])
    return packed.nbytes + scale.nbytes


def read(value: ir.Value | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Codes [terms, *shape] and scale (as it broadcasts) of weights that are made of them; None of any others."""
    node = maker(value, OPERATOR, domain=DOMAIN)
    if node is None:
        return None
    packed, scale = (constant(v) for v in node.inputs)
    return None if packed is None or scale is None else (unpack(packed, tuple(attr(node, "shape"))), scale)
