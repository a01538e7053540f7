"""A Plan: the static program that an artifact runs. Buffers with offsets, constants, a list of launches. No interpreter."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..schedules.task import ITEMSIZE

ALIGNMENT = 64      # bytes: every buffer in the arena and in the weights starts on a cache line


@dataclass(frozen=True)
class Signature:
    """An input or an output of the model, by its ONNX name; dtype as numpy names it."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True)
class Place:
    """Where a kernel's argument lies: `offset` bytes into the arena, the weights or the prepared constants, or input or output
    number `offset`; `start` bytes further on where it is part of something larger."""

    where: Literal["input", "output", "arena", "weights", "prepared"]
    offset: int
    start: int = 0


@dataclass(frozen=True)
class Variant:
    """Another kernel for what a launch does, on the same arguments; fields as of Launch."""

    kernel: str
    tiles: int
    scratch: int


@dataclass(frozen=True)
class Launch:
    """One kernel call: `kernel` over `tiles` tiles. Scratch: bytes for each thread. flops and bytes (read plus written) count
    what the operation needs, not what the kernel does; nodes are the source ONNX nodes; variants: what may run instead, where the
    device that the artifact comes to may choose, the same for all launches of a kernel."""

    kernel: str
    args: tuple[Place, ...]
    tiles: int
    scratch: int
    nodes: tuple[str, ...]
    flops: int
    bytes: int
    variants: tuple[Variant, ...] = ()

    @property
    def ways(self) -> tuple[Launch, ...]:
        """With its own kernel, and with each of the variants in place of it."""
        return self, *(replace(self, kernel=v.kernel, tiles=v.tiles, scratch=v.scratch) for v in self.variants)


@dataclass(frozen=True)
class KernelCode:
    """A built kernel: its C symbol, its object file's content, the template and knobs it came from, its task's key, and who chose
    them, in words ("cost model")."""

    symbol: str
    code: bytes
    template: str
    knobs: tuple[tuple[str, int | str], ...]
    task: str
    origin: str = ""


@dataclass(frozen=True)
class Plan:
    """arena, scratch (for each thread), weights and prepared in bytes. setup: what runs once, when the model is created, and
    makes the prepared constants of the weights. Outputs that are constants of the model are copied from the weights by a launch
    like any other."""

    name: str
    inputs: tuple[Signature, ...]
    outputs: tuple[Signature, ...]
    launches: tuple[Launch, ...]
    arena: int
    scratch: int
    weights: int
    info: tuple[tuple[str, Any], ...] = ()
    setup: tuple[Launch, ...] = ()
    prepared: int = 0

    @property
    def ways(self) -> int:
        """Of the launch that has the most: 1 where nothing is left to choose."""
        return max((len(x.ways) for x in self.launches), default=1)

    @property
    def tunable(self) -> dict[str, tuple[int, ...]]:
        """The numbers of the launches of each kernel that has variants."""
        found: dict[str, tuple[int, ...]] = {}
        for n, x in enumerate(self.launches):
            if x.variants:
                found[x.kernel] = (*found.get(x.kernel, ()), n)
        return found
