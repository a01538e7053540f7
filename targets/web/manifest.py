"""manifest.json of a web package: what it is, in a form that its writer and its readers check."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, TypeAdapter

from ..cpu import manifest
from ..cpu.manifest import FILE, Code, Made

__all__ = ["FILE", "Build", "Manifest", "read"]


class Build(Code):
    """One of the builds that the loader chooses from. pages: of its memory, 64 KiB each; heap_base: where the plan's memory
    begins; code_bytes of a kernel: as its object file has it, before the linker."""

    pages: int = Field(ge=1, le=1 << 15)
    heap_base: int = Field(ge=0)


class Manifest(Made):
    """Of a web package, with as many devices as builds. package: its npm name."""

    format: Literal["burnish-web"] = "burnish-web"
    package: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,80}$")
    builds: dict[str, Build]

    @property
    def codes(self) -> dict[str, Build]:
        return self.builds

    @property
    def memory(self) -> int:
        """Bytes of the largest build's memory, which holds all that the model needs."""
        return max(b.pages for b in self.builds.values()) << 16


def read(folder: Path) -> Manifest:
    """Raises ArtifactError where the folder has no manifest, or one that is not a web package's or not whole."""
    return manifest.parse(folder, TypeAdapter(Manifest))
