"""What an artifact ships besides its first choices: other kernels for the same packed weights, of which the device that
it comes to takes the best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain, islice, zip_longest

import numpy as np

from ..schedules.candidate import Candidate, default, options, why_not
from ..schedules.cost_model import CostModel
from ..schedules.database import Known
from ..schedules.device import Device
from ..schedules.features import NAMES, matrix
from ..schedules.select import Pick
from ..schedules.task import Task
from .lower.group import LoweredGroup

MOST = 8            # ways to make one kernel
HEAVY = 0.01        # of the model's predicted time: a kernel that takes less has nothing to give
WIDE = 28           # vector registers that V8 leaves to a kernel on ARM64, of 32; a device profile counts those of x86-64
ALIKE = 0.02        # by how much features differ, at most, of candidates that are the same for all that anybody knows


def alternatives(groups: Sequence[LoweredGroup], device: Device, picks: Mapping[str, Pick], count: int,
                 known: Known) -> dict[str, tuple[Pick, ...]]:
    """For the heavy tasks by key: up to `count` - 1 ways to make them that use the constants as the task's pick has them packed.
    known: the records of each task, nearest first."""
    tasks = {g.task.key: g.task for g in groups if g.task.key in picks}
    times = Counter(g.task.key for g in groups if g.task.key in picks)
    costs = {k: times[k] * picks[k].candidate.maker.cost(t, picks[k].candidate.knobs, device) for k, t in tasks.items()}
    least = HEAVY * sum(costs.values())
    ranker = CostModel.pretrained(device) or CostModel()
    found = {}
    for key in (k for k, cost in costs.items() if cost >= least and count > 1):
        task, first = tasks[key], picks[key].candidate
        recorded = (r.candidate for _, r in known.get(key, ()) if r.status == "ok" and r.verified
                    and any(why_not(r.candidate, task, d) is None for d in both(device)))
        ordered = chain(recorded, promising(task, device, ranker, first.maker.exact))
        found[key] = tuple(Pick(c, "variant") for c in islice(distinct(task, first, ordered, device), count - 1))
    return {key: picked for key, picked in found.items() if picked}


def both(device: Device) -> tuple[Device, Device]:
    """It is not known who will run the kernel: a device with many vector registers, or this one."""
    return replace(device, vector_registers=max(WIDE, device.vector_registers)), device


def promising(task: Task, device: Device, ranker: CostModel, exact: bool) -> Iterator[Candidate]:
    """The untuned choice, then in turns what the cost model thinks best of either device."""
    untuned = default(task, device)
    assert untuned is not None      # as the task has a pick
    yield untuned
    for pair in zip_longest(*(by_score(task, d, ranker, exact) for d in both(device))):
        yield from (c for c in pair if c is not None)


def by_score(task: Task, device: Device, ranker: CostModel, exact: bool) -> list[Candidate]:
    """Best first, but the best of every size of register tile before the second of any: what else differs matters less."""
    choices = options(task, device, exact)
    scores = ranker.scores(task, choices, device)
    sizes = matrix(task, choices, device)[:, NAMES.index("registers")]
    seen: Counter[float] = Counter()
    places: dict[int, tuple[int, int]] = {}
    for n in np.argsort(-scores, kind="stable"):
        places[n] = seen[float(sizes[n])], len(places)
        seen[float(sizes[n])] += 1
    return [choices[n] for n in sorted(places, key=lambda n: places[n])]


def distinct(task: Task, first: Candidate, others: Iterator[Candidate], device: Device) -> Iterator[Candidate]:
    """Those that take the constants as `first` does, and are like neither it nor each other."""
    rng = np.random.default_rng(0)
    constants = {n: rng.integers(0, 100, b.shape).astype(b.dtype) for n, b in enumerate(task.buffers) if b.role == "constant"}

    @cache
    def packed(c: Candidate) -> dict[int, bytes]:
        return {n: pack(constants[n]).tobytes() for n, pack in c.maker.pack(task, c.knobs, device).items()}

    def prepared(c: Candidate) -> Mapping[int, Task]:
        return c.maker.prepare(task, c.knobs, device)

    rows = [matrix(task, [first], device)[0]]
    for c in others:
        row = matrix(task, [c], device)[0]
        alike = any(np.allclose(row, r, rtol=ALIKE, equal_nan=True) for r in rows)
        if not alike and prepared(c) == prepared(first) and packed(c) == packed(first):
            rows.append(row)
            yield c
