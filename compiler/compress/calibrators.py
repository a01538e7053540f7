"""The range in which a value's integers lie, from all that the value was on the calibration data.

A histogram of each value grows while samples stream through; a method then picks the range: all that was seen ("min-max"), all
but the rarest ("percentile:99.99"), where the distribution loses the least information ("entropy"), or where the squared error of
the rounding is least ("error"). Percentile and entropy are defined as in `onnxruntime.quantization.calibrate`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

BINS = 4096
KEPT = 1 << 16      # elements of one array that are counted, evenly spread; its range is that of all
CODES = 128         # of the coarse distribution that the entropy method compares with
CANDIDATES = 128    # thresholds that it tries
SHRINK = np.geomspace(1.0, 0.03, 48)

Range = tuple[float, float]


@dataclass
class Histogram:
    """An Observer. Bins are `width` wide, a power of two that doubles as needed, and one starts at zero: so counts of wider bins
    are sums of counts, and the order of samples makes no difference but for the first, which sets the finest width."""

    low: float = math.inf
    high: float = -math.inf
    width: float = 0.0
    first: int = 0      # the first bin starts at first * width
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def update(self, array: np.ndarray) -> None:
        a = np.asarray(array, np.float32).ravel()
        if not a.size:
            return
        low, high = float(a.min()), float(a.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        if a.size > KEPT:
            a = a[::a.size // KEPT | 1]     # an odd step does not hit the same column again and again
        reach = max(abs(self.low), abs(self.high), float(np.finfo(np.float32).tiny))
        if not self.width:
            self.width = 2.0 ** math.ceil(math.log2(reach / (BINS // 2)))
        while self._bin(self.high) - self._bin(self.low) >= BINS:
            self._halve()
        self._cover(self._bin(self.low), self._bin(self.high))
        self.counts += np.bincount(np.floor(a / np.float32(self.width)).astype(np.int64) - self.first, minlength=self.counts.size)

    def _bin(self, value: float) -> int:
        return math.floor(value / self.width)

    def _halve(self) -> None:
        """Twice as wide bins."""
        self.width *= 2
        if self.counts.size:
            padded = np.pad(self.counts, (self.first % 2, (self.first + self.counts.size) % 2))
            self.counts, self.first = padded.reshape(-1, 2).sum(axis=1), self.first // 2

    def _cover(self, start: int, last: int) -> None:
        if not self.counts.size:
            self.first, self.counts = start, np.zeros(last - start + 1, np.int64)
            return
        before, after = max(0, self.first - start), max(0, last - (self.first + self.counts.size - 1))
        self.counts, self.first = np.pad(self.counts, (before, after)), self.first - before

    @property
    def centres(self) -> np.ndarray:
        """float64, the middle of each bin."""
        return (self.first + np.arange(self.counts.size) + 0.5) * self.width


@dataclass(frozen=True)
class Grid:
    """The integers 0..top as real numbers: (q - zero) * scale."""

    scale: float
    zero: int
    top: int = 255

    @classmethod
    def of(cls, found: Range, top: int = 255, symmetric: bool = False) -> Grid:
        """That covers the range and has a zero, without which padding and relu would not be exact. symmetric: zero in the middle
        of all codes."""
        low, high = min(found[0], 0.0), max(found[1], 0.0)
        if symmetric:
            zero = (top + 1) // 2
            scale = max(-low / zero, high / (top - zero))
        else:
            scale = (high - low) / top
            zero = round(-low / scale) if scale > 0 else 0
        scale = float(np.float32(scale))
        return cls(scale, zero, top) if scale > np.finfo(np.float32).tiny else cls(1.0, 0, top)

    def round(self, x: np.ndarray) -> np.ndarray:
        """What remains of real numbers."""
        return (np.clip(np.rint(x / self.scale) + self.zero, 0, self.top) - self.zero) * self.scale


Method = Callable[[Histogram, int, bool], Range]        # what was seen, largest code, zero in the middle? -> the range


def method(name: str) -> Method:
    """By name: "min-max", "percentile:99.9" (99.99 where no number is given), "entropy", "error". Raises ValueError."""
    found = re.fullmatch(r"(min-max|percentile|entropy|error)(?::(\d+(?:\.\d+)?))?", name)
    if found is None or (found[2] and (found[1] != "percentile" or not 50 < float(found[2]) <= 100)):
        raise ValueError(f"{name!r} is no calibrator: there are min-max, percentile:99.99 (50 to 100), entropy and error")
    share = float(found[2] or 99.99)
    return {"min-max": min_max, "percentile": lambda h, top, symmetric: percentile(h, share, symmetric),
            "entropy": entropy, "error": least_error}[found[1]]


def min_max(h: Histogram, top: int = 255, symmetric: bool = False) -> Range:
    return h.low, h.high


def percentile(h: Histogram, share: float, symmetric: bool = False) -> Range:
    """The range that `share` per cent of the elements are in: half of the others are beyond each end, or, where zero is to be in
    the middle, all of the others are further from zero."""
    if symmetric:
        reach = _quantile(*_absolute(h), share / 100)
        return max(-reach, h.low), min(reach, h.high)
    tail = (1 - share / 100) / 2
    edges = (h.first + np.arange(h.counts.size + 1)) * h.width
    return max(_quantile(h.counts, edges, tail, upper=False), h.low), min(_quantile(h.counts, edges, 1 - tail), h.high)


def _quantile(counts: np.ndarray, edges: np.ndarray, share: float, upper: bool = True) -> float:
    """The upper or lower edge of the bin in which this share of all is reached."""
    place = int(np.searchsorted(np.cumsum(counts) / counts.sum(), share))
    return float(edges[min(place + upper, counts.size)])


def _absolute(h: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """Counts of |x| and the edges of their bins."""
    bins = h.first + np.arange(h.counts.size)
    place = np.where(bins < 0, -bins - 1, bins)
    counts = np.bincount(place, h.counts)
    return counts, np.arange(counts.size + 1) * h.width


def entropy(h: Histogram, top: int = 255, symmetric: bool = False) -> Range:
    """Of thresholds T for |x|, that where the distribution in T, with all beyond it at its edge, is nearest to itself in 128
    steps, by the Kullback-Leibler divergence (Migacz 2017, "8-bit inference with TensorRT")."""
    counts, edges = _absolute(h)
    if counts.size <= CODES:
        return h.low, h.high
    least, reach = math.inf, edges[-1]
    for size in np.unique(np.linspace(CODES, counts.size, CANDIDATES).astype(int)):
        p = counts[:size].astype(np.float64)
        place = np.minimum(np.arange(size) // (size // CODES), CODES - 1)
        there = p > 0
        steps = np.bincount(place, p) / np.maximum(np.bincount(place, there), 1)
        q = np.where(there, steps[place], 0.0)
        p[-1] += counts[size:].sum()
        found = _divergence(p, q)
        if found < least:
            least, reach = found, edges[size]
    return max(-reach, h.low), min(reach, h.high)


def _divergence(p: np.ndarray, q: np.ndarray, little: float = 1e-4) -> float:
    """Of two distributions, given as counts; empty bins get a little from the others, for a divergence that is finite."""
    p, q = (np.where(d > 0, d - little * (d == 0).sum() / max(1, (d > 0).sum()), little) for d in (p, q))
    if (q <= 0).any() or (p <= 0).any():
        return math.inf
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


def least_error(h: Histogram, top: int = 255, symmetric: bool = False) -> Range:
    """Both ends drawn in by the same share, then each by itself, to where the mean squared error of rounding and clipping is
    least."""
    x, counts = h.centres, h.counts
    full = min(h.low, 0.0), max(h.high, 0.0)

    def cost(found: Range) -> float:
        return float((counts * (x - Grid.of(found, top, symmetric).round(x)) ** 2).sum())
    best = min(((full[0] * s, full[1] * s) for s in SHRINK), key=cost)
    best = min(((best[0], full[1] * s) for s in SHRINK), key=cost)
    return min(((full[0] * s, best[1]) for s in SHRINK), key=cost)
