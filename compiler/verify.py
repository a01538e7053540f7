"""Is the artifact's output onnxruntime's?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .errors import VerificationError
from .sample import Oracle, relative_error

TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "float16": 1e-2}     # of the output's scale; integers and booleans: equal
NOISE = 4       # an output may differ by this many times what onnxruntime differs from itself


@dataclass(frozen=True)
class Difference:
    """error: as `relative_error`."""

    name: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance

    def __str__(self) -> str:
        return f"{self.name}: error {self.error:.2e} of the output's scale, allowed {self.tolerance:.0e}"


def difference(name: str, got: np.ndarray, expected: np.ndarray, noise: float = 0.0) -> Difference:
    """noise: the oracle's own."""
    tolerance = max(TOLERANCE.get(str(expected.dtype), 0.0), NOISE * noise)
    if got.shape != expected.shape or got.dtype != expected.dtype:
        found, wanted = (f"{a.dtype}{list(a.shape)}" for a in (got, expected))
        return Difference(f"{name} ({found} instead of {wanted})", np.inf, tolerance)
    return Difference(name, relative_error(got, expected), tolerance)


def verify(names: Sequence[str], got: Sequence[np.ndarray], expected: Oracle) -> float:
    """The largest error of all outputs; raises VerificationError where one is past its tolerance."""
    found = [difference(*x) for x in zip(names, got, expected.outputs, expected.noise, strict=True)]
    wrong = [str(d) for d in found if not d.ok]
    if wrong:
        raise VerificationError("the artifact's output differs from onnxruntime's: " + "; ".join(wrong))
    return max((d.error for d in found), default=0.0)
