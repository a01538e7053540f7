"""Weights with zeros, packed for kernels that skip them.

Weights W [K, N] are cut into panels of `width` output channels, and these into blocks of `step` steps of the reduction: 1 of
floats, 4 of bytes, which a dot product sums. A panel keeps the blocks in which any weight is not zero. What is kept lies in one
flat array of W's type:

    starts [panels + 1]     of each panel's blocks among all that are kept; int32
    accumulators [N]        what they start from, where that is not 0: int32; to the end of a cache line
    weights [kept blocks]   panel after panel, each as the kernel multiplies it: [step / depth][width][depth]
    places [kept blocks]    where in the input a block's first step reads, from the place of the first of all: int32

So a step is: read its place, read the input of each row there, multiply by the weights. Every panel may keep another number of
blocks: the kernel reads how many, and one kernel serves all weights of a shape. On Zen 5 a step of two vectors of weights and 8
to 14 rows takes as long as a dense kernel's; with one vector each product needs a load of its own, which costs a fifth.

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
from .registertile import up

PrimExpr = Any
LINE = 64           # bytes
LOAD = 1.15         # of a load, in multiply-adds, where nothing but loads is done (Zen 5)
FROM_L2 = 1 / 20    # of a byte of the input, in multiply-adds (Zen 5)
STEP = 4            # of bytes
AHEAD = 16384       # bytes


def refuses(task: Task) -> str | None:
    return None if task.params.get("group", 1) > 1 else "its weights have no blocks of zeros"


def device_for(task: Task, device: Device) -> Device:
    """The device with vectors no wider than a group of channels."""
    group = task.params["group"]
    return replace(device, lanes=min(device.lanes, group & -group))


def widths(task: Task, channels: int, device: Device) -> list[int]:
    """Vectors of a panel: of whole groups or parts of them, as panels across groups would keep what any of these keeps."""
    group, most = task.params["group"] // device.lanes, up(channels, device.lanes)
    return [v for v in range(1, min(group, 12) + 1) if group % v == 0 and v < most] + [most] * (most <= min(group, 12))


def aheads(size: int, device: Device) -> tuple[int, ...]:
    """Elements of `size` bytes by which weights may be asked for in advance, as in dense kernels."""
    return (0, AHEAD // size) if device.arch == "x86_64" else (0,)


def step_cost(plain: float, rows: int, vectors: int) -> float:
    """Of a step that takes `plain` multiply-adds in a dense kernel, where its place is read from memory."""
    return max(plain, LOAD * (rows + vectors + 1))


def thinned(task: Task, w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some weights of the task with zeros as its own have them."""
    step, group = STEP if w.dtype == np.int8 else 1, task.params["group"]
    matrix = w.reshape(-1, w.shape[-1]).copy()
    blocks = up(len(matrix), step)
    for at in range(0, matrix.shape[1], group):
        zero = np.ones(blocks, bool)
        zero[rng.permutation(blocks)[:task.params["kept"]]] = False
        matrix[np.repeat(zero, step)[:len(matrix)], at:at + group] = 0
    return matrix.reshape(w.shape)


@dataclass(frozen=True)
class Layout:
    """Of packed weights; itemsize: bytes of an element; step: of a block; depth: steps that an instruction sums; begins: do
    accumulators start from something?"""

    width: int
    panels: int
    itemsize: int = 4
    step: int = 1
    depth: int = 1
    begins: bool = False

    @classmethod
    def floats(cls, channels: int, width: int) -> Layout:
        return cls(width, up(channels, width))

    @classmethod
    def bytes(cls, channels: int, width: int, depth: int) -> Layout:
        return cls(width, up(channels, width), 1, STEP, depth, begins=True)

    @property
    def block(self) -> int:
        """Elements of a block."""
        return self.step * self.width

    @property
    def weights(self) -> int:
        """The element with which the weights begin."""
        numbers = self.panels + 1 + self.begins * self.panels * self.width
        return up(numbers * 4, LINE) * LINE // self.itemsize

    def pack(self, w: np.ndarray, places: np.ndarray, accumulators: np.ndarray | None = None) -> np.ndarray:
        """w [K, N], K whole blocks; places: [K / step] of the blocks; accumulators: int32 [N]."""
        k, n = w.shape
        columns = np.pad(w, [(0, 0), (0, self.panels * self.width - n)])
        blocks = columns.reshape(k // self.step, self.step // self.depth, self.depth, self.panels, self.width)
        panel, at = np.nonzero(blocks.any(axis=(1, 2, 4)).T)
        head = np.zeros(self.weights * self.itemsize // 4, "<i4")
        head[1:self.panels + 1] = np.cumsum(np.bincount(panel, minlength=self.panels))
        if accumulators is not None:
            head[self.panels + 1:self.panels + 1 + n] = accumulators
        kept = blocks[at, :, :, panel].swapaxes(-1, -2)
        return np.concatenate([head.view(w.dtype), kept.reshape(-1), places[at].astype("<i4").view(w.dtype)])

    def number(self, w: Any, at: PrimExpr) -> PrimExpr:
        """The int32 at element `at`."""
        from ..tir import T, ld

        return T.reinterpret("int32", ld(w, at, 4 // self.itemsize))

    def start(self, w: Any, q: PrimExpr, vector: int, lanes: int) -> PrimExpr:
        """What a vector of panel q's accumulators starts from."""
        from ..tir import T, ld

        at = (self.panels + 1 + q * self.width + vector * lanes) * (4 // self.itemsize)
        return T.reinterpret(f"int32x{lanes}", ld(w, at, lanes * 4 // self.itemsize))

    def each(self, w: Any, q: PrimExpr, body: Callable[[PrimExpr, PrimExpr], None], ahead: int = 0) -> None:
        """A loop over the blocks of panel q: body(place in the input, where in `w` the block's weights begin). ahead: elements by
        which weights are asked for in advance."""
        from ..tir import T, prefetch

        word = 4 // self.itemsize
        first = T.Bind(self.number(w, q * word))
        count = T.Bind(self.number(w, (q + 1) * word) - first)
        places = T.Bind(self.weights + self.number(w, self.panels * word) * self.block + first * word)
        with T.serial(0, count) as j:
            at = self.weights + (first + j) * self.block
            for o in range(0, self.block if ahead else 0, LINE // self.itemsize):
                prefetch(w, at + ahead + o)
            body(T.Bind(self.number(w, places + j * word)), at)
