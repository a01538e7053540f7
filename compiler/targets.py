"""The targets, by what the user calls them."""

from __future__ import annotations

from ..targets.cpu.target import NAMES as CPU
from ..targets.cpu.target import CpuTarget
from ..targets.target import Target
from ..targets.web.target import NAME as WEB
from ..targets.web.target import WebTarget

NAMES = (*CPU, WEB)


def find(name: str) -> Target:
    """Raises DeviceError, when its devices are asked for, where there is no such target and no such device either."""
    return WebTarget() if name == WEB else CpuTarget(name)
