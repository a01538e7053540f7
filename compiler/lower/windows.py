"""Sliding windows: where convolutions and pools read, in either layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...schedules.expr import Expr, add, all_of, clip, const, mul, select
from .registry import Context
from .tensor import Tensor

Index = tuple[Expr, ...]


@dataclass(frozen=True)
class Layout:
    """Where the channels stand: behind the spatial axes (the `burnish` ops of the layout pass) or in front of them (ONNX)."""

    channels_last: bool

    def channels(self, shape: Sequence[int]) -> int:
        return shape[-1] if self.channels_last else shape[1]

    def spatial(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape[1:-1] if self.channels_last else shape[2:])

    def index(self, n: Expr, c: Expr, spatial: Index) -> Index:
        return (n, *spatial, c) if self.channels_last else (n, c, *spatial)

    def take(self, index: Index) -> tuple[Expr, Expr, Index]:
        """The parts of an index: batch, channel, position."""
        return (index[0], index[-1], tuple(index[1:-1])) if self.channels_last else (index[0], index[1], tuple(index[2:]))


def layout_of(ctx: Context) -> Layout:
    return Layout(ctx.node.domain == "burnish")


@dataclass(frozen=True)
class Windows:
    """A window over each spatial axis: kernel, stride, dilation, padding in front, and the extents of input and output."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    input: tuple[int, ...]
    output: tuple[int, ...]

    @classmethod
    def of(cls, ctx: Context, kernel: Sequence[int], source: Sequence[int], target: Sequence[int]) -> Windows:
        """From the node's attributes; `auto_pad` is resolved from the sizes."""
        rank = len(source)
        strides = tuple(ctx.attr("strides") or (1,) * rank)
        dilations = tuple(ctx.attr("dilations") or (1,) * rank)
        auto = ctx.attr("auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = [max(0, (o - 1) * s + (k - 1) * d + 1 - i)
                     for o, s, k, d, i in zip(target, strides, kernel, dilations, source, strict=True)]
            small = [t // 2 for t in total]
            large = [t - t // 2 for t in total]
            before, after = (small, large) if auto == "SAME_UPPER" else (large, small)
        else:
            pads = list(ctx.attr("pads") or [0] * (2 * rank)) if auto == "NOTSET" else [0] * (2 * rank)
            before, after = pads[:rank], pads[rank:]
        return cls(tuple(kernel), strides, dilations, tuple(before), tuple(after), tuple(source), tuple(target))

    @property
    def rank(self) -> int:
        return len(self.kernel)

    @property
    def pointwise(self) -> bool:
        """One tap per output, at the same place."""
        return self.input == self.output and all(k == s == 1 for k, s in zip(self.kernel, self.strides, strict=True)) and not any(
            self.before)

    def position(self, output: Index, tap: Index) -> tuple[Index, Expr]:
        """The input position that a tap reads, clamped into range, and whether it was in range."""
        position, inside = [], []
        for axis in range(self.rank):
            s, d, p, k = self.strides[axis], self.dilations[axis], self.before[axis], self.kernel[axis]
            at = add(add(mul(output[axis], s), mul(tap[axis], d)), -p)
            last = (self.output[axis] - 1) * s + (k - 1) * d - p
            low, high = p > 0, last >= self.input[axis]
            if low:
                inside.append(at >= 0)
            if high:
                inside.append(at < self.input[axis])
            position.append(clip(at, 0, self.input[axis] - 1) if low or high else at)
        return tuple(position), all_of(inside)

    def read(self, x: Tensor, layout: Layout, n: Expr, c: Expr, output: Index, tap: Index, padding: Expr) -> Expr:
        """What a tap of the window reads; `padding` outside of the input."""
        position, inside = self.position(output, tap)
        return select(inside, x.at(layout.index(n, c, position)), padding)

    def counts(self, include_padding: bool) -> np.ndarray:
        """How many taps count at each output position: those inside the input or, if wanted, inside the padded input."""
        result = np.ones((1,) * self.rank, np.int64)
        for axis in range(self.rank):
            at = (np.arange(self.output[axis])[:, None] * self.strides[axis] - self.before[axis]
                  + np.arange(self.kernel[axis])[None] * self.dilations[axis])
            low, high = (-self.before[axis], self.input[axis] + self.after[axis]) if include_padding else (0, self.input[axis])
            count = ((at >= low) & (at < high)).sum(1)
            result = result * count.reshape([-1 if a == axis else 1 for a in range(self.rank)])
        return result

    def touches_input(self) -> bool:
        """Clamping a tap into range keeps it in its own window: every window overlaps the input and has no holes."""
        dense = all(d == 1 or k == 1 for d, k in zip(self.dilations, self.kernel, strict=True))
        return dense and bool((self.counts(False) > 0).all())

    def tap(self, flat: Expr) -> Index:
        """The tap of a flat position in the window."""
        result: list[Expr] = []
        for axis in range(self.rank):
            inner = int(np.prod(self.kernel[axis + 1:]))
            q = flat // inner if inner > 1 else flat
            result.append(q % self.kernel[axis] if axis else q)
        return tuple(const(0, "int32") if k == 1 else t for k, t in zip(self.kernel, result, strict=True))
