"""A Runner over anything that carries commands and answers: a process's pipes, or the socket of a web page.

cpu/runner_c/main.c says what the commands are. What is answered is checked: the other side may be a phone.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from ..schedules.measure import Call, RunnerDied

LOAD, ALLOCATE, WRITE, READ, RUN, TIME = range(1, 7)
PIECE = 32 << 20        # bytes of an array in one command

Part = bytes | memoryview


class Broken(Exception):
    """The other side is gone, hung (`hung`) or answered nonsense, and the channel is of no more use; the message says which."""

    def __init__(self, reason: str, hung: bool = False) -> None:
        super().__init__(reason)
        self.hung = hung


class Channel(Protocol):
    """What carries commands to one life of a runner, one at a time."""

    def ask(self, what: int, parts: Sequence[Part], limit: float, most: int = 0) -> bytearray:
        """The answer, of at most `most` bytes, to the command `what` whose body is the parts one after the other, within `limit`
        seconds. Raises Broken; RunnerError where the runner refuses the command."""

    def end(self) -> None:
        """May be called again."""


class FramedRunner:
    """Kernels behind a channel. Not for several threads at once.

    open: begins a new life of the runner, now and after each death; link: what `load` carries, of object files; limit: seconds
    that a command may take (`time` has its own seconds on top). Every method raises RunnerDied, or RunnerError where the runner
    refuses what it is told or cannot be started.
    """

    def __init__(self, open: Callable[[], Channel], link: Callable[[Sequence[bytes]], bytes], limit: float) -> None:
        self._open, self._link, self._limit = open, link, limit
        self._channel = open()

    def load(self, objects: Sequence[bytes]) -> None:
        """Raises ToolchainError where they cannot be linked: a symbol comes twice, or what came is no object file."""
        self._ask(LOAD, self._link(objects))

    def allocate(self, size: int) -> None:
        self._ask(ALLOCATE, struct.pack("<Q", size))

    def write(self, offset: int, data: np.ndarray) -> None:
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        for at in range(0, raw.size, PIECE):
            self._ask(WRITE, struct.pack("<Q", offset + at), raw[at:at + PIECE].data)

    def read(self, offset: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        answer = self._ask(READ, struct.pack("<QQ", offset, size), most=size)
        if len(answer) != size:
            raise self._died(f"answered {len(answer)} bytes where {size} were asked for")
        return np.frombuffer(answer, dtype).reshape(shape)

    def run(self, calls: Sequence[Call]) -> None:
        self._ask(RUN, struct.pack("<I", len(calls)), *map(packed, calls))

    def time(self, steps: Sequence[Sequence[Call]], rounds: int, seconds: float, give_up: float = 0.0) -> list[list[np.ndarray]]:
        """As measure.py says. A step that is timed alone is called so often in each sample that the clock's own step vanishes."""
        parts: list[Part] = [struct.pack("<IIdd", len(steps), rounds, seconds, give_up)]
        for step in steps:
            parts += [struct.pack("<I", len(step)), *map(packed, step)]
        counts = [len(step) for step in steps]
        # A round takes one sample of each step, and no step needs more rounds than that of most alternatives.
        most = 8 * sum(counts) + 8 * len(steps) * rounds * max(counts, default=0)
        answer = self._ask(TIME, *parts, most=most, limit=seconds + self._limit)
        try:
            return samples(answer, counts)
        except ValueError as e:
            raise self._died(f"answered nonsense: {e}") from e

    def close(self) -> None:
        self._channel.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, what: int, *parts: Part, most: int = 0, limit: float | None = None) -> bytearray:
        try:
            return self._channel.ask(what, parts, self._limit if limit is None else limit, most)
        except Broken as e:
            raise self._died(str(e), e.hung) from e

    def _died(self, why: str, hung: bool = False) -> RunnerDied:
        self._channel.end()
        self._channel = self._open()
        return RunnerDied(f"the runner {why}", hung)


def packed(call: Call) -> bytes:
    name = call.symbol.encode()
    return struct.pack(f"<IIi{len(name)}s{len(call.args)}Q", len(name), len(call.args), call.tiles, name, *call.args)


def samples(answer: bytearray, counts: Sequence[int]) -> list[list[np.ndarray]]:
    """What the runner says that it measured, for so many alternatives of each step. Raises ValueError where that cannot be."""
    at, found = 0, []
    for count in counts:
        step = []
        for _ in range(count):
            size = int.from_bytes(answer[at:at + 8], "little")
            if size > (len(answer) - at - 8) // 8:      # negative where even the count is missing
                raise ValueError(f"{size} samples announced at byte {at} of {len(answer)}")
            step.append(np.frombuffer(answer, "<f8", size, at + 8))
            at += 8 + 8 * size
        found.append(step)
    if at != len(answer):
        raise ValueError(f"{len(answer) - at} bytes too many")
    if not all(np.isfinite(s).all() and (s > 0).all() for step in found for s in step):
        raise ValueError("a sample is no time")
    return found
