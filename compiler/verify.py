"""Is the artifact's output onnxruntime's?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .errors import VerificationError

TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "float16": 1e-2}     # of the output's scale; integers and booleans: equal


@dataclass(frozen=True)
class Difference:
    """error: the largest |got - expected| over the largest |expected| (absolute where that is 0); inf where one has a NaN or an
    infinity that the other has not."""

    name: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance

    def __str__(self) -> str:
        return f"{self.name}: error {self.error:.2e} of the output's scale, allowed {self.tolerance:.0e}"


def difference(name: str, got: np.ndarray, expected: np.ndarray) -> Difference:
    tolerance = TOLERANCE.get(str(expected.dtype), 0.0)
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return Difference(f"{name} ({got.dtype}{list(got.shape)} instead of {expected.dtype}{list(expected.shape)})", np.inf, tolerance)
    if got.size == 0:
        return Difference(name, 0.0, tolerance)
    a, b = got.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(np.isfinite(a), finite) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return Difference(name, np.inf, tolerance)
    a, b = a[finite], b[finite]
    if a.size == 0:
        return Difference(name, 0.0, tolerance)
    scale = np.abs(b).max()
    return Difference(name, float(np.abs(a - b).max() / (scale if scale > 0 else 1.0)), tolerance)


def verify(names: Sequence[str], got: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest error of all outputs; raises VerificationError where one is past its tolerance."""
    found = [difference(n, g, e) for n, g, e in zip(names, got, expected, strict=True)]
    wrong = [str(d) for d in found if not d.ok]
    if wrong:
        raise VerificationError("the artifact's output differs from onnxruntime's: " + "; ".join(wrong))
    return max((d.error for d in found), default=0.0)
