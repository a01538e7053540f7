"""Which candidate makes a task: the best that was recorded near this device, else the cost model's pick, else the default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .candidate import CLEARLY, Candidate, cost, default, imbalance, makers, options, why_not
from .cost_model import CostModel
from .device import Device
from .numerics import typical
from .records import TuningRecord
from .task import Task

ORIGINS = ("tuned on this device", "tuned on this micro-architecture", "tuned on this instruction set")


@dataclass(frozen=True)
class Pick:
    """origin: in words, where the choice comes from; record: where it is one."""

    candidate: Candidate
    origin: str
    record: TuningRecord | None = None


def pick(task: Task, device: Device, known: Sequence[tuple[int, TuningRecord]], ranker: CostModel | None,
         exact: bool) -> Pick | None:
    """None where no template makes the task. known: this task's records, nearest first."""
    allowed = makers(task, device, exact)
    if not allowed:
        return None
    for distance in range(len(ORIGINS)):
        # records come from anywhere: is the candidate in the space of this device?
        usable = [r for d, r in known if d == distance and r.status == "ok" and why_not(r.candidate, task, device) is None
                  and r.candidate.maker in allowed]
        if usable:
            best = fastest(usable, device)
            return Pick(best.candidate, ORIGINS[distance], best)
    untuned = default(task, device)
    assert untuned is not None      # as there is a template
    if ranker is not None and ranker.knows(t for t in allowed if not t.skips_zeros):
        choices = [c for c in options(task, device, exact) if not c.maker.skips_zeros]
        liked = choices[int(np.argmax(ranker.scores(task, choices, device)))]
        if untuned.maker.skips_zeros and cost(untuned, task, device) < CLEARLY * cost(liked, task, device):
            return Pick(untuned, "default")
        if len(choices) > 1:
            return Pick(liked, "cost model")
    return Pick(untuned, "only choice" if len(options(task, device, exact)) == 1 else "default")


def fastest(records: Sequence[TuningRecord], device: Device) -> TuningRecord:
    """By the time inside a model, of those that got so far; else by the time beside the untuned kernel."""
    finalists = [r for r in records if r.situ]

    def weight(r: TuningRecord) -> float:
        return imbalance(r.task, r.candidate, device)

    if finalists:
        return min(finalists, key=lambda r: typical(r.situ) * weight(r))
    return min(records, key=lambda r: (r.ratio * weight(r), r.seconds))
