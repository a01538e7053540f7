"""The contract of a schedule template, and the table of them.

To add a schedule: one file in `schedules/templates/` that defines a `Template` and is named in `TEMPLATES` by import order of
`templates/__init__.py`, and its test.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .device import Device
from .space import Knobs, Space
from .task import Task

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

Pack = Callable[[np.ndarray], np.ndarray]


class Template(ABC):
    """A way to make the kernels of one family. Stateless. Everything but `emit` runs without TVM."""

    name: ClassVar[str]     # a grammar as XNNPACK's: dtype-family-form, such as "f32-gemm-packed"
    family: ClassVar[str]
    exact: ClassVar[bool] = True        # does it round as the definition does, but for the order of sums?
    skips_zeros: ClassVar[bool] = False     # does it take less time the more weights are zero?
    algorithm: ClassVar[bool] = False   # another way to what an earlier template of TEMPLATES also makes: the tuner tries both

    def refuses(self, task: Task, device: Device) -> str | None:
        """Why this template cannot make the task; None where it can."""
        return None

    @abstractmethod
    def space(self, task: Task, device: Device) -> Space:
        """Every legal choice of knobs: tens, not millions."""

    @abstractmethod
    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        """Predicted time in vector instructions, by which the default is chosen. Only the order matters."""

    def features(self, task: Task, knobs: Knobs, device: Device) -> Mapping[str, float]:
        """What a learned cost model is told of a choice beyond its cost and its knobs, by names of `features.NAMES`."""
        return {}

    @abstractmethod
    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        """How many outer tiles the kernel has; threads share out begin..end of them."""

    def scratch(self, task: Task, knobs: Knobs, device: Device) -> int:
        """Bytes of scratch that each thread needs (64-byte aligned)."""
        return 0

    def pack(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Pack]:
        """Constants that the kernel wants in another layout: buffer number -> function of the array to a flat array."""
        return {}

    def prepare(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Task]:
        """Constants that are transformed when the model is loaded, because they would be larger in the file: buffer number -> the
        task that makes what the kernel is handed (its only output) from what `pack` gives (its only other buffer)."""
        return {}

    @abstractmethod
    def emit(self, task: Task, knobs: Knobs, device: Device) -> PrimFunc:
        """The kernel `void k(buffers…, scratch, int32 begin, int32 end)` (scratch only where `scratch` is not 0)."""

    def default(self, task: Task, device: Device) -> Knobs:
        """The choice of least predicted cost."""
        return min(self.space(task, device).candidates(), key=lambda k: self.cost(task, k, device))
