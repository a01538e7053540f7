"""A farm for real: a Dask scheduler, two `burnish worker` processes, one of which is killed while it measures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from burnish.compiler import driver, farm_worker, importer
from burnish.compiler.errors import FarmError
from burnish.compiler.farm import Farm
from burnish.compiler.planner import signature
from burnish.compiler.sample import sample_inputs
from burnish.compiler.scene import scene_of
from burnish.schedules.candidate import Candidate, default, options
from burnish.schedules.cost_model import CostModel
from burnish.schedules.database import Database
from burnish.schedules.evaluate import Batch, Trial
from burnish.schedules.measure import RunnerDied
from burnish.schedules.records import TuningRecord
from burnish.schedules.scene import Scene, Situ
from burnish.schedules.tuner import Settings, Tuner
from burnish.targets.cpu import profile
from burnish.targets.cpu.fingerprint import fingerprint
from distributed import LocalCluster, SchedulerPlugin
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

DEVICE = profile.detect()
BUDGET = 14.0       # seconds
PROGRAM = "from burnish.compiler.program import main; main()"
TRIALS = "burnish-trials-"      # how the keys of batches begin


class Ledger(SchedulerPlugin):
    """What the scheduler saw: which worker measured which batch."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.scheduler = cluster.scheduler
        self.by: list[tuple[str, str]] = []

    def transition(self, key: Any, start: Any, finish: Any, *args: Any, stimulus_id: str, **more: Any) -> None:
        if str(key).startswith(TRIALS) and (start, finish) == ("processing", "memory"):
            self.by.append((str(key), more["worker"]))

    def going(self) -> list[tuple[str, str]]:
        """The batches that are with a worker, and the worker."""
        return [(str(ts.key), address) for address, w in list(self.scheduler.workers.items()) for ts in list(w.processing)
                if str(ts.key).startswith(TRIALS)]


class Fleet:
    """A scheduler in this process, and workers in theirs."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster, self.url = cluster, str(cluster.scheduler_address)
        self.ledger = Ledger(cluster)
        cluster.scheduler.add_plugin(self.ledger)
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, count: int) -> None:
        """Workers that build with one process each; waits until they are there."""
        for n in range(count):
            cpus = sorted(os.sched_getaffinity(0))
            self.started.append(subprocess.Popen(
                ["taskset", "-c", str(cpus[n % len(cpus)]), sys.executable, "-c", PROGRAM, "worker", self.url, "--workers", "1"],
                stdout=subprocess.DEVNULL))
        end = time.monotonic() + 60
        while len(self.cluster.scheduler.workers) < len(self.started):
            assert time.monotonic() < end and all(p.poll() is None for p in self.started), "the workers do not come"
            time.sleep(0.1)

    def close(self) -> None:
        for p in self.started:
            p.terminate()
        for p in self.started:
            p.wait(20)


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with LocalCluster(n_workers=0, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=":0") as cluster:
        made = Fleet(cluster)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Of a perceptron: four kernels that are built in a moment."""
    widths = (64, 96, 128, 80, 10)
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for n, (k, m) in enumerate(pairwise(widths)):
        weights.append(numpy_helper.from_array((rng.standard_normal((k, m)) / k ** 0.5).astype(np.float32), f"w{n}"))
        nodes += [helper.make_node("MatMul", [f"x{n}", f"w{n}"], [f"y{n}"]), helper.make_node("Relu", [f"y{n}"], [f"x{n + 1}"])]
    graph = helper.make_graph(nodes, "perceptron", [helper.make_tensor_value_info("x0", TensorProto.FLOAT, [48, widths[0]])],
                              [helper.make_tensor_value_info("x4", TensorProto.FLOAT, [48, widths[-1]])], weights)
    path = tmp_path_factory.mktemp("model") / "perceptron.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
    model = importer.load(path)
    return scene_of(driver.lower_model(model), sample_inputs([signature(v) for v in model.graph.inputs], 0))


class Killer:
    """The farm, as a Measurer. Once both workers have measured, one dies by SIGKILL: the next that is seen to measure."""

    def __init__(self, farm: Farm, fleet: Fleet) -> None:
        self.farm, self.ledger = farm, fleet.ledger
        self.pids: dict[str, int] = farm._client.run(os.getpid)
        self.yielded: list[tuple[str, Candidate]] = []
        self.killed = self.lost = ""
        self.over = threading.Event()
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        while not self.over.wait(0.002):
            if {worker for _, worker in self.ledger.by} != set(self.pids):
                continue
            for batch, worker in self.ledger.going():
                self.killed, self.lost = worker, batch
                os.kill(self.pids[worker], signal.SIGKILL)
                return

    def trials(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, list[Trial]]]:
        for batch, trials in self.farm.trials(batches):
            assert [t.candidate for t in trials] == list(batch.candidates)
            self.yielded += [(batch.task.key, t.candidate) for t in trials]
            yield batch, trials

    def situ(self, scene: Scene, finalists: Mapping[str, Sequence[Candidate]], samples: int, seconds: float) -> Situ:
        return self.farm.situ(scene, finalists, samples, seconds)


