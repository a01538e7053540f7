"""What lowerings of the family `rows` share: how axes split into rows and what is reduced along each, and in which type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...schedules.expr import FLOATS, Expr, const, indices, var
from ...schedules.task import Stage
from .registry import Anchor, Output

Index = tuple[Expr, ...]
Element = Callable[[Index, Index], Expr]


@dataclass(frozen=True)
class Rows:
    """An iteration space of rows and the reduction along each; empty ones are held as a single step.

    lanes_on: which of the two ends in the axis that is contiguous in memory, "space" or "reduce".
    """

    space: tuple[int, ...]
    reduce: tuple[int, ...]
    lanes_on: str

    @property
    def row(self) -> Index:
        """i0, i1, … of a row."""
        return indices(len(self.space))

    @property
    def step(self) -> Index:
        """r0, r1, … of a stage."""
        return indices(len(self.reduce), "r")

    @property
    def element(self) -> Index:
        """The reduction position in a store over space and reduction."""
        return indices(len(self.space) + len(self.reduce))[len(self.space):]

    def stage(self, op: str, value: Element) -> Stage:
        return Stage(op, value(self.row, self.step))

    def anchor(self, stages: Iterable[Stage], *outputs: Output, elementwise: bool = False) -> Anchor:
        """elementwise: the outputs are stored over space and reduction."""
        space = (*self.space, *self.reduce) if elementwise else self.space
        return Anchor("rows", space, outputs, {"space": self.space, "reduce": self.reduce, "lanes_on": self.lanes_on}, {},
                      tuple(stages))


def result(n: int, dtype: str) -> Expr:
    """The result of stage n."""
    return var(f"s{n}", dtype)


def wide(dtype: str) -> str:
    """The type in which sums of `dtype` are taken: half precision in float32, all else in its own."""
    return "float32" if dtype == "float16" else dtype


def lowest(dtype: str) -> Expr:
    """What every number is at least: the identity of max."""
    return const(-np.inf if dtype in FLOATS else np.iinfo(dtype).min, dtype)


def highest(dtype: str) -> Expr:
    return const(np.inf if dtype in FLOATS else np.iinfo(dtype).max, dtype)


@dataclass(frozen=True)
class Split:
    """The axes of `shape`, apart: those in `axes` are reduced, the others are the rows. Axes of size 1 take no loop."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def rows(self) -> Rows:
        long = [a for a, n in enumerate(self.shape) if n > 1]
        inner = "reduce" if long and long[-1] in self.axes else "space"
        return Rows(self._extents(self._kept), self._extents(self._reduced), inner)

    @property
    def _kept(self) -> list[int]:
        return [a for a, n in enumerate(self.shape) if a not in self.axes and n != 1]

    @property
    def _reduced(self) -> list[int]:
        return [a for a in self.axes if self.shape[a] != 1]

    def _extents(self, axes: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.shape[a] for a in axes) or (1,)

    @property
    def count(self) -> int:
        """How many elements each row reduces."""
        return int(np.prod([self.shape[a] for a in self.axes], dtype=np.int64))

    def index(self, row: Index, step: Index | None = None) -> Index:
        """The index into `shape`; with no step, reduced axes stand at 0."""
        at: list[Expr] = [const(0, "int32")] * len(self.shape)
        for a, e in zip(self._kept, row, strict=False):
            at[a] = e
        for a, e in zip(self._reduced, step or (), strict=False):
            at[a] = e
        return tuple(at)


def split(shape: Sequence[int], axes: Iterable[int]) -> Split:
    """Axes may be negative."""
    return Split(tuple(shape), tuple(sorted({a % len(shape) for a in axes})))


