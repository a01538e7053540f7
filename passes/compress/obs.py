"""The optimal brain surgeon on the matrix of a layer: what the weights that remain must become when others are fixed.

For a layer y = x W the squared error of its output over all samples is tr(D' H D), with D the change of W and H = x'x. Whatever
D makes it least has a closed form in the inverse of H (Hassibi and Stork 1993, "Second order derivatives for network pruning").
`sweep` fixes the rows of W one after another, as SparseGPT (Frantar and Alistarh 2023, algorithm 1) and GPTQ (Frantar et al.
2023, algorithm 1) do; `eliminate` removes the cheapest rows wherever they stand and computes the error exactly, as in Optimal
Brain Compression (Frantar, Singh and Alistarh 2022, section 4), but many at a time.

W is [k, n], H [k, k]. All is computed in float64, but for `eliminate`: it looks for what to remove in float32, which takes half
the time, and computes what remains anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import linalg

DAMPING = 0.01      # of the mean of H's diagonal, added to it: as in SparseGPT and GPTQ

Settle = Callable[[int, np.ndarray], np.ndarray]        # (row number, the row [n] as it is) -> the row as it will stay
Enter = Callable[[int, np.ndarray, np.ndarray], None]   # (first row, rows [span, n] as they are, their d [span])


def damped(h: np.ndarray, damping: float = DAMPING) -> np.ndarray:
    """H with `damping` times the mean of its diagonal added to it; inputs that were always zero count as that mean."""
    h = np.array(h, np.float64)
    diagonal = np.einsum("ii->i", h)
    mean = diagonal[diagonal > 0].mean() if (diagonal > 0).any() else 1.0
    diagonal[diagonal <= 0] = mean
    diagonal += damping * mean
    return h


def solve(h: np.ndarray, right: np.ndarray) -> np.ndarray:
    """X with h X = right, for a positive definite h. Raises LinAlgError if it is none."""
    return linalg.cho_solve(linalg.cho_factor(h, lower=True, check_finite=False), right, check_finite=False)


def inverse(h: np.ndarray) -> np.ndarray:
    """Of a positive definite matrix, such as `damped` gives."""
    return solve(h, np.eye(len(h)))


def error(change: np.ndarray, h: np.ndarray) -> float:
    """tr(D' H D): the squared error of the output, summed over the samples that H is a sum of."""
    return float(np.einsum("kn,kn->", change, h @ change))


def factor_of(inverse: np.ndarray) -> np.ndarray:
    """U, upper triangular, with U' U = the inverse of H: what `sweep` needs, once for all columns of W."""
    return linalg.cholesky(inverse, lower=False, check_finite=False)


def sweep(w: np.ndarray, factor: np.ndarray, settle: Settle, enter: Enter | None = None, span: int = 128) -> np.ndarray:
    """Settles one row of W after another; what each loses is made up for by the rows that come after it. Returns what the rows
    were settled at. `enter` sees every `span` rows before the first of them is settled: there a mask is chosen, by w^2 / d^2.
    factor: see `factor_of`; d is its diagonal."""
    w = np.array(w, np.float64)
    settled, losses = np.empty_like(w), np.empty((span, w.shape[1]))
    for first in range(0, len(w), span):
        last = min(first + span, len(w))
        if enter is not None:
            enter(first, w[first:last], np.diag(factor)[first:last])
        for i in range(first, last):
            settled[i] = settle(i, w[i])
            losses[i - first] = (w[i] - settled[i]) / factor[i, i]
            w[i:last] -= factor[i, i:last, None] * losses[i - first]
        w[last:] -= factor[first:last, last:].T @ losses[: last - first]
    return settled


def least_squares(w: np.ndarray, h: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """W with the rows outside of `kept` (bool [k]) at zero, and the others as the error tr(D' H D) is least."""
    out = np.zeros_like(w, np.float64)
    if kept.any():
        here = h[kept]
        out[kept] = solve(here[:, kept], here @ w)
    return out


@dataclass
class Elimination:
    """The rows `left` (indices) of a matrix whose other rows have been removed, with the values `w` that make up for it best.
    `error` is what that has cost: tr(D' H D) against the first W, exactly."""

    left: np.ndarray
    w: np.ndarray
    inverse: np.ndarray         # of H restricted to `left`
    error: float = 0.0

    def scores(self, unit: np.ndarray) -> np.ndarray:
        """What the removal of each unit alone would cost; unit: the number of the unit of each row in `left`, in order and
        without gaps, so that equal numbers stand together."""
        starts = np.flatnonzero(np.diff(unit, prepend=-1))
        sizes = np.diff(np.append(starts, len(unit)))
        out = np.empty(len(starts))
        for size in np.unique(sizes):
            which = np.flatnonzero(sizes == size)
            rows = starts[which, None] + np.arange(size)
            blocks = self.inverse[rows[:, :, None], rows[:, None, :]]
            values = self.w[rows]
            out[which] = np.einsum("usn,usn->u", values, np.linalg.solve(blocks, values))
        return out

    def remove(self, gone: np.ndarray) -> None:
        """gone: bool for each row in `left`."""
        kept, gone = np.flatnonzero(~gone), np.flatnonzero(gone)
        stay = self.inverse.take(kept, axis=0)
        cross = stay.take(gone, axis=1)
        factor = linalg.cho_factor(self.inverse[np.ix_(gone, gone)], lower=True, check_finite=False)
        pull = linalg.cho_solve(factor, self.w[gone], check_finite=False)
        self.error += float(np.vdot(self.w[gone], pull))
        self.w = self.w[kept] - cross @ pull
        self.inverse = stay.take(kept, axis=1)
        self.inverse -= cross @ linalg.cho_solve(factor, cross.T, check_finite=False)
        self.left = self.left[kept]


def eliminate(w: np.ndarray, inverse: np.ndarray, step: int, period: int, kept: int, pace: float = 0.2) -> Iterator[Elimination]:
    """Removes units of `step` consecutive rows, the cheapest first, until of every `period` units in a row `kept` are left.
    Each round removes a share `pace` of the units that are left, and yields what has become of the matrix (the same object).
    inverse: of H, in the precision that is to be computed in. A pace of 0.05 errs by 1 to 2 % less and takes twice as long."""
    k = len(w)
    state = Elimination(np.arange(k), w.astype(inverse.dtype), inverse)
    count = -(-k // step)
    spare = np.array([max(0, min(period, count - first) - kept) for first in range(0, count, period)])
    yield state
    while spare.any():
        units, unit = np.unique(state.left // step, return_inverse=True)
        scores = state.scores(unit)
        at = units // period
        room = max(1, round(pace * len(units)))
        gone = []
        for u in np.argsort(scores, kind="stable"):
            if spare[at[u]] > 0:
                spare[at[u]] -= 1
                gone.append(u)
                if len(gone) == room:
                    break
        state.remove(np.isin(unit, gone))
        yield state
