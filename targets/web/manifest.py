"""manifest.json of a web package: what it is, in a form that its writer and its readers check."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from ..cpu import manifest
from ..cpu.manifest import FILE, Kernel, Machine, Made, Record

__all__ = ["FILE", "Build", "Manifest", "read"]


class Build(Record):
    """One of the builds that the loader chooses from. pages: of its memory, 64 KiB each; heap_base: where the plan's memory
    begins; code_bytes of a kernel: as its object file has it, before the linker."""

    file: str
    pages: int = Field(ge=1, le=1 << 15)
    heap_base: int = Field(ge=0)
    device: Machine
    kernels: tuple[Kernel, ...]


class Manifest(Made):
    """Of a web package, with as many devices as builds. package: its npm name."""

    format: Literal["burnish-web"] = "burnish-web"
    package: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,80}$")
    builds: dict[str, Build]


def read(folder: Path) -> Manifest:
    """Raises ArtifactError where the folder has no manifest, or one that is not a web package's or not whole."""
    return manifest.parse(folder, Manifest)
