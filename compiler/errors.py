"""Every way in which burnish says no."""

from __future__ import annotations

from dataclasses import dataclass


class BurnishError(Exception):
    """A message for the user, one line, and the exit code of the command line: 2 for what the user can mend."""

    exit_code = 2


class ImportRefused(BurnishError):
    """The file is broken, hostile, or past a limit."""


class BuildError(BurnishError):
    """A kernel could not be built: a bug of burnish or of TVM, not of the model."""

    exit_code = 1


class OracleError(BurnishError):
    """onnxruntime, whose outputs decide what is right, cannot load or run the model."""


class DataRefused(BurnishError):
    """Sample inputs, or what is to judge outputs, are missing, broken or of another model."""


class TuningRefused(BurnishError):
    """Tuning was asked for where nothing can be measured."""


class FarmError(BurnishError):
    """A farm cannot be reached, or has nobody that can measure."""


class VerificationError(BurnishError):
    """The artifact's output differs from onnxruntime's."""

    exit_code = 1


@dataclass(frozen=True)
class Refusal:
    """Why a node cannot be compiled, and what to do about it."""

    node: str
    op: str
    opset: int
    reason: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.node}: {self.op} (opset {self.opset}): {self.reason}" + (f" ({self.hint})" if self.hint else "")


class Refused(BurnishError):
    """The model needs what burnish does not have. Carries every refusal, not just the first."""

    def __init__(self, refusals: list[Refusal]) -> None:
        self.refusals = refusals
        super().__init__("\n".join(map(str, refusals)))
