"""How sparse each layer is, under a budget of multiplications for all: where one more zero costs each layer the same.

LPViT (Xu et al. 2024, section 3) finds the sparsities at which the slopes of all layers' error are equal, by bisection of the
slope. So do we, on the lower convex hull of each layer's curve, along which a slope belongs to one density. Their error is of
second order in the gradients of the whole model; ours is the layer's own, which its Hessian gives exactly, times what an error of
this layer was measured to do to the model's output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

BISECTIONS = 60


@dataclass(frozen=True)
class Curve:
    """What pruning a layer costs. densities: rising, the last is 1; costs: the squared error of the model's output (relative)
    that is expected at each, the last is 0; macs: multiply-adds of the dense layer."""

    densities: tuple[float, ...]
    costs: tuple[float, ...]
    macs: float

    def cost(self, density: float) -> float:
        return float(np.interp(density, self.densities, self.costs))

    def hull(self) -> tuple[np.ndarray, np.ndarray]:
        """The corners of the curve's lower convex hull: densities and costs."""
        corners: list[tuple[float, float]] = []
        for x, y in zip(self.densities, self.costs, strict=True):
            while len(corners) > 1 and _above(corners[-2], corners[-1], (x, y)):
                corners.pop()
            corners.append((x, y))
        xs, ys = zip(*corners, strict=True)
        return np.array(xs), np.array(ys)


def _above(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Is b on or above the line from a to c?"""
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])


def allocate(curves: Mapping[str, Curve], share: float) -> dict[str, float]:
    """A density for each layer, so that `share` of all their multiply-adds are left at the least expected error; exactly, unless
    the layers' least densities make for more."""
    hulls = {name: (*c.hull(), c.macs) for name, c in curves.items()}
    budget = share * sum(c.macs for c in curves.values())

    def at(price: float) -> dict[str, tuple[float, float]]:
        """The densities, from and to, at which a layer gains as much by a multiply-add as it costs."""
        return {name: _range(xs, ys, price * macs) for name, (xs, ys, macs) in hulls.items()}

    def macs_of(densities: Mapping[str, float]) -> float:
        return sum(d * curves[name].macs for name, d in densities.items())

    slopes = [float(np.max(-np.diff(ys) / np.diff(xs))) / macs for xs, ys, macs in hulls.values() if len(xs) > 1]
    low, high = 0.0, 2 * max(slopes, default=0.0) + 1e-300      # at no price all is kept, at the highest as little as can be
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if macs_of({name: d for name, (d, _) in at(middle).items()}) > budget:
            low = middle
        else:
            high = middle
    fewest, most = ({name: r[end] for name, r in at(price).items()} for end, price in ((0, high), (1, low)))
    gap = macs_of(most) - macs_of(fewest)
    part = np.clip((budget - macs_of(fewest)) / gap, 0, 1) if gap > 0 else 0.0
    return {name: float(fewest[name] + part * (most[name] - fewest[name])) for name in curves}


def _range(xs: np.ndarray, ys: np.ndarray, price: float) -> tuple[float, float]:
    """Least and greatest x of the hull at which y + price x is least."""
    total = ys + price * xs
    best = np.flatnonzero(total <= total.min() + 1e-12 * abs(total.min()))
    return float(xs[best[0]]), float(xs[best[-1]])
