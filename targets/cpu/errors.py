"""Every way in which the CPU target says no. (`targets` does not import `compiler`, whose errors are the user's.)"""

from __future__ import annotations

from ...schedules.measure import RunnerRefused


class TargetError(Exception):
    """One line for the user."""


class DeviceError(TargetError):
    """No such device profile, a broken one, or a machine that cannot be described."""


class ToolchainError(TargetError, RunnerRefused):
    """The C compiler or linker failed. `log` is all it said."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class ArtifactError(TargetError):
    """An artifact folder is missing, damaged, for another machine, or may not be overwritten."""


class RunnerError(TargetError, RunnerRefused):
    """The runner cannot be started, or refuses a command: an unknown symbol, memory that is not there."""
