"""What runs on a worker of a farm: it builds kernels on all its CPUs, and times them on its device, a batch at a time.

Dask moves pickles, which may hold any code: a farm is for machines that trust each other, behind a firewall.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Condition

from distributed import Worker as DaskWorker
from distributed import WorkerPlugin, get_worker

from ..schedules.builder import TIMEOUT, Builder
from ..schedules.builder import Worker as BuildProcess
from ..schedules.candidate import Candidate
from ..schedules.device import Device
from ..schedules.evaluate import Batch, Evaluator, Trial
from ..schedules.jobs import Built, Job
from ..schedules.records import Fingerprint
from ..schedules.scene import Scene, Situ
from ..schedules.scene import situ as time_scene
from ..targets.cpu.runner import LocalRunner

HOUSE = Path(__file__).parents[1]
MAKERS = ("schedules", "targets")       # the folders whose code decides what a kernel is and how it is timed
DEVICE, BUILDER = "burnish-device:", "burnish-builder@"     # resources: one of each device, and of each build process


# ---- How workers are found ---------------------------------------------------------------------------------------------


def label(fingerprint: Fingerprint) -> str:
    """A device's name in a farm: its core, and a digest of its whole fingerprint."""
    text = json.dumps(fingerprint.data, sort_keys=True)
    return f"{fingerprint.core}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def tools() -> dict[str, str]:
    """Versions of what must be equal on both sides. sources: a digest, since a checkout changes more often than its version."""
    digest = hashlib.sha256()
    for path in sorted(p for folder in MAKERS for p in (HOUSE / folder).rglob("*") if p.suffix in (".py", ".c", ".h")):
        digest.update(f"{path.relative_to(HOUSE)} {path.stat().st_size}\n".encode() + path.read_bytes())
    packages = ("burnish", "apache-tvm", "ziglang", "distributed")
    return {**{p: version(p) for p in packages}, "sources": digest.hexdigest()[:8]}


def tools_digest(versions: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(versions), sort_keys=True).encode()).hexdigest()[:8]


def resources(fingerprint: Fingerprint, versions: Mapping[str, str], builders: int = 1) -> dict[str, float]:
    """What a worker offers, by which Dask gives it work: workers of other versions offer something else, and get none."""
    made = tools_digest(versions)
    return {f"{DEVICE}{label(fingerprint)}@{made}": 1, f"{BUILDER}{made}": builders}


# ---- Its state ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Session:
    """One tune. device: as the tuner sees it, which may differ from the worker's in name and number of cores."""

    id: str
    device: Device
    seed: int


class Turns:
    """Any number of threads may build at once; the one that measures is alone."""

    def __init__(self) -> None:
        self._change = Condition()
        self._building = 0
        self._measuring = False

    @contextmanager
    def building(self) -> Iterator[None]:
        with self._change:
            self._change.wait_for(lambda: not self._measuring)
            self._building += 1
        try:
            yield
        finally:
            with self._change:
                self._building -= 1
                self._change.notify_all()

    @contextmanager
    def measuring(self) -> Iterator[None]:
        with self._change:
            self._change.wait_for(lambda: not self._measuring)
            self._measuring = True      # from here on no build starts
            self._change.wait_for(lambda: not self._building)
        try:
            yield
        finally:
            with self._change:
                self._measuring = False
                self._change.notify_all()


class Delivered(Builder):
    """What the farm has built, as a builder; what is missing is built here."""

    def __init__(self) -> None:
        super().__init__(1)
        self.there: dict[str, Built] = {}

    def build(self, jobs: Sequence[Job], progress: object = None) -> list[Built]:
        missing = super().build([j for j in jobs if j.symbol not in self.there])
        self.there |= {b.symbol: b for b in missing}
        return [self.there.pop(j.symbol) for j in jobs]


class Site(WorkerPlugin):
    """Keeps build processes and the runner alive between tasks. builders: that work at the same time."""

    name = "burnish"

    def __init__(self, builders: int) -> None:
        self.turns = Turns()
        self.builders = [BuildProcess(TIMEOUT) for _ in range(builders)]
        self.idle: SimpleQueue[BuildProcess] = SimpleQueue()
        for b in self.builders:
            self.idle.put(b)
        self.session: Session | None = None
        self.runner: LocalRunner | None = None
        self.delivered = Delivered()

    def build(self, job: Job) -> Built:
        with self.turns.building():
            process = self.idle.get()
            try:
                return process.build(job)
            finally:
                self.idle.put(process)

    @contextmanager
    def evaluator(self, session: Session, built: Sequence[Built]) -> Iterator[Evaluator]:
        """That of the session, for one who measures. A new session starts with a new runner: a symbol is loaded once."""
        with self.turns.measuring():
            if self.session != session or self.runner is None:
                self.leave()
                self.runner = LocalRunner(session.device, cpu=max(os.sched_getaffinity(0)))
                self.kept = Evaluator(session.device, self.delivered, self.runner, session.seed)
                self.session = session
            self.delivered.there = {b.symbol: b for b in built}
            yield self.kept

    def leave(self) -> None:
        if self.runner is not None:
            self.runner.close()
        self.runner = self.session = None

    def teardown(self, worker: DaskWorker) -> None:
        self.leave()
        for b in (*self.builders, *self.delivered.workers):
            b.close()


# ---- The tasks ---------------------------------------------------------------------------------------------------------


def site() -> Site:
    """The one of the worker that asks."""
    found = get_worker().plugins[Site.name]
    assert isinstance(found, Site)
    return found


def build(job: Job) -> Built:
    return site().build(job)


def trials(session: Session, batch: Batch, built: Sequence[Built]) -> list[Trial]:
    with site().evaluator(session, built) as evaluator:
        (_, found), = evaluator.trials([batch])
        return found


def stage(scene: Scene) -> Scene:
    """A task of its own, so that a scene, which holds a model's weights, stays with a worker from one `situ` to the next."""
    return scene


def situ(session: Session, scene: Scene, finalists: Mapping[str, Sequence[Candidate]], samples: int, seconds: float,
         built: Sequence[Built]) -> Situ:
    """Raises RunnerDied."""
    with site().evaluator(session, built) as evaluator:
        return time_scene(scene, finalists, evaluator, samples, seconds)


# ---- Its life ----------------------------------------------------------------------------------------------------------


async def serve(url: str, fingerprint: Fingerprint, builders: int, timeout: float) -> None:
    """Works for the scheduler until that is gone. Raises OSError or TimeoutError where it does not answer within `timeout`
    seconds."""
    with TemporaryDirectory(prefix="burnish-worker-") as folder:
        worker = DaskWorker(url, nthreads=builders + 1, resources=resources(fingerprint, tools(), builders),
                            plugins=(Site(builders),), memory_limit=0, death_timeout=timeout, local_directory=folder)
        async with worker:
            await worker.finished()
