"""The targets, by what the user calls them, and what one of them wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from ..targets.cpu import manifest as cpu
from ..targets.cpu.target import NAMES as CPU
from ..targets.cpu.target import CpuTarget
from ..targets.target import Target
from ..targets.web import manifest as web
from ..targets.web.target import NAME as WEB
from ..targets.web.target import WebTarget

NAMES = (*CPU, WEB)
Manifest = cpu.Manifest | web.Manifest
MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Annotated[Manifest, Field(discriminator="format")])


def find(name: str) -> Target:
    """Raises DeviceError, when its devices are asked for, where there is no such target and no such device either."""
    return WebTarget() if name == WEB else CpuTarget(name)


def read(folder: Path) -> Manifest:
    """The manifest of an artifact of any target. Raises ArtifactError where the folder is none, or not whole."""
    return cpu.parse(folder, MANIFEST)
