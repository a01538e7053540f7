"""A farm: trials and finals on the workers of a Dask cluster, in place of this machine.

Every worker builds; those whose device is the one that is tuned for measure. Dask gives what a dead worker was doing to another,
and this side takes each batch's result once. What Dask moves is pickled, and unpickling runs code: a farm is for machines that
trust each other, behind a firewall (or `tls://`, with certificates by Dask's configuration).
"""

from __future__ import annotations

import logging
import re
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from itertools import count
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self

from ..schedules.board import parts, symbol
from ..schedules.candidate import Candidate, default
from ..schedules.device import Device
from ..schedules.evaluate import Batch, Trial
from ..schedules.jobs import Job
from ..schedules.measure import RunnerDied
from ..schedules.scene import Scene, Situ
from ..schedules.task import Task
from ..targets.cpu.fingerprint import fingerprint
from .errors import FarmError

try:
    from distributed import Client, Future, KilledWorker
except ImportError as e:
    raise FarmError("a farm needs Dask: pip install 'burnish[farm]'") from e

from . import farm_worker as work

TIMEOUT = 10.0          # seconds for the scheduler to answer
GRACE = 10.0            # seconds without any worker of the device, which may be starting again
STALL = 180.0           # seconds without any result: more than a kernel's build and a runner's command may take
GONE = "the farm's scheduler is gone"
POLL = 0.5              # seconds between two looks at who is there


class Farm:
    """Measures for one tune; a context manager. The workers must offer the device: `connect` has seen to it."""

    def __init__(self, client: Client, device: Device, seed: int = 0) -> None:
        self.device = device
        self._client = client
        self._session = work.Session(uuid.uuid4().hex, device, seed)
        device_label, builder_label = work.resources(fingerprint(device), work.tools())
        self._on_device, self._on_builder = {device_label: 1}, {builder_label: 1}
        self._built: dict[str, Future] = {}
        self._scene: tuple[Scene, Future] | None = None
        self._number = count()
        self._turn = 0      # a priority: first come, first served, which Dask by itself does not do within a tenth of a second

    @classmethod
    def connect(cls, url: str, device: Device, seed: int = 0) -> Self:
        """Raises FarmError where nothing answers, and where no worker has that device, or burnish as it is here."""
        if device.arch == "wasm32":
            raise FarmError("a farm's workers measure for CPUs: tune for wasm without --farm")
        address(url)
        quiet()
        try:
            client = Client(url, timeout=TIMEOUT, set_as_default=False)
        except Exception as e:
            raise unreachable(url, e) from e
        try:
            _check(client, url, device)
        except BaseException:
            client.close()
            raise
        return cls(client, device, seed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._built.clear()
        self._scene = None
        self._client.close()

    @property
    def workers(self) -> int:
        """That measure. Raises RunnerDied where the scheduler is gone."""
        self._check_alive()
        try:
            return sum(set(self._on_device) <= offered.keys() for offered in _offers(self._client).values())
        except (OSError, CancelledError) as e:
            raise RunnerDied(GONE) from e

    def _check_alive(self) -> None:
        if self._client.status != "running":
            raise RunnerDied(GONE)

    # ---- what a Measurer does

    def trials(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, list[Trial]]]:
        """In the order in which they end. A batch of which workers die again and again is one of crashes. Raises RunnerDied where
        nobody is left to measure."""
        self._check_alive()
        ends: SimpleQueue[Future] = SimpleQueue()
        going: dict[str, tuple[Future, Batch]] = {}
        for b in batches:
            self._turn -= 1
            untuned = default(b.task, self.device)
            built = self._build([(b.task, c) for c in (*([untuned] if untuned else []), *b.candidates)])
            future = self._submit(work.trials, self._session, b, built)
            future.add_done_callback(ends.put)
            going[str(future.key)] = future, b
        try:
            while going:
                done = self._wait(ends, STALL)
                _, batch = going.pop(str(done.key))
                try:
                    found: list[Trial] = self._result(done)
                except KilledWorker as e:
                    found = [Trial(c, "crash", message=_killed(e)) for c in batch.candidates]
                yield batch, found
        finally:        # nobody waits for the rest any more; it must not stand in the way of the finals
            late = {s: f for s, f in self._built.items() if not f.done()} if going else {}
            for s in late:
                del self._built[s]
            if going:
                self._client.cancel([*(f for f, _ in going.values()), *late.values()])

    def situ(self, scene: Scene, finalists: Mapping[str, Sequence[Candidate]], samples: int, seconds: float) -> Situ:
        """On one worker, whichever it is. Raises RunnerDied."""
        self._check_alive()
        built = self._build([(task, c) for key, task in scene.tasks.items() for c in finalists[key]])
        ends: SimpleQueue[Future] = SimpleQueue()
        future = self._submit(work.situ, self._session, self._staged(scene), finalists, samples, seconds, built)
        future.add_done_callback(ends.put)
        try:
            found: Situ = self._result(self._wait(ends, seconds + STALL))
            return found
        except KilledWorker as e:
            raise RunnerDied(_killed(e)) from e
        finally:
            if not future.done():
                self._client.cancel([future])

    # ---- how

    def _build(self, kernels: Sequence[tuple[Task, Candidate]]) -> list[Future]:
        """The kernels, and what they consist of, as they will be when they are built."""
        wanted = {symbol(t, c): (t, c) for kernel in kernels for t, c in parts(*kernel, self.device)}
        there = {s for s, f in self._built.items() if f.status in ("pending", "finished")}
        jobs = [Job(s, c.template, t, c.knobs, self.device) for s, (t, c) in wanted.items() if s not in there]
        if jobs:
            futures = self._client.map(work.build, jobs, key=[self._key(f"build-{j.symbol}") for j in jobs],
                                       resources=self._on_builder, priority=self._turn, pure=False)
            self._built |= {j.symbol: f for j, f in zip(jobs, futures, strict=True)}
        return [self._built[s] for s in wanted]

    def _staged(self, scene: Scene) -> Future:
        if self._scene is None or self._scene[0] is not scene:
            with warnings.catch_warnings():     # that it is large, and that one may scatter it: then a dead worker would lose it
                warnings.filterwarnings("ignore", "Sending large graph")
                self._scene = scene, self._submit(work.stage, scene)
        return self._scene[1]

    def _submit(self, task: Any, *args: Any) -> Future:
        return self._client.submit(task, *args, key=self._key(task.__name__), resources=self._on_device, priority=self._turn,
                                   pure=False)

    def _key(self, what: str) -> str:
        return f"burnish-{what}-{self._session.id[:8]}-{next(self._number)}"

    def _wait(self, ends: SimpleQueue[Future], patience: float) -> Future:
        """The next that ends. Raises RunnerDied where nothing does and nobody is there, or where it takes too long."""
        seen = start = time.monotonic()
        while True:
            try:
                return ends.get(timeout=POLL)
            except Empty:
                now = time.monotonic()
            if self.workers:
                seen = now
            elif now - seen > GRACE:
                raise RunnerDied("no worker of the farm has this device any more", hung=True)
            if now - start > patience:
                raise RunnerDied(f"no worker of the farm answered within {patience:.0f} s", hung=True)

    def _result(self, future: Future) -> Any:
        try:
            return future.result(timeout=STALL)     # where its worker died in the meantime it is made again
        except CancelledError as e:
            raise RunnerDied(GONE) from e
        except TimeoutError as e:
            raise RunnerDied(f"no worker of the farm answered within {STALL:.0f} s", hung=True) from e


