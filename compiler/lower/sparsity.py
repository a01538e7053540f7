"""The pattern of zeros in a constant weight, as a kernel can use it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def pattern(weight: np.ndarray, step: int) -> Mapping[str, int]:
    """Parameters of a task whose weight [k, n] has whole blocks of `step` steps of the reduction by `group` output channels that
    are zero: {"group": channels that share their zeros, "kept": blocks that are not zero}; {} where too few are zero to gain
    by it."""
    return {}
