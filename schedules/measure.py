"""What the tuner asks of a device: to load kernels, to hold memory, to run and time calls. Targets implement it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np


class RunnerDied(Exception):
    """The runner crashed, or (`hung`) did not answer in time. It has been started anew, empty."""

    def __init__(self, reason: str, hung: bool = False) -> None:
        super().__init__(reason)
        self.hung = hung


class RunnerLost(RunnerDied):
    """It went, and came back empty, by no fault of what it ran: its page was reloaded. What it was doing is to be done again."""


class RunnerGone(Exception):
    """The device has left for good: nothing more can be measured."""


class RunnerRefused(Exception):
    """The runner, or the linker that works for it, does not take what it was given. It lives on as it was."""


@dataclass(frozen=True)
class Call:
    """One kernel call over all its tiles. args: where its buffers lie, then its scratch if it takes any, as byte offsets into the
    runner's memory."""

    symbol: str
    args: tuple[int, ...]
    tiles: int


class Runner(Protocol):
    """A device that kernels run on, one call at a time. Its memory is one block that starts out as zeros."""

    def load(self, objects: Sequence[bytes]) -> None:
        """Makes the symbols of these object files callable, all or none. A symbol may be loaded once in a runner's life. Raises
        RunnerRefused."""

    def allocate(self, size: int) -> None:
        """Memory of `size` bytes, in place of any before."""

    def write(self, offset: int, data: np.ndarray) -> None: ...

    def read(self, offset: int, shape: tuple[int, ...], dtype: str) -> np.ndarray: ...

    def run(self, calls: Sequence[Call]) -> None:
        """Each once, in this order. Raises RunnerDied."""

    def time(self, steps: Sequence[Sequence[Call]], rounds: int, seconds: float, give_up: float = 0.0) -> list[list[np.ndarray]]:
        """Runs the steps in their order again and again, each by one of its alternatives in turn, and gives the seconds that each
        took: [step][alternative] -> samples in the order in which they were taken.

        A round keeps the same alternatives for two passes, of which the first only warms the caches as the model itself would;
        each step moves on to its next alternative with the next round. Ends once every alternative has `rounds` samples, or after
        `seconds`. give_up: an alternative whose best of three samples is more than this many times its step's best is left out of
        further rounds (0: never). Raises RunnerDied.
        """

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
