"""How floats are laid on the numbers 0..top: by the error that it makes on what was seen of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

SHRINK = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)       # shares of the range that is kept; what lies beyond is clipped
POWERS = (0.0, 0.25, 0.5, 0.75)                         # how much of the channels' differences goes to the weights


@dataclass(frozen=True)
class Seen:
    """What calibration saw of a value: its lowest and highest number, the mean of each channel, and some of its rows of channels,
    float32 [n, c]. Of maps that a convolution reads the channels are axis 1, else the last one."""

    low: float
    high: float
    means: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, array: np.ndarray) -> Seen:
        """All of a constant."""
        rows = array.reshape(1, -1)
        return cls(float(array.min()), float(array.max()), rows[0], rows)


@dataclass(frozen=True)
class Parameters:
    """real = scale (q - zero). scale: float64, one number or one for each index of the last axis."""

    scale: np.ndarray
    zero: int

    @classmethod
    def of(cls, low: float, high: float, top: int, scale: float | np.ndarray = 1.0) -> Parameters:
        """low..high, widened to hold 0, on 0..top; times `scale`."""
        low, high = min(low, 0.0), max(high, 0.0)
        step = float(np.float32((high - low) / top)) or 1.0
        return cls(np.asarray(step * scale, np.float64), int(np.clip(np.rint(-low / step), 0, top)))

    def quantize(self, x: np.ndarray, top: int) -> np.ndarray:
        return np.clip(np.rint(x / self.scale) + self.zero, 0, top)

    def rounded(self, x: np.ndarray, top: int) -> np.ndarray:
        """x as it comes back."""
        return (self.quantize(x, top) - self.zero) * self.scale


def quantized(weight: np.ndarray, axes: tuple[int, ...], least: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """int8 with one scale for all of `axes`, symmetric, of at least so much; the scale keeps them as 1."""
    scale = np.maximum(np.abs(weight).max(axis=axes, keepdims=True).astype(np.float64) / 127, least)
    scale = np.where(scale > 0, scale, 1.0)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale


def narrowed(seen: Seen, top: int) -> Parameters:
    """The share of the range with the least squared error on the sample."""
    def error(p: Parameters) -> float:
        return float(np.square(p.rounded(seen.rows, top) - seen.rows).sum())

    return min(_shares(seen.low, seen.high, top, 1.0), key=error)


def balanced(seen: Seen, weight: np.ndarray, top: int) -> Parameters:
    """For the left operand of products with weight [c, n]: the scales by which their sums err least on the sample, integer
    weights included. Channels are divided by max|x|^a / max|w|^(1-a), for which the weights make up (SmoothQuant, Xiao et al.
    2023, equation 4), each with the best share of the range."""
    x = seen.rows
    wanted = x @ weight
    largest, heaviest = np.abs(x).max(0), np.abs(weight).max(1)
    best, least = Parameters.of(seen.low, seen.high, top), np.inf
    for power in POWERS:
        scale = np.ones(1) if power == 0 else np.maximum(largest, 1e-5)**power / np.maximum(heaviest, 1e-5)**(1 - power)
        scale = scale / np.exp(np.log(scale).mean())
        smooth = x / scale
        q, steps = quantized(weight * scale.reshape(-1, 1), (0,))
        low, high = (seen.low, seen.high) if power == 0 else (float(smooth.min()), float(smooth.max()))
        for p in _shares(low, high, top, 1.0):
            found = float(np.square((p.rounded(smooth, top).astype(np.float32) @ q.astype(np.float32)) * steps - wanted).sum())
            if found < least:
                least, best = found, Parameters(p.scale * (scale if power else 1.0), p.zero)
    return best


def _shares(low: float, high: float, top: int, scale: float) -> Iterator[Parameters]:
    for share in SHRINK:
        yield Parameters.of(low * share, high * share, top, scale)
