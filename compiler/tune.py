"""Tunes a lowered model on this machine, and picks what its kernels are made with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ..schedules.builder import Builder
from ..schedules.candidate import Candidate
from ..schedules.connect import FILE, FOLDER
from ..schedules.cost_model import CostModel
from ..schedules.database import Database
from ..schedules.evaluate import Batch, Evaluator, Unbuildable
from ..schedules.local import Local
from ..schedules.measure import RunnerDied, RunnerGone
from ..schedules.records import RecordsError, TuningRecord
from ..schedules.select import Pick, pick
from ..schedules.tuner import Measurer, Result, Settings, State, Tuner
from ..targets.cpu.errors import DeviceError
from ..targets.target import Rig, Target
from .driver import Lowered
from .errors import BuildError, TuningRefused
from .scene import scene_of

NO_RECORDS = "none"
TOOLS = ("apache-tvm", "apache-tvm-ffi", "burnish", "ziglang")      # what a kernel's speed may depend on
PATIENCE = 3.0      # seconds that a tuner waits for another who writes to its database
BUILD, ANSWER = 60.0, 20.0      # seconds that a kernel may take to build, and the runner to answer: ours take a thousandth of it


def tools(rig: Rig) -> dict[str, str]:
    return {**{name: version(name) for name in TOOLS}, **rig.tools}


def tune(lowered: Lowered, inputs: Mapping[str, np.ndarray], rig: Rig, settings: Settings, database: Database,
         workers: int | None = None, measurer: Measurer | None = None,
         watch: Callable[[State], None] = lambda state: None) -> Result:
    """Tunes every task of the model within the budget; what is found is in the database at once. inputs: by name, what the model
    is run on; measurer: where not the rig itself. A run that was cut off goes on where it was. Raises BuildError or TuningRefused
    where not even the untuned model can be built or run."""
    scene, made_by = scene_of(lowered, inputs), tools(rig)
    prepare = None
    known = [r for key in scene.tasks for r in database.trials(key, rig.fingerprint, made_by)]
    ranker = CostModel.pretrained(rig.device, seed=settings.seed) or CostModel()
    with ExitStack() as stack:
        if measurer is None:
            own = stack.enter_context(evaluator(rig, workers, settings.seed))
            measurer, prepare = Local(own), own.prepare if rig.apart else None
        try:
            found = Tuner(scene, measurer, ranker, rig.device, rig.fingerprint, made_by, settings, known, database.add, watch,
                          rig.clock, prepare).run()
            return replace(found, notes=(rig.note, *found.notes)) if rig.note else found
        except Unbuildable as e:
            raise BuildError(f"a kernel could not be built (a bug of burnish, not of your model): {e}") from e
        except (RunnerDied, RunnerGone) as e:
            raise TuningRefused(f"the untuned model cannot be timed: {e}") from e


def existing(url: str | None) -> Database | None:
    """The records to look into; None where there are to be none, and where the user has not tuned anything yet."""
    if url == NO_RECORDS or (url is None and not (Path.home() / FOLDER / FILE).exists()):
        return None
    return Database.open(url, create=False)


def to_keep(url: str | None) -> Database:
    """Where a tune keeps its records."""
    return Database.open("sqlite://" if url == NO_RECORDS else url, patience=PATIENCE)


@contextmanager
def evaluator(rig: Rig, workers: int | None, seed: int) -> Iterator[Evaluator]:
    """With workers and a runner of its own, which end with the `with`."""
    cpus = sorted(os.sched_getaffinity(0))
    with Builder(workers or len(cpus), BUILD) as builder, rig.open(cpus[-1], ANSWER) as runner:
        made = Evaluator(rig.device, builder, runner, seed)
        try:
            yield made
        finally:
            made.close()


def choose(lowered: Lowered, target: Target, *, database: Database | None = None, exact: bool = False,
           chosen: Mapping[str, Candidate] | None = None) -> dict[str, Pick]:
    """What each task is made with, by key: what was just tuned (`chosen`), else by records of devices near the target's, else by
    the cost model. Records that came from elsewhere are compared with the untuned kernel first; where that cannot be done they
    are not used."""
    device = target.devices[0]
    chosen = {key: c for key, c in (chosen or {}).items() if c.maker.exact or not exact}
    tasks = {g.task.key: g.task for g in lowered.groups}
    rest = [key for key in tasks if key not in chosen]
    known = database.lookup(rest, target.fingerprint()) if database is not None and rest else {}
    ranker = CostModel.pretrained(device)
    picks = {key: Pick(c, "just tuned") for key, c in chosen.items()}
    doubtful: dict[str, TuningRecord] = {}
    for key in rest:
        picked = pick(tasks[key], device, known.get(key, ()), ranker, exact)
        if picked is None:
            continue        # no template makes it, which the driver reports
        picks[key] = picked
        if picked.record is not None and not picked.record.verified:
            doubtful[key] = picked.record
    if doubtful and database is not None:
        for key in failed(doubtful, target, database):
            sure = [(d, r) for d, r in known[key] if r.verified]
            again = pick(tasks[key], device, sure, ranker, exact)
            assert again is not None
            picks[key] = again
    return picks


def failed(doubtful: Mapping[str, TuningRecord], target: Target, database: Database) -> list[str]:
    """The keys of those records whose candidates are not seen to compute what the untuned kernel does, here and now. What was
    seen is noted, and not looked at again."""
    try:
        rig = target.rig()
    except DeviceError:
        return list(doubtful)
    wrong = []
    with evaluator(rig, None, 0) as e:
        batches = [Batch(r.task, (r.candidate,)) for r in doubtful.values()]
        for (key, record), (trial,) in zip(doubtful.items(), e.evaluate(batches, seconds=0.05), strict=True):
            with suppress(RecordsError):        # then it is looked at again the next time
                if trial.status == "ok":
                    database.mark_verified(record)
                elif trial.guilty:
                    database.add([replace(record, status=trial.status, samples=(), verified=True, message=trial.message)])
            if trial.status != "ok":
                wrong.append(key)
    return wrong
