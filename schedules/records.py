"""What tuning has found out, as data: which candidate of which task took how long on which device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .candidate import Candidate
from .device import Device
from .numerics import typical
from .task import Task

Status = Literal["ok", "build", "crash", "timeout", "wrong"]    # ok, or how it failed


class RecordsError(RuntimeError):
    """Records cannot be read or kept: one line that says where, why and what to do."""


@dataclass(frozen=True)
class Fingerprint:
    """A device as far as it matters to how fast a kernel is. core: as LLVM names its micro-architecture; caches in KiB."""

    arch: str
    core: str
    isa: tuple[str, ...]
    lanes: int
    caches: tuple[int, int, int]
    os: str

    @classmethod
    def of(cls, device: Device, os: str) -> Fingerprint:
        return cls(device.arch, str(dict(device.llvm)["mcpu"]), tuple(sorted(device.isa)), device.lanes,
                   (device.l1_kib, device.l2_kib, device.l3_kib), os)

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Fingerprint:
        """Raises KeyError, TypeError or ValueError where `data` is not what `data` gives."""
        first, second, third = data["caches"]
        return cls(data["arch"], data["core"], tuple(data["isa"]), data["lanes"], (first, second, third), data["os"])

    @property
    def data(self) -> dict[str, Any]:
        """The fingerprint as JSON."""
        return {"arch": self.arch, "core": self.core, "isa": list(self.isa), "lanes": self.lanes, "caches": list(self.caches),
                "os": self.os}

    def distance(self, other: Fingerprint) -> int | None:
        """0 the same device, 1 the same micro-architecture, 2 the same instruction set; None: nothing is known from the other."""
        if (self.arch, self.lanes) != (other.arch, other.lanes):
            return None
        if self == other:
            return 0
        return 1 if self.core == other.core else 2 if self.isa == other.isa else None


@dataclass(frozen=True)
class TuningRecord:
    """One candidate's trial on one device.

    tools: versions of what built it; samples: seconds per call by itself, warm; baseline: the untuned kernel's time in the same
    interleaved run, or 0; situ: seconds per call inside a model, empty where it was no finalist; error: largest difference to the
    untuned kernel's output, relative to its scale; verified: has this installation seen for itself what became of it? (what is
    imported has to be looked at again); message: what went wrong; created: ISO 8601, UTC.
    """

    task: Task
    candidate: Candidate
    fingerprint: Fingerprint
    tools: Mapping[str, str]
    status: Status
    samples: tuple[float, ...] = ()
    baseline: float = 0.0
    situ: tuple[float, ...] = ()
    error: float = 0.0
    verified: bool = False
    message: str = ""
    created: str = ""

    @property
    def ratio(self) -> float:
        """Of the untuned kernel's time; infinite where the candidate failed. Comparable between runs, as seconds are not."""
        return self.seconds / self.baseline if self.baseline else float("inf")

    @property
    def seconds(self) -> float:
        """By itself; infinite where the candidate failed."""
        return typical(self.samples) if self.status == "ok" and self.samples else float("inf")
