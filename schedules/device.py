"""What a template must know of the machine it writes for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Device:
    """A device profile: data of a target, read from its TOML file or detected.

    llvm: the target that TVM's LLVM code generator is given (mtriple, mcpu, mattr); lanes: float32 in one vector register;
    vector_registers: how many of them a kernel may hold live; sizes of the caches of one core, in KiB; cores: that a process
    may use.
    """

    name: str
    arch: str
    llvm: tuple[tuple[str, Any], ...]
    isa: tuple[str, ...]
    lanes: int
    vector_registers: int
    l1_kib: int
    l2_kib: int
    l3_kib: int = 0
    cores: int = 1
    source: str = ""

    def lanes_of(self, dtype: str) -> int:
        """Elements of `dtype` that are computed at a time. Narrow types are widened first, so never more than float32's."""
        return max(1, self.lanes // 2) if dtype in ("float64", "int64", "uint64") else self.lanes
