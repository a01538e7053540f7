"""What samples of a time say, and how far two results are apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def typical(samples: Sequence[float] | np.ndarray) -> float:
    """The lower quartile of some times: other work on the machine only adds to them, so that it is steadier than the median."""
    return float(sorted(samples)[(len(samples) - 1) // 4])


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest |got - expected| over the largest |expected| (absolute where that is 0); inf where one has a NaN or an infinity
    that the other has not."""
    if got.size == 0:
        return 0.0
    a, b = got.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(np.isfinite(a), finite) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return np.inf
    a, b = a[finite], b[finite]
    if a.size == 0:
        return 0.0
    scale = np.abs(b).max()
    return float(np.abs(a - b).max() / (scale if scale > 0 else 1.0))
