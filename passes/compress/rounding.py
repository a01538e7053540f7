"""Weights as small integers: symmetric, with a scale for each output channel, or for each group of the reduction, too.

Zero stays zero, so what is sparse stays sparse. Matrices are [groups, k, n] as of `layers.Layer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from . import obs

INT8 = (-127, 127)      # not -128: the negative of every code is a code
INT4 = (-8, 7)
TRIES = np.linspace(1.0, 0.5, 26)       # of the largest scale: where the error is least is searched among these

Clip = Literal["range", "error"]


@dataclass(frozen=True)
class Rounded:
    """codes: int8 [groups, k, n]; scale: float32 [groups, blocks, n], a row for every `block` steps of k."""

    codes: np.ndarray
    scale: np.ndarray
    block: int

    @property
    def matrix(self) -> np.ndarray:
        """float32 [groups, k, n]."""
        return self.codes * spread(self.scale, self.block, self.codes.shape[1])


def spread(scale: np.ndarray, block: int, k: int) -> np.ndarray:
    """[groups, blocks, n] -> [groups, k, n]."""
    return np.repeat(scale, block, axis=1)[:, :k]


def scales(w: np.ndarray, codes: tuple[int, int] = INT8, block: int = 0, clip: Clip = "error",
           importance: np.ndarray | None = None) -> np.ndarray:
    """float32 [groups, blocks, n] for a matrix [groups, k, n]: so that the largest weight is a code ("range"), or so that the sum
    of importance * error^2 is least ("error"), which clips what is rare.

    importance: [groups, k], such as the mean square of the input that each row meets; equal where not given.
    """
    groups, k, n = w.shape
    block = block or k
    tiles = np.pad(w, ((0, 0), (0, -k % block), (0, 0))).reshape(groups, -1, block, n).astype(np.float32)
    low, high = tiles.min(axis=2), tiles.max(axis=2)
    largest = np.maximum(high / codes[1], low / codes[0]).astype(np.float32)
    largest[largest <= np.finfo(np.float32).tiny] = 1.0
    if clip == "range":
        return largest
    cost = np.ones((groups, k), np.float32) if importance is None else importance.astype(np.float32)
    cost = np.pad(cost, ((0, 0), (0, -k % block))).reshape(groups, -1, block, 1)
    best, least = largest, np.full(largest.shape, np.inf, np.float32)
    for share in TRIES:
        scale = largest * np.float32(share)
        back = np.clip(np.rint(tiles / scale[:, :, None]), *codes) * scale[:, :, None]
        error = (cost * (tiles - back) ** 2).sum(axis=2)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return best


def nearest(w: np.ndarray, scale: np.ndarray, codes: tuple[int, int] = INT8, block: int = 0) -> Rounded:
    """Every weight at the nearest code."""
    block = block or w.shape[1]
    return Rounded(np.clip(np.rint(w / spread(scale, block, w.shape[1])), *codes).astype(np.int8), scale, block)


def compensated(w: np.ndarray, scale: np.ndarray, hessians: Sequence[np.ndarray], codes: tuple[int, int] = INT8,
                block: int = 0) -> Rounded:
    """Row after row at the nearest code, the error of each made up for by the rows behind it (GPTQ; Frantar et al. 2023).
    hessians: x'x [k, k] of each group's input. Zeros stay zeros."""
    block = block or w.shape[1]
    steps = spread(scale, block, w.shape[1]).astype(np.float64)

    def settle(i: int, row: np.ndarray) -> np.ndarray:
        """row: [n] of the only group, or [groups, n]."""
        step = steps[:, i]
        return np.where(w[:, i] == 0, 0.0, np.clip(np.rint(row / step), *codes) * step).reshape(row.shape)
    known = [obs.damped(h) for h in hessians]
    if len(known) == 1:
        settled = obs.sweep(w[0], obs.factor_of(obs.inverse(known[0])), settle)[None]
    else:
        settled = _sweep_groups(w, np.linalg.cholesky(np.linalg.inv(known)).transpose(0, 2, 1), settle)
    return Rounded(np.rint(settled / steps).astype(np.int8), scale, block)


def _sweep_groups(w: np.ndarray, factor: np.ndarray, settle: obs.Settle) -> np.ndarray:
    """`obs.sweep` on many small matrices at once, as of depthwise convolutions: w [groups, k, n], factor [groups, k, k]."""
    w = np.array(w, np.float64)
    settled = np.empty_like(w)
    for i in range(w.shape[1]):
        settled[:, i] = settle(i, w[:, i])
        loss = (w[:, i] - settled[:, i]) / factor[:, i, i, None]
        w[:, i:] -= factor[:, i, i:, None] * loss[:, None]
    return settled