def test_a_killed_worker_loses_and_doubles_no_record(fleet: Fleet, scene: Scene, tmp_path: Path,
                                                     capfd: pytest.CaptureFixture[str]) -> None:
    fleet.start(2)
    kept: list[tuple[str, Candidate]] = []
    with Database.open(str(tmp_path / "records.sqlite")) as database, Farm.connect(fleet.url, DEVICE) as farm:
        killer = Killer(farm, fleet)

        def keep(records: Sequence[TuningRecord]) -> None:
            kept.extend((r.task.key, r.candidate) for r in records if not r.situ)
            database.add(records)

        tuner = Tuner(scene, killer, CostModel(), DEVICE, fingerprint(DEVICE), farm_worker.tools(), Settings(BUDGET), keep=keep)
        found = tuner.run()
        killer.over.set()
        stored = [(r.task.key, r.candidate) for r in database.records()]

    assert {w for _, w in fleet.ledger.by} == set(killer.pids), "both workers measure"
    assert killer.killed, "one dies"
    assert [w for batch, w in fleet.ledger.by if batch == killer.lost][-1] != killer.killed, "the other does what that one was at"
    assert max(Counter(killer.yielded).values()) == 1, "each trial is given once"
    assert Counter(kept) == Counter(killer.yielded), "and recorded once"
    assert sorted(map(str, stored)) == sorted(map(str, killer.yielded)), "no record is lost, none is doubled"
    assert set(found.chosen) == set(scene.tasks) and 0 < found.latency <= found.first * 1.001
    assert not found.notes and not found.failures
    assert "distributed" not in capfd.readouterr().err, "Dask is quiet"


def killed_at_once(fleet: Fleet, farm: Farm) -> None:
    """Kills the first worker that is seen to measure."""
    pids = farm._client.run(os.getpid)

    def watch() -> None:
        while not (going := fleet.ledger.going()):
            time.sleep(0.002)
        os.kill(pids[going[0][1]], signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def test_without_workers_it_says_so_and_ends(fleet: Fleet, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """First no farm, then none with this device, then a good one whose only worker dies, then its scheduler."""
    with pytest.raises(FarmError, match="no address of a Dask scheduler"):
        Farm.connect("localhost", DEVICE)
    with pytest.raises(FarmError, match=r"there: none\. Start one on it: burnish worker tcp"):
        Farm.connect(fleet.url, DEVICE)
    fleet.start(1)
    other = replace(DEVICE, l2_kib=DEVICE.l2_kib + 1)
    with pytest.raises(FarmError, match=f"no worker has this device.*there: {farm_worker.label(fingerprint(DEVICE))}"):
        Farm.connect(fleet.url, other)
    tools = farm_worker.tools()
    with monkeypatch.context() as m, pytest.raises(FarmError, match=f"apache-tvm {tools['apache-tvm']} there and 0.1 here"):
        m.setattr(farm_worker, "version", lambda package: "0.1" if package == "apache-tvm" else tools[package])
        Farm.connect(fleet.url, DEVICE)

    monkeypatch.setattr("burnish.compiler.farm.GRACE", 1.0)
    with Farm.connect(fleet.url, DEVICE) as farm:
        task = next(t for t in scene.tasks.values() if len(options(t, DEVICE)) > 8)
        untuned = default(task, DEVICE)
        assert untuned is not None
        (_, trials), = farm.trials([Batch(task, (untuned, *options(task, DEVICE)[:2]))])
        assert [t.status for t in trials] == ["ok"] * 3
        killed_at_once(fleet, farm)
        fleet.cluster.scheduler.allowed_failures = 0        # 3 by default: further workers to die of it
        deadly = Batch(task, tuple(options(task, DEVICE)[2:4]))
        (_, trials), = farm.trials([deadly])
        assert [(t.candidate, t.status) for t in trials] == [(c, "crash") for c in deadly.candidates]
        assert trials[0].message.startswith("1 of the farm's workers died of it, the last at tcp://")
        with pytest.raises(RunnerDied, match="no worker of the farm has this device any more"):
            list(farm.trials([deadly]))
        fleet.cluster.close()
        with pytest.raises(RunnerDied, match="scheduler is gone"):
            farm.situ(scene, {k: [c] for k, t in scene.tasks.items() if (c := default(t, DEVICE))}, 1, 1.0)


def test_a_tune_whose_farm_is_gone_ends_with_what_it_has(fleet: Fleet, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("burnish.compiler.farm.GRACE", 1.0)
    fleet.start(1)
    with Farm.connect(fleet.url, DEVICE) as farm:
        def keep(records: Sequence[TuningRecord]) -> None:
            for pid in farm._client.run(os.getpid).values() if not kept else ():
                os.kill(pid, signal.SIGKILL)
            kept.extend(records)

        kept: list[TuningRecord] = []
        found = Tuner(scene, farm, CostModel(), DEVICE, fingerprint(DEVICE), {}, Settings(60.0), keep=keep).run()
    assert found.elapsed < 40 and kept and found.trials >= len(kept)
    assert set(found.chosen) == set(scene.tasks)
    why = "no worker of the farm has this device any more"
    assert found.notes[0] == f"the trials were given up: {why}"
    assert f"the finals inside the model were given up: {why}" in found.notes


def test_the_command_says_what_is_wrong() -> None:
    from burnish.compiler.cli import app
    refused = CliRunner().invoke(app, ["worker", "192.168.0.7"])
    assert isinstance(refused.exception, FarmError) and "looks like tcp://" in str(refused.exception)
    cannot = CliRunner().invoke(app, ["worker", "tcp://127.0.0.1:9", "--target", "linux-arm64"])
    assert isinstance(cannot.exception, FarmError) and "it is x86_64" in str(cannot.exception)
