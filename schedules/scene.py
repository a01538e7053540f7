"""A model as it runs, so that kernels are timed where they will work: behind their producers, with cold weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .board import Board, parts
from .candidate import Candidate
from .evaluate import Evaluator, Unbuildable
from .measure import RunnerDied
from .task import Task
from .title import title

Situ = Mapping[str, Mapping[Candidate, tuple[float, ...]]]     # task key -> candidate -> seconds of all its calls in one pass


@dataclass(frozen=True)
class Step:
    """One launch. bindings: for each buffer of the task the byte offset in the scene's memory, or the constant."""

    task: Task
    bindings: tuple[int | np.ndarray, ...]


@dataclass(frozen=True)
class Scene:
    """size: bytes of memory for all values; inputs: what lies in it at the start; steps: in the order in which they run."""

    size: int
    inputs: tuple[tuple[int, np.ndarray], ...]
    steps: tuple[Step, ...]

    @cached_property
    def tasks(self) -> dict[str, Task]:
        return {s.task.key: s.task for s in self.steps}

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each task occurs."""
        return Counter(s.task.key for s in self.steps)


def situ(scene: Scene, finalists: Mapping[str, Sequence[Candidate]], evaluator: Evaluator, samples: int, seconds: float) -> Situ:
    """Runs the model with every task's finalists taking turns; those that cannot be built are left out. Sample n of one candidate
    and sample n of another of the same task were taken one right after the other. Raises RunnerDied; Unbuildable where nothing
    that makes a task can be built."""
    wanted = [(task, c) for key, task in scene.tasks.items() for c in finalists[key]]
    evaluator.build(wanted)
    kernels = evaluator.load(wanted)
    alive = {key: [c for t, c in kernels if t.key == key] for key in scene.tasks}
    for key, task in scene.tasks.items():
        if not alive[key]:
            raise Unbuildable(f"{title(task)}: {evaluator.failure(task, finalists[key][0])}")
    board = Board(evaluator.device, [p for k in kernels for p in parts(*k, evaluator.device)])
    base = board.reserve(scene.size)
    for at, array in scene.inputs:
        board.data.append((base + at, np.ascontiguousarray(array).reshape(-1).view(np.uint8)))
    steps = [[board.call(s.task, c, [base + b if isinstance(b, int) else b for b in s.bindings]) for c in alive[s.task.key]]
             for s in scene.steps]
    evaluator.install(board, kernels)
    try:
        taken = evaluator.runner.time(steps, samples, seconds)
    except RunnerDied:
        evaluator.lost()
        raise
    found: dict[str, dict[Candidate, tuple[float, ...]]] = {}
    for key in scene.tasks:
        mine = [t for s, t in zip(scene.steps, taken, strict=True) if s.task.key == key]
        # in one round all steps of a task use the same candidate
        found[key] = {c: tuple(np.sum([t[n] for t in mine], axis=0).tolist()) for n, c in enumerate(alive[key])}
    return found
