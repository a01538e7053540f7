"""Discrete Fourier transforms as sums over a table of roots of unity: N² for a length of N, which frames of speech can afford."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...schedules.expr import Expr, cast, equal, floormod, select
from .registry import ANCHOR, Anchor, Context, Output, lowering
from .rows import Rows, result, wide
from .tensor import Tensor

Index = tuple[Expr, ...]
MAX_LENGTH = 1 << 15    # frequency times position stays below 2^31


def roots(ctx: Context, n: int, dtype: str) -> Tensor:
    """[n, 2]: the cosine and sine of 2 pi m / n."""
    if n > MAX_LENGTH:
        ctx.refuse(f"a transform of length {n}", f"burnish transforms at most {MAX_LENGTH} points")
    angle = 2 * np.pi * np.arange(n) / n
    return ctx.constant(np.stack([np.cos(angle), np.sin(angle)], 1).astype(dtype))


def transform(ctx: Context, shape: tuple[int, ...], axis: int, length: int, count: int, dtype: str,
              sample: Callable[[Index, Expr, int], Expr | None], backward: bool = False) -> Anchor:
    """out[…, k, …, c] = sum over p < count of sample(p) e^(-+ 2 pi i k p / length), real part at c = 0 and imaginary at c = 1.

    sample(index, p, part) is the real (0) or imaginary (1) part of what is summed, None where it is zero. `backward` has the
    other sign and divides by the length.
    """
    table, rows = roots(ctx, length, dtype), Rows(shape, (count,), "space")

    def term(index: Index, step: Index) -> Expr:
        (p,) = step
        m = floormod(index[axis] * p, length)
        cosine, sine = table.at([m, 0]), table.at([m, 1])
        if not backward:
            sine = -sine
        real, imaginary = sample(index, p, 0), sample(index, p, 1)
        assert real is not None
        re, im = real * cosine, real * sine
        if imaginary is not None:
            re, im = re - imaginary * sine, im + imaginary * cosine
        return re if shape[-1] == 1 else select(equal(index[-1], 0), re, im)

    value = result(0, dtype) * (1 / length) if backward else result(0, dtype)
    return rows.anchor([rows.stage("sum", term)], Output(rows.row, cast(value, ctx.output_dtype())))


@lowering("DFT", kind=ANCHOR, rereads=True)
def dft(ctx: Context) -> Anchor:
    x, dtype = ctx.input(0), wide(ctx.input(0).dtype)
    axis = int(np.asarray(ctx.known(2, "the axis")).reshape(())) % len(x.shape) if ctx.has(2) else len(x.shape) - 2
    backward, one_sided = bool(ctx.attr("inverse", 0)), bool(ctx.attr("onesided", 0))
    shape = ctx.output_shape()
    to_real = backward and one_sided
    length = int(np.asarray(ctx.known(1, "the length")).reshape(())) if ctx.has(1) else (
        2 * (x.shape[axis] - 1) if to_real else x.shape[axis])
    count = min(x.shape[axis], length // 2 + 1 if to_real else length)

    def sample(index: Index, p: Expr, part: int) -> Expr | None:
        if part >= x.shape[-1]:
            return None
        value = cast(x.at([*index[:axis], p, *index[axis + 1:-1], part]), dtype)
        if not to_real:
            return value
        alone = equal(p, 0) if length % 2 else equal(floormod(p, length // 2), 0)    # the others stand for their conjugates too
        return select(alone, value, value + value)
    return transform(ctx, shape, axis, length, count, dtype, sample, backward)


@lowering("STFT", kind=ANCHOR, rereads=True)
def stft(ctx: Context) -> Anchor:
    """signal [batch, length, 1 or 2] -> [batch, frames, frequencies, 2]."""
    x, shape, dtype = ctx.input(0), ctx.output_shape(), wide(ctx.input(0).dtype)
    step = int(np.asarray(ctx.known(1, "the frame step")).reshape(()))
    window = ctx.input(2) if ctx.has(2) else None
    length = int(np.asarray(ctx.known(3, "the frame length")).reshape(())) if ctx.has(3) else (
        window.shape[0] if window is not None else x.shape[1])

    def sample(index: Index, p: Expr, part: int) -> Expr | None:
        if part >= x.shape[-1]:
            return None
        value = cast(x.at([index[0], index[1] * step + p, part]), dtype)
        return value if window is None else value * cast(window.at([p]), dtype)
    return transform(ctx, shape, 2, length, length, dtype, sample)
