"""The pattern of zeros in a constant weight, as a kernel can use it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

GROUPS = (64, 48, 32, 16, 8, 4)     # channels; vectors of the targets and a few times as many
WORTH = 0.3         # share of blocks of zeros from which on a kernel that skips them may be faster
NEARLY = 1.1        # times as many weights as the smallest group keeps may a larger one, as it multiplies them faster
SCATTERED = 2       # times what a weight in a block costs does one by itself, on WebAssembly; three times with AVX-512


def pattern(weight: np.ndarray, step: int, scattered: bool = False) -> Mapping[str, int]:
    """Parameters of a task whose weight [k, n] has whole blocks of `step` steps of the reduction by `group` output channels that
    are zero: {"group": channels that share their zeros, "kept": blocks that are not zero of a group, on average and rounded up};
    {} where too few are zero to gain by it. The last block and the last group may be smaller. scattered: is there a kernel for
    zeros anywhere (of floats)? Where these are many, but not in blocks, the group is 1."""
    k, n = weight.shape
    if np.count_nonzero(weight) > (1 - WORTH) * weight.size or 0 in weight.shape:
        return {}
    kept = {group: density(weight, step, group) for group in GROUPS if group < 2 * n or group == GROUPS[-1]}
    group = next(g for g in kept if kept[g] <= NEARLY * min(kept.values()))
    each = np.count_nonzero(weight) / weight.size
    if scattered and step == 1 and SCATTERED * each < min(kept[group], 1 - WORTH):
        kept, group = {1: each}, 1
    if kept[group] > 1 - WORTH:
        return {}
    return {"group": group, "kept": int(np.ceil(kept[group] * -(-k // step) - 1e-9))}


def density(weight: np.ndarray, step: int, group: int) -> float:
    """The share of blocks that are not zero."""
    k, n = weight.shape
    whole = np.pad(weight != 0, [(0, -k % step), (0, -n % group)])
    return float(whole.reshape(-(-k // step), step, -(-n // group), group).any(axis=(1, 3)).mean())
