"""Trials and finals on this machine: what the tuner measures with where there is no farm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .candidate import Candidate
from .evaluate import Batch, Evaluator, Trial
from .scene import Scene, Situ, situ


class Local:
    """One evaluator, for as long as it lives."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator

    def trials(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, list[Trial]]]:
        return self.evaluator.trials(batches)

    def situ(self, scene: Scene, finalists: Mapping[str, Sequence[Candidate]], samples: int, seconds: float) -> Situ:
        return situ(scene, finalists, self.evaluator, samples, seconds)
