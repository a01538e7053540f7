"""Loops of the templates that write element by element: positions from flat numbers, whole vectors and their tails."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

PrimExpr = Any


def unflatten(flat: PrimExpr, extents: Sequence[int]) -> list[PrimExpr]:
    """The row-major position whose flat number is `flat`."""
    position = []
    for n, extent in enumerate(extents):
        inner = math.prod(extents[n + 1:])
        at = flat // inner if inner > 1 else flat
        position.append(at if n == 0 else at % extent)
    return position


def chunks(extent: int, lanes: int) -> Iterator[tuple[PrimExpr, int]]:
    """(first, width) of the vectors over `extent` elements: a loop of whole ones, then powers of two. The caller's code runs
    inside the loop: take every item."""
    from ..tir import T, vectors

    whole = extent // lanes
    if whole == 1:      # no loop: what is kept for the vector can then stay in a register
        yield T.int32(0), lanes
    elif whole:
        with T.serial(0, whole) as chunk:
            yield chunk * lanes, lanes
    for at, width in vectors(extent - whole * lanes, lanes):
        yield T.int32(whole * lanes + at), width


@contextmanager
def nest(extents: Sequence[int]) -> Iterator[list[PrimExpr]]:
    """Loops over all positions; gives their variables."""
    from ..tir import T

    with ExitStack() as loops:
        yield [loops.enter_context(T.serial(0, n)) for n in extents]
