"""Fair timing of several runners on a noisy machine: pinned, warmed up, interleaved."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

TURN_S = 0.03       # how long a runner keeps its turn: long enough to be in its own rhythm, short beside the machine's moods
WARM_UP_S = 0.3
NOISY = 0.2         # spread past which the machine had other work to do

BUSY = "The machine was busy: the spread is past 20 %, so the ratios are rough."


@dataclass(frozen=True)
class Timing:
    """Seconds per call of each round: rounds x calls flattened in `samples`, the median of each round in `rounds`."""

    samples: np.ndarray
    rounds: np.ndarray

    @property
    def median(self) -> float:
        return float(np.median(self.samples))

    @property
    def p10(self) -> float:
        return float(np.percentile(self.samples, 10))

    @property
    def spread(self) -> float:
        """The distance between the quartiles, as a share of the median."""
        low, high = np.percentile(self.samples, (25, 75))
        return float((high - low) / self.median)

    @property
    def noisy(self) -> bool:
        return self.spread > NOISY

    def faster_than(self, other: Timing) -> float:
        """How many times as fast as `other`: the median over rounds of the ratio within a round, so that the machine's slow
        moments, which last longer than a round, cancel."""
        return float(np.median(other.rounds / self.rounds))


def pin(threads: int) -> None:
    """Keeps this process on as many CPUs as `threads`, ahead of others if the system allows."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    with contextlib.suppress(PermissionError):
        os.nice(-5)


def interleave(calls: Mapping[str, Callable[[], object]], rounds: int,
               progress: Callable[[], None] = lambda: None) -> dict[str, Timing]:
    """Times `calls` in turns, `rounds` times; a turn begins with one call that does not count and the order rotates."""
    def turn(call: Callable[[], object], n: int) -> np.ndarray:
        call()
        marks = [time.perf_counter()]
        for _ in range(n):
            call()
            marks.append(time.perf_counter())
        return np.diff(marks)

    turns = {}
    for name, call in calls.items():
        start, n = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < WARM_UP_S or n < 3:
            call()
            n += 1
        turns[name] = partial(turn, call, max(1, int(TURN_S * n / elapsed)))
    return rotate(turns, rounds, progress)


def rotate(turns: Mapping[str, Callable[[], np.ndarray]], rounds: int,
           progress: Callable[[], None] = lambda: None) -> dict[str, Timing]:
    """Lets each take its turn, `rounds` times in rotating order. A turn gives the seconds of each of its calls."""
    names = list(turns)
    samples: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for r in range(rounds):
        first = r % max(1, len(names))
        for name in names[first:] + names[:first]:
            samples[name].append(turns[name]())
        progress()
    return {name: Timing(np.concatenate(s), np.array([np.median(turn) for turn in s])) for name, s in samples.items()}