def _killed(e: KilledWorker) -> str:
    return f"{e.allowed_failures + 1} of the farm's workers died of it, the last at {e.last_worker.address}"


# ---- Getting there -----------------------------------------------------------------------------------------------------


def address(url: str) -> str:
    """Raises FarmError where it is no address of a scheduler."""
    if not re.fullmatch(r"(tcp|tls)://[^\s/:]+:\d{1,5}", url):
        raise FarmError(f"{url!r} is no address of a Dask scheduler; one looks like tcp://192.168.0.7:8786")
    return url


def unreachable(url: str, e: Exception) -> FarmError:
    """What it means that Dask could not connect: it raises much, and what tells most is at the bottom."""
    while isinstance(e.__cause__, Exception):
        e = e.__cause__
    if isinstance(e, OSError):
        return FarmError(f"{url}: no Dask scheduler answers there within {TIMEOUT:.0f} s; is `dask scheduler` running?")
    return FarmError(f"{url}: {e}")


def quiet() -> None:
    """Dask tells of every lost connection; what matters to a user of burnish is said by burnish."""
    for name in ("distributed", *logging.root.manager.loggerDict):
        if name.startswith(("distributed", "tornado")):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _offers(client: Client) -> dict[str, Mapping[str, float]]:
    """What each worker offers, by its address."""
    return {worker: w["resources"] for worker, w in client.scheduler_info().get("workers", {}).items()}


def _check(client: Client, url: str, device: Device) -> None:
    ours = work.tools()
    wanted, _ = work.resources(fingerprint(device), ours)
    offers = _offers(client)
    if any(wanted in offered for offered in offers.values()):
        _check_scheduler(client, url, ours)
        return
    mine = work.label(fingerprint(device))
    devices = {worker: name[len(work.DEVICE):].rpartition("@")[0]
               for worker, offered in offers.items() for name in offered if name.startswith(work.DEVICE)}
    same = sorted(worker for worker, name in devices.items() if name == mine)
    if same:
        theirs = client.run(work.tools, workers=same[:1], on_error="return")[same[0]]
        told = differing(theirs, ours) if isinstance(theirs, dict) else str(theirs)
        raise FarmError(f"{url}: {same[0]} has this device ({mine}), but another burnish: {told}; install the same on both")
    there = ", ".join(sorted(set(devices.values()))) or "none"
    raise FarmError(f"{url}: no worker has this device, {mine}; devices that are there: {there}. "
                    f"Start one on it: burnish worker {url}")


def _check_scheduler(client: Client, url: str, ours: Mapping[str, str]) -> None:
    """It reads tasks before it passes them on."""
    try:
        theirs = client.run_on_scheduler(work.tools)
    except Exception as e:
        raise FarmError(f"{url}: the scheduler cannot load burnish ({e}); start it where `burnish[farm]` is installed") from e
    if theirs != ours:
        raise FarmError(f"{url}: the scheduler has another burnish: {differing(theirs, ours)}; install the same on both")


def differing(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """Which versions are others there."""
    return ", ".join(f"{tool} {theirs.get(tool)} there and {v} here" for tool, v in ours.items() if theirs.get(tool) != v)
