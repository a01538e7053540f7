"""A tensor while a group is lowered: its shape, its dtype, and the expression of any one element."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...schedules import expr as x
from ...schedules.expr import Expr, Operand

Index = Sequence[Operand]


@dataclass(frozen=True, eq=False)
class Tensor:
    """`at(index)` is the element at `index` (one int32 expression per axis, always in range). The same index gives the same
    object: a value that is used twice stays one value, however many nodes it passes through."""

    shape: tuple[int, ...]
    dtype: str
    element: Callable[[tuple[Expr, ...]], Expr]
    _known: dict[tuple[Any, ...], Expr] = field(default_factory=dict, init=False, repr=False)

    def at(self, index: Index) -> Expr:
        if len(index) != len(self.shape):
            raise ValueError(f"{len(index)} indices for a tensor of shape {self.shape}")
        place = tuple(x.const(0, "int32") if s == 1 else x.as_expr(i, "int32") for i, s in zip(index, self.shape, strict=True))
        key = tuple(i.value if i.op == "const" else i for i in place)
        if key not in self._known:
            self._known[key] = self.element(place)
        return self._known[key]

    def broadcast_at(self, index: Index) -> Expr:
        """The element that numpy's broadcasting to the index's rank reads (axes of size 1 stand still)."""
        return self.at(index[len(index) - len(self.shape):])

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def map(self, function: Callable[[Expr], Expr], dtype: str | None = None) -> Tensor:
        return Tensor(self.shape, dtype or self.dtype, lambda index: function(self.at(index)))

    def reshape(self, shape: tuple[int, ...]) -> Tensor:
        return Tensor(shape, self.dtype, lambda index: self.at(reindex(index, shape, self.shape)))


def reindex(index: Index, source: Sequence[int], target: Sequence[int]) -> tuple[Expr, ...]:
    """The index into shape `target` of the element that has `index` in shape `source` (equal sizes, row-major).

    Axes are matched in the smallest groups of equal product, so that divisions appear only where axes really merge or split:
    (196, 64) -> (1, 14, 14, 64) divides the first axis and leaves the last alone.
    """
    if 0 in source:     # there is no element to find
        return (x.const(0, "int32"),) * len(target)
    result: list[Expr] = []
    i = j = 0
    while i < len(source) or j < len(target):
        i0, j0 = i, j
        a = source[i] if i < len(source) else 1
        b = target[j] if j < len(target) else 1
        i, j = min(i + 1, len(source)), min(j + 1, len(target))
        while a != b:
            if a < b:
                a, i = a * source[i], i + 1
            else:
                b, j = b * target[j], j + 1
        while i < len(source) and source[i] == 1 and j == len(target):
            i += 1
        flat: Expr = x.const(0, "int32")
        for n in range(i0, i):
            flat = x.add(x.mul(flat, source[n]), index[n] if source[n] != 1 else 0)
        rest = a
        for n in range(j0, j):
            rest //= max(1, target[n])
            part = x.floordiv(flat, rest) if rest else flat
            leading = math.prod(target[j0:n]) == 1     # nothing in front of it: no remainder to take
            result.append(part if leading or not target[n] else x.floormod(part, target[n]))
            if target[n] == 1:
                result[-1] = x.const(0, "int32")
    return tuple(result)
