"""manifest.json of a web package: what it is, in a form that its writer and its readers check."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..cpu import manifest
from ..cpu.manifest import FILE, Kernel, Launch, Machine, Tensor

__all__ = ["FILE", "Build", "Manifest", "read"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Build(_Record):
    """One of the builds that the loader chooses from. pages: of its memory, 64 KiB each; heap_base: where the plan's memory
    begins; code_bytes of a kernel: as its object file has it, before the linker."""

    file: str
    pages: int = Field(ge=1, le=1 << 15)
    heap_base: int = Field(ge=0)
    device: Machine
    kernels: tuple[Kernel, ...]


class Manifest(_Record):
    """As a CPU artifact's, with as many devices as builds. package: its npm name; identifier: what its files start with."""

    format: Literal["burnish-web"] = "burnish-web"
    version: Literal[1] = 1
    name: str
    package: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,80}$")
    identifier: str = Field(pattern=r"^[A-Za-z_]\w{0,80}$")
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    arena: int = Field(ge=0)
    scratch: int = Field(ge=0)
    weights: int = Field(ge=0)
    prepared: int = Field(ge=0)
    launches: tuple[Launch, ...]
    setup: tuple[Launch, ...]
    builds: dict[str, Build]
    passes: tuple[str, ...] = ()
    tools: dict[str, str] = {}
    info: dict[str, Any] = {}
    files: dict[str, str]


def read(folder: Path) -> Manifest:
    """Raises ArtifactError where the folder has no manifest, or one that is not a web package's or not whole."""
    return manifest.parse(folder, Manifest)
