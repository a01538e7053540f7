"""Weights with zeros, packed for kernels that skip them.

A panel of `width` output channels keeps the steps of the reduction in which any of its weights is not zero. What it keeps of
W [K, N] lies in one flat array of W's type:

    starts [panels + 1]     of each panel's steps among all that are kept; int32, to the end of a cache line
    weights [kept][width]   panel after panel
    places [kept]           where in the input a step reads, from the place of its first: int32

So a step is: read its place, read the input of each row there, multiply by the weights. Every panel may keep another number of
steps: the kernel reads how many, and one kernel serves all weights of a shape. On Zen 5 a step of two vectors of weights and 8 to
14 rows takes as long as a dense kernel's; with one vector each product needs a load of its own, which costs a fifth.

Tasks say how their zeros lie (compiler/lower/sparsity.py): params["group"], the channels that share their zeros, and
params["kept"], how many blocks of step x group a group keeps, on average.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..device import Device
from ..task import Task
from . import registertile as rt
from .registertile import up

PrimExpr = Any
LINE = 64           # bytes
LOAD = 1.15         # of a load, in multiply-adds, where nothing but loads is done (Zen 5)


def refuses(task: Task) -> str | None:
    return None if "kept" in task.params else "its weights have no blocks of zeros"


def device_for(task: Task, device: Device) -> Device:
    """The device with vectors no wider than a group of channels."""
    group = task.params["group"]
    return replace(device, lanes=min(device.lanes, group & -group))


def widths(task: Task, channels: int, device: Device) -> list[int]:
    """Vectors of a panel: of whole groups or parts of them, as panels across groups would keep what any of these keeps."""
    group, most = task.params["group"] // device.lanes, up(channels, device.lanes)
    return [v for v in range(1, min(group, 12) + 1) if group % v == 0 and v < most] + [most] * (most <= min(group, 12))


def step_cost(rows: int, vectors: int, panel: int, pitch: int, device: Device) -> float:
    """As `registertile.step_cost`, of a step whose place is read from memory."""
    return max(rt.step_cost(rows, vectors, panel, pitch, device), LOAD * (rows + vectors + 1))


def thinned(task: Task, w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some weights of the task with zeros as its own have them."""
    step, group = 4 if w.dtype == np.int8 else 1, task.params["group"]
    matrix = w.reshape(-1, w.shape[-1]).copy()
    blocks = up(len(matrix), step)
    for at in range(0, matrix.shape[1], group):
        zero = np.ones(blocks, bool)
        zero[rng.permutation(blocks)[:task.params["kept"]]] = False
        matrix[np.repeat(zero, step)[:len(matrix)], at:at + group] = 0
    return matrix.reshape(w.shape)


@dataclass(frozen=True)
class Layout:
    """Of packed weights; itemsize: of an element."""

    width: int
    panels: int
    itemsize: int = 4

    @classmethod
    def of(cls, channels: int, width: int) -> Layout:
        return cls(width, up(channels, width))

    @property
    def weights(self) -> int:
        """The element with which the weights begin."""
        return up((self.panels + 1) * 4, LINE) * LINE // self.itemsize

    def pack(self, w: np.ndarray, places: np.ndarray) -> np.ndarray:
        """places: int32 [K]."""
        k, n = w.shape
        columns = np.pad(w, [(0, 0), (0, self.panels * self.width - n)]).reshape(k, self.panels, self.width)
        kept = (columns != 0).any(axis=2).T
        panel, step = np.nonzero(kept)
        starts = np.zeros(self.weights * self.itemsize // 4, "<i4")
        starts[1:self.panels + 1] = np.cumsum(kept.sum(axis=1))
        return np.concatenate([starts.view(w.dtype), columns[step, panel].reshape(-1), places[step].astype("<i4").view(w.dtype)])

    def steps(self, w: Any, q: PrimExpr) -> Callable[[Callable[[PrimExpr, PrimExpr], None]], None]:
        """A loop over the steps of panel q: calls its body with the step's place and with where in `w` its weights begin."""
        from ..tir import T

        def number(at: PrimExpr) -> PrimExpr:
            return T.reinterpret("int32", w[at])

        first = T.Bind(number(q))
        count = T.Bind(number(q + 1) - first)
        places = T.Bind(self.weights + number(self.panels) * self.width + first)

        def loop(body: Callable[[PrimExpr, PrimExpr], None]) -> None:
            with T.serial(0, count) as j:
                body(T.Bind(number(places + j)), self.weights + (first + j) * self.width)

        return loop
