"""The CPU target's Runner: a small program of ours (runner_c/), on this machine or behind any pipe, that runs and times kernels.

It is a process of its own because kernels that are being tried crash and hang. What it answers is checked: it may be a phone.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ...schedules.device import Device
from ...schedules.measure import Call, RunnerDied
from . import toolchain
from .runner_process import Broken, Part, Process

SOURCES = Path(__file__).parent / "runner_c"
CACHE = Path.home() / ".cache" / "burnish" / "runner"
LOAD, ALLOCATE, WRITE, READ, RUN, TIME = range(1, 7)
PIECE = 32 << 20        # bytes of an array in one command


class LocalRunner:
    """Kernels in a process of their own. Not for several threads at once.

    device: what the program is built for; cpu: the one that it is kept on; limit: seconds that a command may take (`time` has its
    own seconds on top); command: the words that start the program, whose path is put after them: ("nice", "-n", "-10").
    Every method raises RunnerDied, or RunnerError where the runner refuses what it is told or cannot be started.
    """

    def __init__(self, device: Device, cpu: int | None = None, limit: float = 60.0, command: Sequence[str] = ()) -> None:
        self._words = (*command, str(program(device)))
        self._cpu, self._limit = cpu, limit
        self._process = self._start()

    def _start(self) -> Process:
        return Process(self._words, self._cpu, self._limit)

    def load(self, objects: Sequence[bytes]) -> None:
        """Raises ToolchainError where they cannot be linked: a symbol comes twice, or what came is no object file."""
        self._ask(LOAD, toolchain.kernel_library(objects))

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
        """As measure.py says. A step that is timed alone is called so often in each sample that the sample lasts 50 us."""
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
        self._process.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, what: int, *parts: Part, most: int = 0, limit: float | None = None) -> bytearray:
        try:
            return self._process.ask(what, parts, self._limit if limit is None else limit, most)
        except Broken as e:
            raise self._died(str(e), e.hung) from e

    def _died(self, why: str, hung: bool = False) -> RunnerDied:
        self._process.end()
        self._process = self._start()
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


def program(device: Device) -> Path:
    """The runner's program for the device, built at first use. Two processes that build it at once write the same file."""
    sources = b"".join(path.name.encode() + path.read_bytes() for path in sorted(SOURCES.iterdir()))
    told = f"{toolchain.versions()} {toolchain.triple(device)}".encode()
    path = CACHE / hashlib.sha256(sources + told).hexdigest()
    if not path.exists():
        content = toolchain.executable(device, SOURCES)
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=CACHE) as folder:
            fresh = Path(folder) / "runner"
            fresh.write_bytes(content)
            fresh.chmod(0o755)
            os.replace(fresh, path)
    return path
