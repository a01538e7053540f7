"""What is observed of a layer's input: the sums that tell which errors of its weights matter, and the largest of each channel."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ...passes.base import shape
from ...passes.compress.layers import Layer
from .calibration import Observer

ROWS, EACH = 2048, 4        # rows looked at over all samples, at least, and more for each step of the reduction
LONGEST = 2048              # steps of a reduction whose [k, k] is gathered: more take minutes, and gigabytes


@dataclass
class Gram:
    """square: sums of x'x [groups, k, k]; total: of x [groups, k]; over `count` rows."""

    layer: Layer
    rows: int
    square: np.ndarray
    total: np.ndarray
    count: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @classmethod
    def of(cls, layer: Layer, samples: int) -> Gram:
        groups, k, _ = layer.matrix.shape
        return cls(layer, math.ceil((ROWS + EACH * k) / samples), np.zeros((groups, k, k)), np.zeros((groups, k)))

    def update(self, array: np.ndarray) -> None:
        """array: the layer's input."""
        groups, _, n = self.layer.matrix.shape
        there = math.prod(shape(self.layer.output) or ()) // (groups * n)
        some = None if there <= self.rows else np.sort(self.rng.choice(there, self.rows, replace=False))
        rows = self.layer.rows(array, some)
        self.square += rows.transpose(0, 2, 1) @ rows
        self.total += rows.sum(axis=1, dtype=np.float64)
        self.count += rows.shape[1]

    def hessian(self, group: int, centred: bool) -> np.ndarray:
        """Of the squared error over all rows, [k, k]; of the error about its mean where a bias takes care of that."""
        square, total = self.square[group], self.total[group]
        return square - np.outer(total, total / max(1, self.count)) if centred else square


@dataclass
class Largest:
    """An Observer of the largest |x| of each channel; axis: of the channels."""

    axis: int
    found: np.ndarray = field(default_factory=lambda: np.zeros(1, np.float32))

    def update(self, array: np.ndarray) -> None:
        others = tuple(a for a in range(array.ndim) if a != self.axis % array.ndim)
        self.found = np.maximum(self.found, np.abs(array).max(axis=others))


@dataclass
class All:
    """An Observer that shows an array to several."""

    observers: list[Observer]

    @classmethod
    def by_name(cls, pairs: Iterable[tuple[str, Observer]]) -> dict[str, All]:
        found: dict[str, All] = {}
        for name, observer in pairs:
            found.setdefault(name, cls([])).observers.append(observer)
        return found

    def update(self, array: np.ndarray) -> None:
        for observer in self.observers:
            observer.update(array)
